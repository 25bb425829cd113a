"""Sites that a refinement begins with: traced atoms."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.nouns import TracedAtoms
from aetlab.core.poses import Poses
from aetlab.refinement.kept import well_traced
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS
from aetlab.refinement.search import drop_duplicates, lightest_kind, typical_information
from aetlab.spec import RefineSpec

#: Share of the traced sites of the first round where noise can imitate an atom: the false ones are among the weakest.
SHARE = 0.8
#: Standard deviations that the noise reaches at none of the 10⁶ to 10⁸ places of an atom in a volume.
CLEAR = 6.0


def as_sites(traced: TracedAtoms, elements: tuple[int, ...]) -> Sites:
    """Return traced atoms with occupancy 1; what is no atom becomes the first of ``elements``, which ascend."""
    kinds = np.searchsorted(elements, traced.numbers)
    kinds = np.where(np.isin(traced.numbers, elements), kinds, 0)
    return Sites(traced.positions_A.copy(), np.ones(len(traced)), kinds)


def first_sites(traced: TracedAtoms, model: AtomModel, spec: RefineSpec) -> tuple[Sites, np.ndarray]:
    """Return the traced sites, less duplicates, and which of them the first round has by ``refine.first_share``.

    By the rule these are the strongest :data:`SHARE` of them; :func:`noise_imitates_atoms` tells if all of them serve.
    The weakest ones may also be all atoms of an element, named as another one; clear sites are those that are well
    traced. A refinement of a single round has all of them.
    """
    sites = as_sites(traced, model.elements)
    if spec.first_share == "clear":
        strong = well_traced(traced)
    else:
        share = SHARE if isinstance(spec.first_share, str) else spec.first_share
        strong = np.zeros(len(traced), bool)
        strong[np.argsort(traced.signal, kind="stable")[math.floor((1 - share) * len(traced)):]] = True
    keep = drop_duplicates(sites, spec.min_distance_A)
    return sites.select(keep), strong[keep] | (spec.n_rounds == 1)


def noise_imitates_atoms(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                         min_occupancy: float) -> bool:
    """Return whether the noise reaches ``min_occupancy`` of an atom of the lightest element somewhere in the volume.

    It does where this occupancy is less than :data:`CLEAR` of its standard deviations. ``information`` (N, 4, 4) is
    JᵀJ of each site.
    """
    electrons = min(model.data.mean_electrons(poses), NOISE_FREE_ELECTRONS)
    typical = typical_information(model, sites, information, lightest_kind(model))
    return min_occupancy * math.sqrt(4 * electrons * typical) < CLEAR
