"""Write and read files of named arrays and a small state, for checkpoints and shared stages.

A file holds plain bytes and a checksum, no code. Layout: the line ``aetlab-arrays 1 <SHA-256 of all following bytes>
<length of the header>``, a JSON header ``{"state": ..., "arrays": [{"name", "dtype", "shape"}, ...]}``, then the
arrays in C order and little-endian, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError, describe, open_regular, write_atomically

_MAGIC = "aetlab-arrays"
_VERSION = 1
_KINDS = "biufc"
_MAX_HEADER = 1 << 24


def write_container(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any] | None = None) -> None:
    """Write ``arrays`` (numbers of any shape) and a JSON-able ``state`` atomically to ``path``."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    plain = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in plain.items()}
    entries = [
        {"name": name, "dtype": array.dtype.str, "shape": np.shape(arrays[name])} for name, array in plain.items()
    ]
    header = json.dumps({"state": dict(state or {}), "arrays": entries}).encode()
    checksum = hashlib.sha256(header)
    for array in plain.values():
        checksum.update(array.data if array.size else b"")

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            file.write(f"{_MAGIC} {_VERSION} {checksum.hexdigest()} {len(header)}\n".encode() + header)
            for array in plain.values():
                file.write(array.data if array.size else b"")

    write_atomically(path, write)


def read_container(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the state of ``path``; raise :class:`StorageError` if the file is damaged or foreign."""
    try:
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            words = file.readline(200).split()
            if len(words) != 4 or words[0] != _MAGIC.encode():
                raise StorageError(f"{path} is not a file of aetlab arrays")
            if words[1] != str(_VERSION).encode():
                raise StorageError(f"{path} has the unknown version {words[1][:20]!r}")
            n_header = int(words[3])
            if not 0 <= n_header <= min(_MAX_HEADER, n_bytes):
                raise StorageError(f"{path} is damaged: its header is longer than the file")
            header = file.read(n_header)
            checksum = hashlib.sha256(header)
            content = json.loads(header)
            entries = [
                (str(entry["name"]), np.dtype(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
                for entry in content["arrays"]
            ]
            if any(kind.kind not in _KINDS or min(shape, default=0) < 0 for _, kind, shape in entries):
                raise StorageError(f"{path} holds data other than numbers")
            wanted = sum(math.prod(shape) * kind.itemsize for _, kind, shape in entries)
            if wanted != n_bytes - file.tell():
                raise StorageError(f"{path} is damaged: {n_bytes - file.tell()} bytes of arrays, {wanted} expected")
            arrays = {}
            for name, kind, shape in entries:
                content_bytes = bytearray(math.prod(shape) * kind.itemsize)
                file.readinto(content_bytes)
                checksum.update(content_bytes)
                arrays[name] = np.frombuffer(content_bytes, kind).reshape(shape)
            if checksum.hexdigest().encode() != words[2]:
                raise StorageError(f"{path} is damaged: its checksum does not match")
            return arrays, dict(content["state"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SyntaxError, OverflowError) as error:
        reason = describe(error) if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        reason = reason or type(error).__name__
        raise StorageError(f"{path} cannot be read: {reason}") from None
