"""Read the files of a record: regular files inside its folder, of limited size, compared with their checksums.

Whatever is wrong with a file raises :class:`RecordError`, one line that names the record and the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, describe, open_regular
from aetlab.store.checksums import Checksums

#: Largest text file that is read, in bytes.
MAX_TEXT_BYTES = 64 << 20


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
