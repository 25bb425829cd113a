r"""Weights of the images by how well the atoms explain them.

An image that no motion, defocus or brightness explains (drift, contamination, a wrong angle in the table) pulls the
atoms towards what is wrong in it. Its misfit χ² per value stands out among those of all images. Outlying images
(:func:`aetlab.core.outlying.find_outlying`) are weighted by (median χ² / χ²)², all others by 1, and the weights follow
the misfit as the fit goes on (iteratively reweighted least squares).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.outlying import find_outlying
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites

#: Least weight of an image: it keeps its pose.
LEAST = 1e-3
#: Images that the log names.
MOST_NAMED = 10


def image_misfits(model: AtomModel, sites: Sites, poses: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of each image without its robust weight, and its misfit, (T, F) each; one forward pass.

    The misfit is a quarter of χ² per value, and NaN for missing images; images without noise count one electron a
    pixel.
    """
    costs, misfits = np.zeros(model.present.shape), np.full(model.present.shape, np.nan)
    for i_tilt, (images,) in enumerate(model.focal_images(sites, poses, (0.0,))):
        square = (np.sqrt(images.astype(np.float64)) - model.amplitude(poses, i_tilt)) ** 2
        weights = model.weights_of(i_tilt)
        weights = np.ones_like(square) if weights is None else weights
        total = weights.sum(axis=(1, 2), dtype=np.float64)
        costs[i_tilt] = 0.5 * (weights * square).sum(axis=(1, 2)) / model.image_factors[i_tilt]
        seen = model.present[i_tilt] & (total > 0)
        electrons = model.electrons_of_images[i_tilt, seen]
        misfits[i_tilt, seen] = electrons * (weights * square).sum(axis=(1, 2))[seen] / total[seen]
    return costs, misfits


def robust_factors(misfit: np.ndarray) -> np.ndarray:
    """Return the weight (T, F) of each image by its ``misfit`` (T, F): 1 unless it stands out."""
    outlying, middle = find_outlying(misfit)
    return np.where(outlying, np.maximum((middle / np.where(outlying, misfit, 1.0)) ** 2, LEAST), 1.0)


def list_weakened(model: AtomModel) -> dict[str, Any]:
    """Return entries of a summary: how many images lost weight, and tilt, image and factor of each."""
    found = np.argwhere(model.image_factors < 1).tolist()
    return {"n_weakened_images": float(len(found)),
            "weakened": [(i, j, float(model.image_factors[i, j])) for i, j in found]}


def describe_weakened(refined: RefinedAtoms, series: TiltSeries) -> list[str]:
    """Return a line that names the images of ``series`` that lost weight in a refinement; none if none did."""
    found = sorted(refined.summary.get("weakened", ()), key=lambda entry: entry[2])
    named = [f"{series.tilt_deg[i]:.4g}° at {series.defocus_A[i, j] / 10:.4g} nm (weight {factor:.2g})"
             for i, j, factor in found[:MOST_NAMED]]
    more = f" and {len(found) - len(named)} more" if len(found) > len(named) else ""
    if not found:
        return []
    return [f"{len(found)} images fit much worse than the others and lose weight: {', '.join(named)}{more}"]
