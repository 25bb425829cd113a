"""Sites that a refinement begins with: traced atoms."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.nouns import TracedAtoms
from aetlab.refinement.model import AtomModel, Sites


def first_sites(traced: TracedAtoms, model: AtomModel, share: float) -> Sites:
    """Return the strongest ``share`` of the traced atoms with occupancy 1; no atom becomes the lightest element."""
    weakest_first = np.argsort(traced.signal, kind="stable")
    strongest = np.sort(weakest_first[math.floor((1 - share) * len(traced)):])
    return as_sites(traced, model.elements).select(strongest)


def as_sites(traced: TracedAtoms, elements: tuple[int, ...]) -> Sites:
    """Return traced atoms with occupancy 1; what is no atom becomes the first of ``elements``, which ascend."""
    kinds = np.searchsorted(elements, traced.numbers)
    kinds = np.where(np.isin(traced.numbers, elements), kinds, 0)
    return Sites(traced.positions_A.copy(), np.ones(len(traced)), kinds)
