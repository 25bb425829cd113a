r"""Defocus and brightness of every single image, with fixed sites.

An image whose vacuum has the intensity b = s² and whose plane lies δ further along the beam than recorded has the
amplitude a ≈ s (|ψ| + δ ∂|ψ|/∂δ), which is linear in s and s·δ: least squares over its pixels, two unknowns, and again
from where that led (Gauss-Newton). The derivative is a central difference of images at three planes, which share the
exit wave. Positions and occupancies are fixed; the next fit removes errors that the two leave in each other. Pixels
count by their weights; missing images keep the brightness 1 and the defocus 0.
"""

from __future__ import annotations

from dataclasses import replace

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


def calibrate_images(model: AtomModel, sites: Sites, poses: Poses) -> tuple[Poses, float]:
    """Take one step of the brightness and defocus of each image towards the measured ones; one forward pass.

    Return the poses, and the root mean square of the changes of defocus in standard errors. Noise-free data are assumed
    to have :data:`aetlab.refinement.naming.NOISE_FREE_ELECTRONS` a pixel.
    """
    brightness, change_A = np.ones_like(poses.brightness), np.zeros_like(poses.defocus_A)
    known = np.zeros_like(poses.brightness)
    for i_tilt, images in enumerate(model.focal_images(sites, poses, (-STEP_A, 0.0, STEP_A))):
        below, here, above = np.sqrt(images.astype(np.float64))
        slope = (above - below) / (2 * STEP_A)
        measured, weights = model.amplitude(poses, i_tilt).astype(np.float64), model.weights_of(i_tilt)
        if weights is not None:
            here, slope, measured = (np.sqrt(weights) * values for values in (here, slope, measured))
        of_here, of_slope, both = (here**2).sum((1, 2)), (slope**2).sum((1, 2)), (here * slope).sum((1, 2))
        first, second = (measured * here).sum((1, 2)), (measured * slope).sum((1, 2))
        determinant = of_here * of_slope - both**2
        seen = determinant > LEAST_SLOPE * of_here**2
        safe = np.where(seen, determinant, 1.0)
        missing = ~model.present[i_tilt] | (of_here == 0)
        of_here, first = np.where(missing, 1.0, of_here), np.where(missing, 1.0, first)
        scale = np.where(seen, (of_slope * first - both * second) / safe, first / of_here)
        moved_A = np.where(seen, (of_here * second - both * first) / safe / scale, 0.0)
        change_A[i_tilt] = np.clip(moved_A, -LONGEST_STEP_A, LONGEST_STEP_A)
        brightness[i_tilt] = scale**2
        known[i_tilt] = of_slope - both**2 / of_here
    calibrated = replace(poses, brightness=poses.brightness * brightness, defocus_A=poses.defocus_A + change_A)
    electrons = min(model.mean_electrons(calibrated), NOISE_FREE_ELECTRONS)
    return calibrated, float(np.sqrt(np.mean((4 * electrons * known * change_A**2)[model.present])))


def take_heights(poses: Poses, present: np.ndarray) -> Poses:
    """Return poses of the same images, with the mean defocus of each tilt turned into its height.

    The mean is that of the images that are ``present`` (T, F); the others keep the defocus 0.
    """
    n_images = np.maximum(present.sum(axis=1, keepdims=True), 1)
    mean_A = np.where(present, poses.defocus_A, 0).sum(axis=1, keepdims=True) / n_images
    return replace(poses, defocus_A=np.where(present, poses.defocus_A - mean_A, 0),
                   shift_A=poses.shift_A - mean_A * (0.0, 0.0, 1.0))
