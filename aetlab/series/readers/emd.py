"""Images in EMD files: Berkeley's (a group with ``emd_group_type``) and Velox's.

Berkeley's array is (image, y, x), the first row the lowest, unless its axes have other names; an axis of angles holds
the tilt angles. Velox's is (row, column, image), the first row the highest; its quantities are in SI units, tilts in
radians; defocus counts from where the operator set it to 0, overfocus positive.
Sources: emdatasets.com for Berkeley's; the files themselves for Velox's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aetlab.series.errors import SeriesError
from aetlab.series.frames import LENS_READING, StackFile
from aetlab.series.readers.hdf5 import child, list_datasets, open_hdf5, open_safely, per_frame, spacing_A, stack_of
from aetlab.series.readers.units import is_reciprocal, length_A

_ANGLES = ("angle", "angles", "tilt", "tilts", "tiltangle", "tilt_angle", "tilt angle")


def open_emd(path: Path) -> StackFile:
    """Return the images of an EMD file of either kind, or of another HDF5 file.

    Raises
    ------
    SeriesError
        If it holds no stack of images or several, diffraction patterns or complex numbers, or is damaged.
    """
    kinds: list[str] = []

    def find(file: h5py.File) -> StackFile:
        groups = _berkeley_groups(file)
        if groups:
            return _berkeley(path, file, groups)
        images = child(file, "Data/Image")
        if isinstance(images, h5py.Group):
            return _velox(path, images)
        kinds.append("plain")
        raise SeriesError("plain")
    try:
        return open_safely(path, find)
    except SeriesError:
        if kinds:
            return open_hdf5(path)
        raise


def _berkeley_groups(file: h5py.File) -> list[str]:
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and "emd_group_type" in item.attrs:
            found.append(name)
    file.visititems(visit)
    return found


def _berkeley(path: Path, file: h5py.File, groups: list[str]) -> StackFile:
    datasets = list_datasets(file)
    names = [f"{group}/data" for group in groups if f"{group}/data" in datasets]
    images = [name for name in names if datasets[name].ndim in (2, 3)]
    if not images:
        shapes = ", ".join(str(datasets[name].shape) for name in names) or "no real numbers"
        raise SeriesError(f"{path} holds no stack of images: its data are {shapes}, wanted (image, y, x)")
    if len(images) > 1:
        raise SeriesError(f"{path} holds {len(images)} stacks of images, {', '.join(images[:4])}; wanted one")
    dataset = datasets[images[0]]
    group = dataset.parent
    dims = [child(group, f"dim{k + 1}") for k in range(dataset.ndim)]
    labels = [_text(dim.attrs.get("name", "")).casefold() if dim is not None else "" for dim in dims]
    units = [_text(dim.attrs.get("units", "")) if dim is not None else "" for dim in dims]
    axes = _axes(labels)
    frame, row, column = axes
    if is_reciprocal(units[row]) or is_reciprocal(units[column]):
        raise SeriesError(f"{path} holds diffraction patterns (axes in {units[row]}), no images")
    sides = [spacing_A(dims[k], units[k]) if dims[k] is not None else None for k in (column, row)]
    pixel_A = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
    known = per_frame(dataset, frame) if frame >= 0 else {}
    if frame >= 0 and labels[frame] in _ANGLES and "tilt_deg" not in known:
        angles = np.asarray(dims[frame][()], float)
        if angles.shape == dataset.shape[frame:frame + 1]:
            known["tilt_deg"] = np.degrees(angles) if units[frame].strip("[]").casefold().startswith("rad") else angles
    return stack_of(path, dataset, axes, pixel_A, known)


def _axes(labels: list[str]) -> tuple[int, int, int]:
    """Axes of image, row and column by the names of the axes; (image, row, column) where they do not say."""
    if len(labels) == 2:
        return (-1, 1, 0) if labels == ["x", "y"] else (-1, 0, 1)
    if labels.count("x") == 1 and labels.count("y") == 1:
        row, column = labels.index("y"), labels.index("x")
        return 3 - row - column, row, column
    angles = [k for k, label in enumerate(labels) if label in _ANGLES]
    if len(angles) == 1:
        row, column = [k for k in range(3) if k != angles[0]]
        return angles[0], row, column
    return 0, 1, 2


def _velox(path: Path, images: h5py.Group) -> StackFile:
    datasets = list_datasets(images)
    real = [images[name].parent for name, dataset in datasets.items()
            if name.count("/") == 1 and name.endswith("/Data") and dataset.ndim == 3]
    if not real:
        raise SeriesError(f"{path} holds no images of real numbers")
    if len(real) > 1:
        shapes = ", ".join(str(group["Data"].shape) for group in real[:4])
        raise SeriesError(f"{path} holds {len(real)} stacks of images, {shapes}; wanted one")
    dataset, records = real[0]["Data"], _velox_records(path, real[0])
    n = dataset.shape[2]
    result = records[0].get("BinaryResult", {}) if records else {}
    header: dict[str, Any] = {}
    unit = _text(result.get("PixelUnitX", ""))
    if is_reciprocal(unit):
        raise SeriesError(f"{path} holds diffraction patterns (pixels in {unit}), no images")
    size, factor = result.get("PixelSize", {}), length_A(unit)
    width, height = _number(size.get("width")), _number(size.get("height"))
    pixel_A = (width * factor, height * factor) if factor and width and height else None
    known: dict[str, np.ndarray] = {}
    if len(records) == n:
        for name, group, key, scale in (("tilt_deg", "Stage", "AlphaTilt", 180 / math.pi),
                                        ("defocus_nm", "Optics", "Defocus", 1e9)):
            values = [_number(record.get(group, {}).get(key)) for record in records]
            if all(value is not None for value in values):
                known[name] = np.array(values, float) * scale
    optics = records[0].get("Optics", {}) if records else {}
    energy_V = _number(optics.get("AccelerationVoltage"))
    if energy_V:
        header["energy_keV"] = energy_V * 1e-3
    if optics.get("OperatingMode") in ("1", "2"):
        header["mode"] = "TEM" if optics["OperatingMode"] == "1" else "STEM"
    notes = (f"{path.name}: {LENS_READING}",) if "defocus_nm" in known else ()
    return stack_of(path, dataset, (2, 0, 1), pixel_A, known, first_row_on_top=True, header=header, notes=notes)


def _velox_records(path: Path, group: h5py.Group) -> list[dict[str, Any]]:
    stored = child(group, "Metadata")
    if not isinstance(stored, h5py.Dataset) or stored.ndim != 2:
        return []
    records = []
    for column in np.asarray(stored[()], np.uint8).T:
        try:
            record = json.loads(column.tobytes().split(b"\0")[0].decode())
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise SeriesError(f"{path}: the metadata of an image are damaged") from None
        records.append({key: value for key, value in record.items() if isinstance(value, Mapping)})
    return records


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
