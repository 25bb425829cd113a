"""Rotation of images in their plane, by quarter turns and three Fourier shears.

As in :mod:`aetlab.methods.fourier_rotation`, each shear moves every row by a phase ramp on its Fourier transform. Noise
and fine detail are not smoothed, and the opposite rotation restores the image. Each row is extended by its mirror
image, which makes it periodic without a jump; a jump would cause ringing along the whole row.

The first shear moves the row at y by tan(a/2) y. What it moves out of the image is lost, so that only the disc of the
radius cos(a/2) times half the width is right for sure. Quarter turns, which are exact, leave at most 45° to the shears.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft


def rotate_images(images: np.ndarray, angle_deg: float) -> np.ndarray:
    """Return images (..., X, Y) rotated by ``angle_deg`` about their centre, from +x towards +y, in their precision.

    Between 45° and 135° the result has the shape (..., Y, X). At r it is the image at R⁻¹ r: a feature at r moves to
    R r. R is :func:`aetlab.core.grid.in_plane_rotation`.
    """
    quarters = round(angle_deg / 90)
    if quarters:
        images, angle_deg = np.rot90(images, quarters, (-2, -1)), angle_deg - 90 * quarters
    if angle_deg == 0:
        return images.copy()
    angle = math.radians(angle_deg)
    n_x, n_y = images.shape[-2:]
    x, y = np.arange(n_x) - (n_x - 1) / 2, np.arange(n_y) - (n_y - 1) / 2
    # R⁻¹ r = (x cos + y sin, -x sin + y cos): along x by tan(a/2) y, along y by -sin(a) x, and along x again.
    turned = _shear(images, -2, math.tan(angle / 2) * y)
    turned = _shear(turned, -1, -math.sin(angle) * x)
    return _shear(turned, -2, math.tan(angle / 2) * y)


def _shear(images: np.ndarray, axis: int, distance_px: np.ndarray) -> np.ndarray:
    """Map f(u) to f(u + distance) along ``axis``, with one distance for each row along the other axis."""
    n = images.shape[axis]
    spectrum = scipy.fft.rfft(np.concatenate([images, np.flip(images, axis)], axis), axis=axis)
    frequency = np.arange(n + 1) / (2 * n)
    ramp = np.outer(frequency, distance_px) if axis == -2 else np.outer(distance_px, frequency)
    spectrum *= np.exp(2j * np.pi * ramp).astype(spectrum.dtype)
    shifted = scipy.fft.irfft(spectrum, 2 * n, axis=axis)
    return np.ascontiguousarray(shifted[..., :n, :] if axis == -2 else shifted[..., :n])
