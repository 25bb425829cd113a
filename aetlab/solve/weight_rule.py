"""Rule for the weight of a regulariser, set before a run from the dose."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.tilt_series import AMPLITUDE_FLOOR


def rule_weight(rule_factor: float, *, interaction: float, voxel_A: float, electrons_per_pixel: np.ndarray,
                image_weights: np.ndarray, floor: float = AMPLITUDE_FLOOR) -> float:
    """Return the weight in 1/V: ``rule_factor`` standard deviations of the noise in the cost gradient at a voxel.

    A voxel contributes σ Δz radians per volt to about one pixel of every image. The amplitude of a pixel has the
    variance 1/(4 n_e) from shot noise plus ``floor``² from errors of the model. Image j enters the gradient with its
    weight w_j: ``weight = rule_factor · σ Δz · √(Σ_j w_j² (1/(4 n_j) + floor²))``.

    Parameters
    ----------
    rule_factor : float
        Standard deviations; the weights of the paper correspond to about 0.4 for TV and 1.1 for Lasso.
    interaction : float
        σ in rad/(V Å).
    voxel_A : float
        Δz in Å.
    electrons_per_pixel : float (T, F)
        Mean count n_e of a vacuum pixel in each image; ``inf`` for noise-free images.
    image_weights : float (T, F)
        Weight w of each image in the cost; 0: it is missing.
    floor : float
        Model error of an amplitude of 1.
    """
    present = image_weights > 0
    weights, variance = image_weights[present], 1 / (4 * electrons_per_pixel[present]) + floor**2
    if (weights == 1).all() and (variance == variance[0]).all():
        return rule_factor * interaction * voxel_A * math.sqrt(len(weights)) * math.sqrt(variance[0])
    return rule_factor * interaction * voxel_A * math.sqrt((weights**2 * variance).sum())
