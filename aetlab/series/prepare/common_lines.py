r"""Common lines of a tilt series: projections onto the tilt axis, and the regression of its direction.

The axis lies at the angle φ from y, counted from +x towards +y: its direction is (-sin φ, cos φ), across it lies
(cos φ, sin φ). Projected onto the axis, the sample is the same at all tilts: M₀(q) = Σ f exp(-2πi q·a), the Fourier
transform of an image f along the axis, changes with the tilt by a shift along the axis alone.

The direction follows from a regression with fixed weights. For a small δ, M₀(φ) = m - δ ∂_y' M₁, with M₁ the first
moment across the axis. By the consistency of projections (Helgason 1965, Ludwig 1966), M₁(t) is a cos t + b sin t + s_t
m, with s_t the shift across. a and b are fitted to all tilts, so that the noise of one image hardly enters its own
regressor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Greatest frequency of the lines, in cycles per pixel of the images that are given.
_HIGHEST = 0.5
#: Greatest shift along the axis that is searched, as part of the image, and its step in pixels.
_REACH, _STEP_PX = 0.1, 0.25
#: Least number of tilts for a regression of a, b and δ.
ENOUGH_TILTS = 5
#: Blocks of the jackknife. On 13 series with known axes the rms of error/σ is 1.0.
_BLOCKS = 5


@dataclass(frozen=True)
class Lines:
    """Moments 0 and 1 (T, Q) across the axis, at frequencies q (Q,) in cycles per pixel."""

    zeroth: np.ndarray
    first: np.ndarray
    q: np.ndarray


def frequencies(images: np.ndarray, extent_px: float) -> tuple[np.ndarray, float]:
    """Return the frequencies of the lines (Q,) and the step in degrees from one direction to the next.

    A line differs from its neighbour where they are 1/extent apart at the highest frequency.
    """
    return (np.arange(1 / extent_px, _HIGHEST, 1 / max(images.shape[1:])),
            float(np.rad2deg(0.5 / (extent_px * _HIGHEST))))


def without_rim(images: np.ndarray) -> np.ndarray:
    """Return ``images`` (T, X, Y) without equal rims on both sides that are 0 in all of them; the middle stays."""
    held = (images != 0).any(axis=0)
    rims = [int(min(line.argmax(), line[::-1].argmax())) for line in (held.any(axis=1), held.any(axis=0))]
    return images[:, rims[0]:images.shape[1] - rims[0], rims[1]:images.shape[2] - rims[1]]


def settle(images: np.ndarray, tilt_deg: np.ndarray, angle_deg: float, q: np.ndarray,
            step_deg: float) -> tuple[float, float]:
    """Return the direction that the regression reaches from ``angle_deg``, and its standard error."""
    error = step_deg
    for _ in range(12):
        lines = lines_of(images, angle_deg, q, first=True)
        change, error = _regress(lines, agreement(lines)[1], np.deg2rad(tilt_deg))
        angle_deg += float(np.clip(change, -step_deg, step_deg))
        if abs(change) < 0.005:
            break
    return angle_deg, error


def repeat_error(images: np.ndarray, tilt_deg: np.ndarray, angle_deg: float, q: np.ndarray) -> float:
    """Return the standard error in degrees of the settled direction, by a jackknife over blocks of neighbouring tilts.

    The error of the regression takes the common lines for independent and the shifts of the tilts as known. Neighbours
    share the errors of both, so that whole blocks are left out. 0 where the tilts are too few.
    """
    blocks = np.array_split(np.argsort(tilt_deg, kind="stable"), _BLOCKS)
    if len(tilt_deg) - len(blocks[0]) < ENOUGH_TILTS:
        return 0.0
    lines = lines_of(images, angle_deg, q, first=True)
    changes = []
    for block in blocks:
        part = Lines(np.delete(lines.zeroth, block, axis=0), np.delete(lines.first, block, axis=0), q)
        changes.append(_regress(part, agreement(part)[1], np.deg2rad(np.delete(tilt_deg, block)))[0])
    return float(np.sqrt((_BLOCKS - 1) * np.var(changes)))


def within_90(angle_deg: Any) -> Any:
    """Return a direction modulo 180°, from -90 to 90."""
    return (angle_deg + 90) % 180 - 90


def lines_of(images: np.ndarray, angle_deg: float, q: np.ndarray, *, first: bool) -> Lines:
    """Return the lines of ``images`` (T, X, Y) along the axis at ``angle_deg``."""
    n_x, n_y = images.shape[1:]
    x, y = np.arange(n_x) - (n_x - 1) / 2, np.arange(n_y) - (n_y - 1) / 2
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along_x, along_y = np.exp(2j * np.pi * np.outer(x, q * sin)), np.exp(-2j * np.pi * np.outer(y, q * cos))
    rows = images.reshape(-1, n_y) @ along_y
    rows = rows.reshape(len(images), n_x, len(q))
    zeroth = np.einsum("txq,xq->tq", rows, along_x)
    if not first:
        return Lines(zeroth, zeroth, q)
    by_y = (images.reshape(-1, n_y) @ (along_y * y[:, None])).reshape(rows.shape)
    moment = cos * np.einsum("txq,xq->tq", rows, along_x * x[:, None]) + sin * np.einsum("txq,xq->tq", by_y, along_x)
    return Lines(zeroth, moment, q)


def agreement(lines: Lines) -> tuple[float, np.ndarray]:
    """Return how well lines agree, the mean cosine of all pairs, and the shift (T,) of each in pixels."""
    unit = lines.zeroth / np.maximum(np.sqrt((np.abs(lines.zeroth) ** 2).mean(axis=0)), 1e-30)
    unit = unit / np.maximum(np.sqrt((np.abs(unit) ** 2).sum(axis=1)), 1e-30)[:, None]
    n_tilts, n = len(unit), 2 * len(lines.q) / max(lines.q[-1], 1e-9) * _HIGHEST
    grid = np.arange(-_REACH * n, _REACH * n + _STEP_PX, _STEP_PX)
    waves = np.exp(2j * np.pi * np.outer(lines.q, grid))
    mean, moved, shift = unit[n_tilts // 2], unit, np.zeros(n_tilts)
    for _ in range(6):
        product = unit * mean.conj()
        match = product.real @ waves.real - product.imag @ waves.imag
        top = np.clip(match.argmax(axis=1), 1, len(grid) - 2)
        before, here, after = (match[np.arange(n_tilts), top + k] for k in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = grid[top] + _STEP_PX * np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1e30), -0.5, 0.5)
        moved = unit * np.exp(2j * np.pi * np.outer(shift, lines.q))
        mean = moved.mean(axis=0)
    own = float((np.abs(moved) ** 2).sum())
    return (float((np.abs(moved.sum(axis=0)) ** 2).sum()) - own) / ((n_tilts - 1) * max(own, 1e-30)), shift


def _regress(lines: Lines, shift: np.ndarray, tilt: np.ndarray) -> tuple[float, float]:
    """Return the change of the direction and its standard error, in degrees."""
    wave = np.exp(2j * np.pi * np.outer(shift, lines.q))
    zeroth, first = lines.zeroth * wave, lines.first * wave
    weight = 1 / np.maximum((np.abs(zeroth) ** 2).mean(axis=0), 1e-30)
    mean = zeroth.mean(axis=0)
    terms = np.column_stack([np.cos(tilt), np.sin(tilt)])
    inverse = np.linalg.pinv(terms)
    strength = float((np.abs(mean) ** 2 * weight).sum())
    across = np.zeros(len(tilt))
    for _ in range(30):
        fit = terms @ (inverse @ (first - across[:, None] * mean))
        across = ((first - fit) * mean.conj() * weight).real.sum(axis=1) / strength
        across = across - terms @ (inverse @ across)
    slope = 2j * np.pi * lines.q * mean

    def without_shift(values: np.ndarray) -> np.ndarray:
        part = (values * slope.conj() * weight).real.sum(axis=1) / (np.abs(slope) ** 2 * weight).sum()
        return np.asarray(values - part[:, None] * slope)

    turned = 2j * np.pi * lines.q * fit
    turned = without_shift(turned - turned.mean(axis=0))
    left = without_shift(zeroth - mean)
    power = float((np.abs(turned) ** 2 * weight).sum())
    if power <= 0:
        return 0.0, 90.0
    change = -float((left * turned.conj() * weight).real.sum()) / power
    error = np.sqrt(float((np.abs(left) ** 2 * weight).mean()) / 2 / power)
    return float(np.rad2deg(change)), float(np.rad2deg(error))
