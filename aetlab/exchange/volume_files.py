"""Read and write volumes of other programs: MRC, HDF5, NPY. Nothing in a file is executed."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np

from aetlab.core.errors import AetlabError
from aetlab.core.files import write_atomically
from aetlab.core.nouns import Volume
from aetlab.exchange.foreign_hdf5 import Axis, check_dataset, check_texts, child, find_datasets, read_axes, split_axes
from aetlab.exchange.mrc import describe_mrc, read_mrc, read_mrc_header, write_mrc
from aetlab.exchange.npy import map_npy
from aetlab.exchange.units import is_reciprocal

#: Suffixes of the formats that are read and written.
MRC, HDF5, NPY = (".mrc", ".map", ".rec", ".ccp4"), (".h5", ".hdf5", ".hdf", ".emd"), (".npy",)
#: Relative difference up to which a given voxel size is that of the file.
_SAME_VOXEL = 1e-3


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
        Names of the array's axes, slowest first, of HDF5 and NPY files; by default those that an HDF5 file states
        (:func:`aetlab.exchange.foreign_hdf5.read_axes`), else ``zyx``. MRC files state their axes in the header.

    Returns
    -------
    Volume
        Its ``notes`` say what was decided on reading.

    Raises
    ------
    FileError
        If there is no such volume, if the file states other axes, voxels that are no cubes, or data that lie elsewhere,
        or if the voxel size is neither given nor in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} is not there")
    if voxel_A is not None and not (voxel_A > 0 and np.isfinite(voxel_A)):
        raise FileError(f"voxel_A={voxel_A:g} cannot be used: it must be greater than 0 and finite")
    suffix = path.suffix.lower()
    notes: tuple[str, ...] = ()
    try:
        if dataset and suffix in (*MRC, *NPY):
            raise FileError(f"dataset={dataset} cannot be given for {path}: only HDF5 files hold datasets")
        if suffix in MRC:
            if axes:
                raise FileError("axes cannot be given for an MRC file: its header states them")
            notes = describe_mrc(read_mrc_header(path))
            array, found_A = read_mrc(path)
        elif suffix in HDF5:
            array, found_A, notes = _read_hdf5(path, dataset, axes)
        elif suffix in NPY:
            array, found_A = _order_axes(map_npy(path), axes or "zyx", str(path)), None
        else:
            raise FileError(unknown_suffix(path))
    except FileError:
        raise
    except Exception as error:  # the readers raise exceptions of every kind on malformed files
        reason = " ".join(str(error).split())[:300]
        raise FileError(reason if reason.startswith(str(path)) else f"{path} cannot be read: {reason}") from error
    chosen_A = voxel_A if voxel_A is not None else found_A
    if chosen_A is None:
        raise FileError(f"{path} states no voxel size: give it (--voxel-A)")
    if found_A is not None and abs(chosen_A / found_A - 1) > _SAME_VOXEL:
        notes = (*notes, f"its voxel of {found_A:g} Å is overruled by the given {chosen_A:g} Å")
    return Volume(array, float(chosen_A), notes)


def unknown_suffix(path: Path) -> str:
    """Return the message for a path whose suffix names no format."""
    return f"{path} has no known ending: give {', '.join(MRC + HDF5)} or {NPY[0]}"


def _read_hdf5(path: Path, dataset: str, axes: str) -> tuple[np.ndarray, float | None, tuple[str, ...]]:
    check_texts(path)
    with h5py.File(path, "r") as file:
        item = _find_volume(file, path, dataset)
        check_dataset(item, path)
        stated = read_axes(item)
        name = f"{path}:{item.name.strip('/')}"
        notes: tuple[str, ...] = ()
        if not axes:
            axes = "".join(_letter(axis.name) for axis in stated)
            if any(axis.name for axis in stated) and sorted(axes) != ["x", "y", "z"]:
                raise FileError(f"{name} is no volume with axes x, y, z: its axes are named "
                                f"{', '.join(axis.name or 'nothing' for axis in stated)}; give their order (--axes)")
            if not axes:
                axes = "zxy" if item.name == "/volume/potential_V" else "zyx"
                notes = (f"the axes of {item.name} have no names: read as {axes}",)
        array = item[...]
        falling = [k for k, axis in enumerate(stated) if axis.step is not None and axis.step < 0]
        if falling:
            array = np.flip(array, tuple(falling))
        return _order_axes(array, axes, name), _voxel_A(item, stated, name), notes


def _find_volume(file: h5py.File, path: Path, dataset: str) -> h5py.Dataset:
    """Return the dataset that is named, or the only one that can be meant."""
    if dataset:
        item = child(file, dataset)
        if item is None and dataset in file:
            raise FileError(f"{path}: {dataset} is a link, which is refused")
        if not isinstance(item, h5py.Dataset) or not _is_volume(item):
            raise FileError(f"{path} has no dataset {dataset} of three dimensions")
        return item
    found = {name: item for name, item in find_datasets(file).items() if _is_volume(item)}
    of_emd = [name for name, item in found.items() if "emd_group_type" in item.parent.attrs]
    names = of_emd if len(of_emd) == 1 else list(found)
    if "volume/potential_V" in names:
        names = ["volume/potential_V"]
    if len(names) != 1:
        raise FileError(f"{path} has {len(names)} datasets of three dimensions; name one with --dataset"
                        + (f": {', '.join(names[:8])}" if names else ""))
    return found[names[0]]


def _letter(name: str) -> str:
    """Return the axis x, y or z that a ``name`` such as "x axis" means; empty: another one."""
    match = re.fullmatch(r"([xyz])(?:[\s_(\[-].*)?", name)
    return match[1] if match else ""


def _voxel_A(item: h5py.Dataset, axes: list[Axis], name: str) -> float | None:
    """Return the voxel size of a dataset in Å, None if it is not stated."""
    stated = item.attrs.get("voxel_A")
    if stated is not None:
        return float(stated)
    if any(is_reciprocal(axis.unit) for axis in axes):
        raise FileError(f"{name} is no volume: its axes are in {', '.join(axis.unit for axis in axes)}")
    sides = [axis.step_A for axis in axes]
    known = [side for side in sides if side is not None]
    if len(known) < 3:
        return None
    if np.ptp(known) > 1e-3 * np.mean(known):
        raise FileError(f"{name} has voxels of {' x '.join(f'{side:g}' for side in known)} Å; they must be cubes")
    return float(np.mean(known))


def _is_volume(item: h5py.Dataset) -> bool:
    return item.ndim == 3 and item.dtype.kind in "fiu"


def _order_axes(array: np.ndarray, axes: str, name: str) -> np.ndarray:
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise FileError(f"{name} is no volume: {array.dtype} with shape {array.shape}")
    letters = split_axes(axes, 3)
    if sorted(letters) != ["x", "y", "z"]:
        raise FileError(f"axes={axes} cannot be used: give x, y and z in the order of the array, for example zyx")
    return np.ascontiguousarray(array.transpose([letters.index(axis) for axis in "zxy"]), dtype=np.float32)


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
