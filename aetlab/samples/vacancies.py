"""Vacancies: atoms removed at random from regions of the sample, each region with its own fraction."""

from __future__ import annotations

import dataclasses

import numpy as np

from aetlab.core.nouns import Atoms
from aetlab.spec import SpecError, VacancyRegion


def remove_vacancies(atoms: Atoms, regions: tuple[VacancyRegion, ...], rng: np.random.Generator) -> Atoms:
    """Remove the given fraction (rounded to whole atoms) of the atoms in each region, one region after the other.

    Where regions overlap, the later one draws from the atoms that the earlier ones left. ``counts`` gains
    ``n_vacancies``, and ``n_vacancies_<i>`` for region i. Raises SpecError for a region that names a part the sample
    does not have, or an empty region with a fraction above 0.
    """
    present = np.ones(len(atoms), dtype=bool)
    counts = dict(atoms.counts)
    for i_region, region in enumerate(regions):
        setting = f"sample.vacancies[{i_region}]"
        inside = present.copy()
        if region.part != "all":
            if region.part not in atoms.part_names:
                raise SpecError(f"{setting}.part={region.part!r} cannot be used: this sample has the parts "
                                f"{', '.join(atoms.part_names)}")
            inside &= atoms.part == atoms.part_names.index(region.part)
        for axis, (low, high) in enumerate((region.x_A, region.y_A, region.z_A)):
            inside &= (atoms.positions_A[:, axis] >= low) & (atoms.positions_A[:, axis] < high)
        candidates = np.flatnonzero(inside)
        if region.fraction > 0 and len(candidates) == 0:
            raise SpecError(f"{setting}={region.part!r} cannot be used: no atoms of the sample lie in this region")
        n_removed = round(region.fraction * len(candidates))
        present[rng.choice(candidates, n_removed, replace=False)] = False
        counts[f"n_vacancies_{i_region}"] = n_removed
    counts["n_vacancies"] = int((~present).sum())
    return dataclasses.replace(atoms.select(present), counts=counts)
