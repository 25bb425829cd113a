"""Stacks of images in plain HDF5 files: one dataset (image, row, column), the first row the lowest."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aetlab.exchange.read_volume import MOST_PACKED
from aetlab.series.errors import SeriesError
from aetlab.series.frames import StackFile, make_infos, one_line
from aetlab.series.readers.units import length_A

#: Datasets that may stand beside the images, one number per image.
PER_FRAME = ("tilt_deg", "defocus_nm", "dose_e_A2")
_MAX_ITEMS = 10_000
_HEADERS_WITHIN = 64 * 2**20


def open_hdf5(path: Path) -> StackFile:
    """Return the images of an HDF5 file that holds one dataset of three dimensions (or else one of two).

    ``tilt_deg``, ``defocus_nm`` and ``dose_e_A2`` beside it hold one number per image. The attribute ``pixel_A`` of the
    dataset is the pixel in Å.

    Raises
    ------
    SeriesError
        If there is no such dataset or more than one, or the file is damaged.
    """
    def find(file: h5py.File) -> StackFile:
        found = list_datasets(file)
        if found.get("images") is not None and found["images"].ndim == 4:
            raise SeriesError(f"{path} holds a tilt series of aetlab; it needs no import")
        for ndim in (3, 2):
            names = [name for name, dataset in found.items() if dataset.ndim == ndim and min(dataset.shape) > 1]
            if len(names) > 1:
                raise SeriesError(f"{path} holds {len(names)} stacks of images, {', '.join(sorted(names)[:4])}; "
                                  "wanted one")
            if names:
                dataset = found[names[0]]
                axes = (0, 1, 2) if ndim == 3 else (-1, 0, 1)
                pixel_A = dataset.attrs.get("pixel_A")
                sides = (float(pixel_A),) * 2 if isinstance(pixel_A, (int, float, np.number)) and pixel_A > 0 else None
                return stack_of(path, dataset, axes, sides, per_frame(dataset))
        raise SeriesError(f"{path} holds no stack of images (image, row, column)")
    return open_safely(path, find)


def open_safely(path: Path, find: Callable[[h5py.File], StackFile]) -> StackFile:
    """Return what ``find`` makes of the open file; raises SeriesError for whatever a damaged file makes of it."""
    try:
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            return find(file)
    except SeriesError:
        raise
    except Exception as error:  # h5py raises errors of many kinds on damaged files
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None


def _check_heaps(path: Path) -> None:
    """Raise SeriesError for a heap of texts that the HDF5 library would walk without end.

    Texts of free length lie in collections, each a chain of objects with their sizes; an object of no size stops the
    chain. Source: the HDF5 file format specification 3.0, section III.E. Looked at are the ends of the file, where the
    headers lie.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        for start in {0, max(size - _HEADERS_WITHIN, 0)}:
            file.seek(start)
            part = file.read(_HEADERS_WITHIN)
            at = part.find(b"GCOL\1\0\0\0")
            while at >= 0:
                if _never_ends(part[at:at + int.from_bytes(part[at + 8:at + 16], "little")]):
                    raise SeriesError(f"{path} is damaged: its texts cannot be read")
                at = part.find(b"GCOL\1\0\0\0", at + 8)


def _never_ends(heap: bytes) -> bool:
    at = 16
    while at + 16 <= len(heap):
        index, n_bytes = struct.unpack_from("<H6xQ", heap, at)
        step = 16 + (n_bytes + 7) // 8 * 8 if index else n_bytes
        if step == 0:
            return True
        at += step
    return False


def list_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets of numbers in the file by name. Links, external and virtual data are left out."""
    found: dict[str, h5py.Dataset] = {}
    n_seen = 0

    def visit(name: str, item: Any) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen > _MAX_ITEMS:
            raise SeriesError(f"{file.filename} holds more than {_MAX_ITEMS} items")
        if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual and item.dtype.kind in "iuf":
            found[name] = item
    file.visititems(visit)
    return found


def child(group: h5py.Group, path: str) -> Any:
    """Return the item at a ``path`` below ``group``, None where there is none or only a link leads there."""
    item: Any = group
    for part in path.split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item


def per_frame(dataset: h5py.Dataset, axis: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays beside a ``dataset`` that hold one number per image."""
    beside = dataset.parent
    found = {}
    for name in PER_FRAME:
        item = child(beside, name)
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and not item.external and not item.is_virtual:
            if item.shape != dataset.shape[axis:axis + 1]:
                raise SeriesError(f"{dataset.file.filename}: {item.shape} numbers {name}, {dataset.shape[axis]} images")
            found[name] = np.asarray(item[()], float)
    return found


def stack_of(path: Path, dataset: h5py.Dataset, axes: tuple[int, int, int], pixel_A: tuple[float, float] | None,
             known: dict[str, np.ndarray], *, first_row_on_top: bool = False, header: dict[str, Any] | None = None,
             notes: tuple[str, ...] = ()) -> StackFile:
    """Return the images of a ``dataset`` whose ``axes`` are image (-1: there is one), row and column."""
    name, (i_frame, i_row, i_column) = dataset.name, axes
    n = 1 if i_frame < 0 else dataset.shape[i_frame]
    ndim = dataset.ndim
    if not dataset.size:
        raise SeriesError(f"{path}: {name} is empty")
    n_bytes, n_stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if n_bytes > n_stored * (1 if dataset.chunks is None else MOST_PACKED):
        raise SeriesError(f"{path} is cut off: {name} claims {n_bytes} bytes, more than the file holds")

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        selection: list[Any] = [0] * ndim
        selection[i_row], selection[i_column] = rows, columns
        if i_frame >= 0:
            selection[i_frame] = index
        with h5py.File(path, "r") as file:
            part = file[name][tuple(selection)]
        return part if i_row < i_column else part.T

    infos = make_infos(path, n, {name: list(values) for name, values in known.items()})
    return StackFile(path, take, (dataset.shape[i_row], dataset.shape[i_column]), first_row_on_top, dataset.dtype,
                     infos, pixel_A, header or {}, notes)


def spacing_A(positions: h5py.Dataset, unit: object) -> float | None:
    """Return the mean spacing in Å of the coordinates of an axis, None where the unit is no length."""
    factor = length_A(unit)
    values = np.asarray(positions[()], float).ravel()
    if factor is None or len(values) < 2 or not np.isfinite(values).all():
        return None
    step = abs(values[-1] - values[0]) / (len(values) - 1)
    return float(step * factor) if step > 0 else None
