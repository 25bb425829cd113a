r"""Decide from the images whether the atoms or their mirror image fit them.

A projection does not tell the sense of the tilt: the sample mirrored in z, tilted the other way, projects to the same
images, but for the order of its layers along the beam. Multiple scattering, and the defocus of layers that lie above or
below the middle, see that order. The mirrored atoms are fitted like the atoms themselves, and the costs of both are
compared tilt by tilt: the mean difference over its standard error is the evidence. Errors of the model that both hands
share cancel in the difference, and the scatter between the tilts holds those that they do not share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import RefinedAtoms
from aetlab.core.poses import Poses
from aetlab.refinement.fisher import sample_pose_information
from aetlab.refinement.fit import fit_to_images
from aetlab.refinement.image_parameters import calibrate_images, take_heights
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import RefineSpec

#: Rounds of defocus and brightness, then positions and poses, and passes of each fit.
_ROUNDS, _PASSES = 2, 6
#: Passes that are reported.
N_MIRRORED = _ROUNDS * _PASSES
#: Signs of positions and occupancy, and of turn and shift across the beam, under the mirroring of z.
_SITE, _POSE = np.array([1.0, 1, -1, 1]), np.array([-1.0, -1, 1, 1, 1, 1])


def mirror(sites: Sites, poses: Poses) -> tuple[Sites, Poses]:
    """Return sites and poses with z mirrored: positions (x, y, -z), tilts the other way, the same planes of focus.

    A rotation vector ω becomes (-ω_x, -ω_y, ω_z).
    """
    return (replace(sites, positions_A=sites.positions_A * _SITE[:3]),
            replace(poses, tilt_deg=-poses.tilt_deg, turn_deg=poses.turn_deg * _POSE[:3]))


def with_hand(refined: RefinedAtoms, model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
              spec: RefineSpec, seed: int, on_pass: Callable[[float], None]) -> RefinedAtoms:
    """Return ``refined`` with the evidence of its hand in its summary: :func:`evidence_of_hand` of its ``sites``."""
    of_poses = None
    if spec.poses:
        of_poses = sample_pose_information(model, sites, poses, spec.n_information, seed)[:5, :5]
    hand = evidence_of_hand(model, sites, poses, information, of_poses, tolerance=spec.tolerance, on_pass=on_pass)
    return replace(refined, summary=refined.summary | {"hand": hand})


def evidence_of_hand(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                     pose_information: np.ndarray | None, *, tolerance: float,
                     on_pass: Callable[[float], None] | None = None) -> float:
    """Return how many standard errors of the tilts the mirror image of fitted sites costs more than they do.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The data, and sites and poses that are fitted to them.
    information, pose_information : (N, 4, 4), (5, 5) or (6, 6)
        As in :func:`aetlab.refinement.fit.fit_to_images`; None leaves the poses.
    tolerance : float
        The fit of the mirror image ends at this number of standard errors.
    on_pass : callable, optional
        Called with the cost after each pass.

    Returns
    -------
    float
        Positive if the sites fit better than their mirror image; 0 with fewer than three tilts.
    """
    own = _costs(model, sites, poses)
    mirrored, turned = mirror(sites, poses)
    of_sites = information * _SITE[:, None] * _SITE
    of_poses = pose_information
    if of_poses is not None:
        sign = _POSE[:len(of_poses)]
        of_poses = of_poses * sign[:, None] * sign
    for _ in range(_ROUNDS):
        turned = calibrate_images(model, mirrored, turned).poses
        if of_poses is not None:
            turned = take_heights(turned, model.present)
        fit = fit_to_images(model, mirrored, turned, of_sites, n_passes=_PASSES, tolerance=tolerance,
                            pose_information=of_poses, on_pass=on_pass)
        mirrored, turned = fit.sites, fit.poses
    more = (_costs(model, mirrored, turned) - own)[model.present.any(axis=1)]
    if len(more) < 3:
        return 0.0
    return float(more.mean() / max(more.std(ddof=1) / np.sqrt(len(more)), 1e-300))


def _costs(model: AtomModel, sites: Sites, poses: Poses) -> np.ndarray:
    """Return the cost of each tilt, (T,)."""
    return np.array([tilt.cost for tilt in model.gradients(sites, poses)])
