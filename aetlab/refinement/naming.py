"""Which element each site holds, by the likelihood of the images.

A site holds amounts c_k of the elements, as fitted q of its own and 0 of the others. Around the fit the cost is
quadratic in the amounts, with positions following: ΔC(c) = g·δ + ½ δᵀ S δ, S the Schur complement of JᵀJ on the
amounts and g the gradient with respect to them. The hypotheses are one atom of one element and no atom at all; in the
amplitudes the noise has variance 1/(4n), so that the log-likelihood of one is -4n ΔC, divided by what the ignorance of
the other atoms adds to the variance. Prior shares of the elements are those of the sites themselves (expectation
maximisation); no atom has a fixed one.
"""

from __future__ import annotations

import numpy as np

from aetlab.refinement.fisher import invert_blocks

#: Prior share of sites that are no atom.
PRIOR_NOTHING = 0.005
#: Electrons in a vacuum pixel that noise-free images are taken to have.
NOISE_FREE_ELECTRONS = 1e4


def name_sites(occupancy: np.ndarray, kinds: np.ndarray, by_amount: np.ndarray, information: np.ndarray,
               electrons_per_pixel: float, variance_factor: float = 1.0,
               log_surroundings: np.ndarray | float = 0.0) -> np.ndarray:
    """Posterior (N, K + 1) of each element, and of no atom in the last column.

    Parameters
    ----------
    occupancy, kinds : (N,), (N,)
        As fitted.
    by_amount : (N, K)
        Gradient of the cost with respect to the amount of each element at the site.
    information : (N, 3 + K, 3 + K)
        JᵀJ of positions and amounts.
    electrons_per_pixel, variance_factor : float
        n, and the factor of the variance.
    log_surroundings : (N, K + 1), optional
        Log likelihood of each hypothesis by where the site lies (:mod:`aetlab.refinement.surroundings`).
    """
    n, n_kinds = by_amount.shape
    marginal = separate_amounts(information)
    here = np.zeros((n, n_kinds))
    here[np.arange(n), kinds] = occupancy
    electrons = min(electrons_per_pixel, NOISE_FREE_ELECTRONS)
    log_likelihood = np.empty((n, n_kinds + 1))
    for m in range(n_kinds + 1):
        change = (np.eye(n_kinds + 1)[m, :n_kinds] - here)
        cost = (by_amount * change).sum(axis=1) + 0.5 * np.einsum("ni,nij,nj->n", change, marginal, change)
        log_likelihood[:, m] = -4 * electrons * cost / variance_factor
    log_likelihood += log_surroundings
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    share = np.append(np.full(n_kinds, (1 - PRIOR_NOTHING) / n_kinds), PRIOR_NOTHING)
    for _ in range(30):
        posterior = likelihood * share
        posterior /= posterior.sum(axis=1, keepdims=True)
        atoms = posterior[:, :n_kinds].sum(axis=0) + 1.0
        share[:n_kinds] = (1 - PRIOR_NOTHING) * atoms / atoms.sum()
    return posterior


def separate_amounts(information: np.ndarray) -> np.ndarray:
    """Information (N, K, K) on the amounts alone, positions unknown: the Schur complement."""
    across = information[:, :3, 3:]
    return information[:, 3:, 3:] - np.swapaxes(across, 1, 2) @ invert_blocks(information[:, :3, :3]) @ across


def separation(information: np.ndarray, first: int, second: int, variance_factor: float = 1.0) -> np.ndarray:
    """Distance (N,) of one atom of one element from one of another at the same site, for one electron a pixel.

    In standard deviations; n electrons in a vacuum pixel make it √n times as large. Two elements equally likely before
    are confused in a part Φ(-d/2) of the sites.
    """
    marginal = separate_amounts(information)
    square = marginal[:, first, first] + marginal[:, second, second] - 2 * marginal[:, first, second]
    return np.sqrt(np.maximum(4 * square / variance_factor, 0))
