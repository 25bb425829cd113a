"""Slabs of a reconstructed potential and the atoms that lie in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aetlab.reporting.stored_run import StoredRun

#: Axis of the volume (Z, X, Y) along each coordinate.
AXES = {"z": 0, "x": 1, "y": 2}
#: Column of positions (N, 3) that holds each coordinate.
COLUMNS = {"x": 0, "y": 1, "z": 2}
#: Upper limit in V of the colour scale of slices in the paper's figures (its figure 3).
PAPER_HIGH_V = 80.0


def average_slab(
    volume: np.ndarray, voxel_A: float, axis: str, centre_A: float, thickness_A: float = 1.0
) -> np.ndarray:
    """Return the mean of ``volume`` (Z, X, Y) over a slab normal to ``axis`` (x, y or z) at ``centre_A``.

    The result keeps the other two axes in the order of the volume: (X, Y), (Z, Y) or (Z, X).
    """
    i_axis = AXES[axis]
    n = volume.shape[i_axis]
    n_layers = min(max(round(thickness_A / voxel_A), 1), n)
    first = round(centre_A / voxel_A + (n - n_layers) / 2)
    first = min(max(first, 0), n - n_layers)
    index: list[slice] = [slice(None)] * 3
    index[i_axis] = slice(first, first + n_layers)
    return np.asarray(volume[tuple(index)], np.float32).mean(axis=i_axis)


def slice_V(run: StoredRun, axis: str, centre_A: float) -> np.ndarray:
    """Return a 1 Å slice in V of the reconstructed potential of ``run``; see :func:`average_slab`."""
    return average_slab(run.array("volume/potential_V"), run.voxel_A, axis, centre_A)


def fitting_high_V(planes: Sequence[np.ndarray]) -> float:
    """Return the upper limit in V of a colour scale that shows the peaks of ``planes``: 16 times a round number."""
    peak_V = max((float(np.percentile(plane, 99.8)) for plane in planes if plane.size), default=0.0)
    if not peak_V > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(peak_V / 16))
    return 16 * power * min(step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power * 16 >= peak_V * 0.999)


def square_root_ticks(high: float) -> list[float]:
    """Return the values at 0, 1/4, 1/2, 3/4 and 1 of a square root scale from 0 to ``high``."""
    return [high * share for share in (0.0, 1 / 16, 1 / 4, 9 / 16, 1.0)]


def in_slab(positions_A: np.ndarray, axis: str, centre_A: float, thickness_A: float = 1.0) -> np.ndarray:
    """Return the mask (N,) of the positions within the slab normal to ``axis`` at ``centre_A``."""
    return np.abs(positions_A[:, COLUMNS[axis]] - centre_A) <= thickness_A / 2


def thickest_y_A(positions_A: np.ndarray, thickness_A: float = 1.0) -> float:
    """Return the y in Å of the slab normal to the tilt axis that holds the most of the atoms; 0 without atoms."""
    y_A = np.sort(positions_A[:, COLUMNS["y"]])
    if len(y_A) == 0:
        return 0.0
    starts = np.arange(y_A[0], max(y_A[-1] - thickness_A, y_A[0]) + 0.25, 0.25)
    counts = np.searchsorted(y_A, starts + thickness_A) - np.searchsorted(y_A, starts)
    return float(starts[np.argmax(counts)] + thickness_A / 2)
