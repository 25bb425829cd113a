"""Records as the tables, figures and the report see them: read lazily, never written.

A record that cannot be used is not an error: it is named beside those that can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.spec import RunSpec
from aetlab.store.listing import CUT_OFF, FAILED, list_entries
from aetlab.store.record import History, Places, Record, array_names, list_records, read_array, read_history

#: Axis of the volume (Z, X, Y) that carries each coordinate.
AXES = {"z": 0, "x": 1, "y": 2}
#: Column of positions (N, 3) that carries each coordinate.
COLUMNS = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class StoredRun:
    """One finished run."""

    record: Record

    @property
    def identity(self) -> str:
        """The run's identity: the name of its folder."""
        return self.record.id

    @property
    def folder(self) -> Path:
        """The record's folder."""
        return self.record.folder

    @property
    def spec(self) -> RunSpec:
        """The settings of the run."""
        return self.record.spec

    @property
    def metrics(self) -> dict[str, float]:
        """Scores by name, unit in the name."""
        return self.record.metrics

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, times and memory."""
        return self.record.environment

    @property
    def species(self) -> dict[str, Any]:
        """How species were told, as the tracer left it (``threshold``: signals in V voxel); empty where it did not."""
        return dict(self.environment.get("species") or {})

    @cached_property
    def history(self) -> History:
        """Cost and seconds of each iteration."""
        return read_history(self.record)

    @cached_property
    def array_names(self) -> tuple[str, ...]:
        """Names of all stored arrays."""
        return array_names(self.record)

    @property
    def voxel_A(self) -> float:
        """Voxel size in Å."""
        return self.spec.scale.voxel_A

    def array(self, name: str) -> np.ndarray:
        """The stored array ``name``, for example ``truth/positions_A``."""
        return read_array(self.record, name).values

    def attribute(self, name: str, attribute: str) -> Any:
        """An attribute of the stored array ``name``; None where there is none."""
        return read_array(self.record, name).attributes.get(attribute)


def cut(volume: np.ndarray, voxel_A: float, axis: str, centre_A: float, thickness_A: float = 1.0) -> np.ndarray:
    """Mean of ``volume`` (Z, X, Y) over a slab across ``axis`` (x, y or z) about ``centre_A``.

    Returns the plane of the two other axes in the order of the volume: (X, Y), (Z, Y) or (Z, X).
    """
    i_axis = AXES[axis]
    n = volume.shape[i_axis]
    n_layers = min(max(round(thickness_A / voxel_A), 1), n)
    first = round(centre_A / voxel_A + (n - n_layers) / 2)
    first = min(max(first, 0), n - n_layers)
    index: list[slice] = [slice(None)] * 3
    index[i_axis] = slice(first, first + n_layers)
    return np.asarray(volume[tuple(index)], np.float32).mean(axis=i_axis)


def read_runs(outputs: Path) -> tuple[list[StoredRun], list[str]]:
    """All usable records under ``outputs``, oldest first, and one line on each that is broken, failed or half-made."""
    places = Places(outputs)
    records, broken = list_records(places.records)
    problems = [str(error) for error in broken]
    if places.records.is_dir():
        problems += [
            f"record {path} is half-made: its writing was cut off or is going on"
            for path in sorted(places.records.glob(".partial-*"))
        ]
    problems += [
        f"run {entry.id}: {entry.status}{': ' + entry.note if entry.note else ''} (log: {entry.place})"
        for entry in list_entries(places)
        if entry.status in (CUT_OFF, FAILED)
    ]
    return [StoredRun(record) for record in records], problems
