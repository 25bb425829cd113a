"""Read the files of a record: regular files inside its folder, of limited size, compared with their checksums.

Whatever is wrong with a file raises :class:`RecordError`, one line that names the record and the file. Files are
compared once, then remembered by their stamps. The types in ``environment.json`` are checked before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, describe, open_regular, sha256, write_text

#: Largest text file that is read, in bytes.
MAX_TEXT_BYTES = 64 << 20
#: Size in bytes, times of the last changes of content and of status in ns, and inode of a file. A program can set all
#: of these except the time of the last change of status.
Stamp = tuple[int, int, int, int]
#: A file that changed less than this before it was read may change again within one tick of the file system's clock.
_SETTLED_S = 2.0
_NUMBER, _TEXT, _LIST, _MAPPING = (int, float), (str,), (list,), (dict,)
#: Types of the entries that are used. An entry may be missing or null.
_TYPES: dict[str, tuple[type, ...]] = {
    "code": _TEXT, "started": _TEXT, "finished": _TEXT, "device": _TEXT, "processor": _TEXT, "stopped": _TEXT,
    "commit": _TEXT, "python": _TEXT, "platform": _TEXT, "reconstruction_of": _TEXT, "seconds": _NUMBER,
    "peak_memory_MB": _NUMBER, "n_cores": _NUMBER, "candidates": _NUMBER, "restarts": _LIST, "halvings": _LIST,
    "rounds": _LIST, "seconds_by_stage": _MAPPING, "versions": _MAPPING, "species": _MAPPING, "removed": _MAPPING,
    "refined": _MAPPING,
}
#: Types inside lists and mappings.
_INNER: dict[str, tuple[type, ...]] = {"restarts": _NUMBER, "halvings": _NUMBER, "seconds_by_stage": _NUMBER,
                                       "versions": _TEXT, "rounds": _MAPPING}
_NAMES: dict[tuple[type, ...], str] = {_NUMBER: "a number", _TEXT: "text", _LIST: "a list", _MAPPING: "a mapping"}


class RecordError(StorageError):
    """A record that is damaged, has another schema, or holds contents that are refused."""


def inside(folder: Path, name: str) -> Path:
    """Return the path of a regular file of the record that is no link."""
    path = folder / name
    try:
        if not folder.is_symlink() and stat.S_ISREG(os.lstat(path).st_mode):
            return path
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a folder of another user
        raise RecordError(f"record {folder}: {name} cannot be read: {describe(error)}") from None
    raise RecordError(f"record {folder} is damaged: {name} is missing or leads outside the record")


def size_of(folder: Path, name: str) -> int:
    """Return the size of a file of the record in bytes."""
    try:
        return inside(folder, name).stat().st_size
    except OSError as error:
        raise RecordError(f"record {folder}: {name} cannot be read: {describe(error)}") from None


def checked(folder: Path, name: str, checksums: Checksums) -> Path:
    """Return the path of a file of the record whose content has the checksum of the manifest."""
    path = inside(folder, name)
    try:
        if checksums.hold(path):
            return path
    except OSError as error:
        raise RecordError(f"record {folder}: {name} cannot be read: {describe(error)}") from None
    raise RecordError(f"record {folder} is damaged: {name} has changed since it was written")


def read_text(folder: Path, name: str, checksums: Checksums | None = None) -> str:
    """Return a text file of the record, which is compared with its checksum where ``checksums`` are given."""
    path = inside(folder, name)
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise RecordError(f"record {folder}: {name} is longer than {MAX_TEXT_BYTES} bytes")
        with open_regular(path) as file:
            content = file.read()
        if checksums is not None and hashlib.sha256(content).hexdigest() != checksums.expected[name]:
            raise RecordError(f"record {folder} is damaged: {name} has changed since it was written")
        return content.decode("utf-8")
    except OSError as error:
        raise RecordError(f"record {folder}: {name} cannot be read: {describe(error)}") from None
    except UnicodeDecodeError:
        raise RecordError(f"record {folder} is damaged: {name} is not text") from None


def read_json(folder: Path, name: str, checksums: Checksums | None = None) -> dict[str, Any]:
    """Return the mapping in a JSON file of the record, checked as by :func:`read_text`."""
    try:
        content = json.loads(read_text(folder, name, checksums), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RecordError(f"record {folder} is damaged: {name} is not JSON") from None
    if not isinstance(content, dict):
        raise RecordError(f"record {folder} is damaged: {name} does not hold a mapping")
    return content


def _refuse_constant(name: str) -> Sequence[None]:
    raise ValueError(f"{name} is not JSON")


@dataclass
class Checksums:
    """SHA-256 of the files of a record by name, as its manifest states them, and the stamps of those that agreed."""

    expected: Mapping[str, str]
    agreed: dict[str, Stamp] = field(default_factory=dict)

    def hold(self, path: Path) -> bool:
        """Return whether ``path`` has the content that was written; a file with the stamp of last time is not read."""
        stamp = stamp_of(path)
        if self.agreed.get(path.name) == stamp:
            return True
        if sha256(path) != self.expected[path.name] or stamp_of(path) != stamp:
            return False
        self.agreed[path.name] = stamp
        return True


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def recall(memory: Path, checksums: Mapping[str, Checksums]) -> None:
    """Add to ``checksums``, by record, the stamps that ``memory`` holds; ignore a file that is missing or damaged."""
    for record, names in _read(memory).items():
        if record in checksums and isinstance(names, dict):
            for name, entry in names.items():
                if isinstance(entry, list) and len(entry) == 5 and entry[0] == checksums[record].expected.get(name):
                    checksums[record].agreed.setdefault(name, (entry[1], entry[2], entry[3], entry[4]))


def remember(memory: Path, checksums: Mapping[str, Checksums]) -> None:
    """Write the stamps of ``checksums`` to ``memory``, and keep those of other records; skip a disk that refuses it."""
    latest = time.time_ns() - int(_SETTLED_S * 1e9)
    content = {record: names for record, names in _read(memory).items() if record not in checksums}
    for record, sums in checksums.items():
        content[record] = {name: [sums.expected[name], *stamp] for name, stamp in sums.agreed.items()
                           if max(stamp[1], stamp[2]) < latest}
    try:
        write_text(memory, json.dumps(content) + "\n")
    except StorageError:  # the files are hashed again next time
        pass


def _read(memory: Path) -> dict[str, Any]:
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def wrong_type(environment: Mapping[str, Any]) -> str:
    """Return which entry has a wrong type and what it should be, in one line; empty if there is none."""
    for name, wanted in _TYPES.items():
        value = environment.get(name)
        if value is None:
            continue
        if not _fits(value, wanted):
            return f"{name} is not {_NAMES[wanted]}"
        inner = _INNER.get(name)
        if inner and not all(_fits(item, inner) for item in (value.values() if isinstance(value, dict) else value)):
            return f"an entry of {name} is not {_NAMES[inner]}"
    thresholds = (environment.get("species") or {}).get("threshold")
    if thresholds is not None and not (isinstance(thresholds, list)
                                       and all(item is None or _fits(item, _NUMBER) for item in thresholds)):
        return "species.threshold is not a list of numbers"
    return ""


def _fits(value: object, wanted: tuple[type, ...]) -> bool:
    return isinstance(value, wanted) and not isinstance(value, bool)
