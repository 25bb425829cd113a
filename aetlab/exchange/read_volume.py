"""Read volumes that other programs wrote. Nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from aetlab.core.errors import AetlabError
from aetlab.core.nouns import Volume
from aetlab.exchange.mrc import read_mrc

#: Suffixes of the formats that are read and written.
MRC, HDF5, NPY = (".mrc", ".map", ".rec", ".ccp4"), (".h5", ".hdf5", ".hdf", ".emd"), (".npy",)
#: Greatest ratio by which the filters of HDF5 compress numbers.
MOST_PACKED = 1100


class FileError(AetlabError, ValueError):
    """Error about a file that cannot be used, with a message of one line."""


def read_volume(path: Path | str, *, voxel_A: float | None = None, dataset: str = "", axes: str = "") -> Volume:
    """Return the volume (Z, X, Y) of an MRC or CCP4 map, an HDF5 file or an NPY array.

    Parameters
    ----------
    path : path
        The suffix names the format: mrc, map, rec, ccp4; h5, hdf5, hdf, emd; npy.
    voxel_A : float, optional
        Voxel size in Å; overrides the size in the file.
    dataset : str
        Path in an HDF5 file; optional if only one dataset has three dimensions, or if the file is from a record.
    axes : str
        Names of the array's axes, slowest first, of HDF5 and NPY files; by default the dataset's attribute ``axes``,
        else ``zyx``. MRC files state their axes in the header.

    Raises
    ------
    FileError
        If there is no such volume, or if its voxel size is neither given nor in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} is not there")
    if voxel_A is not None and not (voxel_A > 0 and np.isfinite(voxel_A)):
        raise FileError(f"voxel_A={voxel_A:g} cannot be used: it must be greater than 0 and finite")
    suffix = path.suffix.lower()
    try:
        if suffix in MRC:
            if axes:
                raise FileError("axes cannot be given for an MRC file: its header states them")
            array, found_A = read_mrc(path)
        elif suffix in HDF5:
            array, found_A = _read_hdf5(path, dataset, axes)
        elif suffix in NPY:
            # Mapped, so that a size beyond the file's is an error and takes no memory.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            array, found_A = _order_axes(mapped, axes or "zyx", str(path)), None
        else:
            raise FileError(unknown_suffix(path))
    except FileError:
        raise
    except Exception as error:  # the readers raise exceptions of every kind on malformed files
        raise FileError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    chosen_A = voxel_A if voxel_A is not None else found_A
    if chosen_A is None:
        raise FileError(f"{path} states no voxel size: give it (--voxel-A)")
    return Volume(array, float(chosen_A))


def unknown_suffix(path: Path) -> str:
    """Return the message for a path whose suffix names no format."""
    return f"{path} has no known ending: give {', '.join(MRC + HDF5)} or {NPY[0]}"


def _read_hdf5(path: Path, dataset: str, axes: str) -> tuple[np.ndarray, float | None]:
    with h5py.File(path, "r") as file:
        if not dataset:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if _is_volume(item) else None)
            if "volume/potential_V" in names:
                names = ["volume/potential_V"]
            if len(names) != 1:
                raise FileError(f"{path} has {len(names)} datasets of three dimensions; name one with --dataset"
                                + (f": {', '.join(names[:8])}" if names else ""))
            dataset = names[0]
        if dataset not in file or not _is_volume(file[dataset]):
            raise FileError(f"{path} has no dataset {dataset} of three dimensions")
        item = file[dataset]
        if item.nbytes > MOST_PACKED * item.id.get_storage_size():
            raise FileError(f"{path}: {dataset} claims {item.nbytes} bytes, more than the file can hold")
        stored = "zxy" if dataset.strip("/") == "volume/potential_V" else item.attrs.get("axes", "zyx")
        voxel = item.attrs.get("voxel_A")
        return _order_axes(item[...], axes or str(stored), f"{path}:{dataset}"), None if voxel is None else float(voxel)


def _is_volume(item: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "fiu"


def _order_axes(array: np.ndarray, axes: str, name: str) -> np.ndarray:
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise FileError(f"{name} is no volume: {array.dtype} with shape {array.shape}")
    if sorted(axes) != ["x", "y", "z"]:
        raise FileError(f"axes={axes} cannot be used: give x, y and z in the order of the array, for example zyx")
    return np.ascontiguousarray(array.transpose([axes.index(axis) for axis in "zxy"]), dtype=np.float32)
