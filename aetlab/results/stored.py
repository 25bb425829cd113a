"""Records as the tables, figures and the report see them: read lazily, never written.

A record that cannot be used is not an error: it is named as a :class:`BrokenRecord` beside those that can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from aetlab.bind import bind_run
from aetlab.spec import RunSpec

#: What a whole record holds; the manifest is written last.
FILES = ("spec.json", "metrics.json", "history.csv", "arrays.h5", "environment.json", "MANIFEST.json")

#: Axis of the volume (Z, X, Y) that carries each coordinate.
AXES = {"z": 0, "x": 1, "y": 2}


@dataclass(frozen=True)
class BrokenRecord:
    """A folder among the records that cannot be used, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class StoredRun:
    """One finished run. ``metrics`` and ``environment`` are the stored JSON, ``spec`` is bound from it."""

    folder: Path
    spec: RunSpec
    metrics: dict[str, float]
    environment: dict[str, Any]

    @property
    def identity(self) -> str:
        """The run's identity: the name of its folder."""
        return self.folder.name

    @cached_property
    def history(self) -> pd.DataFrame:
        """Columns iteration, cost, seconds."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def voxel_A(self) -> float:
        """Voxel size in Å."""
        return self.spec.scale.voxel_A

    @property
    def shape_zxy(self) -> tuple[int, int, int]:
        """Voxels of the volume (Z, X, Y)."""
        return self.spec.scale.shape_zxy

    def has(self, name: str) -> bool:
        """Whether the record stores the array ``name``."""
        with h5py.File(self.folder / "arrays.h5", "r") as file:
            return name in file

    def array(self, name: str) -> np.ndarray:
        """The whole stored array ``name``, for example ``truth/positions_A``."""
        with h5py.File(self.folder / "arrays.h5", "r") as file:
            return np.asarray(file[name][()])

    def attribute(self, name: str, attribute: str) -> Any:
        """An attribute of the stored group or array ``name``; None where there is none."""
        with h5py.File(self.folder / "arrays.h5", "r") as file:
            return file[name].attrs.get(attribute)

    def cut_V(self, axis: str, centre_A: float, thickness_A: float = 1.0) -> np.ndarray:
        """Mean reconstructed potential in V over a slab across ``axis`` (x, y or z), without reading the rest.

        Returns the plane of the two other axes in the order of the volume: (X, Y), (Z, Y) or (Z, X).
        """
        i_axis = AXES[axis]
        n = self.shape_zxy[i_axis]
        n_layers = min(max(round(thickness_A / self.voxel_A), 1), n)
        first = round(centre_A / self.voxel_A + (n - 1) / 2 - (n_layers - 1) / 2)
        first = min(max(first, 0), n - n_layers)
        index: list[slice] = [slice(None)] * 3
        index[i_axis] = slice(first, first + n_layers)
        with h5py.File(self.folder / "arrays.h5", "r") as file:
            return np.asarray(file["volume/potential_V"][tuple(index)], np.float32).mean(axis=i_axis)


def read_run(folder: Path) -> StoredRun | BrokenRecord:
    """The record in ``folder``, or what is wrong with it."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        return BrokenRecord(folder, f"half-made: {', '.join(missing)} missing")
    try:
        spec, metrics, environment = (json.loads((folder / name).read_text(encoding="utf-8"))
                                      for name in ("spec.json", "metrics.json", "environment.json"))
        run = StoredRun(folder, bind_run(spec), metrics, environment)
        if not run.has("volume/potential_V"):
            return BrokenRecord(folder, "arrays.h5 holds no reconstructed volume")
        if run.history.empty:
            return BrokenRecord(folder, "history.csv has no iterations")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return BrokenRecord(folder, f"cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}")
    return run


def read_runs(outputs: Path) -> tuple[list[StoredRun], list[BrokenRecord]]:
    """All records under ``outputs/records`` in the order of their names, and those that cannot be used."""
    records = outputs / "records"
    entries = [read_run(folder) for folder in sorted(records.iterdir())
               if folder.is_dir()] if records.is_dir() else []
    return ([entry for entry in entries if isinstance(entry, StoredRun)],
            [entry for entry in entries if isinstance(entry, BrokenRecord)])
