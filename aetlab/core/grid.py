"""Compute the sampling of volumes, planes and their Fourier space; docs/conventions.md states the conventions.

A volume is an array (Z, X, Y): beam, across, tilt axis. A plane or image is (X, Y). Voxel i of an axis of n voxels is
centred at (i - (n - 1)/2) · voxel: coordinates count from the centre of the volume.
"""

from __future__ import annotations

import numpy as np


def coordinates_A(n_voxels: int, voxel_A: float) -> np.ndarray:
    """Return the voxel centres of one axis in Å about the middle of the volume, float64 (n_voxels,)."""
    return (np.arange(n_voxels) - (n_voxels - 1) / 2) * voxel_A


def squared_frequencies(shape_xy: tuple[int, int], pixel_A: float) -> np.ndarray:
    """Return |q|² in 1/Å² on the FFT grid of an (X, Y) plane, float64."""
    q_x = np.fft.fftfreq(shape_xy[0], pixel_A)
    q_y = np.fft.fftfreq(shape_xy[1], pixel_A)
    return q_x[:, None] ** 2 + q_y[None, :] ** 2


def axial_frequencies(shape_xy: tuple[int, int], pixel_A: float, wavelength_A: float) -> np.ndarray:
    """Return √(1/λ² - q²) - 1/λ in 1/Å on the FFT grid, float64 (X, Y): axial frequencies relative to q = 0.

    The value is exactly 0 at q = 0. Waves with q > 1/λ are evanescent; the value there is -1/λ.
    """
    q2 = squared_frequencies(shape_xy, pixel_A)
    on_axis = 1 / wavelength_A
    # √(a² - q²) - a = -q²/(√(a² - q²) + a), which has no cancellation at small q.
    return -np.minimum(q2, on_axis**2) / (np.sqrt(np.maximum(on_axis**2 - q2, 0.0)) + on_axis)


def n_slices(n_layers: int, binning: int) -> int:
    """Return the number of slices of ``binning`` voxel layers in ``n_layers``; the last slice may be thinner."""
    return -(-n_layers // binning)


def slice_centres_A(n_layers: int, binning: int, voxel_A: float) -> np.ndarray:
    """Return the height z in Å of the middle of each slice about the middle of the volume, float64 (n_slices,)."""
    first = np.arange(n_slices(n_layers, binning)) * binning
    last = np.minimum(first + binning, n_layers) - 1
    return ((first + last) / 2 - (n_layers - 1) / 2) * voxel_A


def rotation_matrix(tilt_deg: float) -> np.ndarray:
    """Return the rotation of (x, y, z) by a tilt about +y (right-handed), float64 (3, 3): ``positions @ R.T``."""
    c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def in_plane_rotation(angle_deg: float) -> np.ndarray:
    """Return the rotation of (x, y) about the beam, from +x towards +y, float64 (2, 2): ``positions @ R.T``."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return np.array([[c, -s], [s, c]])
