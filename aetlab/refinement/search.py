"""Sites that should go, and sites that are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, shift
from scipy.spatial import cKDTree

from aetlab.core import parabola
from aetlab.core.poses import Poses
from aetlab.forward.rotation import make_rotation
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS

#: Width in Å of the Gaussian that the residual is correlated with: about that of an atom.
ATOM_WIDTH_A = 0.35
#: Maxima of the residual below this part of what one atom of the lightest element leaves are not tried.
LEAST_PART = 0.3
#: Where proposals are more than this part of the sites only the clearest share is taken: while many atoms are missing,
#: what they leave in places where there is none is easily taken for one.
MANY, SHARE = 0.1, 0.4
#: Occupancy that a new site begins with: above what a site needs to stay, if the fit leaves it there.
FIRST_OCCUPANCY = 0.6


class ResidualVolume:
    """Residuals of all tilts carried back to the volume: minus the gradient of the cost, in 1/V."""

    def __init__(self, shape_zxy: tuple[int, int, int], n_layers: int, poses: Poses, voxel_A: float) -> None:
        tilt_deg = poses.tilt_deg + poses.turn_deg[:, 1]
        self._rotation = make_rotation("linear", shape_zxy, n_layers, tilt_deg)
        self._shift = poses.shift_A[:, :2] / voxel_A
        self.volume: np.ndarray = np.zeros(shape_zxy, np.float32)

    def add(self, i_tilt: int, slices: np.ndarray) -> None:
        """Take the gradient of the slices of one tilt, its shift undone; of its turn the part about the tilt axis."""
        slices = slices.astype(np.float32, copy=False)
        if self._shift[i_tilt].any():
            slices = shift(slices, (0, *-self._shift[i_tilt]), order=1)
        self._rotation.add_adjoint(slices, i_tilt, -1.0, self.volume)


def propose_sites(residual: np.ndarray, sites: Sites, information: np.ndarray, model: AtomModel, *,
                  min_distance_A: float, max_distance_A: float) -> Sites:
    """Maxima of the residual volume that lie between two distances from the nearest site, with the kind of the lightest
    element and occupancy 0.

    ``residual`` (Z, X, Y) is minus the gradient with respect to the voxels. Summed over an atom's potential it is minus
    the gradient with respect to an occupancy, which for a missing atom is the information on one: that sets the scale
    of what is worth trying. A parabola along each axis gives the place between the voxels.
    """
    voxel_A = model.voxel_A
    smooth = gaussian_filter(residual, ATOM_WIDTH_A / voxel_A, mode="constant")
    lightest = lightest_kind(model)
    # Around a maximum the residual is even over an atom's core, so that Σ V · residual ≈ Σ V · maximum.
    expected = typical_information(sites, information, lightest) / float(model.tables.weight[lightest].sum())
    peaks = (smooth == maximum_filter(smooth, 3)) & (smooth > LEAST_PART * expected)
    for axis in range(3):
        peaks.swapaxes(0, axis)[[0, -1]] = False
    index = np.argwhere(peaks)
    index = index[np.argsort(-smooth[tuple(index.T)], kind="stable")]
    places = index.astype(float)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        places[:, axis] += parabola.vertex(*(smooth[tuple((index + k * step).T)] for k in (-1, 0, 1))).place
    positions_A = ((places - (np.array(residual.shape) - 1) / 2) * voxel_A)[:, [1, 2, 0]]
    chosen: list[int] = []
    if len(positions_A):
        free = np.ones(len(positions_A), bool)
        if len(sites):
            distance_A, _ = cKDTree(sites.positions_A).query(positions_A)
            free = (distance_A >= min_distance_A) & (distance_A <= max_distance_A)
        near = cKDTree(positions_A).query_ball_point(positions_A, min_distance_A)
        for i in range(len(positions_A)):
            if free[i]:
                chosen.append(i)
                free[near[i]] = False
    n = len(chosen)
    return Sites(positions_A[chosen], np.zeros(n), np.full(n, lightest))


def judge_proposals(proposed: Sites, sites: Sites, poses: Poses, information: np.ndarray, model: AtomModel, *,
                    favour: np.ndarray, min_significance: float, all_at_once: bool) -> Sites:
    """Those proposals that the images want as more than noise; one pass over the data.

    The occupancy of each is estimated as minus its gradient over the information on the lightest element, whose
    standard deviation without any atom there is 1/√(4n · information). Kept are estimates above :data:`LEAST_PART` of
    which the square in standard deviations, half of it and ``favour`` together, comes to that of ``min_significance``;
    of these, where they are many (:data:`MANY`) and ``all_at_once`` is not set, the clearest :data:`SHARE`. ``favour``
    is what else speaks for an atom at each, as the log of a ratio of likelihoods.
    """
    if not len(proposed):
        return proposed
    by_occupancy = np.zeros(len(proposed))
    for tilt in model.gradients(join(sites, proposed), poses):
        by_occupancy += tilt.gradient[0, len(sites):, 3]
    typical = typical_information(sites, information, lightest_kind(model))
    electrons = min(model.mean_electrons(poses), NOISE_FREE_ELECTRONS)
    estimate = -by_occupancy / typical
    clearness = 2 * electrons * typical * estimate**2 + favour
    keep = (estimate > LEAST_PART) & (clearness > 0.5 * min_significance**2)
    if keep.sum() > MANY * len(sites) and not all_at_once:
        keep &= clearness >= np.quantile(clearness[keep], 1 - SHARE)
    return replace(proposed, occupancy=np.full(len(proposed), FIRST_OCCUPANCY)).select(keep)


def lightest_kind(model: AtomModel) -> int:
    """The element that scatters least."""
    return int(np.argmin(model.tables.weight.sum(axis=1)))


def typical_information(sites: Sites, information: np.ndarray, kind: int) -> float:
    """Median JᵀJ of the occupancy of the sites of ``kind``, of all sites where there is none."""
    own = information[sites.kinds == kind]
    return float(np.median((own if len(own) else information)[:, 3, 3]))


def join(first: Sites, second: Sites) -> Sites:
    """Sites of both."""
    return Sites(*(np.concatenate([getattr(first, name), getattr(second, name)])
                   for name in ("positions_A", "occupancy", "kinds")))


def drop_duplicates(sites: Sites, min_distance_A: float) -> np.ndarray:
    """Which sites to keep, bool (N,): of two nearer than ``min_distance_A`` the one with more scattering."""
    keep = np.ones(len(sites), bool)
    pairs = cKDTree(sites.positions_A).query_pairs(min_distance_A, output_type="ndarray") if len(sites) else []
    for a, b in pairs:
        if keep[a] and keep[b]:
            keep[a if sites.occupancy[a] < sites.occupancy[b] else b] = False
    return keep

