"""The support of the sample across the tilt axis: the positions (z, x) that the images do not show to be vacuum.

An image of intensity I deviates from the vacuum where it shows the sample. For n electrons per pixel and a model error
a of an amplitude, the deviation of a pixel

    (I - 1)² / (1/n + (2 a)²) - 1

has the mean 0 in vacuum and the variance 2 + 1/n. Where a position belongs to the sample, the images deviate along its
path through the tilts. It is vacuum if over some range of tilts they hardly do: the mean deviation of the pixels along
its path, plus three of its standard errors, is below a tenth of that of the sample. Images with too few electrons to
exclude a tenth therefore exclude nothing. Fresnel fringes count as deviations: the support is too wide rather than too
narrow.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from aetlab.core.tilt_series import AMPLITUDE_FLOOR, TiltSeries

#: Pixels per side of the blocks in which deviations are summed.
BLOCK = 8
#: Part of the sample's deviation that is excluded where a position is taken for vacuum.
LEAST = 0.1
#: Standard errors by which the deviation stays below that part.
CONFIDENCE = 3.0
#: Range of the tilts, in degrees, over which a position is seen beside the sample.
RANGE_DEG = 20.0
#: Least number of tilts in such a range.
MIN_TILTS = 3
#: Mean square of I - 1 in images of silicon and its oxide, per Å of their thickness (samples of 36 to 130 Å).
CONTRAST_PER_A = 4.3e-4


def find_support(series: TiltSeries, n_z: int, margin_A: float) -> np.ndarray:
    """Return the positions (z, x) of the sample and around it, bool (Z, X): one block and ``margin_A`` Å.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1, at known tilts.
    n_z : int
        Layers Z of the volume; X is that of the images.
    margin_A : float
        Width in Å that is added around the sample and the blocks beside it.
    """
    shape_zx = (n_z, series.images.shape[2])
    total, variance, n_pixels = _deviations(series)
    least = LEAST * _typical(total / np.maximum(n_pixels, 1), total)
    vacuum = _is_vacuum(np.asarray(series.tilt_deg), shape_zx, total - least * n_pixels, variance)
    return _around(vacuum, shape_zx, margin_A / (BLOCK * series.pixel_A))


def expect_support(positions_A: np.ndarray, shape_zxy: tuple[int, int, int], voxel_A: float, tilt_deg: np.ndarray,
                   n_defoci: int, electrons_per_pixel: float, margin_A: float) -> np.ndarray:
    """Return about what :func:`find_support` will return before there are images, bool (Z, X).

    Blocks of an image with atoms are taken to deviate as a sample of silicon as thick as this one, others not at all.

    Parameters
    ----------
    positions_A : float (N, 3)
        The atoms, x, y, z about the volume's centre.
    shape_zxy, voxel_A : tuple of int, float
        The volume (Z, X, Y) and its voxel in Å.
    tilt_deg, n_defoci, electrons_per_pixel : float (T,), int, float
        Tilts, images of each, and electrons per pixel of an image in vacuum.
    margin_A : float
        As for :func:`find_support`.
    """
    n_z, n_x, n_y = shape_zxy
    x_A, y_A, z_A = positions_A.T
    thickness_A = 2 * float(np.hypot(x_A, z_A).max(initial=0.0))
    n_pixels = n_defoci * BLOCK**2
    deviation = CONTRAST_PER_A * thickness_A / (1 / electrons_per_pixel + (2 * AMPLITUDE_FLOOR) ** 2)
    excess = np.full((len(tilt_deg), -(-n_x // BLOCK), -(-n_y // BLOCK)), -LEAST * deviation * n_pixels)
    for i_tilt, tilt_rad in enumerate(np.deg2rad(tilt_deg)):
        seen_A = x_A * np.cos(tilt_rad) + z_A * np.sin(tilt_rad)
        excess[i_tilt, _block_of(seen_A / voxel_A, n_x), _block_of(y_A / voxel_A, n_y)] += deviation * n_pixels
    variance = np.full(excess.shape, n_pixels * (2 + 1 / electrons_per_pixel))
    vacuum = _is_vacuum(np.asarray(tilt_deg), (n_z, n_x), excess, variance)
    return _around(vacuum, (n_z, n_x), margin_A / (BLOCK * voxel_A))


def _block_of(place: np.ndarray, n: int) -> np.ndarray:
    """Return the blocks, of a side of ``n`` pixels, of places (N,) in pixels about its middle."""
    return np.floor((place + n / 2) / BLOCK).astype(int).clip(0, -(-n // BLOCK) - 1)


def _around(vacuum: np.ndarray, shape_zx: tuple[int, int], margin: float) -> np.ndarray:
    """Return the positions (Z, X) of the blocks that are not ``vacuum``, those beside them and ``margin`` blocks more.

    A block is judged by the path of its middle: those beside the sample may hold its edge.
    """
    near = scipy.ndimage.distance_transform_edt(vacuum) <= 1 + margin if not vacuum.all() else ~vacuum
    support: np.ndarray = np.kron(near, np.ones((BLOCK, BLOCK), bool))[: shape_zx[0], : shape_zx[1]]
    return support if support.any() else np.ones_like(support)


def _deviations(series: TiltSeries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of the deviations from vacuum in each block, its variance, and the number of its pixels.

    Each is (T, X blocks, Y blocks). Pixels of missing images and bad pixels do not count.
    """
    sums = []
    for i_tilt in range(series.n_tilts):
        electrons, weight = series.electrons_per_pixel[i_tilt], series.weights_of(i_tilt)
        of_tilt = np.zeros((3, *series.images.shape[2:]))
        for i_image, image in enumerate(series.images[i_tilt]):
            used = series.weight[i_tilt, i_image] > 0 and (True if weight is None else weight[i_image] > 0)
            square = np.square(image - 1.0) / (1 / electrons[i_image] + (2 * AMPLITUDE_FLOOR) ** 2)
            of_tilt += np.where(used, (square - 1.0, np.full_like(square, 2.0 + 1 / electrons[i_image]),
                                       np.ones_like(square)), 0.0)
        rows = np.add.reduceat(of_tilt, np.arange(0, of_tilt.shape[1], BLOCK), axis=1)
        sums.append(np.add.reduceat(rows, np.arange(0, of_tilt.shape[2], BLOCK), axis=2))
    total, variance, n_pixels = np.stack(sums, axis=1)
    return total, variance, n_pixels


def _typical(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the median of ``values``, weighted by the positive ones of ``weights``."""
    order = np.argsort(values, axis=None)
    below = np.cumsum(weights.ravel()[order].clip(min=0))
    return float(values.ravel()[order][np.searchsorted(below, below[-1] / 2)])


def _is_vacuum(tilt_deg: np.ndarray, shape_zx: tuple[int, int], excess: np.ndarray,
               variance: np.ndarray) -> np.ndarray:
    """Return which blocks (Z blocks, X blocks) of the volume are vacuum at every y.

    ``excess`` (T, X blocks, Y blocks) is the deviation beyond the least one of the sample.
    """
    n_z, n_x = shape_zx
    z, x = (np.arange(0, n, BLOCK) + (BLOCK - n) / 2 for n in (n_z, n_x))
    order = np.argsort(tilt_deg)
    tilts_deg = tilt_deg[order]
    vacuum = np.zeros((len(z), len(x), excess.shape[2]), bool)
    for first_deg in np.arange(tilts_deg[0], tilts_deg[-1], RANGE_DEG / 2):
        inside = order[(tilts_deg >= first_deg) & (tilts_deg < first_deg + RANGE_DEG)]
        if len(inside) < MIN_TILTS:
            continue
        along, spread = np.zeros_like(vacuum, float), np.zeros_like(vacuum, float)
        seen = np.ones((len(z), len(x)), bool)
        for i_tilt in inside:
            tilt_rad = np.deg2rad(tilt_deg[i_tilt])
            at = np.floor((x[None] * np.cos(tilt_rad) + z[:, None] * np.sin(tilt_rad) + n_x / 2) / BLOCK).astype(int)
            seen &= (at >= 0) & (at < excess.shape[1])
            at = at.clip(0, excess.shape[1] - 1)
            along += excess[i_tilt][at]
            spread += variance[i_tilt][at]
        vacuum |= seen[..., None] & (spread > 0) & (along + CONFIDENCE * np.sqrt(spread) < 0)
    return np.asarray(vacuum.all(axis=2))
