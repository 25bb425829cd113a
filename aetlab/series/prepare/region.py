r"""Images on the grid of the result: rotated, shifted, resampled and cropped, with the weights that this leaves.

A rotation by three Fourier shears and a shift by a phase ramp are unitary: noise that was white stays white, with its
variance. Resampling to a coarser grid drops the frequencies above its own Nyquist limit, and each new pixel then has
the electrons of its area: n (voxel/pixel)². A shift by whole pixels changes nothing at all.

A new pixel is a sum of old ones with weights k, whose squares sum to 1 up to that change of area. If more than a tenth
of Σ k² falls to pixels of weight 0, or the new pixel lies outside the recorded image, its weight is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.grid import in_plane_rotation
from aetlab.forward.resampling import rotate_images
from aetlab.series.prepare.bad_pixels import fill_bad_pixels

#: Greatest share of bad pixels in a good one.
_BAD_SHARE = 0.1


@dataclass(frozen=True)
class Grid:
    """Grid of the result: ``shape_xy`` pixels of ``ratio`` old ones each, after a rotation by -``angle_deg``."""

    shape_xy: tuple[int, int]
    ratio: float = 1.0
    angle_deg: float = 0.0


def choose_grid(shape_xy: tuple[int, int], pixel_A: float, *, voxel_A: float, size: tuple[int, int] | None,
                angle_deg: float) -> Grid:
    """Return the grid for images of ``shape_xy`` pixels; ``voxel_A`` 0 and ``size`` None keep pixel and field.

    The field turns with the images: beyond 45° its sides are exchanged.

    Raises
    ------
    DataError
        For a voxel smaller than the pixel, which would add pixels without information.
    """
    if round(angle_deg / 90) % 2:
        shape_xy = shape_xy[1], shape_xy[0]
    ratio = voxel_A / pixel_A if voxel_A else 1.0
    if ratio < 1 - 1e-9:
        raise DataError(f"voxel_A: {voxel_A}, wanted at least the pixel of {pixel_A:.4g} Å")
    kept = (max(int(np.floor(shape_xy[0] / ratio + 1e-6)), 1), max(int(np.floor(shape_xy[1] / ratio + 1e-6)), 1))
    return Grid(size or kept, ratio, angle_deg)


def place_image(image: np.ndarray, weight: np.ndarray, position_px: np.ndarray, grid: Grid) -> tuple[np.ndarray,
                                                                                                 np.ndarray]:
    """Return an image (X, Y) of vacuum 1 and its weights on ``grid``, the point ``position_px`` in its middle.

    ``position_px`` (2,) counts in pixels from the middle of the image as recorded. Pixels without data are 1, of weight
    0.
    """
    old, bad = fill_bad_pixels(image, weight) - np.float32(1), (weight <= 0).astype(np.float32)
    turn = in_plane_rotation(-grid.angle_deg)
    inside = _inside(image.shape, position_px, grid)
    if grid.angle_deg:
        margin = _margin_px(image.shape, turn @ position_px, grid)
        old, bad = (np.pad(each, margin, mode="symmetric") for each in (old, bad))
        old = rotate_images(old, -grid.angle_deg)
        bad = np.abs(rotate_images(bad, -grid.angle_deg)) > _BAD_SHARE if bad.any() else np.zeros(old.shape, bool)
    rows = [_kernel(n, m, float(p), grid.ratio) for n, m, p in zip(old.shape, grid.shape_xy, turn @ position_px)]
    new = rows[0] @ old @ rows[1].T
    shares = [row**2 / np.maximum((row**2).sum(axis=1, keepdims=True), 1e-12) for row in rows]
    good = inside & (shares[0] @ bad @ shares[1].T <= _BAD_SHARE)
    return np.where(inside, new + 1, 1).astype(np.float32), good.astype(np.float32)


def _margin_px(shape: tuple[int, ...], position_px: np.ndarray, grid: Grid) -> list[tuple[int, int]]:
    """Return the margins by axis with which the shears lose nothing of an image that lies in the result.

    They hold the way of each pixel to its place in the turned image; ``position_px`` (2,) is that of the sample there.
    """
    quarters = round(grid.angle_deg / 90)
    half = np.array(shape if quarters % 2 == 0 else shape[::-1]) / 2
    seen = np.array(grid.shape_xy) * grid.ratio / 2 + np.abs(position_px)
    reach = np.maximum(half, np.minimum(seen, np.hypot(*half)))
    reach[0] = max(reach[0], half[0] + abs(np.tan(np.deg2rad(grid.angle_deg - 90 * quarters) / 2)) * half[1])
    margin = np.ceil(reach - half).astype(int).tolist()
    return [(m, m) for m in (margin if quarters % 2 == 0 else margin[::-1])]


def _kernel(n: int, m: int, position_px: float, ratio: float) -> np.ndarray:
    """Return the matrix (m, n) that evaluates the Fourier series of n samples at m points ``ratio`` samples apart.

    Frequencies of at most 1/(2 ratio) cycles per sample are kept. At whole samples with ratio 1 it copies them.
    """
    points = (np.arange(m) - (m - 1) / 2) * ratio + (n - 1) / 2 + position_px
    away = points[:, None] - np.arange(n)
    order = np.arange(1, (n - 1) // 2 + 1)
    order = order[order / n < 0.5 / ratio - 1e-9]
    whole = np.abs(points - np.rint(points)).max() < 1e-6
    if ratio == 1 and whole:
        # A vacuum beyond the border is put in afterwards, so that samples from the other side do no harm.
        return np.asarray(np.mod(np.rint(away), n) == 0, np.float32)
    # Σ_k cos 2πkd/n over k = -K … K, with half the Nyquist frequency of an even n.
    angle = 2 * np.pi * away / n
    half = len(order)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.sin((half + 0.5) * angle) / np.sin(angle / 2)
    total = np.where(np.abs(np.sin(angle / 2)) < 1e-9, 2 * half + 1, total)
    if ratio == 1 and n % 2 == 0:
        total = total + np.cos(n / 2 * angle)
    return np.asarray(total / n, np.float32)


def _inside(shape: tuple[int, ...], position_px: np.ndarray, grid: Grid) -> np.ndarray:
    """Return which new pixels lie in the recorded image of ``shape``, bool."""
    x, y = ((np.arange(m) - (m - 1) / 2) * grid.ratio for m in grid.shape_xy)
    back = in_plane_rotation(grid.angle_deg)
    old_x = back[0, 0] * x[:, None] + back[0, 1] * y + position_px[0]
    old_y = back[1, 0] * x[:, None] + back[1, 1] * y + position_px[1]
    # Half a pixel is left for the rounding of a shift.
    return np.asarray((np.abs(old_x) <= shape[0] / 2 - 0.5 + 1e-6) & (np.abs(old_y) <= shape[1] / 2 - 0.5 + 1e-6))
