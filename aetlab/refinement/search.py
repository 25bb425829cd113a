"""Search for missing sites, and removal of duplicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, shift
from scipy.spatial import cKDTree

from aetlab.core import parabola
from aetlab.core.poses import Poses
from aetlab.methods.rotations import make_rotation
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS

#: Standard deviation in Å of the Gaussian that the residual is correlated with: about that of an atom.
ATOM_WIDTH_A = 0.35
#: Maxima of the residual below this fraction of the residual of one missing atom of the lightest element are ignored.
LEAST_PART = 0.3
#: If the proposals exceed this fraction of the sites, only the clearest share is taken: while many atoms are missing,
#: their residual at positions without an atom is easily taken for an atom. The fraction is smaller where noise as well
#: is taken for atoms.
MANY, MANY_IN_NOISE, SHARE = 0.1, 0.005, 0.4
#: Initial occupancy of a new site: above the least occupancy that a site needs to stay.
FIRST_OCCUPANCY = 0.6


class ResidualVolume:
    """Back-projected residuals of all tilts: minus the gradient of the cost with respect to the voxels, in 1/V."""

    def __init__(self, shape_zxy: tuple[int, int, int], n_layers: int, poses: Poses, voxel_A: float) -> None:
        tilt_deg = poses.tilt_deg + poses.turn_deg[:, 1]
        self._rotation = make_rotation("linear", shape_zxy, n_layers, tilt_deg)
        self._shift = poses.shift_A[:, :2] / voxel_A
        self.volume: np.ndarray = np.zeros(shape_zxy, np.float32)

    def add(self, i_tilt: int, slices: np.ndarray) -> None:
        """Add the gradient of the slices of one tilt, with its shift undone and ω_y as the only turn."""
        slices = slices.astype(np.float32, copy=False)
        if self._shift[i_tilt].any():
            slices = shift(slices, (0, *-self._shift[i_tilt]), order=1)
        self._rotation.add_adjoint(slices, i_tilt, -1.0, self.volume)


def propose_sites(residual: np.ndarray, sites: Sites, information: np.ndarray, model: AtomModel, *,
                  min_distance_A: float, max_distance_A: float) -> Sites:
    """Return maxima of the residual volume as sites of the lightest element with occupancy 0.

    Maxima lie between two distances from the nearest site. ``residual`` (Z, X, Y) is minus the gradient with respect to
    the voxels. Its sum weighted with the potential of an atom is minus the gradient with respect to an occupancy. For a
    missing atom that equals the information on the occupancy, which sets the threshold. A parabola along each axis
    gives the position between the voxels.
    """
    voxel_A = model.voxel_A
    smooth = gaussian_filter(residual, ATOM_WIDTH_A / voxel_A, mode="constant")
    lightest = lightest_kind(model)
    # Around a maximum the residual is constant over the core of an atom, so that Σ V · residual ≈ Σ V · maximum.
    expected = typical_information(model, sites, information, lightest) / float(model.tables.weight[lightest].sum())
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
                    favour: np.ndarray, min_significance: float, noisy: bool, all_at_once: bool) -> Sites:
    """Return the significant proposals; one pass over the data.

    The occupancy of each is estimated as minus its gradient over the information i of the lightest element. Without an
    atom its standard deviation is 1/√(4n i). A proposal is kept if the estimate exceeds :data:`LEAST_PART` and
    ½ s² + ``favour`` exceeds ½ ``min_significance``², s the estimate in standard deviations. ``favour`` is a log ratio
    of likelihoods from other evidence. If many are kept (:data:`MANY`, or :data:`MANY_IN_NOISE` if ``noisy``) and
    ``all_at_once`` is False, only the clearest :data:`SHARE` of them is returned.
    """
    if not len(proposed):
        return proposed
    by_occupancy = np.zeros(len(proposed))
    for tilt in model.gradients(join(sites, proposed), poses):
        by_occupancy += tilt.gradient[0, len(sites):, 3]
    typical = typical_information(model, sites, information, lightest_kind(model))
    electrons = min(model.data.mean_electrons(poses), NOISE_FREE_ELECTRONS)
    estimate = -by_occupancy / typical
    clearness = 2 * electrons * typical * estimate**2 + favour
    keep = (estimate > LEAST_PART) & (clearness > 0.5 * min_significance**2)
    if keep.sum() > (MANY_IN_NOISE if noisy else MANY) * len(sites) and not all_at_once:
        keep &= clearness >= np.quantile(clearness[keep], 1 - SHARE)
    return replace(proposed, occupancy=np.full(len(proposed), FIRST_OCCUPANCY)).select(keep)


def lightest_kind(model: AtomModel) -> int:
    """Return the index of the element that scatters least."""
    return int(np.argmin(model.tables.weight.sum(axis=1)))


def typical_information(model: AtomModel, sites: Sites, information: np.ndarray, kind: int) -> float:
    """Return the median JᵀJ of the occupancy of the sites of ``kind``, or what that of all sites would be of ``kind``.

    JᵀJ grows with the square of the projected potential, by the ratio of which that of other elements is converted.
    """
    own = sites.kinds == kind
    if own.any():
        return float(np.median(information[own, 3, 3]))
    square = relative_information(model)
    return float(np.median(information[:, 3, 3] * square[kind] / square[sites.kinds]))


def relative_information(model: AtomModel) -> np.ndarray:
    """Return about how the information on an amount of each element (K,) compares with that of the lightest one."""
    square = _projected_squares(model)
    return np.asarray(square / square[lightest_kind(model)])


def _projected_squares(model: AtomModel) -> np.ndarray:
    """Return ∫ v² dx dy (K,) of the projected potential v of each element, averaged over a voxel; unit of any scale."""
    tables = model.tables
    variance_A2 = tables.width_A**2 + model.voxel_A**2 / 12
    pairs = tables.weight[:, :, None] * tables.weight[:, None] / (variance_A2[:, :, None] + variance_A2[:, None])
    return np.asarray(pairs.sum(axis=(1, 2), dtype=np.float64))


def join(first: Sites, second: Sites) -> Sites:
    """Return the sites of both."""
    return Sites(*(np.concatenate([getattr(first, name), getattr(second, name)])
                   for name in ("positions_A", "occupancy", "kinds")))


def drop_duplicates(sites: Sites, min_distance_A: float) -> np.ndarray:
    """Return which sites to keep, bool (N,): of two nearer than ``min_distance_A`` the one of higher occupancy."""
    keep = np.ones(len(sites), bool)
    pairs = cKDTree(sites.positions_A).query_pairs(min_distance_A, output_type="ndarray") if len(sites) else []
    for a, b in pairs:
        if keep[a] and keep[b]:
            keep[a if sites.occupancy[a] < sites.occupancy[b] else b] = False
    return keep

