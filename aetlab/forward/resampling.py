"""Resample images by their Fourier transforms: turned about their centre, or scaled."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import scipy.fft

from aetlab.core.tilt_series import TiltSeries

#: Distance in pixels of a place from its nearest pixel beyond which the next nearest one contributes more than a tenth.
_CONTRIBUTES = 0.1


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


def magnify_images(images: np.ndarray, factor: float) -> np.ndarray:
    """Return images (..., X, Y) magnified by ``factor`` about their centre, in their precision.

    At r the result is the image at r / ``factor``: a feature at r moves to ``factor`` times r.
    """
    if factor == 1:
        return images.copy()
    along_x, along_y = (_resample(n, factor).astype(images.dtype) for n in images.shape[-2:])
    magnified: np.ndarray = along_x @ images @ along_y.T
    return magnified


def magnify_planes(images: np.ndarray, magnification: np.ndarray) -> np.ndarray:
    """Return images (F, X, Y) of one tilt, each magnified by the ``magnification`` (F,) of its plane."""
    return np.stack([magnify_images(image, factor) for image, factor in zip(images, magnification.tolist(),
                                                                           strict=True)])


def magnify_weights(weights: np.ndarray, factor: float) -> np.ndarray:
    """Return weights (..., X, Y) of pixels of images that are magnified by ``factor``, 0 where bad pixels contribute.

    A bad pixel, of weight 0, contributes to the pixels that it overlaps. What lies outside the image is bad as well.
    """
    if factor == 1:
        return weights.copy()
    near = [_neighbours(n, factor) for n in weights.shape[-2:]]
    corners = [weights[..., x[:, None], y] for x in near[0] for y in near[1]]
    inside = np.logical_and.outer(*(_inside(n, factor) for n in weights.shape[-2:]))
    bad = np.any([corner == 0 for corner in corners], axis=0) | ~inside
    magnified: np.ndarray = np.where(bad, weights.dtype.type(0), corners[0])
    return magnified


def reduce_series(series: TiltSeries, magnification: np.ndarray) -> TiltSeries:
    """Return ``series`` with its images reduced by the ``magnification`` (F,) of their planes; intensities are >= 0."""
    images = np.empty(series.images.shape, np.float32)
    weights = None if series.pixel_weight is None else np.empty_like(series.pixel_weight)
    for i_tilt in range(series.n_tilts):
        images[i_tilt] = np.maximum(magnify_planes(series.sound_images(i_tilt), 1 / magnification), 0)
    if series.pixel_weight is not None and weights is not None:
        for j, factor in enumerate(magnification.tolist()):
            weights[:, j] = magnify_weights(series.pixel_weight[:, j], 1 / factor)
    return replace(series, images=images, pixel_weight=weights)


@lru_cache(maxsize=8)
def _resample(n: int, factor: float) -> np.ndarray:
    """Return the matrix (n, n), float64, that magnifies a row of n pixels."""
    middle = (n - 1) / 2
    places = middle + (np.arange(n) - middle) / factor
    waves = np.cos(np.pi / n * np.outer(places + 0.5, np.arange(n)))
    # Columns of the orthonormal DCT-II of unit pixels are the coefficients of the waves √(2/n) cos, √(1/n) for k = 0.
    norm = np.full(n, np.sqrt(2 / n))
    norm[0] = np.sqrt(1 / n)
    matrix: np.ndarray = (waves * norm) @ scipy.fft.dct(np.eye(n), norm="ortho", axis=0)
    return matrix


def _inside(n: int, factor: float) -> np.ndarray:
    """Return which places of a magnified row (n,) lie between the centres of its pixels, or near one."""
    middle = (n - 1) / 2
    return np.abs(np.arange(n) - middle) / factor <= middle + _CONTRIBUTES


def _neighbours(n: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest pixel (n,) to each place of a magnified row, and the next nearest where it contributes."""
    middle = (n - 1) / 2
    places = middle + (np.arange(n) - middle) / factor
    nearest = np.rint(places)
    beyond = places - nearest
    other = nearest + np.where(np.abs(beyond) > _CONTRIBUTES, np.sign(beyond), 0)
    return np.clip(nearest, 0, n - 1).astype(int), np.clip(other, 0, n - 1).astype(int)
