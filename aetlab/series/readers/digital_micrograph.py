"""Images in DM3 and DM4 files of DigitalMicrograph, the first row the highest. DM states no defocus of a series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.series.frames import StackFile, make_infos
from aetlab.series.library import only_images, pixel_of, read_signals
from aetlab.series.reader import Reader

_TAGS = ("ImageList", "TagGroup0", "ImageTags")
_TRACKING = ("Tomography", "Tracking data", "Online tracking data")


def open_dm(path: Path) -> StackFile:
    """Return the images of a DM3 or DM4 file.

    Tilt angles are those that the tomography plug-in recorded per image, else the calibration of the stack's axis, else
    for one image the stage's.

    Raises
    ------
    SeriesError
        If it holds no or several stacks of images, other data, or is damaged, or the library is missing.
    """
    signal = only_images(path, read_signals("rsciio.digitalmicrograph", path))
    data, axes = signal["data"], signal["axes"]
    n = 1 if data.ndim == 2 else data.shape[0]
    tags = _group(signal.get("original_metadata", {}), *_TAGS)
    microscope = _group(tags, "Microscope Info")
    notes: list[str] = []
    tilt_deg = _tilts(path, n, tags, axes if data.ndim == 3 else [], notes)
    header: dict[str, Any] = {}
    if _number(microscope.get("Voltage")):
        header["energy_keV"] = float(microscope["Voltage"]) * 1e-3
    if _number(microscope.get("Cs(mm)")) is not None:
        header["Cs_mm"] = float(microscope["Cs(mm)"])
    modes = f"{microscope.get('Operation Mode', '')} {microscope.get('Illumination Mode', '')}".upper()
    if "SCANNING" in modes or "STEM" in modes:
        header["mode"] = "STEM"
    elif "IMAGING" in modes or "TEM" in modes:
        header["mode"] = "TEM"

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        part = data[rows, columns] if data.ndim == 2 else data[index, rows, columns]
        return np.asarray(part.compute(scheduler="synchronous"))

    return StackFile(path, take, (data.shape[-2], data.shape[-1]), True, np.dtype(data.dtype),
                     make_infos(path, n, {"tilt_deg": tilt_deg}), pixel_of(axes), header, tuple(notes))


def _tilts(path: Path, n: int, tags: Mapping[str, Any], axes: list[dict[str, Any]],
           notes: list[str]) -> list[float | None]:
    recorded = [_number(record.get("stage angle (degree)")) for record in _group(tags, *_TRACKING).values()
                if isinstance(record, Mapping)]
    of_axis: list[float] = []
    if axes and str(axes[0]["units"]).strip().casefold() in ("deg", "degree", "degrees", "°"):
        of_axis = [float(axes[0]["offset"]) + float(axes[0]["scale"]) * i for i in range(n)]
    if len(recorded) == n and None not in recorded:
        known = np.array(recorded, float)
        if of_axis and np.abs(known - of_axis).max() > 0.1:
            notes.append(f"{path.name}: the stage's recorded angles are used; the stack's axis differs by up to "
                         f"{np.abs(known - of_axis).max():.2f}°")
        return [float(value) for value in known]
    if of_axis:
        notes.append(f"{path.name}: tilt angles from the calibration of the stack's axis")
        return list(of_axis)
    if n == 1:
        return [_number(_group(tags, "Microscope Info", "Stage Position").get("Stage Alpha"))]
    return [None] * n


def _group(tags: object, *names: str) -> Mapping[str, Any]:
    for name in names:
        tags = tags.get(name) if isinstance(tags, Mapping) else None
    return tags if isinstance(tags, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float, np.number)) and np.isfinite(value) else None


ROW = Reader((".dm3", ".dm4"), open_dm)
