"""The written rule that sets the weight of a regulariser before a run, from the dose alone."""

from __future__ import annotations

import math

#: Model error of one pixel's amplitude, in units of the vacuum amplitude: what the weight rests on at infinite dose.
AMPLITUDE_FLOOR = 0.01


def rule_weight(rule_factor: float, *, interaction: float, voxel_A: float, n_images: int, electrons_per_pixel: float,
                floor: float = AMPLITUDE_FLOOR) -> float:
    """Weight in 1/V: ``rule_factor`` standard deviations of the noise in the gradient of the cost at a voxel.

    A voxel enters about one pixel of every image with σ Δz radians per volt; the amplitude of a pixel has the variance
    1/(4 n_e) from shot noise, and ``floor``² from what the model leaves out, added in quadrature:
    ``weight = rule_factor · σ Δz · √n_images · √(1/(4 n_e) + floor²)``.

    Parameters
    ----------
    rule_factor : float
        Standard deviations; the weights of the paper come to about 0.4 for TV and 1.1 for Lasso.
    interaction : float
        σ in rad/(V Å).
    voxel_A : float
        Δz in Å.
    n_images : int
        Tilts times defoci.
    electrons_per_pixel : float
        Mean count n_e of a vacuum pixel in one image; ``inf`` for noise-free images.
    floor : float
        Model error of an amplitude of 1.
    """
    amplitude_error = math.sqrt(1 / (4 * electrons_per_pixel) + floor**2)
    return rule_factor * interaction * voxel_A * math.sqrt(n_images) * amplitude_error
