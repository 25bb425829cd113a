r"""Direction of the tilt axis, from common lines.

The axis lies at the angle φ from y, counted from +x towards +y: its direction is (-sin φ, cos φ), across it lies
(cos φ, sin φ). Projected onto the axis, the sample is the same at all tilts: M₀(q) = Σ f exp(-2πi q·a), the Fourier
transform of an image f along the axis, changes with the tilt by a shift along the axis alone.

1. The direction is searched where the lines of all tilts, each in units of its own power and shifted along the axis,
   agree best.
2. That maximum is biased: it prefers directions in which a line is strong. The direction is therefore refined by a
   regression with fixed weights. For a small δ, M₀(φ) = m - δ ∂_y' M₁, with M₁ the first moment across the axis. By
   the consistency of projections (Helgason 1965, Ludwig 1966) M₁(t) = a cos t + b sin t + s_t m, with s_t the shift
   across. a and b are fitted to all tilts, so that the noise of one image hardly enters its own regressor.

Common lines leave 180° open: an axis that points the other way is a tilt of the other sense, and gives the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from aetlab.series.prepare.vacuum import AVERAGE_PX

#: Greatest frequency of the lines, in cycles per pixel of the images that are given.
_HIGHEST = 0.5
#: Greatest shift along the axis that is searched, as part of the image, and its step in pixels.
_REACH, _STEP_PX = 0.1, 0.25
#: Least number of tilts for a regression of a, b and δ.
_ENOUGH_TILTS = 5


@dataclass(frozen=True)
class Axis:
    """Direction of the tilt axis, its standard error and the agreement of the lines, 0 to 1; found or taken."""

    angle_deg: float
    error_deg: float
    agreement: float
    verdict: str
    line: str


@dataclass(frozen=True)
class _Lines:
    """Moments 0 and 1 (T, Q) across the axis, at frequencies q (Q,) in cycles per pixel."""

    zeroth: np.ndarray
    first: np.ndarray
    q: np.ndarray


def soft_box(shape: tuple[int, int], half_px: tuple[float, float]) -> np.ndarray:
    """Return a window (X, Y) that is 1 within ``half_px`` of the centre and falls to 0 over a tenth of it."""
    window = np.ones(shape)
    for axis, (n, half) in enumerate(zip(shape, half_px)):
        edge = max(0.1 * half, 1.0)
        away = np.abs(np.arange(n) - (n - 1) / 2)
        fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((away - half) / edge + 0.5, 0, 1))
        window *= fall[:, None] if axis == 0 else fall
    return window


def find_axis(images: np.ndarray, tilt_deg: np.ndarray, *, centre_deg: float, range_deg: float, extent_px: float,
              whole_band: bool) -> Axis:
    """Return the direction of the axis in ``images`` (T, X, Y), windowed and centred, at ``tilt_deg`` (T,).

    ``centre_deg`` ± ``range_deg`` is searched; ``extent_px`` is the diameter of the sample. ``whole_band`` says whether
    the images hold the sample at all frequencies; if not, the direction is worth a look whatever its error.
    """
    span = float(np.ptp(tilt_deg)) if len(tilt_deg) else 0.0
    if len(tilt_deg) < _ENOUGH_TILTS or not images.any():
        return Axis(centre_deg, range_deg, 0.0, "look", f"direction of the axis taken as {centre_deg:.2f}°: "
                    f"{len(tilt_deg)} tilts are too few to find it")
    lowest = 1 / extent_px
    q = np.arange(lowest, _HIGHEST, 1 / max(images.shape[1:]))
    # A line differs from its neighbour where they are 1/extent apart at the highest frequency.
    step = np.rad2deg(0.5 / (extent_px * _HIGHEST))
    tried = centre_deg + np.arange(-np.ceil(range_deg / step), np.ceil(range_deg / step) + 0.5) * step
    score = np.array([_agreement(_lines(images, angle, q, first=False))[0] for angle in tried])
    angle = float(tried[score.argmax()])
    error = step
    for _ in range(12):
        lines = _lines(images, angle, q, first=True)
        change, error = _regress(lines, _agreement(lines)[1], np.deg2rad(tilt_deg))
        angle += float(np.clip(change, -step, step))
        if abs(change) < 0.005:
            break
    agreement = _agreement(_lines(images, angle, q, first=False))[0]
    others = np.sort(score[np.abs(tried - tried[score.argmax()]) > 3 * step])
    scatter = 1.4826 * float(np.median(np.abs(score - np.median(score))))
    clear = not len(others) or score.max() - others[-1] > scatter / 3
    inside = abs(angle - centre_deg) <= range_deg
    verdict = "ok" if clear and inside and whole_band and error < 0.5 else "look"
    line = (f"direction of the tilt axis {angle:.2f} ± {error:.2f}° from image y, by common lines of "
            f"{len(tilt_deg)} tilts over {span:.0f}° (agreement {agreement:.2f})")
    line += "" if clear else "; other directions agree nearly as well"
    line += "" if whole_band else "; rough: without the energy of the electrons only low frequencies are compared"
    line += "" if inside else "; it lies at the end of the search"
    return Axis(angle, error, agreement, verdict, line + "; the sense of the tilt is not found by common lines")


def _lines(images: np.ndarray, angle_deg: float, q: np.ndarray, *, first: bool) -> _Lines:
    """Return the lines of ``images`` (T, X, Y) along the axis at ``angle_deg``."""
    n_x, n_y = images.shape[1:]
    x, y = np.arange(n_x) - (n_x - 1) / 2, np.arange(n_y) - (n_y - 1) / 2
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along_x, along_y = np.exp(2j * np.pi * np.outer(x, q * sin)), np.exp(-2j * np.pi * np.outer(y, q * cos))
    rows = images.reshape(-1, n_y) @ along_y
    rows = rows.reshape(len(images), n_x, len(q))
    zeroth = np.einsum("txq,xq->tq", rows, along_x)
    if not first:
        return _Lines(zeroth, zeroth, q)
    by_y = (images.reshape(-1, n_y) @ (along_y * y[:, None])).reshape(rows.shape)
    moment = cos * np.einsum("txq,xq->tq", rows, along_x * x[:, None]) + sin * np.einsum("txq,xq->tq", by_y, along_x)
    return _Lines(zeroth, moment, q)


def _agreement(lines: _Lines) -> tuple[float, np.ndarray]:
    """Return how well lines agree, the mean cosine of all pairs, and the shift (T,) of each in pixels."""
    unit = lines.zeroth / np.maximum(np.sqrt((np.abs(lines.zeroth) ** 2).mean(axis=0)), 1e-30)
    unit = unit / np.maximum(np.sqrt((np.abs(unit) ** 2).sum(axis=1)), 1e-30)[:, None]
    n_tilts, n = len(unit), 2 * len(lines.q) / max(lines.q[-1], 1e-9) * _HIGHEST
    grid = np.arange(-_REACH * n, _REACH * n + _STEP_PX, _STEP_PX)
    waves = np.exp(2j * np.pi * np.outer(lines.q, grid))
    mean, moved, shift = unit[n_tilts // 2], unit, np.zeros(n_tilts)
    for _ in range(6):
        match = ((unit * mean.conj()) @ waves).real
        top = np.clip(match.argmax(axis=1), 1, len(grid) - 2)
        before, here, after = (match[np.arange(n_tilts), top + k] for k in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = grid[top] + _STEP_PX * np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1e30), -0.5, 0.5)
        moved = unit * np.exp(2j * np.pi * np.outer(shift, lines.q))
        mean = moved.mean(axis=0)
    own = float((np.abs(moved) ** 2).sum())
    return (float((np.abs(moved.sum(axis=0)) ** 2).sum()) - own) / ((n_tilts - 1) * max(own, 1e-30)), shift


def _regress(lines: _Lines, shift: np.ndarray, tilt: np.ndarray) -> tuple[float, float]:
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


def centre_of_sample(vacuum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre (2,) and half extent (2,) in pixels of the largest part of an image (X, Y) that is no vacuum.

    The centre counts from the middle of the image. Where all is vacuum it is 0, and the extent half the image. The
    mask of the vacuum comes from a local average, which widens the sample by about two of its standard deviations;
    the extent is less by that.
    """
    middle = (np.array(vacuum.shape) - 1) / 2
    labels, n = ndimage.label(~vacuum)
    if not n:
        return np.zeros(2), np.array(vacuum.shape) / 2
    sizes = np.bincount(labels.ravel())[1:]
    sample = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    places = np.argwhere(sample)
    half = (np.ptp(places, axis=0) + 1) / 2
    narrow = np.maximum(half - 2 * AVERAGE_PX, 1)
    return places.mean(axis=0) - middle, np.where(half < np.array(vacuum.shape) / 2, narrow, half)
