"""Standard errors of the parameters of all sites, and the factors of their variances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import (
    own_information,
    spread_of_tilts,
    standard_errors,
    tilt_factors,
    variance_factors,
)
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import misfit_factor
from aetlab.refinement.planes import plane_factors
from aetlab.refinement.posterior import Sampled


@dataclass(frozen=True)
class ErrorBars:
    """Errors of N sites of K elements, for x, y, z in Å and the occupancy.

    ``information`` (N, 4, 4) is JᵀJ of each site and ``linear`` (N, 4) the errors by it. The factors of the variances
    are ``overlap`` (K, 4), which ``linear`` contains, ``tilts`` (K, 4) and ``planes`` (4,). ``misfit`` is the factor
    by which amounts vary more than the counts say (:func:`aetlab.refinement.naming.misfit_factor`).
    """

    information: np.ndarray
    linear: np.ndarray
    overlap: np.ndarray
    tilts: np.ndarray
    planes: np.ndarray
    misfit: float

    @classmethod
    def of(cls, model: AtomModel, coarse: AtomModel, sites: Sites, poses: Poses, full: np.ndarray, by_tilt: np.ndarray,
           seed: int) -> ErrorBars:
        """Return the errors of fitted sites; ``coarse`` is the model with coarse slices.

        ``full`` (N, 3 + K, 3 + K) and ``by_tilt`` (T, N, 4) are the information and the gradients of
        :func:`aetlab.refinement.fisher.try_elements`.
        """
        n_electrons, seen = model.data.mean_electrons(poses), model.data.present.any(axis=1)
        information = own_information(full, sites.kinds, np.ones(len(sites)))
        overlap = variance_factors(coarse, sites, poses, information, seed)
        linear = standard_errors(information, n_electrons, overlap[sites.kinds], sites.occupancy)
        tilts = tilt_factors(information, spread_of_tilts(by_tilt[seen]), sites.kinds, len(model.elements),
                             n_electrons, int(seen.sum()))
        there = np.unique(sites.kinds)
        planes = plane_factors(model, sites, poses, information, tilts[there])
        own = linear[:, 3] * np.sqrt(tilts * planes)[sites.kinds, 3]
        return cls(information, linear, overlap, tilts, planes,
                   misfit_factor(sites.kinds, sites.occupancy, own, (tilts * planes)[there, 3]))

    @property
    def name_factor(self) -> float:
        """Factor of the variance of amounts where all other atoms are unknown."""
        return float(self.overlap[:, 3].mean()) * self.misfit

    def stated(self, sampled: Sampled, kinds: np.ndarray) -> np.ndarray:
        """Return the errors (N, 4) that are stated, with those of the sampled positions; ``kinds`` (N,)."""
        return np.column_stack([sampled.errors_A, self.linear[:, 3]]) * np.sqrt((self.tilts * self.planes)[kinds])

    def summary(self, kinds: np.ndarray, sampled: Sampled) -> dict[str, float]:
        """Return the entries of the summary for sites of ``kinds`` (N,)."""
        return {"variance_factor_position": float(self.overlap[:, :3].mean()),
                "variance_factor_occupancy": float(self.overlap[:, 3].mean()),
                "tilt_factor_position": float(self.tilts[np.unique(kinds), :3].mean()),
                "sampled_factor_position": sampled.factor,
                "plane_factor_position": float(self.planes[:3].mean()),
                "plane_factor_occupancy": float(self.planes[3])} | sampled.counts(kinds)
