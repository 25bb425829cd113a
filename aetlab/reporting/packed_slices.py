"""Slices of a reconstruction through its depth for the page: one picture that holds all of them."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from aetlab.reporting.figures.slices import COLUMNS, average_slab, fitting_high_V
from aetlab.reporting.stored_run import StoredRun

#: Largest number of slices of one record, and of pixels along their longer side.
MAX_SLICES, MAX_PIXELS = 48, 160
#: Thickness of a slice, and margin around the atoms, in Å.
THICKNESS_A, MARGIN_A = 1.0, 2.5


def pack_slices(run: StoredRun) -> dict[str, Any]:
    """Return slices of ``run`` normal to the beam through the depth of its atoms, as one WebP picture.

    The picture holds the slices row by row, ``columns`` in a row, each of ``width`` × ``height`` pixels with x to the
    right and y upwards, cropped to the atoms and a margin. Slice ``i`` lies at z = ``firstA`` + ``i`` × ``stepA`` and
    covers x and y from the first to the second of ``xA`` and ``yA``, all in Å. Grey is the square root of the potential
    from 0 to ``highV``.
    """
    volume = np.asarray(run.array("volume/potential_V"), np.float32)
    voxel_A = run.voxel_A
    positions_A = run.array("truth/positions_A" if run.has_truth else "traced/positions_A")
    half_A = 0.5 * voxel_A * np.array(volume.shape)[[1, 2, 0]]
    low_A, high_A = _extent(positions_A, half_A)
    z, y = COLUMNS["z"], COLUMNS["y"]
    n_slices = min(max(math.ceil((high_A[z] - low_A[z]) / THICKNESS_A), 1), MAX_SLICES)
    step_A = (high_A[z] - low_A[z]) / n_slices
    first_A = low_A[z] + step_A / 2
    i_x, i_y = (slice(*_voxels(low_A[axis], high_A[axis], half_A[axis], voxel_A)) for axis in (COLUMNS["x"], y))
    planes = [average_slab(volume, voxel_A, "z", first_A + i * step_A, THICKNESS_A)[i_x, i_y] for i in range(n_slices)]
    high_V = fitting_high_V([np.stack(planes)])
    pictures = [_picture(plane, high_V) for plane in planes]
    width, height = pictures[0].size
    columns = math.ceil(math.sqrt(n_slices))
    sheet = Image.new("L", (columns * width, math.ceil(n_slices / columns) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=80, method=2)
    return {
        "picture": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "n": n_slices,
        "columns": columns,
        "width": width,
        "height": height,
        "firstA": round(float(first_A), 3),
        "stepA": round(float(step_A), 4),
        "xA": [round(i * voxel_A - float(half_A[COLUMNS["x"]]), 3) for i in (i_x.start, i_x.stop)],
        "yA": [round(i * voxel_A - float(half_A[y]), 3) for i in (i_y.start, i_y.stop)],
        "highV": high_V,
    }


def _extent(positions_A: np.ndarray, half_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (3,) in Å of a box around the atoms inside the volume; those of the volume without atoms."""
    if not len(positions_A):
        return -half_A, half_A
    low_A = np.clip(positions_A.min(axis=0) - MARGIN_A, -half_A, half_A)
    high_A = np.clip(positions_A.max(axis=0) + MARGIN_A, -half_A, half_A)
    inside = high_A > low_A
    return np.where(inside, low_A, -half_A), np.where(inside, high_A, half_A)


def _voxels(low_A: float, high_A: float, half_A: float, voxel_A: float) -> tuple[int, int]:
    """Return the first voxel along an axis, and the one after the last, that the range from low to high needs."""
    n = round(2 * half_A / voxel_A)
    first = min(max(math.floor((low_A + half_A) / voxel_A), 0), n - 1)
    return first, min(max(math.ceil((high_A + half_A) / voxel_A), first + 1), n)


def _picture(plane: np.ndarray, high_V: float) -> Image.Image:
    """Return the grey picture of a plane (x, y) with y upwards, made smaller where it is large."""
    grey = np.rint(255 * np.sqrt(np.clip(plane / high_V, 0, 1))).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(grey.T[::-1]))
    scale = MAX_PIXELS / max(picture.size)
    if scale < 1:
        width, height = (max(round(side * scale), 1) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return picture
