"""Images ordered by tilt and defocus into a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aetlab.series.frames import FrameInfo

#: Images of one tilt are within this, and within this part of the step from tilt to tilt.
_SAME_TILT_DEG, _SAME_TILT_OF_STEP = 0.15, 0.3
#: Images of one defocus are within this part of the smallest step of defocus in a tilt.
_SAME_DEFOCUS_OF_STEP = 0.4
_ROUNDING_NM = 1e-3


@dataclass(frozen=True)
class Grid:
    """Images in T rows of rising tilt and F columns of rising defocus; see Collection for the arrays."""

    index: np.ndarray
    weight: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    dose_e_A2: np.ndarray
    notes: tuple[str, ...]


def order_frames(infos: Sequence[FrameInfo]) -> Grid:
    """Return the grid of images whose tilt and defocus are known.

    Images of almost equal tilt share a row, those of almost equal defocus a column. An image that finds its cell taken
    begins a further row of the same tilt.
    """
    tilt_deg = np.array([info.tilt_deg for info in infos], float)
    defocus_nm = np.array([info.defocus_nm for info in infos], float)
    tilt_of = _split(tilt_deg, _tilt_tolerance(tilt_deg, defocus_nm))
    column_of = _split(defocus_nm, _defocus_tolerance(defocus_nm, tilt_of))
    n_columns = column_of.max() + 1
    rows: dict[tuple[int, int], np.ndarray] = {}
    for i in sorted(range(len(infos)), key=lambda i: (infos[i].order, i)):
        repeat = 0
        while rows.setdefault((tilt_of[i], repeat), np.full(n_columns, -1))[column_of[i]] >= 0:
            repeat += 1
        rows[tilt_of[i], repeat][column_of[i]] = i
    index = np.array([rows[key] for key in sorted(rows)])
    is_further = np.array([repeat > 0 for _, repeat in sorted(rows)])
    used = np.array([not info.exclude for info in infos])
    weight = np.where(index >= 0, used[index], False).astype(float)
    dose = np.array([np.nan if info.dose_e_A2 is None else info.dose_e_A2 for info in infos])
    column_nm = np.array([defocus_nm[column_of == k].mean() for k in range(n_columns)])
    mean_deg, spread_deg = _tilts_of_rows(index, weight, tilt_deg)
    notes = _lines(infos, index, mean_deg, column_nm, spread_deg, mean_deg[is_further])
    return Grid(index, weight, mean_deg, 10 * np.where(index >= 0, defocus_nm[index], column_nm),
                np.where(index >= 0, dose[index], np.nan), tuple(notes))


def _split(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Number of the group of each value; a gap greater than the tolerance begins a new group."""
    order = np.argsort(values, kind="stable")
    groups = np.empty(len(values), int)
    groups[order] = np.r_[0, np.cumsum(np.diff(values[order]) > tolerance)]
    return groups


def _tilt_tolerance(tilt_deg: np.ndarray, defocus_nm: np.ndarray) -> float:
    steps = [np.diff(np.unique(tilt_deg[np.round(defocus_nm) == value])) for value in np.unique(np.round(defocus_nm))]
    steps = [step for step in steps if len(step)]
    if not steps:
        return _SAME_TILT_DEG
    return min(_SAME_TILT_DEG, _SAME_TILT_OF_STEP * float(np.median(np.concatenate(steps))))


def _defocus_tolerance(defocus_nm: np.ndarray, tilt_of: np.ndarray) -> float:
    """The typical smallest step of defocus in a tilt, in part; infinite where most tilts have one image."""
    smallest = []
    for group in np.unique(tilt_of):
        steps = np.diff(np.sort(defocus_nm[tilt_of == group]))
        smallest.append(steps[steps > _ROUNDING_NM].min(initial=np.inf))
    return max(_ROUNDING_NM, _SAME_DEFOCUS_OF_STEP * float(np.median(smallest)))


def _tilts_of_rows(index: np.ndarray, weight: np.ndarray, tilt_deg: np.ndarray) -> tuple[np.ndarray, float]:
    means, spread = [], 0.0
    for cells, weights in zip(index, weight):
        own = tilt_deg[cells[weights > 0] if weights.any() else cells[cells >= 0]]
        means.append(own.mean())
        spread = max(spread, float(np.ptp(own)))
    return np.array(means), spread


def _lines(infos: Sequence[FrameInfo], index: np.ndarray, tilt_deg: np.ndarray, column_nm: np.ndarray,
           spread_deg: float, further_deg: np.ndarray) -> list[str]:
    n_excluded = sum(bool(info.exclude) for info in infos)
    defoci = ", ".join(f"{value:.4g}" for value in column_nm)
    lines = [f"{len(infos)} images: {len(index)} tilts from {tilt_deg.min():.4g}° to {tilt_deg.max():.4g}°, "
             f"{len(column_nm)} defoci ({defoci} nm), {(index < 0).sum()} cells empty, {n_excluded} images left out"]
    if spread_deg > 1e-6:
        lines.append(f"the angles of the images of one tilt differ by up to {spread_deg:.3g}°; their mean is used")
    if len(further_deg):
        names = ", ".join(f"{value:.4g}°" for value in further_deg[:4]) + (", …" if len(further_deg) > 4 else "")
        lines.append(f"{len(further_deg)} tilts are there again ({names}); their images are kept as further tilts")
    lines += [f"{info.name} is left out: {info.exclude}" for info in infos if info.exclude]
    return lines
