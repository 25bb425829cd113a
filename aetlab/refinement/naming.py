"""Element of each site, from the likelihood of the images.

A site holds amounts c_k of the elements: the fitted occupancy q of its own element, and 0 of the others. Around the fit
the cost is quadratic in the change δ of the amounts, with the position eliminated: ΔC = g·δ + ½ δᵀ S δ. S is the Schur
complement of JᵀJ on the amounts, g the gradient with respect to them. The hypotheses are one atom of one element, and
no atom. In the amplitudes the noise has the variance 1/(4n), so that the log-likelihood of a hypothesis is -4n ΔC. It
is divided by the factor by which the uncertainty of the other atoms raises the variance, and at the end of a refinement
by what repeats shows beyond the counts (:func:`misfit_factor`). Prior shares of the elements
are those of the sites themselves (expectation maximisation).

An atom may be anywhere, and a site is the best of all places near it. The likelihood of an atom is therefore the mean
over its places: their density ρ times (2π)^(3/2) √det Σ times that of the best place, with Σ the covariance of the
position (Laplace's approximation). At the end of a refinement this factor is the prior odds of an atom against none
(:func:`odds_of_best_place`). While atoms are missing their residues make others unlikely, and the odds are better.
"""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.doubts import MOST_SCATTER
from aetlab.refinement.fisher import CHI_SQUARE_MEDIAN, invert_blocks, own_information

#: Logarithm of the odds of an atom against none while a refinement goes on: one in ten.
ODDS_IN_ROUNDS = math.log(0.1 / 0.9)
#: Occupancies within which the information on a position is converted to that of a whole atom.
CONVERTED = (0.5, 2.0)
#: Electrons in a vacuum pixel that are assumed for noise-free images.
NOISE_FREE_ELECTRONS = 1e4
#: Fewest atoms of an element whose scatter is a measure.
LEAST_ALIKE = 20
#: Mean factor of the variance by the spread of the tilts that counts for names; smaller ones are chance.
LEAST_TILT_FACTOR = 1.3


def name_sites(occupancy: np.ndarray, kinds: np.ndarray, by_amount: np.ndarray, information: np.ndarray,
               electrons_per_pixel: float, variance_factor: float = 1.0,
               log_surroundings: np.ndarray | float = 0.0,
               log_odds: np.ndarray | float = ODDS_IN_ROUNDS) -> np.ndarray:
    """Return the posterior (N, K + 1) of each element, and of no atom in the last column.

    Parameters
    ----------
    occupancy, kinds : (N,), (N,)
        Fitted occupancy and element of each site.
    by_amount : (N, K)
        Gradient of the cost with respect to the amount of each element at the site.
    information : (N, 3 + K, 3 + K)
        JᵀJ of positions and amounts.
    electrons_per_pixel, variance_factor : float
        n, and the factor by which the other atoms raise the variance.
    log_surroundings : (N, K + 1), optional
        Log-likelihood of each hypothesis from the neighbours (:mod:`aetlab.refinement.surroundings`).
    log_odds : (N,), optional
        Logarithm of the prior odds of an atom against none.
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
    log_likelihood[:, :n_kinds] += np.broadcast_to(log_odds, n)[:, None]
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    share = np.append(np.full(n_kinds, 1 / n_kinds), 1.0)
    for _ in range(30):
        posterior = likelihood * share
        posterior /= posterior.sum(axis=1, keepdims=True)
        atoms = posterior[:, :n_kinds].sum(axis=0) + 1.0
        share[:n_kinds] = atoms / atoms.sum()
    return posterior


def odds_of_best_place(occupancy: np.ndarray, kinds: np.ndarray, information: np.ndarray, electrons_per_pixel: float,
                       variance_factor: float, free_A3: float) -> np.ndarray:
    """Return the logarithm of the prior odds (N,) of an atom against none, at the best of all its places.

    ``free_A3`` is the volume for each site in which an atom may be
    (:func:`aetlab.refinement.surroundings.free_volume_A3`); the others are those of :func:`name_sites`.
    """
    electrons = min(electrons_per_pixel, NOISE_FREE_ELECTRONS) / variance_factor
    whole = 1 / np.clip(occupancy, *CONVERTED)
    covariance = invert_blocks(own_information(information, kinds, whole)) / (4 * electrons)
    volume_A3 = (2 * math.pi) ** 1.5 * np.sqrt(np.linalg.det(covariance[:, :3, :3]))
    return np.asarray(np.log(np.minimum(volume_A3 / free_A3, 1.0)))


def with_presence(posterior: np.ndarray, names: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Return the ``posterior`` (N, K + 1) of elements and of no atom for sites that are there with the probability
    ``presence`` (N,), as it is where that is NaN.

    ``names`` (N, K) are the probabilities of the elements, or 0 where those of ``posterior`` count.
    """
    names = np.where(names.any(axis=1, keepdims=True), names, posterior[:, :-1])
    told = np.column_stack([names * (presence / names.sum(axis=1))[:, None], 1 - presence])
    return np.where(np.isnan(presence)[:, None], posterior, told)


def exchanged_occupancy(occupancy: np.ndarray, kinds: np.ndarray, named: np.ndarray,
                        information: np.ndarray) -> np.ndarray:
    """Return the occupancy (N,) with which atoms of the elements ``named`` scatter as those of ``kinds`` did.

    ``information`` (N, 3 + K, 3 + K) is JᵀJ of positions and amounts.
    """
    site = np.arange(len(kinds))
    before, after = (information[site, 3 + kind, 3 + kind] for kind in (kinds, named))
    strength = np.sqrt(np.maximum(before / np.maximum(after, 1e-30), 0))
    return np.where(named == kinds, occupancy, occupancy * strength)


def separate_amounts(information: np.ndarray) -> np.ndarray:
    """Return the information (N, K, K) on the amounts with unknown positions: the Schur complement."""
    across = information[:, :3, 3:]
    return information[:, 3:, 3:] - np.swapaxes(across, 1, 2) @ invert_blocks(information[:, :3, :3]) @ across


def separation(information: np.ndarray, first: int, second: int, variance_factor: float = 1.0) -> np.ndarray:
    """Return the distance d (N,) between the hypotheses of two elements at a site, in standard deviations.

    d is that of one electron in a vacuum pixel; n electrons make it √n times as large. Two elements of equal prior
    probability are confused in a fraction Φ(-d/2) of the sites.
    """
    marginal = separate_amounts(information)
    square = marginal[:, first, first] + marginal[:, second, second] - 2 * marginal[:, first, second]
    return np.sqrt(np.maximum(4 * square / variance_factor, 0))


def scatter_of_occupancies(kinds: np.ndarray, occupancy: np.ndarray, error: np.ndarray) -> float:
    """Return the scatter of the occupancies of N atoms of one element in units of their standard errors, robustly.

    Atoms of an element scatter alike, so that their occupancies differ by their errors alone and the scatter is 1. It
    is the largest of all ``kinds`` of at least :data:`LEAST_ALIKE` atoms, from medians, and NaN without such a kind.
    What the model lacks in all images differs from place to place, and raises it; no other error shows it.
    """
    scatter = [math.nan]
    for kind in np.unique(kinds):
        own = (kinds == kind) & (error > 0)
        if own.sum() >= LEAST_ALIKE:
            off = (occupancy[own] - np.median(occupancy[own])) / error[own]
            scatter.append(math.sqrt(float(np.median(off**2)) / CHI_SQUARE_MEDIAN))
    return float(np.nanmax(scatter)) if len(scatter) > 1 else math.nan


def misfit_factor(kinds: np.ndarray, occupancy: np.ndarray, error: np.ndarray, tilts: np.ndarray) -> float:
    """Return the factor by which the variance of amounts exceeds that of the counts, at least 1.

    It is the mean of ``tilts``, the factors by the spread of the tilts, which ``error`` contains already, times the
    square of the scatter of the occupancies beyond ``error``; each counts where it is more than chance.
    """
    by_tilts, scatter = float(np.mean(tilts)) if len(tilts) else 1.0, scatter_of_occupancies(kinds, occupancy, error)
    return (by_tilts if by_tilts > LEAST_TILT_FACTOR else 1.0) * (scatter**2 if scatter > MOST_SCATTER else 1.0)
