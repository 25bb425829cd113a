"""Positions and their errors where the noise moves atoms so far that the images do not follow linearly.

Where noise can imitate an atom, the errors of positions are a third of the width of an atom. The likelihood is no
parabola over that distance and may have several maxima: its highest one is not the best estimate, and its curvature
does not tell the error. The mean over the posterior has the least mean squared error, and the spread over it is the
error. Here both are averages over a path that Langevin dynamics takes through all positions and occupancies at once,
with the likelihood of the images as potential; each step is one pass over the data. The integrator is BAOAB (Leimkuhler
and Matthews, Appl. Math. Res. Express 2013, 34), whose positions have the exact distribution where the potential is a
parabola, in coordinates in which the block of each atom is the unit matrix.

The prior is flat for positions within :data:`REACH_A` of the fitted ones: an atom farther off is another site, which
the search for sites judges. Occupancies of an element are normal about their median, with the spread that they have
beyond their errors: atoms of an element scatter alike.

The mean is that of x - H⁻¹ ∇U with H the block of the atom: ∇U has the mean 0, and what neighbouring steps have in
common cancels (control variate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import CHI_SQUARE_MEDIAN, hardly_determined, invert_blocks
from aetlab.refinement.model import AtomModel, Sites

#: Longest time step, and friction, in the coordinates in which the blocks of the atoms are unit matrices.
LONGEST_STEP, FRICTION = 0.6, 0.6
#: Time step times the root of the greatest curvature there. Beyond 2 the path is unstable. Atoms that overlap in the
#: projections raise the curvature: to 6 in 120³ voxels, to 11 in 240³.
STEP_BY_CURVATURE = 1.6
#: Passes that find the greatest curvature, by power iteration.
N_POWER = 8
#: Greatest force on an atom there; one in a thousand is greater than 6. The block of an atom may be underestimated.
GREATEST_FORCE = 8.0
#: Largest distance in Å from the fitted position, half that of the nearest atoms of solids.
REACH_A = 0.8
#: Least standard deviation of the occupancies of an element in advance.
LEAST_SPREAD = 0.05
#: One of so many steps is left out at the start, until the path is independent of the fit.
WARM_UP = 8
#: Parts of the path whose means tell how well the whole is known: each much longer than the path remembers.
N_PARTS = 7


@dataclass(frozen=True)
class Sampled:
    """Means over the posterior, ``positions_A`` (N, 3), and their standard errors ``errors_A`` (N, 3).

    ``factor`` is the mean ratio of their variances to those of the linear model.
    """

    positions_A: np.ndarray
    errors_A: np.ndarray
    factor: float


def sample_positions(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, errors: np.ndarray, *,
                     n_steps: int, seed: int, on_pass: Callable[[float], None]) -> Sampled:
    """Return the mean positions over the posterior and their errors; those given without noise or steps.

    Atoms that the images hardly determine keep their positions and errors.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The fitted atoms; poses stay as they are.
    information : (N, 4, 4)
        JᵀJ of each site.
    errors : (N, 4)
        Standard errors of positions in Å and occupancies by the linear model.
    n_steps : int
        Steps, of one pass over the data each, at least ``WARM_UP * N_PARTS``, or 0.
    seed : int
        Seed of the random forces.
    on_pass : callable
        Called with the cost after each pass.
    """
    if math.isinf(model.data.electrons_per_pixel) or not len(sites) or not n_steps:
        return Sampled(sites.positions_A, errors[:, :3], 1.0)
    path = _Path(model, sites, poses, information, _usual_occupancies(sites, errors[:, 3]), seed, on_pass)
    for _ in range(n_steps // WARM_UP):
        path.step()
    n_each = (n_steps - n_steps // WARM_UP) // N_PARTS
    squares_A2 = np.zeros((len(sites), 3))
    moves_A, corrected_A = np.zeros((2, N_PARTS, len(sites), 3))  # means of the parts
    for part in range(N_PARTS):
        for _ in range(n_each):
            path.step()
            squares_A2 += path.move_A**2 / (N_PARTS * n_each)
            moves_A[part] += path.move_A / n_each
            corrected_A[part] += path.corrected_move_A / n_each
    spread_A2 = squares_A2 - moves_A.mean(axis=0) ** 2
    variance_A2 = _variances(spread_A2, moves_A, corrected_A, path.own_A2, sites.kinds)
    known = ~hardly_determined(path.covariance, sites.kinds)[:, None]
    ratio = variance_A2 / np.maximum(errors[:, :3] ** 2, 1e-300)
    return Sampled(np.where(known, sites.positions_A + corrected_A.mean(axis=0), sites.positions_A),
                   np.where(known, np.sqrt(variance_A2), errors[:, :3]),
                   float(ratio[known[:, 0]].mean()) if known.any() else 1.0)


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
    """A path through the positions and occupancies of all sites; arguments as :func:`sample_positions` has them.

    ``usual`` holds the mean (N,) and the standard deviation (N,) of the occupancies in advance.
    """

    def __init__(self, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                 usual: tuple[np.ndarray, np.ndarray], seed: int, on_pass: Callable[[float], None]) -> None:
        self._model, self._sites, self._poses, self._on_pass = model, sites, poses, on_pass
        self._per_cost = 4 * model.data.mean_electrons(poses)
        self._usual, self._tie = usual[0], usual[1] ** -2.0
        block = self._per_cost * information
        block[:, 3, 3] += self._tie
        #: Covariance (N, 4, 4) of each site if the others are known.
        self.covariance = invert_blocks(block)
        self.own_A2 = np.diagonal(self.covariance, axis1=1, axis2=2)[:, :3]
        self._root, self._rng = np.linalg.cholesky(self.covariance), np.random.default_rng(seed)
        self._at = np.column_stack([np.zeros((len(sites), 3)), self._usual])
        self._slope = self._slope_at(self._at)
        self._step = min(LONGEST_STEP, STEP_BY_CURVATURE / math.sqrt(self._greatest_curvature()))
        self._velocity = self._rng.standard_normal(self._at.shape)

    @property
    def move_A(self) -> np.ndarray:
        """The position (N, 3) relative to the fitted one."""
        return self._at[:, :3]

    @property
    def corrected_move_A(self) -> np.ndarray:
        """The position (N, 3) less H⁻¹ ∇U, relative to the fitted one."""
        return self._at[:, :3] - np.einsum("nij,nj->ni", self.covariance[:, :3], self._slope)

    def step(self) -> None:
        """Take one step."""
        keep = math.exp(-FRICTION * self._step)
        self._push()
        self._drift()
        self._velocity *= keep
        self._velocity += math.sqrt(1 - keep**2) * self._rng.standard_normal(self._velocity.shape)
        self._drift()
        self._slope = self._slope_at(self._at)
        self._push()

    def _push(self) -> None:
        """Change the velocities by the force of half a step."""
        force = -np.einsum("nji,nj->ni", self._root, self._slope)
        force *= np.minimum(1, GREATEST_FORCE / np.maximum(np.linalg.norm(force, axis=1), 1e-300))[:, None]
        self._velocity += 0.5 * self._step * force

    def _drift(self) -> None:
        """Move by half a step; atoms at the wall stay and turn back."""
        there = self._at + 0.5 * self._step * np.einsum("nij,nj->ni", self._root, self._velocity)
        outside = np.linalg.norm(there[:, :3], axis=1) > REACH_A
        self._velocity[outside] *= -1
        self._at = np.where(outside[:, None], self._at, there)

    def _greatest_curvature(self) -> float:
        """Return about the greatest curvature of U at the start, from differences of its slope."""
        direction, curvature = self._rng.standard_normal(self._at.shape), 1.0
        for _ in range(N_POWER):
            direction /= np.linalg.norm(direction, axis=1).max()  # no atom moves by more than its standard deviation
            there = self._at + np.einsum("nij,nj->ni", self._root, direction)
            changed = np.einsum("nji,nj->ni", self._root, self._slope_at(there) - self._slope)
            curvature = float(np.linalg.norm(changed) / np.linalg.norm(direction))
            direction = changed
        return max(curvature, 1.0)

    def _slope_at(self, at: np.ndarray) -> np.ndarray:
        """Return the gradient (N, 4) of U, the cost in units of the noise with what is known before; a pass."""
        here = Sites(self._sites.positions_A + at[:, :3], at[:, 3], self._sites.kinds)
        cost, slope = 0.0, np.zeros(at.shape)
        for tilt in self._model.gradients(here, self._poses):
            cost += tilt.cost
            slope[:, :3] += tilt.gradient[0, :, :3] @ self._poses.rotation(tilt.i_tilt)
            slope[:, 3] += tilt.gradient[0, :, 3]
        self._on_pass(cost)
        slope *= self._per_cost
        slope[:, 3] += self._tie * (at[:, 3] - self._usual)
        return slope


def _variances(spread_A2: np.ndarray, moves_A: np.ndarray, corrected_A: np.ndarray, own_A2: np.ndarray,
               kinds: np.ndarray) -> np.ndarray:
    """Return the variances (N, 3) of the means over a path as estimates of the positions.

    They are the spread over the path, and what its length leaves. A path of few independent places tells the spread of
    a single atom badly: it is drawn towards that of its element, in units of ``own_A2`` (N, 3), as far as the spreads
    of the atoms of the element differ by chance alone (empirical Bayes).

    Parameters
    ----------
    spread_A2 : (N, 3)
        Variance of the position over the path.
    moves_A, corrected_A : (:data:`N_PARTS`, N, 3)
        Means over its parts of the position, and of that less H⁻¹ ∇U, which is the estimate.
    kinds : (N,)
        Element of each site.
    """
    spread = spread_A2 / own_A2
    of_mean, of_corrected = (parts.var(axis=0, ddof=1) / N_PARTS / own_A2 for parts in (moves_A, corrected_A))
    ratio = np.empty(spread.shape)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        n_independent = max(float(spread[chosen].mean() / of_mean[chosen].mean()), 2.0)
        own = spread[chosen] * n_independent / (n_independent - 1)
        usual = own.mean()
        by_chance = 2 * usual**2 / (n_independent - 1)
        trust = max(1 - by_chance / max(float(own.var()), 1e-300), 0.0)
        ratio[chosen] = usual + trust * (own - usual) + of_corrected[chosen].mean()
    return ratio * own_A2
