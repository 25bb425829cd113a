"""Write and read arrays in HDF5 files; treat files that are read as untrusted.

Only contiguous datasets of numbers that are hard-linked inside the file are read. Other links, external or virtual
storage, filters and objects are refused. The size of a dataset is checked against the file before memory is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from aetlab.core.files import StorageError

_KINDS = "biuf"
_MAX_DATASETS = 1000


def write_datasets(path: Path, datasets: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]], *,
                   block_bytes: int = 0) -> None:
    """Write ``name: (array, attributes)`` to a new file ``path``.

    ``block_bytes`` (0, or 512 and its doubles) are left free in front, for a block that programs for HDF5 skip.

    Raises
    ------
    OSError
        If the file cannot be written.
    StorageError
        If there are more datasets than :func:`dataset_names` reads.
    """
    if len(datasets) > _MAX_DATASETS:
        raise StorageError(f"{path} cannot hold {len(datasets)} datasets: a file has up to {_MAX_DATASETS}")
    with open(path, "w+b") as raw:
        patient = _PatientFile(raw)
        with h5py.File(patient, "w", userblock_size=block_bytes) as file:
            for name, (values, attributes) in datasets.items():
                dataset = file.create_dataset(name, data=np.asarray(values))
                for key, value in attributes.items():
                    dataset.attrs[key] = _fixed(value) if isinstance(value, str) else value
        if patient.error is not None:
            raise patient.error


class _PatientFile:
    """A file that stores the first write error and ignores all later operations.

    If closing a file fails on a full disk, the HDF5 library ends the process with a segmentation fault. This class
    hides the error from the library. The caller raises :attr:`error` after the file is closed.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.error: OSError | None = None
        self._raw = raw
        self._position = 0
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        count = memoryview(data).nbytes
        if self.error is None:
            try:
                self._raw.seek(self._position)
                self._raw.write(data)
                self._raw.flush()
            except OSError as error:
                self.error = error
        self._position += count
        self._size = max(self._size, self._position)
        return count

    def read(self, count: int) -> bytes:
        buffer = bytearray(count)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        if self.error is None:
            self._raw.seek(self._position)
            data = self._raw.read(len(view))
            view[: len(data)] = data
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        if self.error is None:
            try:
                self._raw.truncate(self._size)
            except OSError as error:
                self.error = error
        return self._size

    def flush(self) -> None:
        pass


def read_dataset(path: Path, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an array, or some ``rows`` (indices along its last axis), and its attributes.

    Raise :class:`StorageError`, which names the file and the dataset.
    """
    try:
        with h5py.File(path, "r") as file:
            dataset = _find(file, path, name)
            n_bytes = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
            if dataset.dtype.kind not in _KINDS:
                raise StorageError(f"{path}: {name} holds data other than numbers")
            if n_bytes > path.stat().st_size or n_bytes != dataset.id.get_storage_size():
                raise StorageError(f"{path}: {name} claims {n_bytes} bytes, more than the file holds")
            attributes = {key: _read_attribute(dataset, path, key) for key in dataset.attrs}
            return dataset[()] if rows is None else _read_rows(dataset, rows), attributes
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{path}: {name} cannot be read: {str(error).splitlines()[0]}") from None


def _read_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` of the last axis of a dataset, read in runs of consecutive ones."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([dataset[..., int(run[0]):int(run[-1]) + 1] for run in runs], axis=-1)


def dataset_names(path: Path) -> tuple[str, ...]:
    """Return the sorted paths of all datasets in the file."""
    names: list[str] = []

    def visit(name: str | bytes, item: object) -> None:
        if not isinstance(name, str):  # h5py returns names that are not UTF-8 as bytes
            raise StorageError(f"{path} cannot be read: {name!r} is not a name in UTF-8")
        if isinstance(item, h5py.Dataset):
            names.append(name)
        if len(names) > _MAX_DATASETS:
            raise StorageError(f"{path} holds more than {_MAX_DATASETS} datasets")

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return tuple(sorted(names))


def _find(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    place: h5py.Group = file
    parts = name.strip("/").split("/")
    for i, part in enumerate(parts):
        if not isinstance(place, h5py.Group) or part not in place:
            raise StorageError(f"{path} has no array {name}")
        if not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise StorageError(f"{path}: {'/'.join(parts[:i + 1])} is a link, which is refused")
        place = place[part]
    if not isinstance(place, h5py.Dataset):
        raise StorageError(f"{path} has no array {name}")
    if place.external or place.is_virtual or place.chunks is not None:
        raise StorageError(f"{path}: {name} is stored outside the file or packed, which is refused")
    return place


def _fixed(text: str) -> np.ndarray:
    """Return ``text`` as UTF-8 of fixed length: the library can hang on a damaged string of variable length."""
    raw = text.encode()
    return np.array(raw, h5py.string_dtype("utf-8", max(len(raw), 1)))


def _read_attribute(dataset: h5py.Dataset, path: Path, key: str) -> Any:
    if dataset.attrs.get_id(key).dtype.kind not in _KINDS + "S":
        raise StorageError(f"{path}: attribute {key!r} of {dataset.name} is neither a number nor text of fixed length")
    value = dataset.attrs[key]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value
