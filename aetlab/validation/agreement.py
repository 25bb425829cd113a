r"""Estimate found, false and misnamed atoms and the error of positions from the atoms of two independent halves.

Atoms of the whole data and of the halves 1 and 2 are paired within a distance; m atoms are in both halves, which have
N₁ and N₂.

*Found.* Each half is a capture: the other half has recaptured m of its N₁ atoms, so that N = N₁ N₂ / m atoms are there
to be found (Petersen's estimate with a chance of its own for each half, Seber, The Estimation of Animal Abundance,
1982). The share of the whole is its number of atoms over N, at most 1. Two errors have opposite signs: false atoms of
the halves raise N, and atoms that are easier to find than others (heavy ones) lower it.

*False.* Each atom of the whole has been confirmed by both halves (n₂ atoms), by one (n₁) or by none (n₀). If a half
finds a true atom with probability p, n₂ : n₁ = p² : 2p(1 - p), so that p = 2n₂/(2n₂ + n₁) and u = n₁²/(4n₂) true atoms
are confirmed by none. Those beyond, max(n₀ - u, 0), are taken for false. Weak true atoms among strong ones are counted
as false by this, and a noise peak of the whole that a half confirms is not: it is a rough measure.

*Names.* Names of a pair of atoms agree with probability a = r² + (1 - r)²/(K - 1) for K elements with mistakes at
random, which gives r, the share of right names of a half. Signal over noise of the whole is √2 times that of a half: a
test that a share r passes by z = Φ⁻¹(r) standard deviations is passed by Φ(√2 z) of the whole.

*Positions.* The difference of the halves has twice the variance of a half, and a half twice that of the whole: the
error of the whole is half of the difference.

Errors that both halves share stay unseen: bias of the regulariser, wrong parameters of the microscope, atoms that no
dose shows. Positions and names are therefore better in the estimate than in truth, most so without noise
(docs/validation.md compares them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from aetlab.core.pairing import pair_atoms

#: Ratio of signal over noise of the whole data to that of a half.
WHOLE_OVER_HALF = math.sqrt(2)


@dataclass(frozen=True)
class NamedPlaces:
    """Atoms as the halves are compared: ``positions_A`` (N, 3) and atomic ``numbers`` (N,)."""

    positions_A: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Agreement:
    """Agreement of the atoms of two halves with each other and with the whole.

    Attributes
    ----------
    pairs : int (P, 2)
        Indices of the atoms of half 1 and half 2 that are the same.
    difference_A : (P, 3)
        Position in half 2 minus that in half 1.
    confirmed : int (N,)
        By how many halves each atom of the whole is confirmed.
    metrics : dict
        Estimates by name (:mod:`aetlab.core.metrics`).
    """

    pairs: np.ndarray
    difference_A: np.ndarray
    confirmed: np.ndarray
    metrics: dict[str, float]


def compare_halves(whole: NamedPlaces, first: NamedPlaces, second: NamedPlaces, *, n_elements: int,
                   max_distance_A: float) -> Agreement:
    """Compare the atoms of two halves, which are registered to those of the whole, and estimate its scores."""
    one, other = pair_atoms(first.positions_A, second.positions_A, max_distance_A)
    difference_A = second.positions_A[other] - first.positions_A[one]
    confirmed = np.zeros(len(whole), np.int64)
    for half in (first, second):
        confirmed[pair_atoms(whole.positions_A, half.positions_A, max_distance_A)[0]] += 1
    n_0, n_1, n_2 = np.bincount(confirmed, minlength=3).tolist()
    p = 2 * n_2 / (2 * n_2 + n_1) if n_2 else math.nan
    unconfirmed = n_1**2 / (4 * n_2) if n_2 else math.nan
    n_false = max(n_0 - unconfirmed, 0.0)
    n_there = len(first) * len(second) / len(one) if len(one) else math.nan
    agree = float((first.numbers[one] == second.numbers[other]).mean()) if len(one) else math.nan
    distance_pm = 100 * np.linalg.norm(difference_A, axis=1)
    sigma_pm = 100 * np.sqrt((difference_A**2).mean(axis=0)) / 2 if len(one) else np.full(3, np.nan)
    metrics = {
        "halves_n_first": float(len(first)), "halves_n_second": float(len(second)), "halves_n_common": float(len(one)),
        "halves_n_unconfirmed": float(n_0), "halves_found_by_half_percent": 100 * p,
        "halves_found_percent": 100 * min(len(whole) / n_there, 1.0), "halves_false_percent": 100 * n_false / n_there,
        "halves_distance_pm": float(np.median(distance_pm)) if len(one) else math.nan,
        "halves_position_error_pm": float(distance_pm.mean() / 2) if len(one) else math.nan,
        "halves_names_agree_percent": 100 * agree,
        "halves_species_percent": 100 * at_full_dose(right_names(agree, n_elements))}
    metrics |= {f"halves_sigma_{axis}_pm": float(sigma_pm[k]) for k, axis in enumerate("xyz")}
    return Agreement(np.stack([one, other], axis=1), difference_A, confirmed, metrics)


def at_full_dose(share: float) -> float:
    """Return the share that passes a test at the full dose, from the ``share`` (0 to 1) at half of it."""
    return float(ndtr(WHOLE_OVER_HALF * ndtri(share))) if math.isfinite(share) else math.nan


def right_names(agree: float, n_elements: int) -> float:
    """Return the share r of right names of each half whose names ``agree``: r² + (1 - r)²/(K - 1), r above 1/K."""
    if n_elements < 2:
        return 1.0 if math.isfinite(agree) else math.nan
    # K r² - 2 r + 1 - (K - 1) a = 0
    inside = 1 - n_elements * (1 - (n_elements - 1) * agree)
    return (1 + math.sqrt(max(inside, 0.0))) / n_elements if math.isfinite(agree) else math.nan
