"""Refined atoms against the true ones: errors, and how they compare with the standard errors."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.nouns import Match

#: Pairs farther apart than this many standard errors along any axis are no measurement of one atom: they are left out
#: of the calibration, and counted.
OUTLIER = 6.0


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
