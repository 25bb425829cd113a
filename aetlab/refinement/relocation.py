"""Moves of single sites on a path through the posterior: to another place, away, and back.

Where noise imitates atoms, the images leave open where an atom is and whether there is one. The likelihood then has
maxima that no dynamics crosses. Between its steps some sites, far from each other, are therefore drawn anew (Gibbs
sampling): each is at one of the places within :data:`REACH_A`, or away.

The cost U is quadratic in the amount q of an atom at a place x: U(q) - U(0) = q g(x) + ½ q² H, with g the gradient with
respect to the amount while the site is empty, and H the information. A site that is occupied at x₀ hides some of it:
g(x) is lower by q H A(x - x₀), where A is the correlation of the gradients that white noise has at two places. One pass
gives the gradient everywhere: it is the back-projected residual, smoothed with the width of an atom, in units in which
white noise gives the gradients at the sites.

The prior is the density of atoms in the free places times what the neighbours tell
(:mod:`aetlab.refinement.surroundings`), 0 nearer to another site than sites may be. A place that k absent sites reach
counts as 1/k for each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.backend import n_threads
from aetlab.core.poses import Poses
from aetlab.refinement.fisher import SAMPLES_LAST
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.places import SAME_ATOM_A
from aetlab.refinement.search import ResidualVolume, lightest_kind
from aetlab.refinement.surroundings import LEAST_SITES, Surroundings, free_volume_A3
from aetlab.spec import RefineSpec

#: How far from its place a site is looked for, and distance of the places that are tried, in Å.
REACH_A, STEP_A = 1.8, 0.3
#: Offsets of places along an axis, those in a cube, which of them are within reach, these, and the one that is 0.
ALONG_A = np.arange(-math.floor(REACH_A / STEP_A), math.floor(REACH_A / STEP_A) + 1) * STEP_A
OFFSETS_A = np.stack(np.meshgrid(*3 * [ALONG_A], indexing="ij"), axis=-1).reshape(-1, 3)
WITHIN_REACH = np.linalg.norm(OFFSETS_A, axis=1) <= REACH_A
PLACES_A = OFFSETS_A[WITHIN_REACH]
CENTRE = int(np.argmin(np.linalg.norm(PLACES_A, axis=1)))
#: A site that is drawn nearer to its place stays there: the dynamics moves it.
STAY_A = 0.5
#: Standard deviation in Å of the Gaussian that the residual is smoothed with. Of 0.25 to 0.5 Å this one correlates best
#: with the gradients of amounts of oxygen: 0.987.
SMOOTH_A = 0.3
#: Where it ends, in standard deviations.
CUT = 4.0
#: Passes with white noise that tell how gradients at two places correlate.
N_NOISE = 2
#: Places whose log-likelihood is lower than the best by more than the first, or lower than no atom by more than the
#: second, are left out before the neighbours count.
BELOW_BEST, BELOW_NOTHING = 8.0, 10.0
#: Weight of the latest draw in how open a site is, least openness, and the multiple of it that is the probability to be
#: drawn, unless a neighbour is.
LATEST, LEAST_OPEN, OFTEN = 0.5, 0.02, 10.0
#: Sites whose places are tried at once, and most sites at which gradients are correlated.
BATCH, N_CORRELATED = 2000, 2000
#: Most voxels about sites that are smoothed at once.
MOST_VOXELS = 6_000_000


@dataclass(frozen=True)
class State:
    """All sites at one step of the path.

    ``positions_A`` (N, 3), whether each is ``present`` (N,), its ``occupancy`` (N,) when it is, and the gradient
    ``by_occupancy`` (N,) of U.
    """

    positions_A: np.ndarray
    present: np.ndarray
    occupancy: np.ndarray
    by_occupancy: np.ndarray


@dataclass(frozen=True)
class Draw:
    """The sites (M,) that were drawn: their indices, whether they are ``present``, and their places (M, 3).

    ``stays`` (M,) says of those that were and are present whether they stay where they were. ``response`` (M,) is the
    variance of what is drawn, in units of the variance that the images leave to the amount of an atom in one place: so
    much does the site answer to a change of the residual.
    """

    sites: np.ndarray
    present: np.ndarray
    positions_A: np.ndarray
    stays: np.ndarray
    response: np.ndarray

    def select(self, chosen: np.ndarray) -> Draw:
        return Draw(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Relocation:
    """Draws sites anew, some at a time.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The fitted atoms.
    information : (N,)
        Second derivative H of U with respect to the occupancy of each site, from
        :data:`aetlab.refinement.fisher.SAMPLES_LAST` samples.
    fixed : (N,), bool
        Sites that are not drawn.
    per_cost, misfit : float
        U per unit of the cost of the model, and the factor by which the images vary more than U says.
    spec : RefineSpec
        Distances between sites, and whether surroundings count.
    seed : int
        Seed of noise and draws.
    """

    def __init__(self, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, fixed: np.ndarray, *,
                 per_cost: float, misfit: float, spec: RefineSpec, seed: int) -> None:
        self._model, self._kinds, self._spec = model, sites.kinds, spec
        self._information = _without_noise(information, sites.kinds)
        self._misfit, self._poses = misfit, poses
        noise, draws, learnt = np.random.SeedSequence(seed).spawn(3)
        self._rng, self._learn_seeds = np.random.default_rng(draws), iter(learnt.generate_state(64).tolist())
        lightest = sites.kinds == lightest_kind(model)
        self._lightest = lightest if lightest.any() else np.ones(len(sites), bool)
        self._correlation, scale = self._correlate(sites, noise)
        self._scale = per_cost * scale
        free_A3 = free_volume_A3(sites.positions_A, spec.min_distance_A, spec.max_distance_A)
        share = np.bincount(sites.kinds, minlength=len(model.elements)) / len(sites)
        self._log_prior = np.log(STEP_A**3 / free_A3 * share[sites.kinds])
        self._open = np.where(fixed, 0.0, 1.0)
        self._away, self._n_drawn = np.zeros((2, len(sites)))
        self._surroundings: Surroundings | None = None

    def learn(self, state: State) -> None:
        """Learn the usual surroundings from the sites that are present."""
        if self._spec.surroundings and np.count_nonzero(state.present) >= LEAST_SITES:
            self._surroundings = Surroundings(
                self._present(state), len(self._model.elements), min_distance_A=self._spec.min_distance_A,
                max_distance_A=self._spec.max_distance_A, seed=next(self._learn_seeds))

    def residual(self) -> ResidualVolume:
        """Return an empty residual volume, to be filled by the pass before a draw."""
        return _residual_of(self._model, self._poses)

    def draw(self, state: State, residual: ResidualVolume, most: float = math.inf) -> Draw:
        """Draw some of the sites anew, with the residual and the gradients of the pass at this state.

        These are taken at random until their responses add up to ``most``.
        """
        gradient = _Gradient(residual, self._model.voxel_A, self._scale)
        chosen = self._choose(state.positions_A)
        parts = [self._draw(state, gradient, chosen[first:first + BATCH])
                 for first in range(0, max(len(chosen), 1), BATCH)]
        drawn = Draw(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Draw)))
        if drawn.response.sum() <= most:
            return drawn
        order = self._rng.permutation(len(drawn.sites))
        return drawn.select(order[np.cumsum(drawn.response[order]) - drawn.response[order] <= most])

    def count_from_here(self) -> None:
        """Forget the draws so far for :meth:`away`."""
        self._away[:], self._n_drawn[:] = 0, 0

    def away(self) -> np.ndarray:
        """Return the mean probability (N,) of the draws of each site that it goes away or to another place; 0 of none.

        It tells small probabilities better than the draws themselves do.
        """
        return self._away / np.maximum(self._n_drawn, 1)

    def _choose(self, positions_A: np.ndarray) -> np.ndarray:
        """Return sites so far apart that none of their new places meet, open ones more likely."""
        apart_A = 2 * REACH_A + self._spec.min_distance_A
        asked = np.flatnonzero(self._rng.random(len(positions_A)) < OFTEN * self._open)
        order = asked[np.argsort(-self._open[asked] * self._rng.random(len(asked)), kind="stable")]
        near = cKDTree(positions_A).query_ball_point(positions_A[order], apart_A, workers=n_threads())
        taken, chosen = np.zeros(len(positions_A), bool), []
        for site, others in zip(order, near, strict=True):
            if not taken[site]:
                chosen.append(site)
                taken[others] = True
        return np.array(chosen, np.int64)

    def _draw(self, state: State, gradient: _Gradient, chosen: np.ndarray) -> Draw:
        before_A, was = state.positions_A[chosen], state.present[chosen]
        log = self._log_likelihood(state, gradient, chosen) + self._log_prior[chosen, None]
        row, place = np.nonzero(log > np.maximum(log.max(axis=1, keepdims=True) - BELOW_BEST, -BELOW_NOTHING))
        places_A = before_A[row] + PLACES_A[place]
        kept = np.full(log.shape, -np.inf)
        kept[row, place] = log[row, place] + self._log_prior_of(state, places_A, chosen[row])
        top = np.maximum(kept.max(axis=1), 0)
        weight, nothing = np.exp(kept - top[:, None]), np.exp(-top)
        total = weight.sum(axis=1) + nothing
        drawn = self._rng.random(len(chosen)) * total - nothing
        present = drawn > 0
        pick = np.minimum((weight.cumsum(axis=1) < drawn[:, None]).sum(axis=1), weight.shape[1] - 1)
        off_A = np.linalg.norm(PLACES_A, axis=1)
        moving = weight[:, off_A >= STAY_A].sum(axis=1)
        elsewhere = nothing + moving
        varied = 1 - (nothing * total + moving**2 + (total - elsewhere) ** 2) / total**2
        response = state.occupancy[chosen] ** 2 * self._information[chosen] * varied / self._misfit
        now_open = np.where(was, elsewhere, weight.sum(axis=1)) / total
        self._open[chosen] += LATEST * (np.maximum(now_open, LEAST_OPEN) - self._open[chosen])
        self._away[chosen] += (nothing + weight[:, off_A >= SAME_ATOM_A].sum(axis=1)) / total
        self._n_drawn[chosen] += 1
        within_A = STEP_A * (self._rng.random((len(chosen), 3)) - 0.5)
        return Draw(chosen, present, before_A + PLACES_A[pick] + within_A,
                    was & present & (off_A[pick] < STAY_A), response)

    def _log_likelihood(self, state: State, gradient: _Gradient, chosen: np.ndarray) -> np.ndarray:
        """Return the log ratio (M, P) of the likelihoods of a chosen site at each place, and of no atom there."""
        amount, curvature = state.occupancy[chosen, None], self._information[chosen, None]
        usual = float(np.median(self._information[self._lightest]))
        slope = gradient.about(state.positions_A[chosen]) * np.sqrt(curvature / usual)
        # The gradient at the site itself is known.
        slope += (state.by_occupancy[chosen] - slope[:, CENTRE])[:, None] * self._correlation
        slope -= state.present[chosen, None] * amount * curvature * self._correlation
        return np.asarray(-(amount * slope + 0.5 * amount**2 * curvature) / self._misfit)

    def _log_prior_of(self, state: State, places_A: np.ndarray, of_site: np.ndarray) -> np.ndarray:
        """Return the logarithm of the prior (P,) of places beyond the density of atoms, for the sites ``of_site``."""
        number = np.cumsum(state.present) - 1  # of the present sites
        own = np.where(state.present[of_site], number[of_site], -1)
        among = self._present(state)
        log = np.zeros(len(places_A))
        if len(among) and len(places_A):
            distance_A, index = cKDTree(among.positions_A).query(places_A, k=2, workers=n_threads())
            nearest_A = np.where(index[:, 0] == own, distance_A[:, 1], distance_A[:, 0])
            log[nearest_A < self._spec.min_distance_A] = -np.inf
        free = np.isfinite(log)
        if self._surroundings is not None and len(among) >= LEAST_SITES and free.any():
            told = self._surroundings.log_density(places_A[free], among, own[free])
            log[free] = told[np.arange(len(told)), self._kinds[of_site[free]]] - told[:, -1]
        if not state.present.all() and len(places_A):
            absent = cKDTree(state.positions_A[~state.present])
            reaching = absent.query_ball_point(places_A, REACH_A, return_length=True, workers=n_threads())
            log -= np.log(np.maximum(reaching + state.present[of_site], 1))
        return log

    def _present(self, state: State) -> Sites:
        kinds = self._kinds[state.present]
        return Sites(state.positions_A[state.present], np.ones(len(kinds)), kinds)

    def _correlate(self, sites: Sites, noise: np.random.SeedSequence) -> tuple[np.ndarray, float]:
        """Return the correlation (P,) of the gradients of white noise at a site and at the places about it.

        The second value is what turns the smoothed residual into the gradient of the cost at the lightest sites.
        """
        products, square, exact = np.zeros(len(PLACES_A)), 0.0, 0.0
        chosen = np.flatnonzero(self._lightest)[::math.ceil(np.count_nonzero(self._lightest) / N_CORRELATED)]
        for child in noise.spawn(N_NOISE):
            residual, by_occupancy = _residual_of(self._model, self._poses), np.zeros(len(chosen))
            for tilt in self._model.gradients(sites, self._poses, noise=child, on_slices=residual.add):
                by_occupancy += tilt.gradient[0, chosen, 3]
            slope = _Gradient(residual, self._model.voxel_A, 1.0).about(sites.positions_A[chosen])
            here = slope[:, CENTRE]
            square += float(here @ here)
            exact += float(here @ by_occupancy)
            products += here @ slope
        square = max(square, 1e-300)
        return 0.5 * (products + products[::-1]) / square, exact / square  # the offsets are symmetric


class _Gradient:
    """The gradient of the cost with respect to an amount of an atom at places about a site, times ``scale``."""

    def __init__(self, residual: ResidualVolume, voxel_A: float, scale: float) -> None:
        self._volume, self._voxel_A, self._scale = residual.volume, voxel_A, scale

    def about(self, positions_A: np.ndarray) -> np.ndarray:
        """Return it (P, O) at the offsets within reach of positions x, y, z (P, 3)."""
        reach = (REACH_A + CUT * SMOOTH_A) / self._voxel_A
        n_along = math.floor(2 * reach) + 1
        n_at_once = max(MOST_VOXELS // n_along**3, 1)
        parts = [self._about(positions_A[first:first + n_at_once], reach, np.arange(n_along))
                 for first in range(0, max(len(positions_A), 1), n_at_once)]
        return np.concatenate(parts)

    def _about(self, positions_A: np.ndarray, reach: float, along: np.ndarray) -> np.ndarray:
        """Return it at few positions, from cubes of voxels ``along`` each axis that begin ``reach`` before them."""
        width, shape = SMOOTH_A / self._voxel_A, np.array(self._volume.shape)[[1, 2, 0]]
        centre = positions_A / self._voxel_A + (shape - 1) / 2
        index = np.ceil(centre - reach).astype(np.int64)[:, :, None] + along
        apart = (centre[:, :, None] + ALONG_A / self._voxel_A)[..., None] - index[:, :, None]
        weight = np.exp(-0.5 * (apart / width) ** 2) / (math.sqrt(2 * math.pi) * width)
        inside = np.clip(index, 0, shape[:, None] - 1)
        weight *= (index == inside)[:, :, None]  # nothing outside the volume
        x, y, z = inside[:, 0], inside[:, 1], inside[:, 2]
        values = self._volume[z[:, None, None, :], x[:, :, None, None], y[:, None, :, None]].astype(np.float64)
        for axis in (2, 1, 0):  # the last axis becomes the first one, of offsets
            values = np.einsum("pabv,pov->poab", values, weight[:, axis], optimize=True)
        return -self._scale * values.reshape(len(values), -1)[:, WITHIN_REACH]


def _without_noise(information: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the information (N,) drawn towards the mean of its element, as far as the samples explain its spread."""
    steady = information.copy()
    for kind in np.unique(kinds):
        own = information[kinds == kind]
        by_chance = 2 / SAMPLES_LAST * own.mean() ** 2
        steady[kinds == kind] += min(by_chance / max(float(own.var()), 1e-300), 1.0) * (own.mean() - own)
    return steady


def _residual_of(model: AtomModel, poses: Poses) -> ResidualVolume:
    return ResidualVolume(model.shape_zxy, model.n_layers_per_slice, poses, model.voxel_A)
