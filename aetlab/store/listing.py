"""List, filter and remove the runs of an outputs folder: complete, damaged, cut off or failed."""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, locked, remove_tree, writing
from aetlab.store.identity import code_id
from aetlab.store.record import FAILURE, Places, RecordError, Summary, read_summary

COMPLETE, DAMAGED, CUT_OFF, FAILED = "complete", "damaged", "cut off", "failed"
_CONDITION = re.compile(r"(?P<name>[\w.]+)\s*(?P<relation><=|>=|!=|=|<|>)\s*(?P<value>.*)")
_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


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
    for folder in sorted(places.records.iterdir()) if places.records.is_dir() else []:
        if folder.name.startswith("."):
            continue
        seen.add(folder.name)
        try:
            entries.append(_of_record(folder, read_summary(folder, verify=False)))
        except RecordError as error:
            entries.append(Entry(folder.name, DAMAGED, folder, str(error), {}, {}, "", _size(folder)))
    entries.sort(key=lambda entry: (entry.finished, entry.id))
    return entries + list_unfinished(places, seen)


def list_unfinished(places: Places, records: Collection[str]) -> list[Entry]:
    """Return the runs under ``places`` that were cut off or failed: those with a log and none of the ``records``."""
    logs = sorted(places.logs.glob("*.log")) if places.logs.is_dir() else []
    return [_of_log(places, log) for log in logs if log.stem not in records]


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the settings in which the complete entries differ, in the order of the settings."""
    complete = [entry for entry in entries if entry.settings]
    names = dict.fromkeys(name for entry in complete for name in entry.settings)
    return [name for name in names if len({repr(entry.settings.get(name)) for entry in complete}) > 1]


def choose(entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """Return the entries that match all ``words``.

    A word is a condition such as ``dose.total_e_A2=50000`` or ``found_percent>99``, or the start of an id. The name in
    a condition is a setting, a metric, ``status`` or ``id``. Several starts of ids select the runs of any of them.

    Raises
    ------
    ValueError
        For any other word or name.
    """
    chosen = list(entries)
    ids = [word for word in words if _CONDITION.fullmatch(word) is None]
    for word in ids:
        if not re.fullmatch(r"[0-9a-f]{1,16}", word) or not any(entry.id.startswith(word) for entry in entries):
            raise ValueError(f"{word!r} is neither a condition (name=value, name>value) nor the start of a run's id")
    if ids:
        chosen = [entry for entry in chosen if entry.id.startswith(tuple(ids))]
    names = {"status", "id", *(name for entry in entries for name in (*entry.settings, *entry.metrics))}
    for word in words:
        match = _CONDITION.fullmatch(word)
        if match is None:
            continue
        if entries and match["name"] not in names:
            raise ValueError(f"{word!r} names no setting or metric: choose from {', '.join(sorted(names))}")
        chosen = [entry for entry in chosen if _fits(entry, match["name"], match["relation"], match["value"].strip())]
    return chosen


def remove_entry(places: Places, entry: Entry) -> None:
    """Remove the record of a run with its checkpoint and log, under the lock of the run."""
    if not re.fullmatch(r"[\w-]{1,80}", entry.id):
        raise StorageError(f"{entry.id!r} is not the name of a record")
    with locked(places.lock(entry.id)):
        remove_tree(places.records / entry.id)
        remove_tree(places.work(entry.id))
        with writing(places.log(entry.id)):
            places.log(entry.id).unlink(missing_ok=True)


def remove_cache(places: Places) -> int:
    """Remove all shared stages, each under its lock, and return the number of bytes freed."""
    n_bytes = 0
    for path in sorted(places.cache.glob("*/*.arrays")):
        stem = path.stem.removeprefix(".partial-")
        with locked(places.cache / "locks" / f"{path.parent.name}-{stem}.lock"), writing(path):
            n_bytes += path.stat().st_size
            path.unlink()
    return n_bytes


def cache_size(places: Places) -> tuple[int, int]:
    """Return the number of shared stages and their size in bytes."""
    sizes = [path.stat().st_size for path in places.cache.glob("*/*.arrays")]
    return len(sizes), sum(sizes)


def flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Return nested settings as ``{"dose.total_e_A2": 50000.0, ...}``."""
    if not isinstance(settings, Mapping):
        return {name: settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{name}.{key}" if name else str(key)))
    return flat


def _of_record(folder: Path, summary: Summary) -> Entry:
    note = "" if summary.environment.get("code") == code_id() else "made by other code"
    return Entry(summary.id, COMPLETE, folder, note, flatten(summary.settings), summary.metrics,
                 str(summary.environment.get("finished", "")), summary.n_bytes)


def _of_log(places: Places, log: Path) -> Entry:
    checkpoint = places.checkpoint(log.stem)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:] or [""]
    failed = lines[-1].startswith(FAILURE)
    note = "continues from its checkpoint" if checkpoint.exists() else ""
    if failed:
        note = lines[-1].removeprefix(FAILURE).strip()
    finished = datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.UTC).isoformat()
    n_bytes = log.stat().st_size + (checkpoint.stat().st_size if checkpoint.exists() else 0)
    return Entry(log.stem, FAILED if failed else CUT_OFF, log, note, {}, {}, finished, n_bytes)


def _fits(entry: Entry, name: str, relation: str, value: str) -> bool:
    own: Any = {"status": entry.status, "id": entry.id, **entry.settings, **entry.metrics}.get(name)
    if own is None:
        return False
    try:
        wanted: Any = float(value)
        own = float(own)
    except (TypeError, ValueError):
        wanted, own = value.lower(), str(own).lower()
    return _RELATIONS[relation](own, wanted)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
