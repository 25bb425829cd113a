"""Poisson loss of a wave in the image plane, value and gradient together: a reference for the kernels.

Notation: ψ the complex wave, I = |ψ|² its intensity (vacuum 1), J the measured intensity, n the electrons per vacuum
pixel. The gradient g of a real loss L is such that dL = Re Σ g* dψ.
"""

from __future__ import annotations

import numpy as np


def poisson_loss(wave: np.ndarray, intensity: np.ndarray, electrons_per_pixel: float, *,
                 background: float = 1e-6) -> tuple[float, np.ndarray]:
    """Negative log-likelihood n Σ (I - J log I) of Poisson counts nJ, less its least value, and its gradient.

    ``background`` is added to I, which keeps dark pixels finite.
    """
    model = np.abs(wave) ** 2 + background
    surplus = model - intensity
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where(intensity > 0, intensity * np.log(intensity / model), 0.0)
    value = electrons_per_pixel * float(np.sum(surplus + log_ratio, dtype=np.float64))
    return value, 2 * electrons_per_pixel * surplus / model * wave
