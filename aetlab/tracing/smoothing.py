"""Smoothing of a volume before it is traced.

A regularised volume holds peaks narrower than the microscope resolves: a sparse prior shrinks an atom to a voxel or
two, whose height says little of the atom and whose width is that of noise. A Gaussian of about half a voxel, of the
order of the aperture's own blur, makes heights and widths comparable again.
"""

from __future__ import annotations

from aetlab.core.backend import array_module, ndimage_module
from aetlab.core.nouns import Array


def smooth(potential_V: Array, sigma: float) -> Array:
    """The volume under a Gaussian of standard deviation ``sigma`` voxels, of the same shape and type.

    Voxels that are not finite are missing data: they stay so, and count for nothing in their neighbours. Beyond a
    face the volume goes on as it ends there.
    """
    if sigma == 0:
        return potential_V
    xp = array_module(potential_V)
    gaussian = ndimage_module(potential_V).gaussian_filter
    known = xp.isfinite(potential_V)
    if bool(known.all()):
        return gaussian(potential_V, sigma, mode="nearest")
    weight = gaussian(known.astype(potential_V.dtype), sigma, mode="nearest")
    total = gaussian(xp.where(known, potential_V, 0).astype(potential_V.dtype), sigma, mode="nearest")
    return xp.where(known, total / xp.maximum(weight, 1e-6), xp.nan).astype(potential_V.dtype)
