"""The scale of the defocus, found against given, which tells pixel and energy.

A propagation over Δf changes phases by πλ Δf q², so that a pixel that is stated 3 % too large, or a wavelength that is
6 % too short, is made up for by defoci 6 % too large. Only differences between the images of a tilt count, for a tilt
may lie at any height.
"""

from __future__ import annotations

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses

#: Fewer tilts with two planes have no scatter.
_LEAST_TILTS = 5


def find_defocus_scale(series: TiltSeries, poses: Poses) -> tuple[float, float]:
    """Return the ratio of fitted and given differences of defocus in the tilts, and its standard error.

    The error is that of the scatter between the tilts. Both are NaN with fewer than five tilts of two planes.
    """
    products, squares = [], []
    for given_A, change_A, weight in zip(series.defocus_A, poses.defocus_change_A, series.weight, strict=True):
        given_A, change_A = given_A[weight > 0], change_A[weight > 0]
        if len(given_A) > 1 and np.ptp(given_A) > 0:
            apart_A = given_A - given_A.mean()
            products.append(float(apart_A @ change_A))
            squares.append(float(apart_A @ apart_A))
    if len(squares) < _LEAST_TILTS:
        return float("nan"), float("nan")
    by_tilt, square = np.array(products), np.array(squares)
    slope = by_tilt.sum() / square.sum()
    return 1 + float(slope), float(np.sqrt(((by_tilt - slope * square) ** 2).sum()) / square.sum())
