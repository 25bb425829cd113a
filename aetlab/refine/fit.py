"""Positions, occupancies and, where asked for, the geometry of each tilt, fitted to all images at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aetlab.refine.fisher import invert_blocks
from aetlab.refine.geometry import Poses, pose_gradient
from aetlab.refine.lbfgs import Descent, minimize
from aetlab.refine.model import AtomModel, Sites

#: The farthest that a site moves in one step, in Å, and the most that its occupancy changes.
LONGEST_STEP_A, LARGEST_CHANGE = 0.12, 0.25
#: Added to the unit diagonal of each atom's information in the preconditioner: what overlap makes uncertain moves less.
DAMPING = 0.1


@dataclass(frozen=True)
class Fit:
    """Sites and poses as fitted, and how: ``remaining`` is the RMS of the last proposed change in standard errors."""

    sites: Sites
    poses: Poses
    descent: Descent
    remaining: float


def fit_sites(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, *, n_passes: int,
              tolerance: float, refine_poses: bool = False,
              on_pass: Callable[[float], None] | None = None) -> Fit:
    """Fit positions and occupancies (and poses) to the images.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The data, and where to begin.
    information : (N, 4, 4)
        JᵀJ of each site (:func:`aetlab.refine.fisher.sample_information`): the preconditioner.
    n_passes : int
        Passes over the data at most.
    tolerance : float
        Ends when the RMS change that is still proposed falls below this many standard errors. Noise-free data are
        taken to have one electron in the whole series for each 10⁻⁸ of the amplitude's variance.
    refine_poses : bool
        Fit the turn and shift of each tilt as well. The mean turn and shift stay 0: they are the sample's.
    on_pass : callable, optional
        Called with the cost after each pass.
    """
    n, n_tilts = len(sites), model.n_tilts
    electrons = model.electrons_per_pixel if math.isfinite(model.electrons_per_pixel) else 1e8
    inverse = invert_blocks(information, DAMPING)
    pose_scale = _pose_scale(sites, information, n_tilts)

    def unpack(x: np.ndarray) -> tuple[Sites, Poses]:
        moved = replace(sites, positions_A=x[:3 * n].reshape(n, 3), occupancy=x[3 * n:4 * n])
        return moved, (poses.moved(x[4 * n:].reshape(n_tilts, 6) * pose_scale) if refine_poses else poses)

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        at, seen = unpack(x)
        cost, by_position, by_occupancy = 0.0, np.zeros((n, 3)), np.zeros(n)
        by_pose = np.zeros((n_tilts, 6))
        for tilt in model.gradients(at, seen):
            here = tilt.gradient[0]
            cost += tilt.cost
            by_position += here[:, :3] @ seen.rotation(tilt.i_tilt)
            by_occupancy += here[:, 3]
            if refine_poses:
                by_pose[tilt.i_tilt] = pose_gradient(tilt.placed_A, here[:, :3], seen.turn_rad[tilt.i_tilt],
                                                     seen.shift_A[tilt.i_tilt])
        if on_pass is not None:
            on_pass(cost)
        parts = [by_position.ravel(), by_occupancy]
        if refine_poses:
            parts.append((by_pose * pose_scale).ravel())
        return cost, np.concatenate(parts)

    def precondition(vector: np.ndarray) -> np.ndarray:
        blocks = np.concatenate([vector[:3 * n].reshape(n, 3), vector[3 * n:4 * n, None]], axis=1)
        solved = np.einsum("nij,nj->ni", inverse, blocks)
        return np.concatenate([solved[:, :3].ravel(), solved[:, 3], vector[4 * n:]])

    def limit(step: np.ndarray) -> np.ndarray:
        step = step.copy()
        moves = step[:3 * n].reshape(n, 3)
        longest = np.linalg.norm(moves, axis=1, keepdims=True)
        moves *= np.minimum(1.0, LONGEST_STEP_A / np.maximum(longest, 1e-12))
        step[3 * n:4 * n] = np.clip(step[3 * n:4 * n], -LARGEST_CHANGE, LARGEST_CHANGE)
        return step

    start = [sites.positions_A.ravel(), sites.occupancy]
    if refine_poses:
        start.append(np.zeros(6 * n_tilts))
    # The metric of the decrement is JᵀJ; n_e pixels' worth of electrons make it one of standard errors.
    per_error = math.sqrt(4 * electrons / max(4 * n, 1))
    descent = minimize(np.concatenate(start), evaluate, precondition, n_passes=n_passes,
                       tolerance=tolerance / per_error, limit=limit)
    fitted, seen = unpack(descent.point)
    return Fit(fitted, seen, descent, descent.decrement * per_error)


def _pose_scale(sites: Sites, information: np.ndarray, n_tilts: int) -> np.ndarray:
    """Standard deviations (6,) of a tilt's turn (rad) and shift (Å) for unit noise: all sites moved as one body."""
    position = np.trace(information[:, :3, :3], axis1=1, axis2=2) / 3 / n_tilts
    radius2 = ((sites.positions_A**2).sum(axis=1) * 2 / 3 * position).sum()
    turn, shift = 1 / math.sqrt(max(radius2, 1e-300)), 1 / math.sqrt(max(position.sum(), 1e-300))
    return np.array([turn, turn, turn, shift, shift, shift])
