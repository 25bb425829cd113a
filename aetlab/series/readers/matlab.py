"""Images in MATLAB files (.mat): one array of numbers (row, column, image), or (row, column).

Files of versions 5 to 7 are read by SciPy, those of version 7.3, which are HDF5 with the axes reversed, by h5py. The
first row is the highest one, as MATLAB shows images; no file says so. An array of one to three numbers per image next
to the images, or in a file of its own, holds their tilt angles in degrees: the tilt, or Euler angles z, y, x of which y
is the tilt.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io

from aetlab.core.errors import SeriesError
from aetlab.exchange.foreign_hdf5 import MOST_PACKED, check_dataset, find_datasets
from aetlab.series.frames import StackFile, make_infos, one_line
from aetlab.series.hdf5 import open_safely
from aetlab.series.reader import Reader

_HDF5 = b"MATLAB 7.3"
_ANGLES_NAMED = ("angle", "tilt", "theta")
_MOST_ANGLES = 3
#: Euler angles beyond the tilt that are worth a note.
_SMALL_DEG = 0.01


def open_matlab(path: Path) -> StackFile:
    """Return the images of a MATLAB file.

    Raises
    ------
    SeriesError
        If it holds no stack of images or several, other than real numbers, or is damaged.
    """
    arrays = _arrays(path)
    stacks = [name for name, array in arrays.items() if array.ndim == 3 and min(array.shape) > 1]
    stacks = stacks or [name for name, array in arrays.items() if array.ndim == 2 and min(array.shape) > _MOST_ANGLES]
    if len(stacks) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:4]) or "no real numbers"
        raise SeriesError(f"{path} holds {len(stacks)} stacks of images (row, column, image): {shapes}; wanted one")
    stack = arrays[stacks[0]]
    stack = stack[..., None] if stack.ndim == 2 else stack
    n = stack.shape[2]
    notes = [f"{path.name}: the first row of {stacks[0]} is taken as the highest one, as MATLAB shows images"]
    next_to = [array for name, array in arrays.items() if name != stacks[0] and _is_angles(array, n)
              and any(word in name.casefold() for word in _ANGLES_NAMED)]
    known = {"tilt_deg": list(_tilts(path, next_to[0], n, notes))} if len(next_to) == 1 else {}

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        return np.array(stack[rows, columns, index])

    return StackFile(path, take, (stack.shape[0], stack.shape[1]), True, stack.dtype, make_infos(path, n, known),
                     None, {}, tuple(notes))


def matlab_angles(path: Path) -> tuple[list[float], list[str]] | None:
    """Return the tilt angles in degrees of a MATLAB file and notes; None if it holds images.

    Raises
    ------
    SeriesError
        If it holds neither.
    """
    arrays = _arrays(path)
    if any(array.ndim == 3 and min(array.shape) > 1 for array in arrays.values()):
        return None
    found = [array for array in arrays.values() if array.ndim == 2 and min(array.shape) <= _MOST_ANGLES]
    if not found:
        return None
    if len(found) > 1:
        raise SeriesError(f"{path} holds {len(found)} tables of numbers, {', '.join(arrays)}; wanted one of angles")
    notes: list[str] = []
    return _tilts(path, found[0], max(found[0].shape), notes), notes


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of real numbers of a file by name, with the axes of MATLAB."""
    try:
        with open(path, "rb") as file:
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
        if is_hdf5:
            return open_safely(path, lambda file: {name: np.asarray(dataset[()]).T for name, dataset in
                                                   _checked(path, file).items()})
        sizes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        _check_size(path, sum(float(np.prod(shape, dtype=float)) for shape in sizes.values()))
        loaded = scipy.io.loadmat(path, variable_names=list(sizes), verify_compressed_data_integrity=True)
    except SeriesError:
        raise
    except Exception as error:  # damaged files fail in as many ways as the library has
        raise SeriesError(f"{path} is no MATLAB file, or damaged: {one_line(error)}") from None
    return {name: array for name, array in loaded.items()
            if isinstance(array, np.ndarray) and array.dtype.kind in "iuf" and array.size}


def _checked(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    found = {name: item for name, item in find_datasets(file).items() if not name.startswith("#") and item.ndim <= 3}
    for item in found.values():
        check_dataset(item, path)
    return found


def _check_size(path: Path, n_numbers: float) -> None:
    if n_numbers > path.stat().st_size * MOST_PACKED:
        raise SeriesError(f"{path} claims {n_numbers:.3g} numbers, more than the file holds")


def _is_angles(array: np.ndarray, n: int) -> bool:
    return array.ndim == 2 and n in array.shape and array.size // n <= _MOST_ANGLES


def _tilts(path: Path, array: np.ndarray, n: int, notes: list[str]) -> list[float]:
    """Return the tilt of each of n images: the only column, or the second of three Euler angles."""
    table = np.asarray(array if array.shape[0] == n else array.T, float)
    if not np.isfinite(table).all() or np.abs(table).max() > 360 or table.shape[1] == 2:
        raise SeriesError(f"{path} holds no tilt angles in degrees: {table.shape[1]} numbers for each of {n} images")
    if table.shape[1] == 3:
        other = float(np.abs(table[:, [0, 2]]).max())
        if other > _SMALL_DEG:
            notes.append(f"{path.name}: the tilt is the second of three angles; the others, up to {other:.2f}°, are "
                         "left to the alignment")
        table = table[:, 1:2]
    return [float(value) for value in table[:, 0]]


ROW = Reader((".mat",), open_matlab)
