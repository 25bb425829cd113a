"""Positions, their errors and the probability of each site where the images are not linear in the noise.

Where noise can imitate an atom, the errors of positions are a third of the width of an atom. The likelihood is no
parabola over that distance and has many maxima: its highest one is not the best estimate, its curvature does not tell
the error, and another set of sites may be as likely. The mean over the posterior has the least mean squared error, and
the spread over it is the error. Here both are averages over a path that Langevin dynamics takes through all positions
and occupancies at once, with the likelihood of the images as potential; each step is one pass over the data. The
integrator is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34), whose positions have the exact
distribution where the potential is a parabola, in coordinates in which the block of each atom is the unit matrix.
After each step some sites are drawn anew: to another place, away and back (:mod:`aetlab.refinement.relocation`).

Within a place the prior is flat for positions up to :data:`REACH_A` from its centre. Occupancies of an element are
normal about their median, with the spread that they have beyond their errors: atoms of an element scatter alike.

A site is reported at the place where it was most often, and present as often as it was there; one that never left is
present with the mean probability of its draws. The mean is that of
x - H⁻¹ ∇U with H the block of the atom: ∇U has the mean 0, and what neighbouring steps have in common cancels (control
variate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import CHI_SQUARE_MEDIAN, hardly_determined, invert_blocks
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.places import Places, Tally, presence_of_atoms
from aetlab.refinement.relocation import Draw, Relocation, State
from aetlab.refinement.search import ResidualVolume
from aetlab.spec import RefineSpec

#: Longest time step, and friction, in the coordinates in which the blocks of the atoms are unit matrices.
LONGEST_STEP, FRICTION = 0.6, 0.6
#: Time step times the root of the greatest curvature there. Beyond 2 the path is unstable. Atoms that overlap in the
#: projections raise the curvature: to 6 in 120³ voxels, to 11 in 240³.
STEP_BY_CURVATURE = 1.6
#: Most that the sites drawn at once respond to what all atoms do together, in units of what would cancel it. A wave of
#: all atoms along the tilt axis is in every image; these sites answer to the same residual, and the forces know of it
#: half a step late. Beyond 3, in 240³ voxels, such a wave grew without bound; 2.3 in 120³ was stable.
RESPONSE = 1.0
#: Passes that find the greatest curvature.
N_LANCZOS = 8
#: Greatest force on an atom there; one in a thousand is greater than 6. The block of an atom may be underestimated.
GREATEST_FORCE = 8.0
#: Mean square velocity of a site, and of all beyond what is chance, and share of sites with greater forces, above which
#: the motion is unstable; the factor that then shortens the steps, and the shortest step.
HOT_SITE, HOT, FORCED, SHORTER, SHORTEST_STEP = 10.0, 1.1, 0.05, 0.8, 0.1
#: Rise of U from the first part of the path to another, in units of its mean value ½ for each parameter, beyond which
#: the path has become unstable nevertheless.
HEATED = 0.1
#: What is chance, in standard deviations.
BY_CHANCE = 5.0
#: Largest distance in Å from the centre of a place, half that of the nearest atoms of solids.
REACH_A = 0.8
#: Least standard deviation of the occupancies of an element in advance.
LEAST_SPREAD = 0.05
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
    ``presence`` (N,) is the probability of each site to be there, None if nothing was sampled, and ``moved`` (N,)
    says which sites are at another place than they were fitted. ``n_cooled`` of the steps were unstable for a site or
    for all, and shortened the next ones.
    """

    positions_A: np.ndarray
    errors_A: np.ndarray
    factor: float
    presence: np.ndarray | None = None
    moved: np.ndarray | None = None
    n_cooled: int = 0
    unstable: bool = False

    @property
    def present(self) -> np.ndarray:
        """Sites (N,) that are there with a probability of at least one half."""
        return np.ones(len(self.positions_A), bool) if self.presence is None else self.presence >= 0.5

    def counts(self) -> dict[str, float]:
        """Return how many sites are at another place than fitted, or not there, and how many steps were unstable."""
        moved = 0 if self.moved is None else np.count_nonzero(self.moved & self.present)
        return {"sampled_moved": float(moved), "sampled_gone": float(np.count_nonzero(~self.present)),
                "sampled_cooled": float(self.n_cooled), "sampled_unstable": float(self.unstable)}


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
    if math.isinf(model.data.electrons_per_pixel) or not len(sites) or not n_steps:
        return Sampled(sites.positions_A, errors[:, :3], 1.0)
    path = _Path(model, sites, poses, information, _usual_occupancies(sites, errors[:, 3]), seed, on_pass)
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
    moves_A, corrected_A = np.zeros((2, N_PARTS, len(sites), 3))  # means of the parts, of sites that stay
    potentials = np.zeros(N_PARTS)
    for part in range(N_PARTS):
        for _ in range(n_each):
            stays &= path.step(relocation)
            potentials[part] += path.per_cost * path.cost / n_each
            tally.add(path.home_A, path.move_A, path.corrected_move_A, path.present)
            moves_A[part] += path.move_A / n_each
            corrected_A[part] += path.corrected_move_A / n_each
        usual = 2.0 * len(sites)
        if potentials[part] - potentials[0] > HEATED * usual + BY_CHANCE * math.sqrt(usual):
            return Sampled(sites.positions_A, errors[:, :3], 1.0, n_cooled=path.n_cooled, unstable=True)
    places, stays = tally.places(), stays & known
    variance_A2 = _variances(places, moves_A, corrected_A, path.own_A2, sites.kinds, stays)
    seen = (known & (places.presence > 0))[:, None]
    presence = np.where(stays, 1 - relocation.away(), presence_of_atoms(places))
    presence[~known] = 1.0
    positions_A = np.where(seen, places.positions_A, sites.positions_A)
    moved = np.linalg.norm(positions_A - sites.positions_A, axis=1) > REACH_A
    there = known & (presence >= 0.5)
    ratio = variance_A2[there] / np.maximum(errors[there, :3] ** 2, 1e-300)
    return Sampled(positions_A, np.where(seen, np.sqrt(variance_A2), errors[:, :3]),
                   float(ratio.mean()) if there.any() else 1.0, presence, moved, path.n_cooled)


def _at_whole_atoms(information: np.ndarray, occupancy: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return JᵀJ (N, 4, 4) of sites whose ``occupancy`` (N,) was below the ``usual`` (N,): that on a position grows."""
    grown = np.ones((len(usual), 4))
    grown[:, :3] = np.maximum(usual / np.maximum(occupancy, 1e-3), 1)[:, None]
    return information * grown[:, :, None] * grown[:, None, :]


def _usual_occupancies(sites: Sites, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median occupancy (N,) of the element of each site, and its spread (N,) beyond the ``error`` (N,)."""
    usual, spread = np.ones(len(sites)), np.full(len(sites), LEAST_SPREAD)
    for kind in np.unique(sites.kinds):
        own = sites.kinds == kind
        usual[own] = middle = np.median(sites.occupancy[own])
        squares = (sites.occupancy[own] - middle) ** 2
        beyond = float(np.median(squares)) / CHI_SQUARE_MEDIAN - float(np.median(error[own] ** 2))
        spread[own] = math.sqrt(max(beyond, LEAST_SPREAD**2))
    return usual, spread


class _Path:
    """A path through the positions and occupancies of all sites; arguments as :func:`sample_atoms` has them.

    ``usual`` holds the mean (N,) and the standard deviation (N,) of the occupancies in advance.
    """

    def __init__(self, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                 usual: tuple[np.ndarray, np.ndarray], seed: int, on_pass: Callable[[float], None]) -> None:
        self._model, self._sites, self._poses, self._on_pass = model, sites, poses, on_pass
        #: U per unit of the cost of the model.
        self.per_cost = 4 * model.data.mean_electrons(poses)
        self._usual, self._tie = usual[0], usual[1] ** -2.0
        #: Centres of the places (N, 3), and whether each site is present (N,).
        self.home_A, self.present = sites.positions_A.copy(), np.ones(len(sites), bool)
        block = self.per_cost * _at_whole_atoms(information, sites.occupancy, self._usual)
        block[:, 3, 3] += self._tie
        #: Steps after which the next ones were shortened.
        self.n_cooled = 0
        #: Cost of the latest pass.
        self.cost = 0.0
        self._n_forced = 0  # sites whose force was cut in the latest step
        #: Covariance (N, 4, 4) of each site if the others are known.
        self.covariance = invert_blocks(block)
        self.own_A2 = np.diagonal(self.covariance, axis1=1, axis2=2)[:, :3]
        self._root, self._rng = np.linalg.cholesky(self.covariance), np.random.default_rng(seed)
        self._at = np.column_stack([np.zeros((len(sites), 3)), self._usual])
        self._by_occupancy = np.zeros(len(sites))
        self._slope = self._slope_at(self._at)
        self._curvature = self._greatest_curvature()
        self._step = min(LONGEST_STEP, STEP_BY_CURVATURE / math.sqrt(self._curvature))
        self._velocity = self._rng.standard_normal(self._at.shape)

    @property
    def move_A(self) -> np.ndarray:
        """The position (N, 3) relative to the centre of its place."""
        return self._at[:, :3]

    @property
    def corrected_move_A(self) -> np.ndarray:
        """The position (N, 3) less H⁻¹ ∇U, relative to the centre of its place."""
        return self._at[:, :3] - np.einsum("nij,nj->ni", self.covariance[:, :3], self._slope)

    @property
    def state(self) -> State:
        """All sites, and the gradient of U without what is known before."""
        return State(self.home_A + self._at[:, :3], self.present, self._at[:, 3], self._by_occupancy)

    def step(self, relocation: Relocation) -> np.ndarray:
        """Take one step, then draw some sites anew; return which are present where they were (N,)."""
        most = RESPONSE * np.count_nonzero(self.present) / self._curvature
        keep = math.exp(-FRICTION * self._step)
        self._push()
        self._drift()
        self._velocity *= keep
        self._velocity += math.sqrt(1 - keep**2) * self._rng.standard_normal(self._velocity.shape)
        self._drift()
        residual = relocation.residual()
        self._slope = self._slope_at(self._at, residual)
        self._push()
        self._cool()
        return self._take(relocation.draw(self.state, residual, most))

    def _cool(self) -> None:
        """Shorten the steps where the motion is unstable: atoms that come to overlap raise the curvature."""
        n, square = np.count_nonzero(self.present), np.where(self.present, (self._velocity**2).mean(axis=1), 0.0)
        hot = square > HOT_SITE
        self._root[hot] *= SHORTER
        if n and (square.sum() / n > HOT + BY_CHANCE * math.sqrt(0.5 / n)
                  or self._n_forced / n > FORCED + BY_CHANCE * math.sqrt(FORCED / n)):
            self._step = max(SHORTER * self._step, SHORTEST_STEP)
            hot[:] = True
        self._velocity[hot] = self._rng.standard_normal((np.count_nonzero(hot), 4))
        self.n_cooled += int(hot.any())

    def _take(self, drawn: Draw) -> np.ndarray:
        """Put sites where they were drawn; return which are present where they were (N,).

        Until the next pass no force moves those that are elsewhere.
        """
        stays = self.present.copy()
        stays[drawn.sites] = drawn.stays
        moved, gone = drawn.sites[drawn.present & ~drawn.stays], drawn.sites[~drawn.present]
        self.home_A[moved] = drawn.positions_A[drawn.present & ~drawn.stays]
        self.home_A[gone] += self._at[gone, :3]
        self.present[drawn.sites] = drawn.present
        elsewhere = np.concatenate([moved, gone])
        self._at[elsewhere, :3] = self._slope[elsewhere, :3] = 0
        self._velocity[elsewhere] = self._rng.standard_normal((len(elsewhere), 4))
        return stays

    def _push(self) -> None:
        """Change the velocities by the force of half a step."""
        force = -np.einsum("nji,nj->ni", self._root, self._slope)
        part = GREATEST_FORCE / np.maximum(np.linalg.norm(force, axis=1), 1e-300)
        self._n_forced = int(np.count_nonzero(part < 1))
        force *= np.minimum(1, part)[:, None]
        self._velocity += 0.5 * self._step * force

    def _drift(self) -> None:
        """Move by half a step; atoms at the wall stay and turn back."""
        there = self._at + 0.5 * self._step * np.einsum("nij,nj->ni", self._root, self._velocity)
        there[~self.present, :3] = 0
        outside = np.linalg.norm(there[:, :3], axis=1) > REACH_A
        self._velocity[outside] *= -1
        self._at = np.where(outside[:, None], self._at, there)

    def _greatest_curvature(self) -> float:
        """Return about the greatest curvature of U at the start, by Lanczos' method from differences of its slope."""
        direction = self._rng.standard_normal(self._at.shape)
        basis, inner = [direction / np.linalg.norm(direction)], np.zeros((N_LANCZOS, N_LANCZOS))
        for k in range(N_LANCZOS):
            size = 1 / np.linalg.norm(basis[k], axis=1).max()  # no atom moves by more than its standard deviation
            there = self._at + size * np.einsum("nij,nj->ni", self._root, basis[k])
            changed = np.einsum("nji,nj->ni", self._root, self._slope_at(there) - self._slope) / size
            inner[k, :k + 1] = inner[:k + 1, k] = [float((known * changed).sum()) for known in basis]
            for known in basis:
                changed -= (known * changed).sum() * known
            basis.append(changed / max(float(np.linalg.norm(changed)), 1e-300))
        return max(float(np.linalg.eigvalsh(inner)[-1]), 1.0)

    def _slope_at(self, at: np.ndarray, residual: ResidualVolume | None = None) -> np.ndarray:
        """Return the gradient (N, 4) of U, the cost in units of the noise with what is known before; a pass."""
        here = Sites(self.home_A + at[:, :3], np.where(self.present, at[:, 3], 0.0), self._sites.kinds)
        cost, slope = 0.0, np.zeros(at.shape)
        for tilt in self._model.gradients(here, self._poses, on_slices=None if residual is None else residual.add):
            cost += tilt.cost
            slope[:, :3] += tilt.gradient[0, :, :3] @ self._poses.rotation(tilt.i_tilt)
            slope[:, 3] += tilt.gradient[0, :, 3]
        self._on_pass(cost)
        self.cost = cost
        slope *= self.per_cost
        self._by_occupancy = slope[:, 3].copy()
        slope[~self.present] = 0
        slope[:, 3] += self._tie * (at[:, 3] - self._usual)
        return slope


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
