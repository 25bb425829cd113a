"""A path through the posterior of all atoms: positions, occupancies, elements, and which sites are there.

Langevin dynamics moves all positions and occupancies at once, with the likelihood of the images as potential; each
step is one pass over the data. The integrator is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34),
whose positions have the exact distribution where the potential is a parabola, in coordinates in which the block of each
atom is the unit matrix. After each step some sites are drawn anew: to another place or element, away and back
(:mod:`aetlab.refinement.relocation`).

Within a place the prior is flat for positions up to :data:`REACH_A` from its centre. Occupancies of an element are
normal about a common value, with the spread that they have beyond their errors: atoms of an element scatter alike.
Fitted occupancies are too large where noise imitates atoms, since noise that adds to an atom makes it a clearer one.
Their common value is therefore the likeliest on the path, by a part of a Newton step before each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import CHI_SQUARE_MEDIAN, invert_blocks
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.relocation import Draw, Relocation, State
from aetlab.refinement.response import half_box_A
from aetlab.refinement.search import ResidualVolume, relative_information

#: Longest time step, and friction, in the coordinates in which the blocks of the atoms are unit matrices.
LONGEST_STEP, FRICTION = 0.6, 0.6
#: Time step times the root of the greatest curvature there. Beyond 2 the path is unstable. Atoms that overlap in the
#: projections raise the curvature: to 6 in 120³ voxels, to 11 in 240³.
STEP_BY_CURVATURE = 1.6
#: Most that the sites of a group respond to what all atoms do together, in units of what would cancel it. A wave of all
#: atoms along the tilt axis is in every image, and these sites answer to the same residual. Beyond 3, in 240³ voxels,
#: and with forces that knew of the draws half a step late, such a wave grew without bound.
RESPONSE = 1.0
#: Passes that find the greatest curvature.
N_LANCZOS = 8
#: Greatest force on an atom there; one in a thousand is greater than 6. The block of an atom may be underestimated.
GREATEST_FORCE = 8.0
#: Mean square velocity of a site, and of all beyond what is chance, and share of sites with greater forces, above which
#: the motion is unstable; the factor that then shortens the steps, and the shortest step.
HOT_SITE, HOT, FORCED, SHORTER, SHORTEST_STEP = 10.0, 1.1, 0.05, 0.8, 0.1
#: What is chance, in standard deviations.
BY_CHANCE = 5.0
#: Largest distance in Å from the centre of a place, half that of the nearest atoms of solids.
REACH_A = 0.8
#: Least standard deviation of the occupancies of an element in advance.
LEAST_SPREAD = 0.05
#: Standard deviation in advance of the common factor of the occupancies of an element, change of it that tells the
#: curvature, and part of a Newton step.
FACTOR_SPREAD, FACTOR_CHANGE, NEWTON = 0.2, 0.05, 0.5


class Path:
    """A path through the positions and occupancies of all sites; arguments as :func:`sample_atoms` has them.

    ``occupancy_error`` (N,) is the standard error of the occupancies.
    """

    def __init__(self, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                 occupancy_error: np.ndarray, seed: int, on_pass: Callable[[float], None]) -> None:
        self._model, self._poses, self._on_pass, self._half_A = model, poses, on_pass, half_box_A(model)
        #: U per unit of the cost of the model.
        self.per_cost = 4 * model.data.mean_electrons(poses)
        #: Median fitted occupancies (K,) of the elements.
        self.fitted, spread = _usual_occupancies(sites, occupancy_error, len(model.elements))
        self._tie = spread**-2.0
        #: Common factors (K,) of the fitted occupancies of the elements.
        self.factors = np.ones(len(model.elements))
        #: Centres of the places (N, 3), whether each site is present (N,), and its element (N,).
        self.home_A, self.present, self.kinds = sites.positions_A.copy(), np.ones(len(sites), bool), sites.kinds.copy()
        self._relative = relative_information(model)
        self._information = (self.per_cost * _at_whole_atoms(information, sites.occupancy, self.fitted[self.kinds])
                             / self._relative[self.kinds][:, None, None])
        #: Steps after which the next ones were shortened.
        self.n_cooled = 0
        #: Cost of the latest pass.
        self.cost = 0.0
        self._n_forced = 0  # sites whose force was cut in the latest step
        #: Covariance (N, 4, 4) of each site if the others are known.
        self.covariance, self._root = np.zeros((2, len(sites), 4, 4))
        self._use_blocks(np.arange(len(sites)))
        self._rng = np.random.default_rng(seed)
        self._at = np.column_stack([np.zeros((len(sites), 3)), self.usual[self.kinds]])
        self._by_occupancy = np.zeros(len(sites))
        self._by_factors, self._counts_then = self._curvature_by_factors(), np.maximum(self._counts(), 1)
        self._slope = self._slope_at(self._at)
        by_occupancy = self._by_occupancy
        self._curvature = self._greatest_curvature()
        self._by_occupancy = by_occupancy
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
        """All sites."""
        usual = self.usual
        return State(self.home_A + self._at[:, :3], self.present, self.kinds, self._at[:, 3] / usual[self.kinds], usual)

    @property
    def usual(self) -> np.ndarray:
        """The usual occupancies (K,) of the elements."""
        return np.asarray(self.fitted * self.factors)

    def _use_blocks(self, sites: np.ndarray) -> None:
        """Set the covariances of ``sites`` (M,), and their roots, to those of atoms of their elements."""
        if not len(sites):
            return
        kinds = self.kinds[sites]
        block = self._information[sites] * self._relative[kinds][:, None, None]
        block[:, 3, 3] += self._tie[kinds]
        self.covariance[sites] = invert_blocks(block)
        self._root[sites] = np.linalg.cholesky(self.covariance[sites])

    def step(self, relocation: Relocation) -> np.ndarray:
        """Take one step, then draw some sites anew; return which are present what and where they were (N,)."""
        most = RESPONSE * max(np.count_nonzero(self.present), 1) / self._curvature
        self._scale()
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
        return self._draw(relocation, residual, most)

    def _scale(self) -> None:
        """Change all occupancies of each element by a common factor, towards the likeliest ones."""
        slope = self._by_each_factor() + (self.factors - 1) / FACTOR_SPREAD**2
        grown = np.maximum(self._counts() / self._counts_then, 1)
        curvature = self._by_factors * np.outer(grown, grown)
        change = np.clip(NEWTON * np.linalg.solve(curvature, -slope), -FACTOR_CHANGE, FACTOR_CHANGE)
        self._at[:, 3] *= (1 + change / self.factors)[self.kinds]
        self.factors += change

    def _counts(self) -> np.ndarray:
        """Return the number of present sites of each element (K,)."""
        return np.bincount(self.kinds[self.present], minlength=len(self.factors))

    def _by_each_factor(self) -> np.ndarray:
        """Return the derivatives (K,) of U by the common factors, from those by the occupancies."""
        part = np.where(self.present, self._by_occupancy * self._at[:, 3], 0.0)
        return np.bincount(self.kinds, part, minlength=len(self.factors)) / self.factors

    def _curvature_by_factors(self) -> np.ndarray:
        """Return the second derivatives (K, K) of U by the common factors, from differences; 1 + K passes."""
        slopes = []
        for kind in range(-1, len(self.factors)):
            at = self._at.copy()
            at[self.kinds == kind, 3] *= 1 + FACTOR_CHANGE
            self._gradient_at(at)
            slopes.append(self._by_each_factor())
        curvature = (np.array(slopes[1:]) - slopes[0]) / FACTOR_CHANGE
        return np.asarray(0.5 * (curvature + curvature.T) + np.eye(len(curvature)) / FACTOR_SPREAD**2)

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

    def _draw(self, relocation: Relocation, residual: ResidualVolume, most: float) -> np.ndarray:
        """Draw some sites anew, group by group, after a pass; return which are present what and where they were (N,).

        The gradient of U follows. Until the next pass no force moves those that are elsewhere.
        """
        evidence = relocation.evidence(self.state, residual, self._by_occupancy)
        stays, elsewhere = self.present.copy(), np.zeros(len(self.present), bool)
        for group in relocation.groups(self.state.positions_A, most):
            drawn = relocation.draw(self.state, evidence, group, most)
            relocation.follow(self.state, evidence, drawn)
            self._take(drawn)
            stays[drawn.sites] = drawn.stays
            elsewhere[drawn.sites] = ~drawn.stays
        change = relocation.change(self.state, evidence)
        self._by_occupancy += change[:, 3]
        change[:, :3] *= self._at[:, 3, None]
        self._slope[self.present] += change[self.present]
        sites = np.flatnonzero(elsewhere)
        self._by_occupancy[sites] = relocation.by_occupancy(self.state, evidence, sites)
        self._slope[sites, :3] = 0
        self._slope[sites, 3] = self._by_occupancy[sites] * self.present[sites] + self._pull(sites, self._at)
        return stays

    def _take(self, drawn: Draw) -> None:
        """Put sites where they were drawn."""
        moved, gone = drawn.sites[drawn.present & ~drawn.stays], drawn.sites[~drawn.present]
        self.home_A[moved] = drawn.positions_A[drawn.present & ~drawn.stays]
        self.home_A[gone] += self._at[gone, :3]
        self.present[drawn.sites] = drawn.present
        other = drawn.sites[drawn.kinds != self.kinds[drawn.sites]]
        usual = self.usual
        self._at[other, 3] /= usual[self.kinds[other]]
        self.kinds[drawn.sites] = drawn.kinds
        self._at[other, 3] *= usual[self.kinds[other]]
        self._use_blocks(other)
        elsewhere = np.concatenate([moved, gone])
        self._at[elsewhere, :3] = 0
        self._velocity[elsewhere] = self._rng.standard_normal((len(elsewhere), 4))

    def _push(self) -> None:
        """Change the velocities by the force of half a step."""
        force = -np.einsum("nji,nj->ni", self._root, self._slope)
        part = GREATEST_FORCE / np.maximum(np.linalg.norm(force, axis=1), 1e-300)
        self._n_forced = int(np.count_nonzero(part < 1))
        force *= np.minimum(1, part)[:, None]
        self._velocity += 0.5 * self._step * force

    def _drift(self) -> None:
        """Move by half a step; atoms at the wall of their place or of the volume stay and turn back."""
        there = self._at + 0.5 * self._step * np.einsum("nij,nj->ni", self._root, self._velocity)
        there[~self.present, :3] = 0
        outside = np.linalg.norm(there[:, :3], axis=1) > REACH_A
        before_A, after_A = (np.abs(self.home_A + at[:, :3]) for at in (self._at, there))
        outside |= ((after_A > self._half_A) & (after_A > before_A)).any(axis=1)
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
        slope = self._gradient_at(at, residual)
        self._on_pass(self.cost)
        return slope

    def _gradient_at(self, at: np.ndarray, residual: ResidualVolume | None = None) -> np.ndarray:
        here = Sites(self.home_A + at[:, :3], np.where(self.present, at[:, 3], 0.0), self.kinds)
        cost, slope = 0.0, np.zeros(at.shape)
        for tilt in self._model.gradients(here, self._poses, on_slices=None if residual is None else residual.add):
            cost += tilt.cost
            slope[:, :3] += tilt.gradient[0, :, :3] @ self._poses.rotation(tilt.i_tilt)
            slope[:, 3] += tilt.gradient[0, :, 3]
        self.cost = cost
        slope *= self.per_cost
        self._by_occupancy = slope[:, 3].copy()
        slope[~self.present] = 0
        slope[:, 3] += self._pull(np.arange(len(at)), at)
        return slope

    def _pull(self, sites: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the derivatives (M,) of what is known before by the occupancies of ``sites``, at ``at`` (N, 4)."""
        kinds = self.kinds[sites]
        return np.asarray(self._tie[kinds] * (at[sites, 3] - self.usual[kinds]))


def _at_whole_atoms(information: np.ndarray, occupancy: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return JᵀJ (N, 4, 4) of sites whose ``occupancy`` (N,) was below the ``usual`` (N,): that on a position grows."""
    grown = np.ones((len(usual), 4))
    grown[:, :3] = np.maximum(usual / np.maximum(occupancy, 1e-3), 1)[:, None]
    return information * grown[:, :, None] * grown[:, None, :]


def _usual_occupancies(sites: Sites, error: np.ndarray, n_kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the median occupancy (K,) of each element, and the spread (K,) beyond the ``error`` (N,)."""
    usual, spread = np.ones(n_kinds), np.full(n_kinds, LEAST_SPREAD)
    for kind in np.unique(sites.kinds):
        own = sites.kinds == kind
        usual[kind] = middle = np.median(sites.occupancy[own])
        squares = (sites.occupancy[own] - middle) ** 2
        beyond = float(np.median(squares)) / CHI_SQUARE_MEDIAN - float(np.median(error[own] ** 2))
        spread[kind] = math.sqrt(max(beyond, LEAST_SPREAD**2))
    return usual, spread
