"""Write volumes that other programs, and :func:`aetlab.exchange.read_volume.read_volume`, read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from aetlab.core.files import write_atomically
from aetlab.core.nouns import Volume
from aetlab.exchange.mrc import write_mrc
from aetlab.exchange.read_volume import HDF5, MRC, NPY, FileError, unknown_suffix


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a volume (Z, X, Y) in V as float32 to the format that the suffix of ``path`` names.

    MRC keeps the voxel size and the origin. HDF5 holds the dataset ``potential_V`` (Z, X, Y) with the attributes
    ``voxel_A``, ``axes`` and ``unit``. NPY holds the array alone with the axes z, y, x, x fastest as in MRC; its voxel
    size must be given again on reading.

    Raises
    ------
    FileError
        If the suffix names no format.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in MRC:
        write_mrc(path, volume)
    elif suffix in HDF5:
        write_atomically(path, lambda partial: _write_hdf5(partial, volume))
    elif suffix in NPY:
        values = np.ascontiguousarray(volume.potential_V.transpose(0, 2, 1), dtype=np.float32)
        write_atomically(path, lambda partial: _save(partial, values))
    else:
        raise FileError(unknown_suffix(path))


def _write_hdf5(path: Path, volume: Volume) -> None:
    with h5py.File(path, "w") as file:
        file["potential_V"] = np.asarray(volume.potential_V, dtype=np.float32)
        file["potential_V"].attrs.update({"voxel_A": float(volume.voxel_A), "axes": "zxy", "unit": "V"})


def _save(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, values)
