"""Fit of positions, occupancies and, on request, poses and thermal factors to all images at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import invert_blocks, separate_thermal
from aetlab.refinement.geometry import pose_gradient, settle
from aetlab.refinement.lbfgs import Descent, minimize_lbfgs
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS

#: Largest displacement of a site in one step, in Å, and largest change of its occupancy.
LONGEST_STEP_A, LARGEST_CHANGE = 0.12, 0.25
#: Largest displacement at the rim of the sample by a change of a pose in one step, in Å.
LONGEST_POSE_STEP_A = 0.4
#: Largest change of a thermal factor in one step, and its lower bound, in Å².
LARGEST_THERMAL_CHANGE_A2, LEAST_THERMAL_A2 = 0.2, 0.05
#: Ratio of the largest displacements along and across the beam.
HEIGHT_PER_SHIFT = 20.0
#: Added to the unit diagonal of the blocks in the preconditioner: parameters made uncertain by overlap move less.
DAMPING = 0.1


@dataclass(frozen=True)
class Fit:
    """Fitted sites, poses and thermal factors (K,) of the elements, and the course of the fit.

    ``thermal_information`` (K,) is JᵀJ in 1/Å⁴ of each factor, with positions and occupancies eliminated (0 if none was
    fitted); ``remaining`` the RMS of the last proposed change in standard errors.
    """

    sites: Sites
    poses: Poses
    thermal_A2: np.ndarray
    thermal_information: np.ndarray
    descent: Descent
    remaining: float


def fit_to_images(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, *, n_passes: int,
                  tolerance: float, pose_information: np.ndarray | None = None,
                  thermal_information: np.ndarray | None = None,
                  on_pass: Callable[[float], None] | None = None) -> Fit:
    """Fit positions and occupancies, and on request poses and thermal factors, to the images.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The data and the starting point.
    information : (N, 4, 4)
        JᵀJ of each site (:func:`aetlab.refinement.fisher.sample_information`): the preconditioner.
    n_passes : int
        Largest number of passes over the data.
    tolerance : float
        The fit ends when the RMS of the proposed change falls below this number of standard errors, and the change of
        each thermal factor below the same number of its own. Noise-free data are assumed to have
        :data:`aetlab.refinement.naming.NOISE_FREE_ELECTRONS` a pixel.
    pose_information : (6, 6) or (5, 5), optional
        JᵀJ of turn (degrees) and shift (Å) of a tilt. If given, these are fitted as well, heights only with the last
        row. A motion that all tilts have in common is moved into the positions.
    thermal_information : (N, 5, 5), optional
        JᵀJ of each site with its thermal factor as fifth parameter. If given, one factor for each element is fitted as
        well, starting from that of the model.
    on_pass : callable, optional
        Called with the cost after each pass.
    """
    unknowns = _Unknowns(model, sites, poses, information, pose_information, thermal_information)
    n_electrons = model.data.mean_electrons(poses)
    electrons = n_electrons if math.isfinite(n_electrons) else NOISE_FREE_ELECTRONS

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        cost, gradient = unknowns.cost_and_gradient(x)
        if on_pass is not None:
            on_pass(cost)
        return cost, gradient

    # The decrement is measured in the metric JᵀJ; the electrons of a pixel convert it to standard errors.
    per_error = math.sqrt(4 * electrons / max(4 * len(sites), 1))
    descent = minimize_lbfgs(unknowns.start(), evaluate, unknowns.precondition, n_passes=n_passes,
                             tolerance=tolerance / per_error, limit=unknowns.limit,
                             settled=lambda direction: unknowns.settled(direction, electrons, tolerance))
    fitted, seen, thermal_A2 = unknowns.unpack(descent.point)
    if pose_information is not None and not model.holds_atoms:  # held atoms stay where they are, and so does the sample
        settled_A, seen = settle(fitted.positions_A, seen)
        fitted = replace(fitted, positions_A=settled_A)
    if thermal_information is not None:
        thermal_A2 = np.maximum(thermal_A2, LEAST_THERMAL_A2)
    return Fit(fitted, seen, thermal_A2, unknowns.known, descent, descent.decrement * per_error)


class _Unknowns:
    """The unknowns of a fit to the images as one vector, with cost, gradient, preconditioner and limits of a step.

    The vector holds positions (3 N), occupancies (N), six coordinates of the pose of each tilt in which all directions
    are equally known, if poses are fitted, and the thermal factors (K), if they are. Arguments are those of
    :func:`fit_to_images`.
    """

    def __init__(self, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                 pose_information: np.ndarray | None, thermal_information: np.ndarray | None) -> None:
        self._model, self._sites, self._poses = model, sites, poses
        self._n, self._n_tilts, self._n_kinds = len(sites), model.n_tilts, len(model.elements)
        self._inverse = invert_blocks(information, DAMPING)
        self._refine_poses, self._refine_thermal = pose_information is not None, thermal_information is not None
        self._pose_root = np.zeros((6, 6))
        if pose_information is not None:
            n_fitted = len(pose_information)
            self._pose_root[:n_fitted, :n_fitted] = _inverse_root(pose_information)
        self._border = (_Border(self._inverse, thermal_information, sites.kinds, self._n_kinds)
                        if thermal_information is not None else None)
        self._first_thermal = 4 * self._n + (6 * self._n_tilts if self._refine_poses else 0)
        #: Information (K,) on each thermal factor; 0 if none is fitted.
        self.known = self._border.known if self._border is not None else np.zeros(self._n_kinds)

    def start(self) -> np.ndarray:
        """Return the starting point."""
        parts = [self._sites.positions_A.ravel(), self._sites.occupancy]
        if self._refine_poses:
            parts.append(np.zeros(6 * self._n_tilts))
        if self._refine_thermal:
            parts.append(self._model.thermal_A2)
        return np.concatenate(parts)

    def unpack(self, x: np.ndarray) -> tuple[Sites, Poses, np.ndarray]:
        """Return sites, poses and thermal factors (K,)."""
        n, first_thermal = self._n, self._first_thermal
        moved = replace(self._sites, positions_A=x[:3 * n].reshape(n, 3), occupancy=x[3 * n:4 * n])
        seen = (self._poses.moved(x[4 * n:first_thermal].reshape(self._n_tilts, 6) @ self._pose_root)
                if self._refine_poses else self._poses)
        return moved, seen, x[first_thermal:] if self._refine_thermal else self._model.thermal_A2

    def cost_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the cost of all images and its gradient: a pass over the data."""
        at, seen, thermal_A2 = self.unpack(x)
        cost, by_position, by_occupancy = 0.0, np.zeros((self._n, 3)), np.zeros(self._n)
        by_pose, by_thermal = np.zeros((self._n_tilts, 6)), np.zeros(self._n_kinds)
        least = thermal_A2 <= LEAST_THERMAL_A2
        blurred = (self._model.with_thermal(np.maximum(thermal_A2, LEAST_THERMAL_A2)) if self._refine_thermal
                   else self._model)
        for tilt in blurred.gradients(at, seen, thermal=self._refine_thermal):
            here = tilt.gradient[0]
            cost += tilt.cost
            by_position += here[:, :3] @ seen.rotation(tilt.i_tilt)
            by_occupancy += here[:, 3]
            if self._refine_poses:
                by_pose[tilt.i_tilt] = pose_gradient(tilt.placed_A, here[:, :3], seen.turn_deg[tilt.i_tilt],
                                                     seen.shift_A[tilt.i_tilt])
            if self._refine_thermal:
                by_thermal += np.bincount(at.kinds, tilt.by_thermal, self._n_kinds)
        parts = [by_position.ravel(), by_occupancy]
        if self._refine_poses:
            parts.append((by_pose @ self._pose_root.T).ravel())
        if self._refine_thermal:
            parts.append(np.where(least, np.minimum(by_thermal, 0.0), by_thermal))
        return cost, np.concatenate(parts)

    def precondition(self, vector: np.ndarray) -> np.ndarray:
        """Return ``vector`` times the approximate inverse of JᵀJ."""
        n, first_thermal = self._n, self._first_thermal
        blocks = np.concatenate([vector[:3 * n].reshape(n, 3), vector[3 * n:4 * n, None]], axis=1)
        solved, thermal = np.einsum("nij,nj->ni", self._inverse, blocks), vector[first_thermal:]
        if self._border is not None:
            solved, thermal = self._border.solve(blocks, solved, thermal)
        return np.concatenate([solved[:, :3].ravel(), solved[:, 3], vector[4 * n:first_thermal], thermal])

    def limit(self, step: np.ndarray) -> np.ndarray:
        """Return ``step``, shortened where it moves a site or changes an occupancy or a thermal factor too much."""
        n, first_thermal = self._n, self._first_thermal
        step = step.copy()
        moves = step[:3 * n].reshape(n, 3)
        longest = np.linalg.norm(moves, axis=1, keepdims=True)
        moves *= np.minimum(1.0, LONGEST_STEP_A / np.maximum(longest, 1e-12))
        step[3 * n:4 * n] = np.clip(step[3 * n:4 * n], -LARGEST_CHANGE, LARGEST_CHANGE)
        if self._refine_thermal:
            change_A2 = np.abs(step[first_thermal:]).max()
            step[first_thermal:] *= min(1.0, LARGEST_THERMAL_CHANGE_A2 / max(change_A2, 1e-12))
        return step

    def settled(self, direction: np.ndarray, electrons: float, tolerance: float) -> bool:
        """Return whether ``direction`` changes each thermal factor by less than ``tolerance`` standard errors."""
        return self._border is None or bool((direction[self._first_thermal:] ** 2 * 4 * electrons * self._border.known
                                             < tolerance**2).all())


class _Border:
    """Preconditioner of sites and of one thermal factor for each element, shared by all sites of the element.

    JᵀJ is approximated by the (4, 4) blocks of single sites, bordered by one row for each element. The information on a
    thermal factor is then the Schur complement, with positions and occupancies eliminated.
    """

    def __init__(self, inverse: np.ndarray, information: np.ndarray, kinds: np.ndarray, n_kinds: int) -> None:
        self._kinds, self._n_kinds = kinds, n_kinds
        self._follows = np.einsum("nij,nj->ni", inverse, information[:, :4, 4])
        self.known = np.bincount(kinds, separate_thermal(information), n_kinds)
        # An element without sites has no gradient.
        self._variance = 1 / np.where(self.known > 0, self.known, 1.0)

    def solve(self, blocks: np.ndarray, solved: np.ndarray, thermal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sites (N, 4) and thermal factors (K,) for the right-hand sides ``blocks`` and ``thermal``.

        ``solved`` is the solution of the blocks alone.
        """
        taken = np.bincount(self._kinds, (self._follows * blocks).sum(axis=1), self._n_kinds)
        change_A2 = self._variance * (thermal - taken)
        return solved - self._follows * change_A2[self._kinds, None], change_A2


def fit_poses(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, *, n_passes: int,
              tolerance: float, on_pass: Callable[[float], None] | None = None) -> tuple[Poses, Descent]:
    """Fit turn and shift of each tilt to the images, with fixed sites.

    ``information`` (6, 6) is JᵀJ of turn and shift of a tilt
    (:func:`~aetlab.refinement.fisher.sample_pose_information`); the others are those of :func:`fit_to_images`.
    """
    root = _inverse_root(information)
    n_electrons = model.data.mean_electrons(poses)
    electrons = n_electrons if math.isfinite(n_electrons) else NOISE_FREE_ELECTRONS
    radius_A = float(np.sqrt((sites.positions_A**2).sum(axis=1).mean()))

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        seen = poses.moved(x.reshape(-1, 6) @ root)
        cost, gradient = 0.0, np.zeros((model.n_tilts, 6))
        for tilt in model.gradients(sites, seen):
            cost += tilt.cost
            gradient[tilt.i_tilt] = pose_gradient(tilt.placed_A, tilt.gradient[0, :, :3], seen.turn_deg[tilt.i_tilt],
                                                  seen.shift_A[tilt.i_tilt])
        if on_pass is not None:
            on_pass(cost)
        return cost, (gradient @ root.T).ravel()

    def limit(step: np.ndarray) -> np.ndarray:
        change = np.abs(step.reshape(-1, 6) @ root)
        turned_A = radius_A * np.deg2rad(change[:, :3]).sum(axis=1)
        moved_A = turned_A + change[:, 3:5].sum(axis=1) + change[:, 5] / HEIGHT_PER_SHIFT
        shorter = np.minimum(1, LONGEST_POSE_STEP_A / np.maximum(moved_A, 1e-12))
        return (step.reshape(-1, 6) * shorter[:, None]).ravel()

    descent = minimize_lbfgs(np.zeros(6 * model.n_tilts), evaluate, lambda vector: vector.copy(), n_passes=n_passes,
                             tolerance=tolerance * math.sqrt(6 * model.n_tilts / (4 * electrons)), limit=limit)
    return poses.moved(descent.point.reshape(-1, 6) @ root), descent


def _inverse_root(information: np.ndarray) -> np.ndarray:
    """Return a symmetric inverse root (P, P) of an information: all directions are equally known in its coordinates."""
    scale = 1 / np.sqrt(np.maximum(np.diagonal(information), 1e-300))
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale[None, :])
    unit = vectors / np.sqrt(np.maximum(values, 1e-3 * values.max())) @ vectors.T
    return unit * scale[None, :]
