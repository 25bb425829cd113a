"""Losses of a wave in the image plane, value and gradient together: what the kernels are tested against.

Notation: ψ the complex wave, I = |ψ|² its intensity (vacuum 1), J the measured intensity, n the electrons per vacuum
pixel. The gradient g of a real loss L is such that dL = Re Σ g* dψ.
"""

from __future__ import annotations

import numpy as np


def amplitude_loss(wave: np.ndarray, amplitude: np.ndarray) -> tuple[float, np.ndarray]:
    """½ Σ (|ψ| - a)² with a = √J ``amplitude`` (equation 5 halved), and its gradient ψ - a ψ/|ψ|; 0 where ψ is 0."""
    modulus = np.abs(wave)
    difference = modulus - amplitude
    factor = np.divide(difference, modulus, out=np.zeros_like(modulus), where=modulus > 0)
    return 0.5 * float(np.sum(difference**2, dtype=np.float64)), factor * wave


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
