"""Check files of records against their checksums: each file once, then remembered by its stamp."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, sha256, write_text

#: Size in bytes, times of the last changes of content and of status in ns, and inode of a file. A program can set all
#: of these except the time of the last change of status.
Stamp = tuple[int, int, int, int]
#: A file that changed less than this before it was read may change again within one tick of the file system's clock.
_SETTLED_S = 2.0


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
