"""Write and read files of named arrays and a small state, for checkpoints and shared stages.

A file is HDF5, as the arrays of a record are (:mod:`aetlab.core.hdf5`): the arrays in the group ``arrays``, the state
as JSON in the bytes ``state``. In front lies a block of 512 bytes, which programs for HDF5 skip. It holds the line
``aetlab-arrays 2 <SHA-256 of all bytes behind the block>`` and is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError, describe, open_regular, write_atomically

_MAGIC = b"aetlab-arrays 2 "
_BLOCK_BYTES = 512
_GROUP, _STATE = "arrays/", "state"


def write_container(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any] | None = None) -> None:
    """Write ``arrays`` (real numbers of any shape) and a JSON-able ``state`` atomically to ``path``."""
    from aetlab.core.hdf5 import write_datasets  # imports h5py

    text = np.frombuffer(json.dumps(dict(state or {})).encode(), np.uint8)
    named = {_STATE: text, **{f"{_GROUP}{name}": array for name, array in arrays.items()}}

    def write(partial: Path) -> None:
        write_datasets(partial, {name: (array, {}) for name, array in named.items()}, block_bytes=_BLOCK_BYTES)
        with open(partial, "r+b") as file:
            file.seek(_BLOCK_BYTES)
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            file.write(_block(checksum))

    write_atomically(path, write)


def read_container(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the state of ``path``; raise :class:`StorageError` if the file is damaged or foreign."""
    from aetlab.core.hdf5 import dataset_names, read_dataset

    try:
        with open_regular(path) as file:
            block = file.read(_BLOCK_BYTES)
            if not block.startswith(_MAGIC):
                raise StorageError(f"{path} is not a file of aetlab arrays")
            if block != _block(hashlib.file_digest(file, "sha256").hexdigest()):
                raise StorageError(f"{path} is damaged: its checksum does not match")
        found = {name: read_dataset(path, name)[0] for name in dataset_names(path)}
        state = dict(json.loads(found.pop(_STATE).tobytes()))
        return {name.removeprefix(_GROUP): values for name, values in found.items()}, state
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = describe(error) if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise StorageError(f"{path} cannot be read: {reason or type(error).__name__}") from None


def _block(checksum: str) -> bytes:
    return (_MAGIC + f"{checksum}\n".encode()).ljust(_BLOCK_BYTES, b"\0")
