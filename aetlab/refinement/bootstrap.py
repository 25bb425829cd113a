"""Standard errors where the noise moves atoms so far that the images do not follow linearly.

The Fisher information describes small errors. Where noise can imitate an atom, the errors of positions are a third of
the width of an atom: the likelihood is no parabola over that distance, and has maxima of its own there. The images of
the refined atoms get new noise, and the atoms are fitted to them, starting from themselves. How far they move measures
their errors without a linear model (parametric bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap,
1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fit import fit_to_images
from aetlab.refinement.model import AtomModel, Sites

#: Passes at most, and the RMS change in standard errors below which the fit ends: five times less than in a refinement,
#: for this fit starts at its end, and what it leaves would make the errors too small.
N_PASSES, TOLERANCE = 60, 0.02
#: Atoms that move farther, in Å, have been lost and not displaced.
FARTHEST_A = 0.8


def bootstrap_factors(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, errors: np.ndarray,
                      seed: int, on_pass: Callable[[float], None]) -> np.ndarray:
    """Return the factors by which variances exceed those stated, (K, 4) by element, at least 1; 1 without noise.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The refined atoms in the model of the images; positions and occupancies are fitted.
    information : (N, 4, 4)
        JᵀJ of each site.
    errors : (N, 4)
        Standard errors of positions in Å and occupancies.
    seed : int
        Seed of the noise: that of the counts, 1/(4n) in the amplitudes.
    on_pass : callable
        Called with the cost after each pass.
    """
    factors = np.ones((len(model.elements), 4))
    if math.isinf(model.data.electrons_per_pixel):
        return factors
    amplitudes = np.sqrt(model.images(sites, poses))
    rng = np.random.default_rng(seed)
    for i_tilt, electrons in enumerate(model.data.electrons_of_images):
        noise = rng.standard_normal(amplitudes[i_tilt].shape, np.float32)
        amplitudes[i_tilt] += noise / np.sqrt(4 * electrons)[:, None, None].astype(np.float32)
    drawn = model.with_images(np.maximum(amplitudes, 0) ** 2)
    fit = fit_to_images(drawn, sites, poses, information, n_passes=N_PASSES, tolerance=TOLERANCE, on_pass=on_pass)
    moved_A = fit.sites.positions_A - sites.positions_A
    square = np.column_stack([moved_A, fit.sites.occupancy - sites.occupancy]) ** 2 / errors**2
    kept = np.linalg.norm(moved_A, axis=1) < FARTHEST_A
    for kind in np.unique(sites.kinds[kept]):
        factors[kind] = np.maximum(square[kept & (sites.kinds == kind)].mean(axis=0), 1.0)
    return factors
