"""Measures of the images of a series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measures:
    """Measures of the images of T tilts at F defoci, each (T, F), NaN where an image is missing or left out early.

    Attributes
    ----------
    mean_counts, level_counts : float
        Mean over the image, and level of the vacuum, in counts.
    level_error : float
        Relative standard error of the level.
    illumination_peak : float
        Greatest relative deviation of the illumination from its mean.
    sharpness_per_A : float
        Root mean square frequency of the signal in 1/Å, noise subtracted.
    drift_A : float
        Motion while the image was recorded, beyond that of most images at its defocus, in Å.
    """

    mean_counts: np.ndarray
    level_counts: np.ndarray
    level_error: np.ndarray
    illumination_peak: np.ndarray
    sharpness_per_A: np.ndarray
    drift_A: np.ndarray
