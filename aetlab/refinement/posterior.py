"""Positions, their errors, elements and the probability of each site where the images are not linear in the noise.

Where noise can imitate an atom, the errors of positions are a third of the width of an atom. The likelihood is no
parabola over that distance and has many maxima: its highest one is not the best estimate, its curvature does not tell
the error, and another set of sites may be as likely. The mean over the posterior has the least mean squared error, and
the spread over it is the error. Here both are averages over a path through it (:mod:`aetlab.refinement.path`).

A site is reported at the place where it was most often, and present as often as it was there; one that never left is
present with the mean probability of its draws, and these tell its element. The mean is that of
x - H⁻¹ ∇U with H the block of the atom: ∇U has the mean 0, and what neighbouring steps have in common cancels (control
variate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import hardly_determined
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.path import BY_CHANCE, REACH_A, Path
from aetlab.refinement.places import Places, Tally, presence_on_path
from aetlab.refinement.relocation import Relocation
from aetlab.spec import RefineSpec

#: Rise of U from the first part of the path to another, in units of its mean value ½ for each parameter, beyond which
#: the path has become unstable nevertheless.
HEATED = 0.1
#: One of so many steps is left out at the start, until the path is independent of the fit.
WARM_UP = 4
#: Parts of the path whose means tell how well the whole is known: each much longer than the path remembers.
N_PARTS = 7
#: Fewest steps of a path.
LEAST_STEPS = 8 * N_PARTS


@dataclass(frozen=True)
class Sampled:
    """Means over the posterior, ``positions_A`` (N, 3), and their standard errors ``errors_A`` (N, 3).

    ``factor`` is the mean ratio of their variances to those of the linear model, of the sites that are there.
    ``presence`` (N,) is the probability of each site to be there, NaN if nothing was sampled. ``moved`` (N,) says which
    sites are at another place than they were fitted, and ``names`` (N, K) holds the probabilities of the elements of
    each, 0 for one that was not drawn. The likeliest occupancies of an element are ``occupancy_factor`` (K,) times the
    fitted ones; ``usual_occupancy`` is the one of all elements that is farthest from 1, NaN if nothing was sampled.
    ``n_cooled`` of the steps were unstable for a site or for all, and shortened the next ones.
    """

    positions_A: np.ndarray
    errors_A: np.ndarray
    factor: float
    occupancy_factor: np.ndarray
    presence: np.ndarray
    moved: np.ndarray
    names: np.ndarray
    usual_occupancy: float = math.nan
    n_cooled: int = 0
    unstable: bool = False

    @property
    def present(self) -> np.ndarray:
        """Sites (N,) that are there with a probability of at least one half, as far as is known."""
        return ~(self.presence < 0.5)

    def counts(self, kinds: np.ndarray) -> dict[str, float]:
        """Return how many sites are elsewhere than fitted, of another element or gone, and what tells of the path.

        ``kinds`` (N,) are the elements of the fit.
        """
        found = {} if math.isnan(self.usual_occupancy) else {"sampled_occupancy": self.usual_occupancy}
        renamed = self.names.any(axis=1) & (self.names.argmax(axis=1) != kinds)
        return found | {"sampled_moved": float(np.count_nonzero(self.present & self.moved)),
                "sampled_renamed": float(np.count_nonzero(self.present & renamed)),
                "sampled_gone": float(np.count_nonzero(~self.present)), "sampled_cooled": float(self.n_cooled),
                "sampled_unstable": float(self.unstable)}


def sample_atoms(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, errors: np.ndarray, *,
                 n_steps: int, spec: RefineSpec, misfit: float, seed: int,
                 on_pass: Callable[[float], None]) -> Sampled:
    """Return mean positions over the posterior, their errors and presence; the positions given without noise or steps.

    They are returned as well, as unstable, if U rises along the path: Langevin dynamics of too long steps heats up.
    Atoms that the images hardly determine keep their positions and errors, and are present.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The fitted atoms; poses stay as they are.
    information : (N, 4, 4)
        JᵀJ of each site.
    errors : (N, 4)
        Standard errors of positions in Å and occupancies by the linear model.
    n_steps : int
        Steps, of one pass over the data each, at least :data:`LEAST_STEPS`, or 0.
    spec : RefineSpec
        Distances between sites, and whether surroundings count.
    misfit : float
        Factor by which the images vary more than the counts say, as far as the presence of a site goes.
    seed : int
        Seed of the random forces and draws.
    on_pass : callable
        Called with the cost after each pass.
    """
    n, n_kinds = len(sites), len(model.elements)
    as_fitted = Sampled(sites.positions_A, errors[:, :3], 1.0, np.ones(n_kinds), np.full(n, np.nan), np.zeros(n, bool),
                        np.zeros((n, n_kinds)))
    if math.isinf(model.data.electrons_per_pixel) or not n or not n_steps:
        return as_fitted
    path = Path(model, sites, poses, information, errors[:, 3], seed, on_pass)
    own_A2 = np.diagonal(path.covariance, axis1=1, axis2=2)[:, :3].copy()
    known = ~hardly_determined(path.covariance, sites.kinds)
    relocation = Relocation(model, sites, poses, path.per_cost * information[:, 3, 3], ~known, per_cost=path.per_cost,
                            misfit=misfit, spec=spec, seed=seed)
    relocation.learn(path.state)
    n_warm = n_steps // WARM_UP
    for _ in range(n_warm):
        path.step(relocation)
    relocation.learn(path.state)
    relocation.count_from_here()
    n_each = (n_steps - n_warm) // N_PARTS
    tally, stays = Tally(path.home_A), path.present.copy()
    moves_A, corrected_A = np.zeros((2, N_PARTS, n, 3))  # means of the parts, of sites that stay
    potentials, factors = np.zeros(N_PARTS), np.zeros(n_kinds)
    for part in range(N_PARTS):
        for _ in range(n_each):
            stays &= path.step(relocation)
            potentials[part] += path.per_cost * path.cost / n_each
            tally.add(path.home_A, path.move_A, path.corrected_move_A, path.present)
            moves_A[part] += path.move_A / n_each
            corrected_A[part] += path.corrected_move_A / n_each
            factors += path.factors / (n_each * N_PARTS)
        usual = 2.0 * n
        if potentials[part] - potentials[0] > HEATED * usual + BY_CHANCE * math.sqrt(usual):
            return replace(as_fitted, n_cooled=path.n_cooled, unstable=True)
    places, stays = tally.places(), stays & known
    variance_A2 = _variances(places, moves_A, corrected_A, own_A2, sites.kinds, stays)
    seen = (known & (places.presence > 0))[:, None]
    presence = presence_on_path(places, relocation.away(), N_PARTS * n_each)
    presence[~known] = 1.0
    positions_A = np.where(seen, places.positions_A, sites.positions_A)
    moved = np.linalg.norm(positions_A - sites.positions_A, axis=1) > REACH_A
    there = known & (presence >= 0.5)
    ratio = variance_A2[there] / np.maximum(errors[there, :3] ** 2, 1e-300)
    usual = (path.fitted * factors)[np.unique(sites.kinds)]
    return Sampled(positions_A, np.where(seen, np.sqrt(variance_A2), errors[:, :3]),
                   float(ratio.mean()) if there.any() else 1.0, factors, presence, moved, relocation.names(),
                   float(usual[np.abs(usual - 1).argmax()]), path.n_cooled)


def _variances(places: Places, moves_A: np.ndarray, corrected_A: np.ndarray, own_A2: np.ndarray, kinds: np.ndarray,
               stays: np.ndarray) -> np.ndarray:
    """Return the variances (N, 3) of the means over a path as estimates of the positions.

    They are the spread over the path, and what its length leaves. A path of few independent places tells the spread of
    a single atom badly: it is drawn towards that of its element, in units of ``own_A2`` (N, 3), as far as the spreads
    of the atoms of the element differ by chance alone (empirical Bayes).

    Parameters
    ----------
    places : Places
        Places of the sites.
    moves_A, corrected_A : (:data:`N_PARTS`, N, 3)
        Means over the parts of the path of the position, and of that less H⁻¹ ∇U, which is the estimate.
    kinds : (N,)
        Element of each site.
    stays : (N,)
        Sites that were in one place all the time: they tell how many steps are independent.
    """
    spread = places.spread_A2 / own_A2
    of_mean, of_corrected = (parts.var(axis=0, ddof=1) / N_PARTS / own_A2 for parts in (moves_A, corrected_A))
    share = np.maximum(places.presence, 1e-3)[:, None]
    ratio = np.empty(spread.shape)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        still = chosen & stays if (chosen & stays).any() else stays
        n_independent, left = 2.0, 0.0
        if still.any():
            n_independent = max(float(spread[still].mean() / max(of_mean[still].mean(), 1e-300)), n_independent)
            left = float(of_corrected[still].mean())
        n_own = np.maximum(n_independent * share[chosen], 2.0)
        own = spread[chosen] * n_own / (n_own - 1)
        often = share[chosen, 0] >= min(0.5, float(share[chosen].max()))
        usual = own[often].mean()
        by_chance = 2 * usual**2 / (n_own - 1)
        true = max(float(own[often].var() - by_chance[often].mean()), 0.0)
        ratio[chosen] = usual + true / (true + by_chance) * (own - usual) + left / share[chosen]
    return ratio * own_A2
