r"""Part of large frames that holds the sample, found before the frames are held in memory.

Each frame is binned to pixels of about half an ångström and cut into blocks. The variance of √counts within a block is
the same everywhere in vacuum, and larger where the sample or its fringes are. Its level in vacuum is found as in
:mod:`aetlab.series.prepare.vacuum`, with ε = √(2/n) for n pixels in a block; the spread of white or correlated noise is
then measured below the level. A block shows the sample in a frame where it exceeds vacuum by five spreads and so do
its neighbours, which excludes single bad pixels and lines.

The sample is the connected group of blocks with the greatest signal over all frames, with all that belongs to it in
single frames, for the stage drifts. The region holds it in every direction that the tilt axis may have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from aetlab.core.grid import in_plane_rotation
from aetlab.series.prepare.settings import Rectangle
from aetlab.series.prepare.vacuum import lowest_level

#: Longest side in pixels of frames that are used whole.
SMALL_PX = 512
#: Pixel in Å after binning, and side of a block in binned pixels.
_BINNED_A, _BLOCK = 0.5, 12
#: Spreads above the level of vacuum at which a block shows more than vacuum.
_SIGNIFICANT = 5.0
#: Part of the frames in which a block of the sample must show it.
_LEAST_FRAMES = 0.05
#: A frame whose sample has this many times the usual area shows something else.
_TOO_LARGE = 3.0
#: Signal, over that of the sample, from which another object is reported.
_OTHER = 0.2
#: Part of a frame from which a region is not worth while.
_NEARLY_ALL = 0.7


@dataclass(frozen=True)
class SampleRegion:
    """Pixels that hold the sample, None for all; ``line`` says what was found."""

    rectangle: Rectangle | None
    line: str


def find_sample_region(frames: Iterator[np.ndarray], shape_xy: tuple[int, int], pixel_A: float, *, reach_A: float,
                       axis_deg: tuple[float, float] | None) -> SampleRegion:
    """Return the region of the sample in ``frames`` of ``shape_xy`` pixels, each (X, Y) in counts and read once.

    ``reach_A`` is how far fringes reach beyond the sample; the region has as much vacuum outside them. ``axis_deg`` is
    the range of the direction of the tilt axis; None for every direction.
    """
    side = _BLOCK * max(1, round(_BINNED_A / pixel_A))
    signals = [_signal(frame, side) for frame in frames]
    shown = [ndimage.binary_opening(signal > 0, np.ones((2, 2))) for signal in signals]
    often = sum(mask.astype(int) for mask in shown) >= max(2, _LEAST_FRAMES * len(shown))
    labels, n_objects = ndimage.label(often, np.ones((3, 3)))
    if not n_objects:
        return SampleRegion(None, "no sample stands out from the vacuum; whole images are used")
    weights = ndimage.sum_labels(sum(signals), labels, range(1, n_objects + 1))
    main = labels == 1 + int(weights.argmax())
    blocks = np.argwhere(_in_all_frames(main, shown))
    rectangle = _around(blocks * side, (blocks + 1) * side, 2 * reach_A / pixel_A, shape_xy, axis_deg)
    size = (rectangle[1] - rectangle[0], rectangle[3] - rectangle[2])
    part = size[0] * size[1] / (shape_xy[0] * shape_xy[1])
    if part > _NEARLY_ALL:
        return SampleRegion(None, f"the sample and its surroundings fill {100 * part:.0f} % of the images, which are "
                            "used whole")
    line = (f"the sample was found in x {rectangle[0]} to {rectangle[1]} and y {rectangle[2]} to {rectangle[3]}, of "
            f"{shape_xy[0]} x {shape_xy[1]} pixels; region={list(rectangle)}")
    others = [i for i in range(n_objects) if weights.max() > weights[i] > _OTHER * weights.max()]
    if others:
        where = "; ".join(f"x {x:.0f}, y {y:.0f}" for x, y in
                          (np.argwhere(labels == 1 + i).mean(axis=0) * side for i in others))
        line += f"; other objects, at {where}, are left out: give region to choose one of them"
    return SampleRegion(rectangle, line)


def _signal(frame: np.ndarray, side: int) -> np.ndarray:
    """Return the significant excess over vacuum of each block of ``side`` pixels, in units of the vacuum's variance."""
    factor = side // _BLOCK
    n_x, n_y = (n // side for n in frame.shape)
    binned = frame[:n_x * side, :n_y * side].reshape(n_x * _BLOCK, factor, n_y * _BLOCK, factor).mean(axis=(1, 3))
    root = np.sqrt(np.maximum(binned, 0)).reshape(n_x, _BLOCK, n_y, _BLOCK)
    variance = root.var(axis=(1, 3), dtype=np.float64)
    level = lowest_level(variance, np.sqrt(2 / _BLOCK**2))
    if level <= 0:
        return np.zeros_like(variance)
    excess = variance / level - 1
    below = excess[excess < 0]
    spread = np.sqrt((below**2).mean()) if len(below) else 0.0
    return np.where(excess > _SIGNIFICANT * spread, excess, 0.0)


def _in_all_frames(main: np.ndarray, shown: list[np.ndarray]) -> np.ndarray:
    """Return ``main`` with the groups of blocks of single frames that touch it, bool (x, y)."""
    groups = []
    for mask in shown:
        labels, _ = ndimage.label(mask, np.ones((3, 3)))
        touching = np.unique(labels[main & mask])
        groups.append(np.isin(labels, touching[touching > 0]))
    areas = np.array([group.sum() for group in groups])
    usual = float(np.median(areas[areas > 0])) if areas.any() else 0.0
    return np.logical_or.reduce([main, *(group for group, area in zip(groups, areas) if area <= _TOO_LARGE * usual)])


def _around(low: np.ndarray, high: np.ndarray, margin_px: float, shape_xy: tuple[int, int],
            axis_deg: tuple[float, float] | None) -> Rectangle:
    """Return the rectangle that holds blocks from ``low`` to ``high`` (n, 2) before and after the images are turned."""
    corners = np.concatenate([np.column_stack([x[:, 0], y[:, 1]]) for x in (low, high) for y in (low, high)])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    away = corners - middle
    if axis_deg is None:
        half = np.full(2, np.hypot(*away.T).max())
    else:
        turned = [np.abs(away @ in_plane_rotation(-angle).T).max(axis=0) for angle in np.linspace(*axis_deg, 5)]
        half = np.max([np.abs(away).max(axis=0), *turned], axis=0)
    half = half + margin_px
    first = np.maximum(np.floor(middle - half), 0).astype(int)
    last = np.minimum(np.ceil(middle + half), shape_xy).astype(int)
    return int(first[0]), int(last[0]), int(first[1]), int(last[1])
