r"""Defocus and brightness of every single image, and the contrast of all, with fixed sites.

An image whose vacuum has the intensity b = s² and whose plane lies δ further along the beam than recorded has the
amplitude a ≈ s (|ψ| + δ ∂|ψ|/∂δ), which is linear in s and s·δ: least squares over its pixels, two unknowns, and again
from where that led (Gauss-Newton). The derivative is a central difference of images at three planes, which share the
exit wave. The contrast c multiplies the modulation of all images, m = mean + c (K |ψ|² - mean): one more unknown γ,
its change, common to all images, whose own two are eliminated from its equation. Positions and occupancies are fixed;
the next fit removes errors that the two leave in each other. Pixels count by their weights; missing images keep the
brightness 1 and the defocus 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS

#: Half the distance in Å of the planes of the central difference with respect to the defocus.
STEP_A = 2.0
#: Largest change of the defocus in one step, in Å.
LONGEST_STEP_A = 20.0
#: Relative determinant below which an image does not determine its defocus, in 1/Å².
LEAST_SLOPE = 1e-14
#: Largest change of the contrast in one step, its bounds, and the change below which it is found.
CONTRAST_STEP, CONTRAST_BOUNDS, CONTRAST_FOUND = 0.2, (0.2, 1.5), 2e-3


@dataclass(frozen=True)
class Calibration:
    """Poses after a step, and what it changed.

    ``change`` is the root mean square of the changes of defocus in standard errors. ``contrast`` is the factor of the
    modulation, ``contrast_change`` its change and ``contrast_error`` its standard error; 0 if it is not fitted.
    """

    poses: Poses
    change: float
    contrast: float
    contrast_change: float = 0.0
    contrast_error: float = 0.0

    def found(self, tolerance: float) -> bool:
        """Return whether the changes are small: those of defocus below ``tolerance`` standard errors."""
        return self.change < tolerance and abs(self.contrast_change) < CONTRAST_FOUND


def calibrate_images(model: AtomModel, sites: Sites, poses: Poses, *, contrast: bool = False) -> Calibration:
    """Take one step of the brightness and defocus of each image towards the measured ones; one forward pass.

    With ``contrast``, the factor of the modulation that all images share takes a step as well. Noise-free data are
    assumed to have :data:`aetlab.refinement.naming.NOISE_FREE_ELECTRONS` a pixel.
    """
    sums = _sum_products(model, sites, poses, contrast)
    of_here, of_slope, both, first, second = (sums[name] for name in ("hh", "ss", "hs", "ah", "as"))
    determinant = of_here * of_slope - both**2
    seen = determinant > LEAST_SLOPE * of_here**2
    safe = np.where(seen, determinant, 1.0)
    missing = ~model.present | (of_here == 0)
    of_here, first = np.where(missing, 1.0, of_here), np.where(missing, 1.0, first)
    gamma, error = 0.0, 0.0
    if contrast:
        # Scale and defocus of each image are eliminated from the equation of the contrast.
        used = seen & ~missing
        by_scale = np.where(used, (of_slope * sums["hk"] - both * sums["sk"]) / safe, 0.0)
        by_defocus = np.where(used, (of_here * sums["sk"] - both * sums["hk"]) / safe, 0.0)
        information = float((sums["kk"] - by_scale * sums["hk"] - by_defocus * sums["sk"])[used].sum())
        rest = float((sums["ak"] - by_scale * first - by_defocus * second)[used].sum())
        if information > 0:
            low, high = (bound - model.contrast for bound in CONTRAST_BOUNDS)
            gamma = float(np.clip(rest / information, max(low, -CONTRAST_STEP), min(high, CONTRAST_STEP)))
            error = 1 / math.sqrt(4 * min(model.mean_electrons(poses), NOISE_FREE_ELECTRONS) * information)
            first, second = first - gamma * sums["hk"], second - gamma * sums["sk"]
    scale = np.where(seen, (of_slope * first - both * second) / safe, first / of_here)
    moved_A = np.where(seen, (of_here * second - both * first) / safe / scale, 0.0)
    change_A = np.clip(moved_A, -LONGEST_STEP_A, LONGEST_STEP_A)
    known = of_slope - both**2 / of_here
    calibrated = replace(poses, brightness=poses.brightness * scale**2, defocus_A=poses.defocus_A + change_A)
    electrons = min(model.mean_electrons(calibrated), NOISE_FREE_ELECTRONS)
    change = float(np.sqrt(np.mean((4 * electrons * known * change_A**2)[model.present])))
    return Calibration(calibrated, change, model.contrast + gamma, gamma, error)


def _sum_products(model: AtomModel, sites: Sites, poses: Poses, contrast: bool) -> dict[str, np.ndarray]:
    """Return sums (T, F) over the pixels of each image of products of two letters; one forward pass.

    They are the measured amplitude a, the amplitude h of the model, its slope s by the defocus and, with ``contrast``,
    its slope k by the contrast.
    """
    names = ["hh", "ss", "hs", "ah", "as"] + (["hk", "sk", "kk", "ak"] if contrast else [])
    sums = {name: np.zeros_like(poses.brightness) for name in names}
    for i_tilt, images in enumerate(model.focal_images(sites, poses, (-STEP_A, 0.0, STEP_A))):
        below, here, above = np.sqrt(images.astype(np.float64))
        measured, weights = model.amplitude(poses, i_tilt).astype(np.float64), model.weights_of(i_tilt)
        planes = {"a": measured, "h": here, "s": (above - below) / (2 * STEP_A)}
        if contrast:
            mean = (here**2).mean(axis=(1, 2), keepdims=True)
            planes["k"] = (here**2 - mean) / (2 * model.contrast * here)
        if weights is not None:
            planes = {name: np.sqrt(weights) * plane for name, plane in planes.items()}
        for name in names:
            sums[name][i_tilt] = (planes[name[0]] * planes[name[1]]).sum((1, 2))
    return sums


def take_heights(poses: Poses, present: np.ndarray) -> Poses:
    """Return poses of the same images, with the mean defocus of each tilt turned into its height.

    The mean is that of the images that are ``present`` (T, F); the others keep the defocus 0.
    """
    n_images = np.maximum(present.sum(axis=1, keepdims=True), 1)
    mean_A = np.where(present, poses.defocus_A, 0).sum(axis=1, keepdims=True) / n_images
    return replace(poses, defocus_A=np.where(present, poses.defocus_A - mean_A, 0),
                   shift_A=poses.shift_A - mean_A * (0.0, 0.0, 1.0))


def at_usual_occupancy(sites: Sites, information: np.ndarray) -> Sites:
    """Return the sites with their occupancies divided by the usual one.

    Occupancies and the contrast of all images scale the same modulation. An atom's occupancy is 1: the median of the
    sites, weighted by their ``information`` (N, 4, 4), is the contrast's, which the next calibration finds.
    """
    order = np.argsort(sites.occupancy)
    weight = np.cumsum(np.sqrt(np.maximum(information[order, 3, 3], 0)))
    if not weight[-1] > 0:
        return sites
    usual = float(sites.occupancy[order[np.searchsorted(weight, 0.5 * weight[-1])]])
    return replace(sites, occupancy=sites.occupancy / usual) if usual > 0 else sites
