"""Judge a refinement by what it began with: it must explain the images better, with about as many atoms.

Images do not tell where the sample lies as a whole, and a refinement of poses moves it. The traced sites are carried
along before they are compared with the refined atoms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.nouns import RefinedAtoms, TracedAtoms
from aetlab.core.pairing import fit_motion
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel

#: A traced site of at least this share of the median signal of its element is well traced.
WELL_TRACED = 0.5
#: Distance in Å within which a refined atom is a traced one.
SAME_A = 0.8
#: Share of the well-traced sites that a refinement may lose without finding as many others.
MOST_LOST = 0.1
#: Fewer sites do not determine a motion.
_LEAST_SITES = 4


def well_traced(traced: TracedAtoms) -> np.ndarray:
    """Return which traced sites are well traced, bool (N,): named atoms that are not much fainter than the others."""
    good = traced.numbers > 0
    for number in np.unique(traced.numbers[good]):
        own = traced.numbers == number
        good &= ~own | (traced.signal >= WELL_TRACED * np.median(traced.signal[own]))
    return good


def carry_along(places_A: np.ndarray, before_A: np.ndarray, after_A: np.ndarray) -> np.ndarray:
    """Return ``places_A`` (P, 3) after the rigid motion that took sites from ``before_A`` to ``after_A`` (N, 3)."""
    if len(before_A) < _LEAST_SITES:
        return places_A
    rotation, shift_A = fit_motion(before_A, after_A)
    return places_A @ rotation.T + shift_A


def count_lost(places_A: np.ndarray, positions_A: np.ndarray) -> int:
    """Return how many of ``places_A`` (P, 3) have no atom at ``positions_A`` (N, 3) near them."""
    if not len(positions_A) or not len(places_A):
        return len(places_A)
    return int((cKDTree(positions_A).query(places_A)[0] > SAME_A).sum())


def why_kept(places_A: np.ndarray, positions_A: np.ndarray, first: float, last: float) -> str:
    """Return why traced sites at ``places_A`` are better than refined ones at ``positions_A``; empty if they are not.

    ``places_A`` (P, 3) are the well-traced sites, carried along with the sample; ``first`` is χ² per value of all
    traced atoms at the poses found for them, ``last`` that of the refined ones: magnifications change which pixels
    count, and a brightness the unit of the cost. A site that is lost while another one is found
    has moved: the images decide where it is.
    """
    lost, n_good = count_lost(places_A, positions_A), len(places_A)
    if not len(positions_A):
        return "no site is left: the traced atoms are kept"
    if not last <= first:
        return (f"the images are explained worse, χ² per value {last:.5g} after {first:.5g}: the traced atoms are kept")
    if min(lost, n_good - len(positions_A)) > MOST_LOST * n_good:
        return f"{lost} of {n_good} well-traced sites are lost: the traced atoms are kept"
    return ""


def keep_traced(traced: TracedAtoms, poses: Poses, model: AtomModel, cost: float,
                rounds: tuple[dict[str, float], ...], summary: dict[str, Any]) -> RefinedAtoms:
    """Return the named traced atoms as the result of a refinement; errors are those of the tracing.

    They have the scattering of whole atoms, and the thermal factors of ``model``.
    """
    kinds = np.minimum(np.searchsorted(model.elements, traced.numbers), len(model.elements) - 1)
    scattering_V_A3 = model.tables.weight.sum(axis=1)[kinds].astype(np.float64) * model.voxel_A**3
    order = np.lexsort((traced.positions_A[:, 1], traced.positions_A[:, 0], traced.positions_A[:, 2]))
    order = order[traced.numbers[order] > 0]
    return RefinedAtoms(
        positions_A=traced.positions_A[order], occupancy=np.ones(len(order)), scattering_V_A3=scattering_V_A3[order],
        numbers=traced.numbers[order], position_error_A=traced.position_error_A[order],
        occupancy_error=np.full(len(order), np.nan), probability=traced.probability[order],
        posterior=traced.posterior[order], not_atom_probability=traced.not_atom_probability[order], poses=poses,
        thermal_A2=model.thermal_A2, thermal_error_A2=np.zeros(len(model.elements)), cost=np.array([cost]),
        rounds=rounds, summary=summary)
