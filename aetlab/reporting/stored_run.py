"""Records as tables, figures and the report read them: each part on demand, and never written.

A record that cannot be used is no error here. It is reported in one line, and the others are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError
from aetlab.core.nouns import Atoms, Reconstruction, RefinedAtoms, TracedAtoms
from aetlab.reporting.columns import all_settings
from aetlab.spec import RunSpec
from aetlab.spec.tile import JOINED
from aetlab.store.contents import ELEMENTS, pair_names, pair_place
from aetlab.store.listing import list_unfinished
from aetlab.store.reading import read_reconstruction, read_refined, read_traced, read_true_atoms
from aetlab.store.record import (
    History,
    Places,
    Record,
    RecordError,
    array_names,
    list_records,
    read_array,
    read_history,
    read_record,
)
from aetlab.store.record_files import recall, remember


@dataclass(frozen=True)
class StoredRun:
    """One finished run, read from its record."""

    record: Record

    @property
    def identity(self) -> str:
        """Identity of the run, which is the name of its folder."""
        return self.record.id

    @property
    def folder(self) -> Path:
        """Folder of the record."""
        return self.record.folder

    @property
    def spec(self) -> RunSpec:
        """Settings of the run."""
        return self.record.spec

    @cached_property
    def all_settings(self) -> dict[str, Any]:
        """All settings by their dotted names; lists are JSON text."""
        return all_settings(self.record.spec)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name, with the unit in the name."""
        return self.record.metrics

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, times and memory."""
        return self.record.environment

    @property
    def species(self) -> dict[str, Any]:
        """Summary of the species classification (``threshold``: site intensities in V voxel); empty without one."""
        return dict(self.environment.get("species") or {})

    @cached_property
    def history(self) -> History:
        """Cost and seconds of each iteration."""
        return read_history(self.record)

    @cached_property
    def array_names(self) -> tuple[str, ...]:
        """Names of all stored arrays; those of pairs of elements by pair, such as ``structure/Si-O/length_true``."""
        names = array_names(self.record)
        return pair_names(names, read_array(self.record, ELEMENTS).values) if ELEMENTS in names else names

    @property
    def has_truth(self) -> bool:
        """True if the record holds the true atoms; records of measured images do not."""
        return "n_true" in self.metrics

    @property
    def voxel_A(self) -> float:
        """Voxel size in Å."""
        return self.spec.scale.voxel_A

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Reconstruction of the run."""
        return read_reconstruction(self.record)

    @cached_property
    def traced(self) -> TracedAtoms:
        """Traced atoms."""
        return read_traced(self.record)

    @cached_property
    def refined(self) -> RefinedAtoms | None:
        """Refined atoms; None for a run without a refinement."""
        return read_refined(self.record)

    @cached_property
    def atoms(self) -> Atoms:
        """True atoms in the frame of the traced ones; :class:`RecordError` for a run without a truth."""
        return read_true_atoms(self.record)

    def array(self, name: str) -> np.ndarray:
        """Return the array ``name``, for example ``traced/positions_A``, or the row of a pair of elements."""
        place, pair = pair_place(name)
        values = read_array(self.record, place).values
        if not pair:
            return values
        rows = np.flatnonzero((read_array(self.record, ELEMENTS).values == pair).all(axis=1))
        if not len(rows):
            raise RecordError(f"record {self.folder} has no array {name}")
        return values[rows[0]]

    def attribute(self, name: str, attribute: str) -> Any:
        """Return an attribute of the stored array ``name``; None where there is none."""
        return read_array(self.record, name).attributes.get(attribute)


def load_record(folder: Path | str) -> StoredRun:
    """Return the run whose record is ``folder``, every file checked against its checksum.

    Raises
    ------
    RecordError
        If the record is damaged or missing, or was written in another format.
    """
    return StoredRun(read_record(Path(folder)))


def read_runs(outputs: Path) -> tuple[list[StoredRun], list[str]]:
    """Return the usable records under ``outputs``, oldest first, and one line on each that cannot be used.

    Records of single tiles are left out: the joined record holds what they found.
    Text files are compared with their checksums here, arrays where they are first read.
    """
    places = Places(outputs)
    records, broken = list_records(places.records)
    problems = [str(error) for error in broken]
    names = {path.name for path in places.records.iterdir()} if places.records.is_dir() else set()
    problems += [
        f"record {places.records / name} is incomplete: writing it was interrupted or is in progress"
        for name in sorted(names)
        if name.startswith(".partial-")
    ]
    problems += [
        f"run {entry.id}: {entry.status}{': ' + entry.note if entry.note else ''} (log: {entry.place})"
        for entry in list_unfinished(places, names)
    ]
    return [StoredRun(record) for record in records if record.spec.tile.index == JOINED], problems


def check_arrays(runs: Sequence[StoredRun], memory: Path) -> dict[str, str]:
    """Compare the arrays of ``runs`` with their checksums; return one line on each damaged record by its identity.

    ``memory`` is a file that holds the stamps of files that agreed before, so that an unchanged file is read once.
    """
    checksums = {run.identity: run.record.checksums for run in runs}
    recall(memory, checksums)
    broken = {}
    for run in runs:
        try:
            _ = run.array_names
        except StorageError as error:
            broken[run.identity] = str(error)
    remember(memory, checksums)
    return broken
