"""Moves of single sites on a path through the posterior: to another place, away, and back.

Where noise imitates atoms, the images leave open where an atom is and whether there is one. The likelihood then has
maxima that no dynamics crosses. Between its steps some sites, far from each other, are therefore drawn anew (Gibbs
sampling): each holds one of the elements at one of the places within :data:`aetlab.refinement.response.REACH_A`, or is
away.

The cost U is quadratic in the amount q of an atom at a place x, in atoms of the lightest element: U(q) - U(0) = q g(x)
+ ½ q² H, with g the gradient with respect to the amount while the site is empty, and H the information. A site that is
occupied at x₀ hides some of it: g(x) is lower by q H A(x - x₀), where A is the correlation of the gradients that white
noise has at two places. One pass gives the gradient everywhere (:mod:`aetlab.refinement.response`), in units in which
white noise gives the gradients at the sites. Sites are drawn in groups, and each group knows of the draws of those
before.

The prior is the density of the atoms of the element in the free places times what the neighbours tell
(:mod:`aetlab.refinement.surroundings`), 0 nearer to another site than sites may be. A place that k absent sites reach
counts as 1/k for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.backend import n_threads
from aetlab.core.poses import Poses
from aetlab.refinement.fisher import SAMPLES_LAST
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.places import SAME_ATOM_A
from aetlab.refinement.response import (
    CENTRE,
    PLACES_A,
    REACH_A,
    STEP_A,
    AmountGradient,
    half_box_A,
    measure_response,
    residual_of,
)
from aetlab.refinement.search import ResidualVolume, join, lightest_kind, relative_information
from aetlab.refinement.surroundings import LEAST_SITES, Surroundings, free_volume_A3
from aetlab.spec import RefineSpec

#: A site that is drawn nearer to its place stays there: the dynamics moves it.
STAY_A = 0.5
#: Passes with white noise that tell how gradients at two places correlate.
N_NOISE = 2
#: Places whose log-likelihood is lower than the best by more than the first, or lower than no atom by more than the
#: second, are left out before the neighbours count.
BELOW_BEST, BELOW_NOTHING = 8.0, 10.0
#: Weight of the latest draw in how open a site is, least openness, the multiple of it that is the probability to be
#: drawn, unless a neighbour is, and the number of steps without a draw after which a site counts as twice as open.
LATEST, LEAST_OPEN, OFTEN, PATIENCE = 0.5, 0.02, 10.0, 5
#: Variance of a draw that is expected of a site that was not drawn yet.
FIRST_VARIANCE = 0.1
#: Sites whose places are tried at once, most sites at which gradients are correlated, and fewest: where there are fewer
#: of the lightest element, they are correlated at random places.
BATCH, N_CORRELATED, LEAST_CORRELATED = 2000, 2000, 500


@dataclass(frozen=True)
class State:
    """All sites at one step of the path.

    ``positions_A`` (N, 3), whether each is ``present`` (N,), its element ``kinds`` (N,) and occupancy when it is. The
    occupancy is the ``usual`` one (K,) of an element times the ``share`` (N,) of the site.
    """

    positions_A: np.ndarray
    present: np.ndarray
    kinds: np.ndarray
    share: np.ndarray
    usual: np.ndarray


@dataclass(frozen=True)
class Draw:
    """The sites (M,) that were drawn: their indices, whether they are ``present``, their elements and places (M, 3).

    ``stays`` (M,) says of those that were and are present whether they stay what and where they were. ``response`` (M,)
    is the variance of what is drawn, in units of the variance that the images leave to the amount of an atom in one
    place: so much does the site answer to a change of the residual.
    """

    sites: np.ndarray
    present: np.ndarray
    kinds: np.ndarray
    positions_A: np.ndarray
    stays: np.ndarray
    response: np.ndarray

    def select(self, chosen: np.ndarray) -> Draw:
        return Draw(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Evidence:
    """What the draws of a step know of the images.

    ``gradient`` follows the draws, ``volume`` is the residual of the pass before them, and ``lacks`` (N,) is what the
    smoothed residual lacked of the gradient at each site.
    """

    gradient: AmountGradient
    volume: np.ndarray
    lacks: np.ndarray


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
        self._model, self._spec = model, spec
        self._half_A = half_box_A(model)
        self._root = np.sqrt(relative_information(model))
        #: Information on an amount of the lightest element at each site.
        self._information = _without_noise(information, sites.kinds) / self._root[sites.kinds] ** 2
        self._misfit, self._poses = misfit, poses
        noise, draws, learnt = np.random.SeedSequence(seed).spawn(3)
        self._rng, self._learn_seeds = np.random.default_rng(draws), iter(learnt.generate_state(64).tolist())
        self._correlation, scale = self._correlate(sites, noise)
        self._scale = per_cost * scale
        lightest = sites.kinds == lightest_kind(model)
        self._usual = float(np.median(self._information[lightest] if lightest.any() else self._information))
        #: By how much an atom at each site scatters more than one where the gradient is in its units.
        self._weight = np.sqrt(self._information / self._usual)
        self._response = self._respond(sites)
        #: About how much the draw of each site varies.
        self._varies = FIRST_VARIANCE * self._information * self._root[sites.kinds] ** 2 / misfit
        free_A3 = free_volume_A3(sites.positions_A, spec.min_distance_A, spec.max_distance_A)
        share = np.bincount(sites.kinds, minlength=len(model.elements)) / len(sites)
        with np.errstate(divide="ignore"):  # elements that no site holds
            self._log_prior = np.log(STEP_A**3 / free_A3 * share)
        self._open, self._waited = np.where(fixed, 0.0, 1.0), np.zeros(len(sites))
        self._away, self._n_drawn = np.zeros((2, len(sites)))
        self._named = np.zeros((len(sites), len(model.elements)))
        self._surroundings: Surroundings | None = None

    def learn(self, state: State) -> None:
        """Learn the usual surroundings from the sites that are present."""
        if self._spec.surroundings and np.count_nonzero(state.present) >= LEAST_SITES:
            self._surroundings = Surroundings(
                self._present(state), len(self._model.elements), min_distance_A=self._spec.min_distance_A,
                max_distance_A=self._spec.max_distance_A, seed=next(self._learn_seeds))

    def residual(self) -> ResidualVolume:
        """Return an empty residual volume, to be filled by the pass before the draws of a step."""
        return residual_of(self._model, self._poses)

    def evidence(self, state: State, residual: ResidualVolume, by_occupancy: np.ndarray) -> Evidence:
        """Return what the draws of a step know after the pass at ``state`` that gave ``by_occupancy`` (N,)."""
        gradient = AmountGradient(residual.volume, self._model.voxel_A, self._scale)
        smoothed = gradient.at(state.positions_A)[:, 0] * self._weight
        return Evidence(gradient, residual.volume.copy(), by_occupancy / self._root[state.kinds] - smoothed)

    def change(self, state: State, evidence: Evidence) -> np.ndarray:
        """Return how the derivatives (N, 4) of U by positions and occupancies have changed since the step began.

        Those by positions are those of a whole atom.
        """
        change = evidence.gradient.since(evidence.volume).at(state.positions_A)[:, [1, 2, 3, 0]]
        return np.asarray(change * (self._weight * self._root[state.kinds])[:, None])

    def by_occupancy(self, state: State, evidence: Evidence, sites: np.ndarray) -> np.ndarray:
        """Return about the derivatives (M,) of U by the occupancies of ``sites`` that were drawn in this step."""
        smoothed = evidence.gradient.at(state.positions_A[sites])[:, 0]
        return np.asarray(smoothed * self._weight[sites] * self._root[state.kinds[sites]])

    def groups(self, positions_A: np.ndarray, most: float = math.inf) -> Iterator[np.ndarray]:
        """Yield groups of sites to be drawn at once, whose responses are expected to add up to at most ``most``."""
        chosen = self._choose(positions_A)
        group = np.cumsum(self._varies[chosen]) // most
        for number in np.unique(group):
            yield chosen[group == number]

    def draw(self, state: State, evidence: Evidence, group: np.ndarray, most: float = math.inf) -> Draw:
        """Draw the sites of a group anew, at random until their responses add up to ``most``."""
        parts = [self._draw(state, evidence, group[first:first + BATCH])
                 for first in range(0, max(len(group), 1), BATCH)]
        drawn = Draw(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Draw)))
        self._varies[drawn.sites] = drawn.response
        drawn = drawn.select(np.cumsum(drawn.response) - drawn.response <= most)
        self._waited[drawn.sites] = 0
        return drawn

    def follow(self, state: State, evidence: Evidence, drawn: Draw) -> None:
        """Let the next draws know of a draw from ``state``."""
        left = state.present[drawn.sites] & ~drawn.stays
        came = drawn.present & ~drawn.stays
        before, after = (self._weight[drawn.sites] * self._amounts(state, drawn.sites, kinds)
                         for kinds in (state.kinds[drawn.sites], drawn.kinds))
        places_A = np.concatenate([state.positions_A[drawn.sites[left]], drawn.positions_A[came]])
        evidence.gradient.follow(places_A, np.concatenate([-before[left], after[came]]), self._response)

    def _amounts(self, state: State, sites: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Return the amounts (M,) of the ``sites`` if they hold atoms of ``kinds`` (M,)."""
        return np.asarray(state.share[sites] * state.usual[kinds] * self._root[kinds])

    def count_from_here(self) -> None:
        """Forget the draws so far for :meth:`away` and :meth:`names`."""
        for counts in (self._away, self._n_drawn, self._named):
            counts[:] = 0

    def names(self) -> np.ndarray:
        """Return the mean probabilities (N, K) of the elements of each site in its draws; 0 of none."""
        return self._named / np.maximum(self._named.sum(axis=1, keepdims=True), 1e-300)

    def away(self) -> np.ndarray:
        """Return the mean probability (N,) of the draws of each site that it goes away or to another place; 0 of none.

        It tells small probabilities better than the draws themselves do.
        """
        return self._away / np.maximum(self._n_drawn, 1)

    def _choose(self, positions_A: np.ndarray) -> np.ndarray:
        """Return sites so far apart that none of their new places meet, open ones more likely."""
        apart_A = 2 * REACH_A + self._spec.min_distance_A
        self._waited += 1
        due = self._open * (1 + self._waited / PATIENCE)
        asked = np.flatnonzero(self._rng.random(len(positions_A)) < OFTEN * due)
        order = asked[np.argsort(-due[asked] * self._rng.random(len(asked)), kind="stable")]
        near = cKDTree(positions_A).query_ball_point(positions_A[order], apart_A, workers=n_threads())
        taken, chosen = np.zeros(len(positions_A), bool), []
        for site, others in zip(order, near, strict=True):
            if not taken[site]:
                chosen.append(site)
                taken[others] = True
        return self._rng.permutation(np.array(chosen, np.int64))

    def _draw(self, state: State, evidence: Evidence, chosen: np.ndarray) -> Draw:
        before_A, was, kinds = state.positions_A[chosen], state.present[chosen], state.kinds[chosen]
        log = self._log_likelihood(state, evidence, chosen) + self._log_prior[:, None]
        likeliest = log.max(axis=1)
        row, place = np.nonzero(
            likeliest > np.maximum(likeliest.max(axis=1, keepdims=True) - BELOW_BEST, -BELOW_NOTHING))
        kept = np.full(log.shape, -np.inf)
        places_A = before_A[row] + PLACES_A[place]
        kept[row, :, place] = log[row, :, place] + self._log_prior_of(state, places_A, chosen[row])
        top = np.maximum(kept.max(axis=(1, 2)), 0)
        weight, nothing = np.exp(kept - top[:, None, None]), np.exp(-top)
        total = weight.sum(axis=(1, 2)) + nothing
        present, kind, pick = _pick(weight, self._rng.random(len(chosen)) * total - nothing)
        weight, nothing = weight / total[:, None, None], nothing / total
        off_A = np.linalg.norm(PLACES_A, axis=1)
        here, there = weight[:, :, off_A < STAY_A].sum(axis=2), weight[:, :, off_A >= STAY_A].sum(axis=2)
        same = here[np.arange(len(chosen)), kinds]
        now_open = np.where(was, 1 - same, 1 - nothing)
        self._open[chosen] += LATEST * (np.maximum(now_open, LEAST_OPEN) - self._open[chosen])
        self._away[chosen] += nothing + weight[:, :, off_A >= SAME_ATOM_A].sum(axis=(1, 2))
        self._named[chosen] += here + there
        self._n_drawn[chosen] += 1
        amount = np.stack([self._amounts(state, chosen, np.full(len(chosen), k)) for k in range(len(self._root))], 1)
        varied = (amount**2 * (here + there)).sum(axis=1) - sum((amount * p).sum(axis=1) ** 2 for p in (here, there))
        at_home = was & present & (off_A[pick] < STAY_A)
        within_A = STEP_A * (self._rng.random((len(chosen), 3)) - 0.5)
        places_A = before_A + np.where(at_home[:, None], 0.0, PLACES_A[pick] + within_A)
        return Draw(chosen, present, np.where(present, kind, kinds), places_A, at_home & (kind == kinds),
                    self._information[chosen] * varied / self._misfit)

    def _log_likelihood(self, state: State, evidence: Evidence, chosen: np.ndarray) -> np.ndarray:
        """Return the log ratio (M, K, P) of the likelihoods of an element at each place of a site, and of no atom."""
        kinds, curvature = state.kinds[chosen], self._information[chosen, None]
        slope = evidence.gradient.about(state.positions_A[chosen]) * self._weight[chosen, None]
        slope += evidence.lacks[chosen, None] * self._correlation
        own = np.where(state.present[chosen], self._amounts(state, chosen, kinds), 0.0)
        slope -= own[:, None] * curvature * self._correlation
        log = np.empty((len(chosen), len(self._root), slope.shape[1]))
        for kind in range(len(self._root)):
            amount = self._amounts(state, chosen, np.full(len(chosen), kind))[:, None]
            log[:, kind] = -(amount * slope + 0.5 * amount**2 * curvature) / self._misfit
        return log

    def _log_prior_of(self, state: State, places_A: np.ndarray, of_site: np.ndarray) -> np.ndarray:
        """Return the logarithm of the prior (P, K) of places beyond the density, for the sites ``of_site`` (P,)."""
        number = np.cumsum(state.present) - 1  # of the present sites
        own = np.where(state.present[of_site], number[of_site], -1)
        among = self._present(state)
        log = np.zeros((len(places_A), len(self._root)))
        if not len(places_A):
            return log
        free = (np.abs(places_A) <= self._half_A).all(axis=1)
        if len(among):
            distance_A, index = cKDTree(among.positions_A).query(places_A, k=2, workers=n_threads())
            free &= np.where(index[:, 0] == own, distance_A[:, 1], distance_A[:, 0]) >= self._spec.min_distance_A
        log[~free] = -np.inf
        if self._surroundings is not None and len(among) >= LEAST_SITES and free.any():
            told = self._surroundings.log_density(places_A[free], among, own[free])
            log[free] = told[:, :-1] - told[:, -1:]
        if not state.present.all():
            absent = cKDTree(state.positions_A[~state.present])
            reaching = absent.query_ball_point(places_A, REACH_A, return_length=True, workers=n_threads())
            log -= np.log(np.maximum(reaching + state.present[of_site], 1))[:, None]
        return log

    def _present(self, state: State) -> Sites:
        kinds = state.kinds[state.present]
        return Sites(state.positions_A[state.present], np.ones(len(kinds)), kinds)

    def _correlate(self, sites: Sites, noise: np.random.SeedSequence) -> tuple[np.ndarray, float]:
        """Return the correlation (P,) of the gradients of white noise at a site and at the places about it.

        The second value is what turns the smoothed residual into the gradient of the cost at the lightest element.
        """
        products, square, exact = np.zeros(len(PLACES_A)), 0.0, 0.0
        *draws, places = noise.spawn(N_NOISE + 1)
        chosen = np.flatnonzero(sites.kinds == lightest_kind(self._model))
        chosen = chosen[::max(math.ceil(len(chosen) / N_CORRELATED), 1)]
        if len(chosen) < LEAST_CORRELATED:
            chosen = len(sites) + np.arange(LEAST_CORRELATED)
            places_A = np.random.default_rng(places).uniform(-1, 1, (LEAST_CORRELATED, 3)) * 0.5 * self._half_A
            kinds = np.full(LEAST_CORRELATED, lightest_kind(self._model))
            sites = join(sites, Sites(places_A, np.zeros(LEAST_CORRELATED), kinds))
        for child in draws:
            residual, by_occupancy = residual_of(self._model, self._poses), np.zeros(len(chosen))
            for tilt in self._model.gradients(sites, self._poses, noise=child, on_slices=residual.add):
                by_occupancy += tilt.gradient[0, chosen, 3]
            slope = AmountGradient(residual.volume, self._model.voxel_A, 1.0).about(sites.positions_A[chosen])
            here = slope[:, CENTRE]
            square += float(here @ here)
            exact += float(here @ by_occupancy)
            products += here @ slope
        square = max(square, 1e-300)
        return 0.5 * (products + products[::-1]) / square, exact / square  # the offsets are symmetric

    def _respond(self, sites: Sites) -> np.ndarray:
        """Return the response of :func:`measure_response` in units in which an atom changes its own gradient by H."""
        response = measure_response(self._model, sites, self._poses, lightest_kind(self._model))
        return np.asarray(response * np.float32(self._usual / self._scale))


def _pick(weight: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows (M,) of ``weight`` (M, K, P) hold an atom, and the element (M,) and place (M,) that they hold.

    ``drawn`` (M,) lies between minus the weight of no atom and the sum of the others.
    """
    flat = weight.reshape(len(weight), -1)
    index = np.minimum((flat.cumsum(axis=1) < drawn[:, None]).sum(axis=1), flat.shape[1] - 1)
    return drawn > 0, *np.divmod(index, weight.shape[2])


def _without_noise(information: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the information (N,) drawn towards the mean of its element, as far as the samples explain its spread."""
    steady = information.copy()
    for kind in np.unique(kinds):
        own = information[kinds == kind]
        by_chance = 2 / SAMPLES_LAST * own.mean() ** 2
        steady[kinds == kind] += min(by_chance / max(float(own.var()), 1e-300), 1.0) * (own.mean() - own)
    return steady
