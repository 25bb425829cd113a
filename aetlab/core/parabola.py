"""Compute the vertex of the parabola through three values at equal steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aetlab.core.backend import array_module
from aetlab.core.nouns import Array


class Vertex(NamedTuple):
    """A vertex: ``place`` in steps from the middle value, and ``rise``, its value minus the middle value."""

    place: Array
    rise: Array


def vertex(before: Array | float, here: Array | float, after: Array | float) -> Vertex:
    """Return the vertex of the parabola through three values, of which the middle one is the largest or the smallest.

    With c = before - 2 here + after, the vertex is at (before - after) / 2c and is higher than ``here`` by
    -(after - before)² / 8c. Both are 0 if there is no vertex because c is 0 or not finite, as at a border that is
    padded with infinity.

    Parameters
    ----------
    before, here, after : arrays of one shape, or numbers
        Values at -1, 0 and 1; the result has their precision and lies on the device of ``here``.

    Returns
    -------
    Vertex
        ``place`` is clipped to -0.5 … 0.5, the range for a middle value that is the extreme one.
    """
    xp = np if isinstance(here, int | float | np.generic) else array_module(here)
    with np.errstate(invalid="ignore"):
        curvature = before - 2 * here + after
    usable = xp.isfinite(curvature) & (curvature != 0)
    difference = xp.where(usable, before, 0) - xp.where(usable, after, 0)
    curvature = xp.where(usable, curvature, 1)
    return Vertex(xp.clip(0.5 * difference / curvature, -0.5, 0.5), -0.125 * difference**2 / curvature)
