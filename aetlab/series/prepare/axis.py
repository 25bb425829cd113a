r"""Direction of the tilt axis, from the consistency of projections.

The axis lies at the angle φ from y, counted from +x towards +y.

1. Candidates are directions on a grid, and that in which the common lines of all tilts agree best
   (:mod:`aetlab.series.prepare.common_lines`). That maximum alone is no proof: it prefers directions in which a line is
   strong, such as a row of the lattice.
2. The direction is taken in which the tilts predict each other best, with all their moments
   (:func:`aetlab.series.prepare.shifts.predicted_power`). The power of an image does not depend on the direction, and
   the part of it that the others predict is largest along the axis. Two directions are compared tilt by tilt: the mean
   difference over its standard error between the tilts is the evidence.
3. It is refined by the regression of the common lines, where the tilts then predict each other no worse.

Projections leave 180° open: an axis that points the other way is a tilt of the other sense, and gives the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from aetlab.core import parabola
from aetlab.forward.resampling import rotate_images
from aetlab.series.prepare.common_lines import (
    ENOUGH_TILTS,
    agreement,
    frequencies,
    lines_of,
    repeat_error,
    settle,
    within_90,
    without_rim,
)
from aetlab.series.prepare.shifts import predicted_power

#: Greatest step in degrees of the grid of directions, and that of the last refinement without common lines.
_GRID_DEG, _FINE_DEG = 15.0, 5.0
#: Standard errors by which a direction must be better than those elsewhere to be taken, and to be beyond doubt.
_LIKELY, _SIGNIFICANT = 2.0, 3.0
#: Directions in degrees from the best one that it must beat.
_AWAY_DEG = (-45.0, 45.0, 90.0)
#: Standard error in degrees that is worth a look.
_ROUGH_DEG = 0.5


@dataclass(frozen=True)
class Axis:
    """Direction of the tilt axis, its standard error and the agreement of the lines, 0 to 1; found or taken.

    ``how`` says how it is known. ``curve`` (2, N) holds the directions that were searched and the agreement at each.
    ``doubts`` are reasons to look at it; with ``stands_out`` False, nothing in the images speaks for this direction,
    and it is that of a file or setting if it is ``known``.
    """

    angle_deg: float
    error_deg: float
    agreement: float
    how: str
    curve: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    doubts: tuple[str, ...] = ()
    stands_out: bool = True
    known: bool = False

    @property
    def verdict(self) -> str:
        """``ok``; ``look`` where there are doubts or the error exceeds half a degree; ``cannot be used``."""
        if not self.stands_out and not self.known and self.curve.size:
            return "cannot be used"
        return "look" if self.doubts or self.error_deg > _ROUGH_DEG else "ok"

    @property
    def line(self) -> str:
        """The direction in one line."""
        error = f" ± {self.error_deg:.2f}°" if self.curve.size else "°"
        agreement = f" (agreement {self.agreement:.2f})" if self.curve.size else ""
        return "; ".join([f"direction of the tilt axis {self.angle_deg:.2f}{error} from image y, {self.how}{agreement}",
                          *self.doubts])


def soft_disc(shape: tuple[int, int], radius_px: float) -> np.ndarray:
    """Return a window (X, Y) that is 1 within ``radius_px`` of the centre and falls to 0 over a fifth of it.

    It prefers no direction.
    """
    x, y = (np.arange(n) - (n - 1) / 2 for n in shape)
    away = np.hypot(x[:, None], y) - radius_px
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(away / max(0.2 * radius_px, 1.0) + 0.5, 0, 1)))


def find_axis(images: np.ndarray, tilt_deg: np.ndarray, *, centre_deg: float, range_deg: float, extent_px: float,
              radius_px: float, whole_band: bool) -> Axis:
    """Return the direction of the axis in ``images`` (T, X, Y), windowed and centred, at ``tilt_deg`` (T,).

    The result lies within ``range_deg`` of ``centre_deg``, and is worth a look where a direction elsewhere is better.
    ``extent_px`` is the diameter of the sample, ``radius_px`` the radius of the window. ``whole_band`` says whether the
    images hold the sample at all frequencies; if not, the direction is worth a look whatever its error.
    """
    if len(tilt_deg) < ENOUGH_TILTS or not images.any():
        return Axis(centre_deg, range_deg, 0.0, "taken without a search",
                    doubts=(f"{len(tilt_deg)} tilts are too few to find it",), stands_out=False)
    q, step = frequencies(images, extent_px)
    if not len(q):
        return Axis(centre_deg, range_deg, 0.0, "taken without a search", doubts=(
            f"a sample of {extent_px:.2g} pixels shows no direction",), stands_out=False)
    judge, images = _Judge(images, tilt_deg, radius_px), without_rim(images)
    tried = centre_deg + np.arange(-np.ceil(90 / step), np.ceil(90 / step) + 0.5) * step
    score = np.array([agreement(lines_of(images, angle, q, first=False))[0] for angle in tried])
    allowed = np.abs(tried - centre_deg) <= range_deg + step
    start = float(tried[int(np.where(allowed, score, -np.inf).argmax())])
    rough = _search(judge, start, centre_deg, range_deg)
    angle, error = settle(images, tilt_deg, rough, q, step)
    if judge.evidence(rough, angle) > _SIGNIFICANT:
        angle, error = rough, _FINE_DEG
    error = max(error, repeat_error(images, tilt_deg, angle, q))
    angle = float(centre_deg + within_90(angle - centre_deg))
    elsewhere = [angle + away for away in _AWAY_DEG]
    other = float(tried[int(np.where(np.abs(within_90(tried - angle)) > _GRID_DEG, score, -np.inf).argmax())])
    evidence = [judge.evidence(angle, direction) for direction in (*elsewhere, other)]
    doubts = []
    stands_out, rival = min(evidence) >= _LIKELY, within_90((*elsewhere, other)[int(np.argmin(evidence))])
    if not stands_out:
        doubts.append(f"no direction stands out: the tilts predict each other as well with {rival:.0f}° "
                      f"({min(evidence):.1f} standard errors)")
    elif min(evidence) < _SIGNIFICANT and abs(within_90(rival - centre_deg)) <= range_deg:
        doubts.append(f"they do so nearly as well with {rival:.0f}°")
    if not whole_band:
        doubts.append("rough: without the energy of the electrons only low frequencies are compared")
    if abs(angle - centre_deg) > range_deg:
        doubts.append("it lies at the end of the search")
    return Axis(angle, error, judge.power(angle), f"in which {len(tilt_deg)} tilts over {np.ptp(tilt_deg):.0f}° "
                f"predict each other best, by {min(evidence):.1f} standard errors", np.stack([tried, score]),
                tuple(doubts), stands_out)


def refine_axis(axis: Axis, images: np.ndarray, tilt_deg: np.ndarray, extent_px: float) -> Axis:
    """Return ``axis`` with its direction refined in ``images`` (T, X, Y) that are centred better; see find_axis."""
    if not axis.curve.size:
        return axis
    q, step = frequencies(images, extent_px)
    images = without_rim(images)
    angle, error = settle(images, tilt_deg, axis.angle_deg, q, step)
    error = max(error, repeat_error(images, tilt_deg, angle, q))
    return replace(axis, angle_deg=angle, error_deg=error)


class _Judge:
    """Judge by the direction of the axis how well the tilts predict each other; each direction is computed once."""

    def __init__(self, images: np.ndarray, tilt_deg: np.ndarray, radius_px: float) -> None:
        self._images, self._tilt_deg, self._radius_px = images, tilt_deg, radius_px
        self._known: dict[float, np.ndarray] = {}

    def of(self, angle_deg: float) -> np.ndarray:
        """Return the part of the power of each tilt (T,) that the others predict."""
        key = round(float(within_90(angle_deg)), 3)
        if key not in self._known:
            turned = rotate_images(self._images, -key)
            self._known[key] = predicted_power(turned, self._tilt_deg, self._radius_px)
        return self._known[key]

    def power(self, angle_deg: float) -> float:
        """Return the mean over the tilts."""
        return float(self.of(angle_deg).mean())

    def evidence(self, angle_deg: float, other_deg: float) -> float:
        """Return by how many standard errors the tilts predict each other better with the first direction.

        Single tilts that differ by more than three robust standard deviations from the median count as three.
        """
        more = self.of(angle_deg) - self.of(other_deg)
        middle = float(np.median(more))
        limit = 3 * 1.4826 * float(np.median(np.abs(more - middle)))
        more = np.clip(more, middle - limit, middle + limit)
        return float(more.mean() / max(float(more.std(ddof=1)) / np.sqrt(len(more)), 1e-12))


def _search(judge: _Judge, start_deg: float, centre_deg: float, range_deg: float) -> float:
    """Return the best direction in degrees on a grid over the range and at ``start_deg``, refined by a parabola."""
    n = max(int(np.ceil(range_deg / _GRID_DEG)), 1)
    grid = centre_deg + np.arange(-n, n + (range_deg < 90)) * (range_deg / n)
    best = max((start_deg, *grid.tolist()), key=judge.power)
    for _ in range(int(_GRID_DEG / _FINE_DEG)):
        low, here, high = (judge.power(best + side) for side in (-_FINE_DEG, 0.0, _FINE_DEG))
        if here >= max(low, high):
            return best + _FINE_DEG * float(parabola.vertex(low, here, high).place)
        best += _FINE_DEG if high > low else -_FINE_DEG
    return best
