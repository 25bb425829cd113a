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

from aetlab.core.errors import SeriesError
from aetlab.exchange.foreign_hdf5 import child, find_datasets, read_axes, to_text
from aetlab.exchange.units import is_reciprocal, length_A
from aetlab.series.frames import LENS_READING, StackFile
from aetlab.series.hdf5 import ANGLES, open_hdf5, open_safely, order_of, per_frame, pixel_of, stack_of
from aetlab.series.reader import Reader


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
    datasets = find_datasets(file)
    names = [f"{group}/data" for group in groups if f"{group}/data" in datasets]
    images = [name for name in names if datasets[name].ndim in (2, 3)]
    if not images:
        shapes = ", ".join(str(datasets[name].shape) for name in names) or "no real numbers"
        raise SeriesError(f"{path} holds no stack of images: its data are {shapes}, wanted (image, y, x)")
    if len(images) > 1:
        raise SeriesError(f"{path} holds {len(images)} stacks of images, {', '.join(images[:4])}; wanted one")
    dataset = datasets[images[0]]
    stated = read_axes(dataset)
    axes = order_of(path, stated)
    frame, row, column = axes
    if is_reciprocal(stated[row].unit) or is_reciprocal(stated[column].unit):
        raise SeriesError(f"{path} holds diffraction patterns (axes in {stated[row].unit}), no images")
    known = per_frame(dataset, frame) if frame >= 0 else {}
    angles = stated[frame] if frame >= 0 else None
    if angles is not None and angles.name in ANGLES and angles.coordinates is not None and "tilt_deg" not in known:
        in_radians = angles.unit.strip("[] ").casefold().startswith("rad")
        known["tilt_deg"] = np.degrees(angles.coordinates) if in_radians else angles.coordinates
    return stack_of(path, dataset, axes, pixel_of(stated, axes), known, stated=stated)


def _velox(path: Path, images: h5py.Group) -> StackFile:
    datasets = find_datasets(images)
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
    unit = to_text(result.get("PixelUnitX", ""))
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
        number = float(value)  # pyrefly: ignore[bad-argument-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


ROW = Reader((".emd", ".h5", ".hdf5", ".hdf"), open_emd)
