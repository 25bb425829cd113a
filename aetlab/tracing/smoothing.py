"""Smoothing of a volume before tracing.

A regularised volume has peaks narrower than the resolution of the microscope: a sparse prior shrinks an atom to one or
two voxels. The height of such a peak tells little about the atom, and its width is that of noise. A Gaussian of about
half a voxel, of the order of the aperture's own blur, makes heights and widths comparable.
"""

from __future__ import annotations

from aetlab.core.backend import array_module, ndimage_module
from aetlab.core.nouns import Array


def smooth(potential_V: Array, sigma: float) -> Array:
    """Return the volume convolved with a Gaussian of standard deviation ``sigma`` voxels, of the same shape and type.

    Voxels that are not finite are missing data: they stay missing and have no weight in their neighbours. Edge values
    are repeated outside the volume.
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
