r"""Errors that all tilts share, from what the images of each plane of defocus ask of the atoms.

What a model lacks in all images, such as absorption, an aberration or a fixed pattern of the detector, moves an atom
alike in every tilt, along the tilt axis above all: the spread of the tilts does not show it. Images at different defoci
show it differently. With the displacement x_tf = H⁻¹ g_tf that the image of plane f at tilt t asks of a site, let d_tf
be x_tf less the share of its plane, by the spread of the tilts, in Σ_f x_tf. Without such errors S_f = Σ_t d_tf varies
by the spread D_f of the d_tf between the tilts alone. If each of F planes has an error of its own besides, the fit has
F/(F - 1) Σ_f (S_f² - D_f) more variance. Errors that all planes share are not in it.
"""

from __future__ import annotations

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.fisher import LEAST_TILTS, invert_blocks
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import LEAST_ALIKE, LEAST_TILT_FACTOR

#: Weight of the images of the other planes; an image of weight 0 would be a missing one.
_OTHERS = 1e-12


def plane_factors(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                  tilts: np.ndarray) -> np.ndarray:
    """Return the factors of the variances of position and occupancy by what planes ask, (4,), at least 1.

    They are 1 with one plane, with few tilts or sites, and where the spread of the ``tilts``, factors (K, 4) by
    element, is that of the counts: noise then hides what the model lacks. One pass over the data for each plane.

    Parameters
    ----------
    model, sites, poses : AtomModel, Sites, Poses
        The data, and sites that are fitted to them.
    information : (N, 4, 4)
        JᵀJ of each site.
    tilts : (K, 4)
        :func:`aetlab.refinement.fisher.tilt_factors` of the elements of the sites.
    """
    seen = model.data.present.any(axis=1)
    if model.n_defoci < 2 or seen.sum() < LEAST_TILTS or len(sites) < LEAST_ALIKE or tilts.mean() < LEAST_TILT_FACTOR:
        return np.ones(4)
    return between_planes(information, _gradients_of_planes(model, sites, poses)[:, seen])


def between_planes(information: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the factors (4,) from the gradients (F, T, N, 4) of the planes at the minimum, by medians of the sites."""
    n_planes = len(gradients)
    asked = np.einsum("nij,ftnj->ftni", invert_blocks(information), gradients)
    of_planes = _spread(asked)
    share = of_planes / np.maximum(of_planes.sum(axis=0), 1e-300)
    apart = asked - share[:, None] * asked.sum(axis=0)
    expected = np.maximum(_spread(apart).sum(axis=0), 1e-300)
    free = n_planes - 1
    usual = (1 - 2 / (9 * free)) ** 3  # median of χ² per degree of freedom
    more = np.median((apart.sum(axis=1) ** 2).sum(axis=0) / expected, axis=0) / usual - 1
    part = np.median(n_planes / free * expected / np.maximum(_spread(asked.sum(axis=0)), 1e-300), axis=0)
    factors: np.ndarray = 1 + np.maximum(more, 0) * part
    return factors


def _spread(asked: np.ndarray) -> np.ndarray:
    """Return the variance (..., N, 4) of a sum over tilts, by their spread, from the terms (..., T, N, 4)."""
    n_tilts = asked.shape[-3]
    squares: np.ndarray = ((asked - asked.mean(axis=-3, keepdims=True)) ** 2).sum(axis=-3)
    return squares * n_tilts / (n_tilts - 1)


def _gradients_of_planes(model: AtomModel, sites: Sites, poses: Poses) -> np.ndarray:
    """Return the gradients (F, T, N, 4) with respect to position and occupancy by the images of each plane alone."""
    gradients = np.zeros((model.n_defoci, model.n_tilts, len(sites), 4))
    for j in range(model.n_defoci):
        own = np.where(np.arange(model.n_defoci) == j, 1.0, _OTHERS)
        for tilt in model.with_data(model.data.with_factors(model.data.factors * own)).gradients(sites, poses):
            gradients[j, tilt.i_tilt] = tilt.gradient[0]
            gradients[j, tilt.i_tilt, :, :3] = tilt.gradient[0, :, :3] @ poses.rotation(tilt.i_tilt)
    return gradients
