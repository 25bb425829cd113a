"""Stacks of images in plain HDF5 files: one dataset (image, row, column), the first row the lowest.

Axes that the file names or that fall are obeyed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.exchange.foreign_hdf5 import Axis, check_dataset, check_texts, child, find_datasets, read_axes
from aetlab.series.frames import StackFile, make_infos, one_line

T = TypeVar("T")
#: Datasets that may accompany the images, one number per image.
PER_FRAME = ("tilt_deg", "defocus_nm", "dose_e_A2")
#: Names of an axis of tilt angles, and of any other axis of images.
ANGLES = ("angle", "angles", "tilt", "tilts", "tiltangle", "tilt_angle", "tilt angle", "tilt_deg")
_IMAGES = (*ANGLES, "image", "images", "frame", "frames", "section", "sections", "n", "t", "time", "z", "")


def open_hdf5(path: Path) -> StackFile:
    """Return the images of an HDF5 file that holds one dataset of three dimensions (or else one of two).

    ``tilt_deg``, ``defocus_nm``, ``dose_e_A2`` next to it hold one number per image. The attribute ``pixel_A`` of the
    dataset is the pixel in Å.

    Raises
    ------
    SeriesError
        If there is no such dataset or more than one, or the file is damaged.
    """
    def find(file: h5py.File) -> StackFile:
        found = find_datasets(file)
        if found.get("images") is not None and found["images"].ndim == 4:
            raise SeriesError(f"{path} holds a tilt series of aetlab; it needs no import")
        for ndim in (3, 2):
            names = [name for name, dataset in found.items() if dataset.ndim == ndim and min(dataset.shape) > 1]
            if len(names) > 1:
                raise SeriesError(f"{path} holds {len(names)} stacks of images, {', '.join(sorted(names)[:4])}; "
                                  "wanted one")
            if names:
                dataset = found[names[0]]
                stated = read_axes(dataset)
                axes = order_of(path, stated)
                pixel_A = dataset.attrs.get("pixel_A")
                sides = pixel_of(stated, axes)
                if isinstance(pixel_A, (int, float, np.number)) and pixel_A > 0:
                    sides = float(pixel_A), float(pixel_A)
                known = per_frame(dataset, axes[0]) if axes[0] >= 0 else {}
                return stack_of(path, dataset, axes, sides, known, stated=stated)
        shapes = ", ".join(f"{name} {dataset.shape}" for name, dataset in list(found.items())[:4])
        raise SeriesError(f"{path} holds no stack of images (image, row, column)"
                          + (f": its data are {shapes}" if shapes else ""))
    return open_safely(path, find)


def open_safely(path: Path, find: Callable[[h5py.File], T]) -> T:
    """Return what ``find`` makes of the open file; raises SeriesError for whatever a damaged file makes of it."""
    try:
        check_texts(path)
        with h5py.File(path, "r") as file:
            return find(file)
    except SeriesError:
        raise
    except Exception as error:  # h5py raises errors of many kinds on damaged files
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None


def order_of(path: Path, axes: list[Axis]) -> tuple[int, int, int]:
    """Return the axes of image (-1: there is one), row and column by their names; (image, row, column) without names.

    Raises
    ------
    SeriesError
        If the names are those of other quantities.
    """
    names = [_plain(axis.name) for axis in axes]
    if names.count("x") == 1 and names.count("y") == 1:
        row, column = names.index("y"), names.index("x")
        return (3 - row - column if len(axes) == 3 else -1), row, column
    others = [k for k, name in enumerate(names) if name in ANGLES]
    if len(axes) == 3 and len(others) == 1:
        row, column = [k for k in range(3) if k != others[0]]
        return others[0], row, column
    if not all(name in (*_IMAGES, "x", "y", "row", "column") for name in names):
        raise SeriesError(f"{path} holds no images: its axes are named "
                          f"{', '.join(name or 'nothing' for name in names)}")
    return (0, 1, 2) if len(axes) == 3 else (-1, 0, 1)


def _plain(name: str) -> str:
    """Return the letter of names such as "x axis" and "y (nm)"."""
    for letter in "xy":
        if name.startswith((f"{letter} ", f"{letter}_", f"{letter}-", f"{letter}(")):
            return letter
    return name


def pixel_of(axes: list[Axis], order: tuple[int, int, int]) -> tuple[float, float] | None:
    """Return the pixel along x and y in Å, None where the file does not state both."""
    x_A, y_A = axes[order[2]].step_A, axes[order[1]].step_A
    return None if x_A is None or y_A is None else (x_A, y_A)


def per_frame(dataset: h5py.Dataset, axis: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays in the group of a ``dataset`` that hold one number per image."""
    group = dataset.parent
    found = {}
    for name in PER_FRAME:
        item = child(group, name)
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and not item.external and not item.is_virtual:
            if item.shape != dataset.shape[axis:axis + 1]:
                raise SeriesError(f"{dataset.file.filename}: {item.shape} numbers {name}, {dataset.shape[axis]} images")
            found[name] = np.asarray(item[()], float)
    return found


def stack_of(path: Path, dataset: h5py.Dataset, axes: tuple[int, int, int], pixel_A: tuple[float, float] | None,
             known: dict[str, np.ndarray], *, first_row_on_top: bool = False, header: dict[str, Any] | None = None,
             notes: tuple[str, ...] = (), stated: list[Axis] | None = None) -> StackFile:
    """Return the images of a ``dataset`` whose ``axes`` are image (-1: there is one), row and column.

    ``stated`` is what the file says of the axes: images whose x or y falls along their rows are turned round.
    """
    name, (i_frame, i_row, i_column) = dataset.name, axes
    n = 1 if i_frame < 0 else dataset.shape[i_frame]
    ndim = dataset.ndim
    try:
        check_dataset(dataset, path)
    except ValueError as error:
        raise SeriesError(f"{path}: {error}") from None
    fall_row, fall_column = (stated is not None and (stated[k].step or 0) < 0 for k in (i_row, i_column))
    n_rows, n_columns = dataset.shape[i_row], dataset.shape[i_column]

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        selection: list[Any] = [0] * ndim
        selection[i_row] = _mirrored(rows, n_rows) if fall_row else rows
        selection[i_column] = _mirrored(columns, n_columns) if fall_column else columns
        if i_frame >= 0:
            selection[i_frame] = index
        with h5py.File(path, "r") as file:
            part = file[name][tuple(selection)]
        part = part if i_row < i_column else part.T
        return part[::-1 if fall_row else 1, ::-1 if fall_column else 1]

    infos = make_infos(path, n, {name: list(values) for name, values in known.items()})
    return StackFile(path, take, (n_rows, n_columns), first_row_on_top, dataset.dtype,
                     infos, pixel_A, header or {}, notes)


def _mirrored(part: slice, n: int) -> slice:
    return slice(n - part.stop, n - part.start)
