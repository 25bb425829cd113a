"""Images turned in their plane by three Fourier shears, for small angles.

As in :mod:`aetlab.forward.fourier_rotation`: each shear moves every row by a phase ramp on its Fourier transform, so
that neither the noise nor fine detail is smoothed, and turning back gives the image again. Beyond an edge lies the
image's mirror image, of which an image turned by a degree shows a strip of a pixel or so.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

#: Pixels of the mirror image about each edge; the padded image goes on periodically.
_PAD = 16


def rotate_images(images: np.ndarray, angle_deg: float) -> np.ndarray:
    """Images (..., X, Y) turned by ``angle_deg`` about their centre, from +x towards +y, in their precision.

    The result at r is the image at R⁻¹ r: what lay at r lies at R r, with R that of
    :func:`aetlab.grid.in_plane_rotation`.
    """
    if angle_deg == 0:
        return images.copy()
    angle = math.radians(angle_deg)
    pad = [(0, 0)] * (images.ndim - 2) + [(_PAD, _PAD)] * 2
    turned = np.pad(images, pad, mode="symmetric")
    n_x, n_y = turned.shape[-2:]
    x, y = np.arange(n_x) - (n_x - 1) / 2, np.arange(n_y) - (n_y - 1) / 2
    # R⁻¹ r = (x cos + y sin, -x sin + y cos): along x by tan(a/2) y, along y by -sin(a) x, and along x again.
    turned = _shear(turned, -2, math.tan(angle / 2) * y)
    turned = _shear(turned, -1, -math.sin(angle) * x)
    turned = _shear(turned, -2, math.tan(angle / 2) * y)
    return np.ascontiguousarray(turned[..., _PAD:-_PAD, _PAD:-_PAD], images.dtype)


def _shear(images: np.ndarray, axis: int, distance_px: np.ndarray) -> np.ndarray:
    """f(u) -> f(u + distance) along ``axis``, one distance for each row along the other axis."""
    n = images.shape[axis]
    spectrum = scipy.fft.rfft(images, axis=axis)
    frequency = np.arange(spectrum.shape[axis]) / n
    ramp = np.outer(frequency, distance_px) if axis == -2 else np.outer(distance_px, frequency)
    return scipy.fft.irfft(spectrum * np.exp(2j * np.pi * ramp).astype(spectrum.dtype), n, axis=axis)
