"""Errors against the truth: of the potential, of the poses of tilts, of refined atoms and their standard errors."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.nouns import Match, TiltSeries
from aetlab.core.poses import Poses

#: Pairs farther apart than this many standard errors along any axis are no measurement of one atom: they are left out
#: of the calibration, and counted.
OUTLIER = 6.0


def potential_error(potential_V: np.ndarray, true_V: np.ndarray, rows: np.ndarray) -> float:
    """Return |V - V_true| / |V_true| in the Euclidean norm, NaN where the true potential is 0.

    ``potential_V`` and ``true_V`` are (Z, X, Y) in V; only the y rows that ``rows`` (Y,) bool marks count.
    """
    difference2 = norm2 = 0.0
    for layer, true_layer in zip(potential_V, true_V, strict=True):
        true = true_layer[:, rows].astype(np.float64)
        difference2 += float(((layer[:, rows] - true) ** 2).sum())
        norm2 += float((true**2).sum())
    return (difference2 / norm2) ** 0.5 if norm2 else float("nan")


def score_poses(found: Poses | None, true: Poses | None, series: TiltSeries) -> dict[str, float]:
    """Return the errors of the poses of ``series``, None for nominal ones; empty if both are nominal."""
    if found is None and true is None:
        return {}
    nominal = Poses.nominal(series.tilt_deg, series.images.shape[1])
    return pose_errors(found or nominal, true or nominal)


def pose_errors(found: Poses, true: Poses) -> dict[str, float]:
    """Return root mean square differences of two sets of poses, less what one motion of the whole sample explains.

    With R the nominal rotation of a tilt, turning the sample by q and shifting it by s before all tilts changes the
    tilt angle by q_y, the direction of the axis by (R q)_z and the shift by R s, whose z component is the height. q and
    s minimise the squares of angles and of shifts across the beam. (R q)_x is left out: the alignment does not fit it.
    """
    angles = found.angles_deg - true.angles_deg
    shift_A = found.shift_A - true.shift_A
    cos, sin = np.cos(np.deg2rad(true.tilt_deg)), np.sin(np.deg2rad(true.tilt_deg))
    tilt = angles[:, 0] - angles[:, 0].mean()
    axis = _rest(np.stack([-sin, cos], axis=1), angles[:, 1])[0]
    across, (s_x, s_z) = _rest(np.stack([cos, sin], axis=1), shift_A[:, 0])
    along = shift_A[:, 1] - shift_A[:, 1].mean()
    height = s_z * cos - s_x * sin
    shift = np.stack([across, along], axis=1)[:, None] + found.image_shift_A - true.image_shift_A
    defocus = found.defocus_change_A - true.defocus_change_A + height[:, None]
    rests = {"tilt_error_deg_rms": tilt, "axis_error_deg_rms": axis,
             "shift_error_A_rms": shift, "defocus_error_nm_rms": defocus / 10,
             "brightness_error_rms": found.brightness - true.brightness}
    return {name: float(np.sqrt(np.mean(rest**2))) for name, rest in rests.items()}


def _rest(columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``columns`` (T, 2) leave of ``values`` (T,) in least squares, and their two coefficients."""
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    return values - columns @ coefficients, coefficients


def compare_errors(error_A: np.ndarray, sigma_A: np.ndarray) -> dict[str, float]:
    """Return metrics of position errors (P, 3) with standard errors (P, 3), both in Å; none without errors.

    ``bound_pm`` is the mean position error that the standard errors promise (each atom's errors normal, its mean
    distance by :func:`mean_distance_A`), ``error_over_bound`` the mean error over it, ``calibration`` the root mean
    square of error over standard error along the axes, outliers left out, and ``outlier_percent`` the part of the pairs
    that are outliers.
    """
    if not len(sigma_A) or not sigma_A.any():
        return {}
    ratio = error_A / sigma_A
    near = np.all(np.abs(ratio) <= OUTLIER, axis=1)
    bound_A = float(mean_distance_A(sigma_A).mean())
    return {
        "bound_pm": 100 * bound_A,
        "error_over_bound": float(np.linalg.norm(error_A, axis=1).mean()) / bound_A,
        "calibration": float(np.sqrt((ratio[near] ** 2).mean())) if near.any() else math.nan,
        "outlier_percent": 100 * float(1 - near.mean()),
    }


def errors_of_pairs(positions_A: np.ndarray, true_A: np.ndarray, match: Match) -> np.ndarray:
    """Return refined minus true position of each pair of ``match``, (P, 3) in Å."""
    return np.asarray(positions_A[match.traced] - true_A[match.true])


def mean_distance_A(sigma_A: np.ndarray) -> np.ndarray:
    """Return the mean length (P,) of a normal vector with standard deviations ``sigma_A`` (P, 3) that differ little.

    √(8/3π) of the root of Σσ²: exact where all three are equal, less than 3 % high where one is half of another.
    """
    return np.sqrt((sigma_A**2).sum(axis=1) * 8 / (3 * math.pi))
