"""Isotropic Gaussian blur g of a potential V = g ∗ c, where c is narrower than the image of any atom.

An isotropic blur commutes with rotation, so the slices of the rotated V are those of the rotated c, blurred in their
plane; along the beam a slice is thicker than g is wide. The kernel is cut off where it has fallen to e⁻⁸, and values
outside the plane are 0. The blur is therefore a symmetric matrix, its own adjoint.
"""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.backend import empty_aligned
from aetlab.forward import kernels_numba as kernels
from aetlab.spec import MicroscopeSpec

#: Radius of the kernel in standard deviations.
_REACH = 4.0


def narrowest_atom_A(microscope: MicroscopeSpec, voxel_A: float, debye_waller_A2: float) -> float:
    """Return the standard deviation in Å of the narrowest Gaussian image of an atom.

    It is the sum in quadrature of the central peak of the aperture's point spread (a disc of radius q has
    2 J₁(2πqr)/(2πqr) ≈ 1 - (πqr)²/2, the Gaussian of standard deviation 1/(πq)), the thermal displacement
    √(B/8π²), and the side of a voxel, Δ/√12. Frequencies are limited to the Nyquist frequency of the voxels.
    """
    cutoff_per_A = min(microscope.aperture_per_A, 0.5 / voxel_A)
    return math.sqrt(1 / (math.pi * cutoff_per_A) ** 2 + debye_waller_A2 / (8 * math.pi**2) + voxel_A**2 / 12)


def gaussian_kernel(sigma_px: float) -> np.ndarray:
    """Return half of a normalised Gaussian kernel, float64 (R + 1,), starting at its centre."""
    offset = np.arange(math.ceil(_REACH * sigma_px) + 1)
    half = np.exp(-0.5 * (offset / sigma_px) ** 2)
    return half / (2 * half.sum() - half[0])


class Blur:
    """Blur by a Gaussian of ``sigma_px`` pixels; ``shape_sxy`` is the shape of the slices."""

    def __init__(self, sigma_px: float, shape_sxy: tuple[int, int, int], dtype: type = np.float32) -> None:
        self._kernel: np.ndarray = gaussian_kernel(sigma_px).astype(dtype)
        self._room = empty_aligned(shape_sxy, dtype)

    def blur_slices(self, slices: np.ndarray) -> None:
        """Blur each of ``slices`` (S, X, Y) along x and y, in place."""
        kernels.blur_x(slices, self._kernel, self._room)
        kernels.blur_y(self._room, self._kernel, slices)

    def blur_volume(self, volume: np.ndarray) -> np.ndarray:
        """Return ``volume`` (Z, X, Y) blurred along z, x and y, in a new array."""
        by_x, by_y = np.empty_like(volume), np.empty_like(volume)
        kernels.blur_x(volume, self._kernel, by_x)
        kernels.blur_y(by_x, self._kernel, by_y)
        n_z, n_x, n_y = volume.shape
        kernels.blur_x(by_y.reshape(1, n_z, n_x * n_y), self._kernel, by_x.reshape(1, n_z, n_x * n_y))
        return by_x
