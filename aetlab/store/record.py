"""Write and read records: all results of one run, in a folder named by the run's identity, complete or absent.

A record holds ``spec.json`` (settings), ``metrics.json`` (metrics by flat names with units), ``history.csv`` (cost and
seconds of each iteration), ``arrays.h5`` (arrays with units), ``environment.json`` (versions, device, times and
memory), ``log.txt``, and ``MANIFEST.json`` (schema version, identity, and the SHA-256 and size of each file). It is
written to a temporary folder and renamed into place; nothing edits it later. Before allocating memory, reading checks
that no file lies outside the folder and that the sizes match. Whatever is read is compared with its SHA-256.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import (
    StorageError,
    describe,
    flush,
    locked,
    make_folder,
    open_regular,
    partial_path,
    remove_tree,
    set_aside,
    sha256,
    writing,
)
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind_run, unbind
from aetlab.store.identity import code_id, digest, identity_of, is_id, record_id
from aetlab.store.places import Places as Places
from aetlab.store.record_files import Checksums, RecordError, checked, read_json, read_text, size_of, wrong_type

SCHEMA = 1
FILES = ("spec.json", "metrics.json", "history.csv", "arrays.h5", "environment.json", "log.txt")
MANIFEST = "MANIFEST.json"
#: Start of the last line in the log of a failed run.
FAILURE = "FAILED:"


@dataclass(frozen=True)
class Dataset:
    """An array of a record with its unit (``"1"`` for counts and flags) and further attributes."""

    values: np.ndarray
    unit: str
    attributes: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """Cost (equation 5, halved) after each iteration, and the duration of each iteration in seconds."""

    cost: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Record:
    """The small files of a record; :func:`read_array` reads the arrays one by one."""

    id: str
    folder: Path
    spec: RunSpec
    metrics: dict[str, float]
    environment: dict[str, Any]
    n_bytes: int
    checksums: Checksums = field(repr=False, compare=False)

    @property
    def made_by_other_code(self) -> bool:
        """Return whether the code that decides the numbers has changed since the record was made."""
        return self.environment.get("code") != code_id()


@dataclass(frozen=True)
class Summary:
    """The text files of a record, for quick listing; ``settings`` are as written, not bound."""

    id: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    environment: dict[str, Any]
    n_bytes: int
    checksums: Checksums


def write_record(
    records: Path,
    spec: RunSpec,
    *,
    metrics: Mapping[str, float],
    history: History,
    arrays: Mapping[str, Dataset],
    environment: Mapping[str, Any],
    log: str,
) -> Path:
    """Write the record of ``spec`` under ``records`` and return its folder.

    ``arrays`` maps HDF5 paths such as ``"volume/potential_V"`` to datasets. The entry ``code`` is added to
    ``environment``. The caller holds the run's lock.

    Raises
    ------
    StorageError
        If a file cannot be written; no partial record remains.
    """
    run_id = record_id(spec)
    make_folder(records)
    folder = records / run_id
    partial = partial_path(folder)
    remove_tree(partial)
    try:
        with writing(partial):
            partial.mkdir()
            _write_json(partial / "spec.json", unbind(spec))
            _write_json(partial / "metrics.json", {name: _plain_number(value) for name, value in metrics.items()})
            _write_json(partial / "environment.json", {**environment, "code": code_id()})
            (partial / "log.txt").write_text(log, encoding="utf-8")
            _write_history(partial / "history.csv", history)
            _write_arrays(partial / "arrays.h5", arrays)
            files = {}
            for name in FILES:
                flush(partial / name)
                files[name] = {"sha256": sha256(partial / name), "bytes": (partial / name).stat().st_size}
            _write_json(partial / MANIFEST, {"schema": SCHEMA, "id": run_id, "files": files})
            flush(partial / MANIFEST)
            flush(partial)
            _put_in_place(partial, folder)
            flush(records)
    except BaseException:
        _forget(partial)
        raise
    return folder


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename ``partial`` to ``folder``, unless another process has completed the same record meanwhile.

    That happens where the file system has no locks.
    """
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        try:
            read_record(folder)
            remove_tree(partial)
        except RecordError:
            set_aside(folder, Places(folder.parents[1]).damaged)
            os.rename(partial, folder)


def read_record(folder: Path, *, verify: bool = True) -> Record:
    """Return the record in ``folder``; with ``verify`` check the SHA-256 of every file, else of those that are read.

    Raises
    ------
    RecordError
        If the record cannot be used; the message names the record and the problem.
    """
    summary = read_summary(folder, verify=verify)
    try:
        spec = bind_run(summary.settings)
    except SpecError as error:
        made_by = "" if summary.environment.get("code") == code_id() else (
            "; it was made by other code with other settings: use the version of aetlab that wrote it, or run again")
        raise RecordError(f"record {folder}: spec.json: {error}{made_by}") from None
    return Record(summary.id, folder, spec, summary.metrics, summary.environment, summary.n_bytes, summary.checksums)


def read_summary(folder: Path, *, verify: bool) -> Summary:
    """Return the text files of the record in ``folder``; as :func:`read_record`, but without checking settings."""
    manifest = read_json(folder, MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise RecordError(f"record {folder} has schema {manifest.get('schema')!r}, this version of aetlab "
                          f"reads {SCHEMA}: use the version that wrote it, or remove it and run again")
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != set(FILES):
        raise RecordError(f"record {folder}: {MANIFEST} must list exactly {', '.join(FILES)}")
    if manifest.get("id") != folder.name:
        raise RecordError(f"record {folder}: {MANIFEST} belongs to {manifest.get('id')!r}")
    n_bytes = 0
    for name in FILES:
        entry = files[name]
        size = size_of(folder, name)
        if not isinstance(entry, dict) or entry.get("bytes") != size:
            raise RecordError(f"record {folder} is damaged: {name} has {size} bytes, not the size in the manifest")
        n_bytes += size
    checksums = Checksums({name: str(files[name].get("sha256")) for name in FILES})
    for name in FILES if verify else ():
        checked(folder, name, checksums)
    metrics: dict[str, float] = {}
    for name, value in read_json(folder, "metrics.json", checksums).items():
        if value is None:
            value = math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecordError(f"record {folder}: metrics.json: {name} is not a number")
        metrics[name] = value
    settings = read_json(folder, "spec.json", checksums)
    environment = read_json(folder, "environment.json", checksums)
    wrong = wrong_type(environment)
    if wrong:
        raise RecordError(f"record {folder}: environment.json: {wrong}")
    if environment.get("code") == code_id() and _id_of(settings) != folder.name:
        raise RecordError(f"record {folder} is damaged: spec.json does not hold the settings of its id")
    return Summary(folder.name, settings, metrics, environment, n_bytes, checksums)


def _id_of(settings: dict[str, Any]) -> str:
    """Return the id of a run with plain ``settings``; "" if they are not those of a run."""
    try:
        return digest(identity_of(settings))
    except (SpecError, KeyError, TypeError, AttributeError, ValueError):
        return ""


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the record in ``folder`` as written; raise :class:`RecordError` if they cannot be read."""
    return read_json(folder, "spec.json")


def list_records(records: Path, *, verify: bool = False) -> tuple[list[Record], list[RecordError]]:
    """Return all readable records under ``records``, oldest first, and the errors of the others.

    What has no name of a record is none and is left out (:func:`aetlab.store.listing.list_foreign`).
    """
    sound: list[Record] = []
    broken: list[RecordError] = []
    try:
        folders = [path for path in records.iterdir() if is_id(path.name)] if records.is_dir() else []
    except OSError as error:
        return [], [RecordError(f"{records} cannot be read: {describe(error)}")]
    for folder in sorted(folders):
        try:
            sound.append(read_record(folder, verify=verify))
        except RecordError as error:
            broken.append(error)
    sound.sort(key=lambda record: (str(record.environment.get("finished", "")), record.id))
    return sound, broken


def read_history(record: Record) -> History:
    """Return the history of ``record``."""
    try:
        rows = list(csv.DictReader(read_text(record.folder, "history.csv", record.checksums).splitlines()))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in ("cost", "seconds")}
        return History(**columns)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise RecordError(f"record {record.folder}: history.csv is not a table of iteration, cost, seconds") from None


def read_array(record: Record, name: str) -> Dataset:
    """Return the array ``name`` of ``record`` with its unit, for example ``"volume/potential_V"``."""
    from aetlab.core.hdf5 import read_dataset

    values, attributes = read_dataset(checked(record.folder, "arrays.h5", record.checksums), name)
    unit = str(attributes.pop("unit", "1"))
    return Dataset(values, unit, attributes)


def array_names(record: Record) -> tuple[str, ...]:
    """Return the sorted names of all arrays of ``record``."""
    from aetlab.core.hdf5 import dataset_names

    return dataset_names(checked(record.folder, "arrays.h5", record.checksums))


def find_record(places: Places, spec: RunSpec, *, use_other_code: bool = False) -> tuple[Record | None, str]:
    """Return the complete, verified record of ``spec`` or None, and a line on a record that was set aside, or "".

    A damaged record is set aside. A record made by other code is set aside as well, unless ``use_other_code``. The
    caller holds the run's lock.
    """
    folder = places.records / record_id(spec)
    if not folder.exists() and not folder.is_symlink():
        return None, ""
    try:
        record = read_record(folder)
        if use_other_code or not record.made_by_other_code:
            return record, ""
        reason = f"record {folder} was made by other code ({record.environment.get('code')}, now {code_id()})"
    except RecordError as error:
        reason = str(error)
    return None, f"{reason}; set aside as {set_aside(folder, places.damaged)}"


def failed_before(log_path: Path) -> bool:
    """Return whether the log of a run records a failure."""
    try:
        with open_regular(log_path) as file:
            return FAILURE.encode() in file.read()
    except OSError:
        return False


@contextmanager
def run_lock(places: Places, spec: RunSpec, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of the run of ``spec`` inside the block, so that two processes never make the same record.

    Yield False where the file system has no locks.
    """
    with locked(places.lock(record_id(spec)), waiting) as held:
        yield held


def _plain_number(value: float) -> float | None:
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_history(path: Path, history: History) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("iteration", "cost", "seconds"))
        for i, (cost, seconds) in enumerate(zip(history.cost, history.seconds, strict=True)):
            table.writerow((i + 1, repr(float(cost)), repr(float(seconds))))


def _write_arrays(path: Path, arrays: Mapping[str, Dataset]) -> None:
    from aetlab.core.hdf5 import write_datasets

    write_datasets(path, {name: (data.values, {"unit": data.unit, **data.attributes}) for name, data in arrays.items()})


def _forget(partial: Path) -> None:
    try:
        remove_tree(partial)
    except StorageError:
        pass  # the removal may fail for the same reason as the write; the next run removes the folder
