"""Datasets of HDF5 files of other programs: found, checked before memory is taken, their axes read.

Only datasets of numbers that are hard-linked inside the file are read. External storage is refused: it would read any
file of the machine as raw numbers. A virtual dataset may refer to its own file and to HDF5 files in or below its folder
that are there; a missing one would read as zeros. A dataset with filters or blocks that were never written may be
larger than the file by :data:`MOST_PACKED`, or up to :data:`MOST_SPARSE_BYTES`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aetlab.exchange.units import length_A

#: Greatest ratio by which the filters of HDF5 compress numbers.
MOST_PACKED = 1100
#: Size of a dataset that may be empty but for a few blocks.
MOST_SPARSE_BYTES = 2 * 2**30
_MOST_ITEMS = 10_000
_HEADERS_WITHIN = 64 * 2**20
#: Greatest deviation of a step of an axis from the mean one, over the mean one.
_UNEVEN = 0.01


@dataclass(frozen=True)
class Axis:
    """An axis of a dataset: its name in lower case, its unit, and its coordinates (None: not stated).

    ``step`` is the spacing of the coordinates in the unit, negative where they fall.
    """

    name: str = ""
    unit: str = ""
    coordinates: np.ndarray | None = None
    step: float | None = None

    @property
    def step_A(self) -> float | None:
        """Spacing in Å, greater than 0; None where it is not stated or the unit is no length."""
        factor = length_A(self.unit)
        return None if factor is None or not self.step else abs(self.step) * factor


def find_datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Return the datasets of real numbers below ``group`` by their paths; raise ValueError for too many items."""
    found: dict[str, h5py.Dataset] = {}
    n_seen = 0

    def visit(name: str | bytes, item: Any) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen > _MOST_ITEMS:
            raise ValueError(f"it holds more than {_MOST_ITEMS} items")
        if isinstance(name, str) and isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf":
            found[name] = item

    group.visititems(visit)
    return found


def child(group: h5py.Group, path: str) -> Any:
    """Return the item at a ``path`` below ``group``, None where there is none or only a link leads there."""
    item: Any = group
    for part in path.strip("/").split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item


def check_dataset(dataset: h5py.Dataset, path: Path) -> None:
    """Raise ValueError unless the data of ``dataset`` lie in the file ``path``, or beside it, and fit into it."""
    name = dataset.name
    if dataset.external:
        raise ValueError(f"{name} is stored in other files, which is refused")
    n_bytes = dataset.size * dataset.dtype.itemsize
    if not n_bytes:
        raise ValueError(f"{name} is empty")
    if dataset.is_virtual:
        _check_virtual(dataset, path, n_bytes)
        return
    n_stored = dataset.id.get_storage_size()
    packed = dataset.chunks is not None
    if n_bytes > (max(n_stored * MOST_PACKED, MOST_SPARSE_BYTES if n_stored else 0) if packed else n_stored):
        raise ValueError(f"{name} claims {n_bytes} bytes, more than the file holds")
    if n_stored > path.stat().st_size:
        raise ValueError(f"{name} claims {n_stored} bytes, more than the file holds")
    if packed and int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize > max(
            n_stored * MOST_PACKED, MOST_SPARSE_BYTES):
        raise ValueError(f"{name} has blocks of {dataset.chunks}, more than the file holds")


def _check_virtual(dataset: h5py.Dataset, path: Path, n_bytes: int) -> None:
    folder, size = path.resolve().parent, 0
    for source in dataset.virtual_sources():
        place = path.resolve() if source.file_name == "." else (folder / source.file_name).resolve()
        if not place.is_relative_to(folder):
            raise ValueError(f"{dataset.name} is assembled from {source.file_name}, outside the folder of the file")
        if "%" in source.file_name + source.dset_name:
            raise ValueError(f"{dataset.name} is assembled from files by a pattern, which is refused")
        if not place.is_file():
            raise ValueError(f"{dataset.name} is assembled from {source.file_name}, which is not there")
        with h5py.File(place, "r") as file:
            part = child(file, source.dset_name)
            if not isinstance(part, h5py.Dataset) or part.is_virtual:
                raise ValueError(f"{dataset.name} is assembled from {source.dset_name} of {source.file_name}, which is "
                                 "no dataset that is stored there")
            check_dataset(part, place)
        size += place.stat().st_size
    if n_bytes > max(size * MOST_PACKED, MOST_SPARSE_BYTES if size else 0):
        raise ValueError(f"{dataset.name} claims {n_bytes} bytes, more than its files hold")


def check_texts(path: Path) -> None:
    """Raise ValueError for a heap of texts that the HDF5 library would walk without end.

    Texts of free length lie in collections, each a chain of objects with their sizes; an object of no size stops the
    chain. Source: the HDF5 file format specification 3.0, section III.E. Looked at are the ends of the file, where the
    headers lie.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        for start in {0, max(size - _HEADERS_WITHIN, 0)}:
            file.seek(start)
            part = file.read(min(size, _HEADERS_WITHIN))
            at = part.find(b"GCOL\1\0\0\0")
            while at >= 0:
                if _never_ends(part[at:at + int.from_bytes(part[at + 8:at + 16], "little")]):
                    raise ValueError("it is damaged: its texts cannot be read")
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


def read_axes(dataset: h5py.Dataset) -> list[Axis]:
    """Return what the file says of each axis of ``dataset``; empty axes where it says nothing.

    Read are the datasets ``dim1``, ... of Berkeley's EMD, the groups ``axis-0``, ... of HyperSpy, the attribute
    ``axes`` of aetlab and of NeXus with the datasets that it names, and the labels and scales of HDF5 itself.
    """
    beside = dataset.parent
    names = _names(dataset.attrs.get("axes"), dataset.ndim) or _names(beside.attrs.get("axes"), dataset.ndim)
    axes = []
    for k, n in enumerate(dataset.shape):
        berkeley, hyperspy = child(beside, f"dim{k + 1}"), child(beside, f"axis-{k}")
        named = child(beside, names[k]) if names and re.fullmatch(r"\w+", names[k]) else None
        scale = dataset.dims[k]
        if isinstance(berkeley, h5py.Dataset):
            axes.append(_axis_of(berkeley, n, names[k] if names else ""))
        elif isinstance(hyperspy, h5py.Group):
            axes.append(_hyperspy_axis(hyperspy))
        elif isinstance(named, h5py.Dataset) and named != dataset:
            axes.append(_axis_of(named, n, names[k]))
        elif len(scale):
            axes.append(_axis_of(scale[0], n, names[k] if names else scale.label or scale[0].name.rsplit("/", 1)[-1]))
        else:
            axes.append(Axis(names[k] if names else scale.label.strip().casefold()))
    return axes


def split_axes(text: str, n_axes: int) -> list[str]:
    """Return the names of ``n_axes`` axes in a text of any spelling: ``zxy``, ``z, x, y``, ``[Z X Y]``; else none."""
    words = [word for word in re.split(r"[\s,;:|()\[\]{}'\"]+", text.casefold()) if word]
    if len(words) == 1 and len(words[0]) == n_axes and words[0].isalpha():
        words = list(words[0])
    return words if len(words) == n_axes else []


def _names(stated: object, n_axes: int) -> list[str]:
    if isinstance(stated, np.ndarray) and stated.dtype.kind in "SUO" and stated.size == n_axes:
        return [to_text(item).strip().casefold() for item in stated.ravel()]
    return split_axes(to_text(stated), n_axes) if isinstance(stated, (str, bytes, np.ndarray)) else []


def _axis_of(scale: h5py.Dataset, n: int, name: str) -> Axis:
    """Return an axis of ``n`` places; two numbers on a longer one are its first two coordinates."""
    if scale.dtype.kind not in "iuf" or scale.external or scale.is_virtual:
        return Axis(name)
    if scale.size is None or scale.size > max(n, 2):
        return Axis(name)
    stated = to_text(scale.attrs.get("name", scale.attrs.get("long_name", ""))).strip().casefold()
    unit = to_text(scale.attrs.get("units", scale.attrs.get("unit", "")))
    values = np.asarray(scale[()], np.float64).ravel()
    if len(values) not in (2, n) or len(values) < 2 or not np.isfinite(values).all():
        return Axis(stated or name, unit, values if len(values) == n else None)
    steps = np.diff(values)
    mean = float((values[-1] - values[0]) / (len(values) - 1))
    even = mean != 0 and float(np.abs(steps - mean).max()) <= _UNEVEN * abs(mean)
    return Axis(stated or name, unit, values if len(values) == n else None, mean if even else None)


def _hyperspy_axis(group: h5py.Group) -> Axis:
    name, unit = (to_text(group.attrs.get(key, "")).strip() for key in ("name", "units"))
    scale = group.attrs.get("scale")
    step = float(scale) if isinstance(scale, (int, float, np.number)) and np.isfinite(scale) and scale else None
    return Axis(name.casefold(), unit, None, step)


def to_text(value: object) -> str:
    """Return a text attribute, bytes or an array of one."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
