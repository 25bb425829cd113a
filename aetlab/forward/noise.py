"""Add shot noise: the Poisson counts of a detector, scaled to intensities with vacuum 1.

The mean count of a vacuum pixel in one image is ``n_e`` = dose of the image · pixel area · DQE(0). A count is
Poisson(intensity · n_e), and the image is count / n_e, so that vacuum is 1 and its variance 1/n_e. A detective quantum
efficiency below 1 is modelled as a smaller number of effective electrons. This is exact for the noise of vacuum at zero
frequency, and the noise remains white.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from aetlab.core.backend import array_module, to_numpy
from aetlab.core.nouns import TiltSeries


def effective_electrons_per_pixel(dose_per_image_e_A2: float, pixel_A: float, dqe: float = 1.0) -> float:
    """Return the effective electrons of a vacuum pixel in one image: dose · pixel area · DQE at zero frequency."""
    return dose_per_image_e_A2 * pixel_A**2 * dqe


def add_shot_noise(series: TiltSeries, electrons_per_pixel: float | np.ndarray,
                   rng: np.random.Generator, rows: np.ndarray | None = None) -> TiltSeries:
    """Return a tilt series as recorded with a finite number of electrons.

    Parameters
    ----------
    series : TiltSeries
        Noise-free images (T, F, X, Y), vacuum 1.
    electrons_per_pixel : float or (T, F)
        Mean count of a vacuum pixel, for all images or for each, see :func:`effective_electrons_per_pixel`. For ``inf``
        the result is ``series`` itself.
    rng : numpy.random.Generator
        Source of the counts; the images are drawn in the order of tilt and defocus.
    rows : (R,), optional
        Rows along y that are kept of the images; counts are drawn for all, so that they do not depend on the rows.

    Returns
    -------
    TiltSeries of float32 images, vacuum 1 on average.
    """
    if not np.all(np.asarray(electrons_per_pixel) > 0):
        raise ValueError(f"electrons_per_pixel={electrons_per_pixel} must be greater than 0")
    if np.all(np.isinf(electrons_per_pixel)):
        return series if rows is None else series.cut(rows)
    # The number does not matter for a missing image.
    electrons = np.where(series.weight > 0, electrons_per_pixel, 1.0)
    xp = array_module(series.images)
    kept = series if rows is None else series.cut(rows)
    noisy = xp.empty(kept.images.shape, dtype=np.float32)
    for i_tilt in range(noisy.shape[0]):
        # The blur by the detector can undershoot 0 by a rounding error or a ripple. A mean count cannot be negative.
        mean = np.maximum(to_numpy(series.sound_images(i_tilt)).astype(np.float64), 0.0)
        n = electrons[i_tilt][:, None, None]
        drawn = xp.asarray(rng.poisson(mean * n) / n, dtype=np.float32)
        noisy[i_tilt] = drawn if rows is None else drawn[..., rows]
    return dataclasses.replace(kept, images=noisy, electrons_per_pixel=electrons_per_pixel)
