"""What a record holds of refined atoms: arrays under ``refined/``, metrics that begin with ``refined_``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aetlab.core.nouns import Atoms, Match, RefinedAtoms
from aetlab.store.record import Dataset

#: Pairs farther apart than this many standard errors along any axis are no measurement of one atom: they are left out
#: of the calibration, and counted.
OUTLIER = 6.0
_UNITS = {"positions_A": "Å", "scattering_V_A3": "V Å³", "position_error_A": "Å", "turn_deg": "degree", "shift_A": "Å",
          "thermal_A2": "Å²", "thermal_error_A2": "Å²", "defocus_offset_A": "Å"}


@dataclass(frozen=True)
class Refinement:
    """Refined atoms with their match against the true ones."""

    atoms: RefinedAtoms
    match: Match


def describe_refined_metrics(refinement: Refinement, truth: Atoms) -> dict[str, float]:
    """Scores of the refined atoms by the names of the traced ones with ``refined_`` before them, and how it ended.

    ``refined_bound_pm`` is the mean position error that the standard errors promise (each atom's errors normal, its
    mean distance by :func:`mean_distance_A`), ``refined_error_over_bound`` what was found over it,
    ``refined_calibration`` the root mean square of error over standard error along the axes, outliers left out, and
    ``refined_outlier_percent`` the part of the pairs that are.
    """
    atoms, match = refinement.atoms, refinement.match
    metrics = {f"refined_{name}": value for name, value in match.metrics.items()}
    metrics |= {f"refined_{name}": float(value) for name, value in atoms.summary.items()
                if isinstance(value, (int, float))}
    error_A, sigma_A = position_errors(refinement, truth)
    if not len(sigma_A) or not sigma_A.any():
        return metrics
    ratio = error_A / sigma_A
    near = np.all(np.abs(ratio) <= OUTLIER, axis=1)
    bound_A = float(mean_distance_A(sigma_A).mean())
    return metrics | {
        "refined_bound_pm": 100 * bound_A,
        "refined_error_over_bound": float(np.linalg.norm(error_A, axis=1).mean()) / bound_A,
        "refined_calibration": float(np.sqrt((ratio[near] ** 2).mean())) if near.any() else math.nan,
        "refined_outlier_percent": 100 * float(1 - near.mean()),
    }


def position_errors(refinement: Refinement, truth: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Refined minus true position and standard error of each pair, (P, 3) in Å."""
    atoms, match = refinement.atoms, refinement.match
    return (atoms.positions_A[match.traced] - truth.positions_A[match.true], atoms.position_error_A[match.traced])


def mean_distance_A(sigma_A: np.ndarray) -> np.ndarray:
    """Mean length (P,) of a normal vector with standard deviations ``sigma_A`` (P, 3) that differ little.

    √(8/3π) of the root of Σσ²: exact where all three are equal, less than 3 % high where one is half of another.
    """
    return np.sqrt((sigma_A**2).sum(axis=1) * 8 / (3 * math.pi))


def describe_refined_arrays(refinement: Refinement) -> dict[str, Dataset]:
    """Every array of refined atoms by its path."""
    atoms, match = refinement.atoms, refinement.match
    arrays = {f"refined/{name}": Dataset(getattr(atoms, name), _UNITS.get(name, "1"))
              for name in ("positions_A", "occupancy", "scattering_V_A3", "numbers", "position_error_A",
                           "occupancy_error", "probability", "posterior", "not_atom_probability", "turn_deg",
                           "shift_A", "thermal_A2", "thermal_error_A2", "defocus_offset_A", "brightness", "cost")}
    for name in ("traced", "true", "unmatched_traced", "unmatched_true", "strict_traced", "strict_true", "confusion",
                 "confusion_numbers"):
        arrays[f"refined_match/{name}"] = Dataset(getattr(match, name), "1")
    return arrays
