r"""Decide from the images whether the atoms or their mirror image fit them.

A projection does not tell the sense of the tilt: the sample mirrored in z, tilted the other way, projects to the same
images, but for the order of its layers along the beam. Multiple scattering, and the defocus of layers that lie above or
below the middle, see that order. The mirrored atoms are fitted like the atoms themselves, and the costs of both are
compared tilt by tilt: the mean difference over its standard error is the evidence. Errors of the model that both hands
share cancel in the difference, and the scatter between the tilts holds those that they do not share. Where a series
does not state the sense of its tilt, the mirror image is taken if it clearly fits better: after the first round, since
missing atoms are found in the right hand only, and after the last one, with all atoms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.doubts import CLEAR_HAND
from aetlab.core.hand import mirror_poses, mirror_positions
from aetlab.core.poses import Poses
from aetlab.refinement.fisher import information_passes, sample_pose_information
from aetlab.refinement.fit import fit_to_images
from aetlab.refinement.image_parameters import calibrate_images, take_common
from aetlab.refinement.kept import carry_along
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.sampling import correct_again
from aetlab.spec import RefineSpec

#: Rounds of defocus and brightness, then positions and poses, and passes of each fit.
_ROUNDS, _PASSES = 2, 6
#: Passes that are reported.
N_MIRRORED = _ROUNDS * _PASSES
#: Corrections of the sampling, if any are made.
N_CORRECTED = _ROUNDS + 2
#: Fewer tilts have no scatter.
_LEAST_TILTS = 3
#: Signs of positions and occupancy, and of turn and shift across the beam, under the mirroring of z.
_SITE, _POSE = np.array([1.0, 1, -1, 1]), np.array([-1.0, -1, 1, 1, 1, 1])


@dataclass(frozen=True)
class Twin:
    """The mirror image of fitted sites, fitted as well, with its poses and the information (N, 4, 4) on its sites.

    ``evidence`` is how many standard errors of the tilts it costs more than the sites, 0 with fewer than three tilts;
    ``cost`` is that of the sites, ``mirrored_cost`` its own.
    """

    sites: Sites
    poses: Poses
    information: np.ndarray
    evidence: float
    cost: float
    mirrored_cost: float

    @property
    def clearly_better(self) -> bool:
        """True if the mirror image clearly fits better."""
        return self.evidence < -CLEAR_HAND

    def better(self, sites: Sites, poses: Poses, information: np.ndarray,
               places_A: np.ndarray) -> tuple[Sites, Poses, np.ndarray, np.ndarray]:
        """Return sites, poses, information and the places of traced sites (P, 3), or those of the twin if it is better.

        Atoms that were not traced are found in the right hand only: in the other one, the others leave residuals.
        """
        if not self.clearly_better:
            return sites, poses, information, places_A
        moved_A = carry_along(mirror_positions(places_A), mirror_positions(sites.positions_A), self.sites.positions_A)
        return self.sites, self.poses, self.information, moved_A

    def summary(self, model: AtomModel, poses: Poses, *, taken: bool) -> dict[str, float]:
        """Return entries of a summary: evidence and χ² per value of the atoms and of their mirror image.

        If the mirror image is ``taken`` as the result, the atoms are those of the twin.
        """
        per_cost = 8 * model.data.mean_electrons(poses) / model.data.n_values
        costs = (self.mirrored_cost, self.cost) if taken else (self.cost, self.mirrored_cost)
        return {"hand": -self.evidence if taken else self.evidence,
                "hand_chi_square": per_cost * costs[0], "hand_chi_square_mirrored": per_cost * costs[1]}


def mirror(sites: Sites, poses: Poses) -> tuple[Sites, Poses]:
    """Return sites and poses with z mirrored (:mod:`aetlab.core.hand`)."""
    return replace(sites, positions_A=mirror_positions(sites.positions_A)), mirror_poses(poses)


def fit_twin(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, spec: RefineSpec, seed: int,
             on_pass: Callable[[float], None]) -> Twin:
    """Return :func:`fit_mirrored` of the sites that a refinement with ``spec`` has found."""
    of_poses = None
    if spec.poses:
        n_passes, _ = information_passes(spec, model.n_tilts)
        of_poses = sample_pose_information(model, sites, poses, n_passes, seed)[:5, :5]
    return fit_mirrored(model, sites, poses, information, of_poses, spec, on_pass=on_pass)


def fit_mirrored(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                 pose_information: np.ndarray | None, spec: RefineSpec, *,
                 on_pass: Callable[[float], None] | None = None) -> Twin:
    """Fit the mirror image of fitted sites, and compare both tilt by tilt.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The data, and sites and poses that are fitted to them.
    information, pose_information : (N, 4, 4), (5, 5) or (6, 6)
        As in :func:`aetlab.refinement.fit.fit_to_images`; None leaves the poses.
    spec : RefineSpec
        Settings of the refinement of the sites; contrast and magnifications stay as they are.
    on_pass : callable, optional
        Called with the cost after each pass.
    """
    spec = replace(spec, contrast=False, magnification=False)
    own = _costs(correct_again(model, sites, poses), sites, poses)
    mirrored, turned = mirror(sites, poses)
    of_sites = information * _SITE[:, None] * _SITE
    of_poses = pose_information
    if of_poses is not None:
        sign = _POSE[:len(of_poses)]
        of_poses = of_poses * sign[:, None] * sign
    for _ in range(_ROUNDS):
        model = correct_again(model, mirrored, turned)
        turned = calibrate_images(model, mirrored, turned, spec).poses
        if of_poses is not None:
            turned = take_common(turned, model.data.present)
        fit = fit_to_images(model, mirrored, turned, of_sites, n_passes=_PASSES, tolerance=spec.tolerance,
                            pose_information=of_poses, on_pass=on_pass)
        mirrored, turned = fit.sites, fit.poses
    other = _costs(correct_again(model, mirrored, turned), mirrored, turned)
    more = (other - own)[model.data.present.any(axis=1)]
    evidence = 0.0
    if len(more) >= _LEAST_TILTS:
        evidence = float(more.mean() / max(more.std(ddof=1) / np.sqrt(len(more)), 1e-300))
    return Twin(mirrored, turned, of_sites, evidence, float(own.sum()), float(other.sum()))


def _costs(model: AtomModel, sites: Sites, poses: Poses) -> np.ndarray:
    """Return the cost of each tilt, (T,)."""
    return np.array([tilt.cost for tilt in model.gradients(sites, poses)])
