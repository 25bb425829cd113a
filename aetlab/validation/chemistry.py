"""Chemistry of a set of atoms: distances, coordination, pair distribution and density; atoms that break its rules.

Two atoms nearer than :data:`TOO_NEAR` of the sum of their covalent radii are too near: the shortest bonds, triple
ones, are 0.78 of it. They are so only if they would be nearer with the standard errors of their distance as well. An
atom without a bond is isolated: there is no other one within
:data:`~aetlab.core.structure.BOND_REACH` times the sum of the radii (Cordero et al., Dalton Trans. 2832, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.physics import SYMBOLS
from aetlab.core.structure import (
    BOND_REACH,
    R_MAX_A,
    R_MAX_LEAST_A,
    covalent_radii_A,
    depth_below_surface,
    pair_distribution,
)

#: Share of the sum of two covalent radii below which two atoms are too near.
TOO_NEAR = 0.75
#: Standard errors of a distance that must not explain that it is too short.
NEAR_ERRORS = 2.0
#: Range and bin of the distances in Å.
DISTANCE_EDGES_A = np.linspace(0.0, 6.0, 241)
#: Greatest coordination number that is counted by itself.
MOST_BONDS = 16
#: Rules, by their numbers in the record.
RULES = ("too near", "isolated")
#: An occupancy is odd if it is off the median of its element by this much and by this many standard errors.
ODD_OCCUPANCY, ODD_ERRORS = 0.2, 5.0
_DALTON_A3_IN_G_CM3 = 1.66053906660


@dataclass(frozen=True)
class Chemistry:
    """Chemistry of atoms.

    Attributes
    ----------
    arrays : dict
        ``distance_edges_A``; for each pair of elements the counts ``distances/Cu-Au`` of the distances between them;
        for each element the counts ``coordination/Cu`` of atoms with 0, 1, … bonds; ``pair_distribution/r_A`` and ``g``
        if there are atoms deep enough.
    broken : int (B, 3)
        Atom, rule (index of :data:`RULES`) and the other atom of a pair that is too near, -1 for none.
    broken_distance_A : (B,)
        Distance to the other atom, or to the nearest one.
    metrics : dict
        Densities, nearest distances, mean coordination and numbers of broken rules, by name.
    """

    arrays: dict[str, np.ndarray]
    broken: np.ndarray
    broken_distance_A: np.ndarray
    metrics: dict[str, float]


def check_chemistry(numbers: np.ndarray, positions_A: np.ndarray, errors_A: np.ndarray | None = None) -> Chemistry:
    """Return the chemistry of atoms with atomic ``numbers`` (N,), all above 0, at ``positions_A`` (N, 3).

    ``errors_A`` (N, 3) are the standard errors of the positions; those that are None or not finite count as 0.
    """
    elements = [int(number) for number in np.unique(numbers)]
    arrays: dict[str, np.ndarray] = {"distance_edges_A": DISTANCE_EDGES_A}
    metrics: dict[str, float] = {}
    radius_A = np.zeros(max(elements, default=0) + 1)
    radius_A[elements] = covalent_radii_A(elements)
    own_A = radius_A[numbers]
    first, second, length_A = _pairs(positions_A, DISTANCE_EDGES_A[-1])
    share = length_A / (own_A[first] + own_A[second])
    bonded = share <= BOND_REACH
    n_bonds = np.bincount(np.concatenate([first[bonded], second[bonded]]), minlength=len(numbers))
    for one, other in combinations_with_replacement(elements, 2):
        chosen = (np.minimum(numbers[first], numbers[second]) == one) & (
            np.maximum(numbers[first], numbers[second]) == other)
        name = f"{SYMBOLS[one]}_{SYMBOLS[other]}"
        arrays[f"distances/{name.replace('_', '-')}"] = np.histogram(length_A[chosen], DISTANCE_EDGES_A)[0]
        bonds = length_A[chosen & bonded]
        metrics[f"distance_{name}_A"] = float(np.median(bonds)) if len(bonds) else float("nan")
    for number in elements:
        of_element = n_bonds[numbers == number]
        arrays[f"coordination/{SYMBOLS[number]}"] = np.bincount(np.minimum(of_element, MOST_BONDS),
                                                                minlength=MOST_BONDS + 1)
        metrics[f"coordination_{SYMBOLS[number]}"] = float(of_element.mean())
    metrics |= _density(numbers, positions_A, arrays)
    error_A = np.zeros(len(first)) if errors_A is None else _distance_errors(positions_A, errors_A, first, second)
    near = np.flatnonzero(share + NEAR_ERRORS * error_A / (own_A[first] + own_A[second]) < TOO_NEAR)
    near = near[np.argsort(share[near], kind="stable")]
    alone = np.flatnonzero(n_bonds == 0)
    nearest_A = cKDTree(positions_A).query(positions_A[alone], k=2)[0][:, 1] if len(numbers) > 1 and len(alone) else (
        np.full(len(alone), np.nan))
    broken = np.concatenate([np.stack([first[near], np.zeros_like(near), second[near]], axis=1),
                             np.stack([alone, np.ones_like(alone), np.full_like(alone, -1)], axis=1)])
    metrics |= {"n_too_near": float(len(near)), "n_isolated": float(len(alone))}
    return Chemistry(arrays, broken, np.concatenate([length_A[near], nearest_A]), metrics)


def _pairs(positions_A: np.ndarray, reach_A: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(positions_A) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    first, second = cKDTree(positions_A).query_pairs(reach_A, output_type="ndarray").T
    return first, second, np.linalg.norm(positions_A[first] - positions_A[second], axis=1)


def _distance_errors(positions_A: np.ndarray, errors_A: np.ndarray, first: np.ndarray,
                     second: np.ndarray) -> np.ndarray:
    """Return the standard errors (P,) of the distances of pairs of independent atoms."""
    variance_A2 = np.where(np.isfinite(errors_A), errors_A, 0.0) ** 2
    apart_A = positions_A[first] - positions_A[second]
    direction = apart_A / np.maximum(np.linalg.norm(apart_A, axis=1, keepdims=True), 1e-9)
    return np.asarray(np.sqrt((direction**2 * (variance_A2[first] + variance_A2[second])).sum(axis=1)))


def _density(numbers: np.ndarray, positions_A: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the densities in the interior, and add g(r) to ``arrays``; NaN if no atom lies deep enough.

    The interior is the ball about each atom deep below the convex hull that the surface does not cut.
    """
    from ase.data import atomic_masses

    depth_A = depth_below_surface(positions_A, positions_A)
    reach_A = min(R_MAX_A, 0.6 * float(np.nanmax(depth_A, initial=0.0)))
    if not reach_A >= R_MAX_LEAST_A or not (depth_A >= reach_A).any():
        return {"density_per_A3": float("nan"), "density_g_cm3": float("nan")}
    arrays["pair_distribution/r_A"], arrays["pair_distribution/g"] = pair_distribution(positions_A, reach_A)
    inside = cKDTree(positions_A).query_ball_point(positions_A[depth_A >= reach_A], reach_A)
    ball_A3 = 4 / 3 * np.pi * reach_A**3
    masses = [float(atomic_masses[numbers[near]].sum()) for near in inside]
    return {"density_per_A3": float(np.mean([len(near) for near in inside])) / ball_A3,
            "density_g_cm3": float(np.mean(masses)) / ball_A3 * _DALTON_A3_IN_G_CM3}


def count_odd_occupancies(numbers: np.ndarray, occupancy: np.ndarray, error: np.ndarray) -> int:
    """Return how many of N atoms have another occupancy than the others of their element, beyond their errors.

    Such atoms are other elements, vacancies, or two atoms in one place.
    """
    n_odd = 0
    for number in np.unique(numbers):
        own = numbers == number
        off = np.abs(occupancy[own] - np.median(occupancy[own]))
        n_odd += int(((off > ODD_OCCUPANCY) & (off > ODD_ERRORS * error[own])).sum())
    return n_odd
