"""List and remove the runs of an outputs folder: complete, damaged, cut off or failed.

What lies among the records without the name of one, such as Thumbs.db, is listed as foreign and never removed. A file
that cannot be read is named in the note of its entry; the others are listed.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, describe, locked, open_regular, partial_path, remove_tree, writing
from aetlab.spec.reconstruction import OWNERS
from aetlab.store.identity import code_id, is_id
from aetlab.store.record import FAILURE, Places, RecordError, Summary, read_summary

STATUSES = COMPLETE, DAMAGED, CUT_OFF, FAILED, FOREIGN = "complete", "damaged", "cut off", "failed", "foreign"
#: Most bytes at the end of a log in which its last line is searched.
_END_BYTES = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One run on the disk; ``settings`` and ``metrics`` are flat, and empty without a readable record."""

    id: str
    status: str
    place: Path
    note: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    finished: str
    n_bytes: int

    def age_s(self, now: datetime.datetime) -> float:
        """Return the seconds since the run ended, never below 0 (a clock may have been set back)."""
        try:
            return max(0.0, (now - datetime.datetime.fromisoformat(self.finished)).total_seconds())
        except (ValueError, TypeError):
            return 0.0


def list_entries(places: Places) -> list[Entry]:
    """Return all runs under ``places``, the oldest record first; check all text files, and the size of the arrays."""
    entries, seen = [], set()
    for folder in _names(places.records):
        if folder.name.startswith("."):
            run_id = folder.name[-16:]
            named = (places.records / run_id).exists() or places.log(run_id).exists()
            if folder.name.startswith(".partial-") and is_id(run_id) and not named:
                entries.append(Entry(run_id, CUT_OFF, folder, "its record is being written or removed, or was cut off",
                                     {}, {}, "", _size(folder)))
            continue
        seen.add(folder.name)
        if not is_id(folder.name):
            entries.append(Entry(folder.name, FOREIGN, folder, "not a record, left alone", {}, {}, "", 0))
            continue
        try:
            entries.append(_of_record(folder, read_summary(folder, verify=False)))
        except RecordError as error:
            entries.append(Entry(folder.name, DAMAGED, folder, str(error), {}, {}, "", _size(folder)))
    entries.sort(key=lambda entry: (entry.finished, entry.id))
    return entries + list_unfinished(places, seen)


def list_foreign(places: Places) -> list[str]:
    """Return the names of what lies among the records under ``places`` without the name of one; hidden files count not.
    """
    return [path.name for path in _names(places.records) if not path.name.startswith(".") and not is_id(path.name)]


def list_unfinished(places: Places, records: Collection[str]) -> list[Entry]:
    """Return the runs under ``places`` that were cut off or failed: those with a log and none of the ``records``."""
    logs = [path for path in _names(places.logs) if path.suffix == ".log" and is_id(path.stem)]
    return [_of_log(places, log) for log in logs if log.stem not in records]


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the settings in which the complete entries differ, in the order of the settings."""
    complete = [entry for entry in entries if entry.settings]
    names = dict.fromkeys(name for entry in complete for name in entry.settings)
    return [name for name in names if len({repr(entry.settings.get(name)) for entry in complete}) > 1]


def remove_entry(places: Places, entry: Entry) -> None:
    """Remove the record of a run with its checkpoint and log, under the lock of the run.

    The record loses its name first, so that a removal that is cut off leaves no damaged record. Of a record that is a
    link, the link is removed and its target is kept.

    Raises
    ------
    StorageError
        If the entry is foreign, or a file cannot be removed.
    """
    if not is_id(entry.id):
        raise StorageError(f"{entry.place} is not a record and is left alone")
    with locked(places.lock(entry.id)):
        folder = places.records / entry.id
        remove_tree(partial_path(folder))
        if folder.is_dir() and not folder.is_symlink():
            with writing(folder):
                os.rename(folder, partial_path(folder))
            remove_tree(partial_path(folder))
        remove_tree(folder)
        remove_tree(places.work(entry.id))
        with writing(places.log(entry.id)):
            places.log(entry.id).unlink(missing_ok=True)


def remove_cache(places: Places) -> int:
    """Remove all shared stages, each under its lock, and return the number of bytes freed."""
    n_bytes = 0
    for path in _stages(places):
        stem = path.stem.removeprefix(".partial-")
        with locked(places.cache / "locks" / f"{path.parent.name}-{stem}.lock"), writing(path):
            n_bytes += path.stat().st_size
            path.unlink()
    return n_bytes


def cache_size(places: Places) -> tuple[int, int]:
    """Return the number of shared stages and their size in bytes."""
    sizes = [path.stat().st_size for path in _stages(places)]
    return len(sizes), sum(sizes)


def _stages(places: Places) -> list[Path]:
    """Return the files of shared stages, also those of interrupted runs."""
    return [path for path in sorted(places.cache.glob("*/*.h5")) if path.is_file()]


def flatten(settings: Any) -> dict[str, Any]:
    """Return nested settings as ``{"dose.total_e_A2": 50000.0, ...}``."""
    flat: dict[str, Any] = {}
    _flatten(settings, "", flat)
    return flat


def _flatten(settings: Any, name: str, flat: dict[str, Any]) -> None:
    """Add nested ``settings`` to ``flat``, under names that begin with ``name``."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            _flatten(value, f"{name}.{key}" if name else str(key), flat)
    else:
        flat[name] = settings


def own_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings without those that belong to other regularisers than that of the run."""
    kind = flat.get("reg.kind")
    return {name: value for name, value in flat.items()
            if not name.startswith("reg.") or kind in OWNERS.get(name.removeprefix("reg."), (kind,))}


def _of_record(folder: Path, summary: Summary) -> Entry:
    note = "" if summary.environment.get("code") == code_id() else "made by other code"
    return Entry(summary.id, COMPLETE, folder, note, own_settings(flatten(summary.settings)), summary.metrics,
                 str(summary.environment.get("finished", "")), summary.n_bytes)


def _of_log(places: Places, log: Path) -> Entry:
    try:
        with open_regular(log) as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - _END_BYTES))
            last = (file.read(_END_BYTES).decode(errors="replace").splitlines() or [""])[-1]
    except OSError as error:
        return Entry(log.stem, FAILED, log, f"its log cannot be read: {describe(error)}", {}, {}, "", 0)
    failed = last.startswith(FAILURE)
    try:
        n_checkpoint = places.checkpoint(log.stem).stat().st_size
        note = "continues from its checkpoint"
    except OSError:
        n_checkpoint, note = 0, ""
    if failed:
        note = last.removeprefix(FAILURE).strip()
    finished = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC).isoformat()
    return Entry(log.stem, FAILED if failed else CUT_OFF, log, note, {}, {}, finished, status.st_size + n_checkpoint)


def _names(folder: Path) -> list[Path]:
    """Return the sorted content of ``folder``, nothing if it is missing; raise :class:`StorageError` if unreadable."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {describe(error)}") from None


def _size(folder: Path) -> int:
    """Return the size of the files in ``folder`` that can be seen, 0 for a link."""
    n_bytes = 0
    for path in [] if folder.is_symlink() else folder.rglob("*"):
        with suppress(OSError):
            n_bytes += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return n_bytes
