"""Weights of the images by how well the atoms explain them; see :mod:`aetlab.core.outlying`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.outlying import name_weakened, robust_factors
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS


def image_misfits(model: AtomModel, sites: Sites, poses: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of each image without its robust weight, and its misfit, (T, F) each; one forward pass.

    The misfit is a quarter of χ² per value, and NaN for missing images; images without noise count one electron a
    pixel.
    """
    costs, misfits = np.zeros(model.data.present.shape), np.full(model.data.present.shape, np.nan)
    for i_tilt, (images,) in enumerate(model.focal_images(sites, poses, (0.0,))):
        square = (np.sqrt(images.astype(np.float64)) - model.data.amplitude(poses, i_tilt)) ** 2
        weights = model.data.weights_of(i_tilt)
        weights = np.ones_like(square) if weights is None else weights
        total = weights.sum(axis=(1, 2), dtype=np.float64)
        costs[i_tilt] = 0.5 * (weights * square).sum(axis=(1, 2)) / model.data.factors[i_tilt]
        seen = model.data.present[i_tilt] & (total > 0)
        electrons = model.data.electrons_of_images[i_tilt, seen]
        misfits[i_tilt, seen] = electrons * (weights * square).sum(axis=(1, 2))[seen] / total[seen]
    return costs, misfits


@dataclass(frozen=True)
class Left:
    """Misfit that atoms leave: cost and sum of weights of each image, (T, F) each, without robust weights."""

    costs: np.ndarray
    n_values: np.ndarray
    electrons: float

    @classmethod
    def of(cls, model: AtomModel, sites: Sites, poses: Poses) -> Left:
        """Return what ``sites`` leave; one forward pass."""
        costs, _ = image_misfits(model, sites, poses)
        return cls(costs, model.data.values_of_images, min(model.data.mean_electrons(poses), NOISE_FREE_ELECTRONS))

    @property
    def cost(self) -> float:
        """Cost of all images."""
        return float(self.costs.sum())

    def per_value(self, factors: np.ndarray) -> float:
        """Return χ² per value of images with the robust weights ``factors`` (T, F)."""
        return 8 * self.electrons * float((factors * self.costs).sum() / (factors * self.n_values).sum())


def weigh_images(model: AtomModel, sites: Sites, poses: Poses) -> AtomModel:
    """Return ``model`` with the weights of its images by their misfits to ``sites``."""
    return model.with_data(model.data.with_factors(robust_factors(image_misfits(model, sites, poses)[1])))


def forget_images(model: AtomModel, poses: Poses) -> Poses:
    """Return ``poses`` without defoci and shifts of single images in tilts of which an image lost weight."""
    weakened = (model.data.factors.min(axis=1) < 1)[:, None]
    return replace(poses, defocus_A=np.where(weakened, 0.0, poses.defocus_A),
                   image_shift_A=np.where(weakened[:, :, None], 0.0, poses.image_shift_A))


def list_weakened(model: AtomModel) -> dict[str, Any]:
    """Return entries of a summary: how many images lost weight, and tilt, image and factor of each."""
    found = np.argwhere(model.data.factors < 1).tolist()
    return {"n_weakened_images": float(len(found)),
            "weakened": [(i, j, float(model.data.factors[i, j])) for i, j in found]}


def describe_weakened(refined: RefinedAtoms, series: TiltSeries) -> list[str]:
    """Return a line that names the images of ``series`` that lost weight in a refinement; none if none did."""
    found = refined.summary.get("weakened", ())
    factors = np.ones((series.n_tilts, series.n_defoci))
    for i_tilt, i_image, factor in found:
        factors[i_tilt, i_image] = factor
    if not found:
        return []
    return [f"{len(found)} images fit much worse than the others and lose weight: {name_weakened(series, factors)}"]
