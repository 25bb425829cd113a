"""Cost and gradient of the image waves: minimum at the measured wave, and slopes by central differences."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.forward.detector import cost_of_rows
from aetlab.methods import residual_kernels as kernels

SHAPE = (2, 5, 6)
BACKGROUND = 1e-3


def _cost_and_gradient(likelihood: str, wave: np.ndarray, amplitude: np.ndarray) -> tuple[float, np.ndarray]:
    gradient, row_cost = wave.copy(), np.empty(SHAPE[:2])
    if likelihood == "amplitude":
        kernels.amplitude_residual(gradient, amplitude, None, row_cost)
    else:
        kernels.poisson_residual(gradient, amplitude, None, BACKGROUND, row_cost)
    return cost_of_rows(row_cost), gradient


def _waves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*SHAPE, 2)) @ [1, 1j], np.sqrt(rng.poisson(1.0, SHAPE))


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_the_gradient_is_the_slope_of_the_cost(likelihood: str) -> None:
    """dL = Re Σ g* dψ, also where no electron was counted."""
    wave, amplitude = _waves(3)
    assert (amplitude == 0).any()
    _, gradient = _cost_and_gradient(likelihood, wave, amplitude)
    for seed in range(5):
        direction, h = _waves(10 + seed)[0], 1e-6
        above, below = (_cost_and_gradient(likelihood, wave + s * h * direction, amplitude)[0] for s in (1, -1))
        np.testing.assert_allclose(np.vdot(gradient, direction).real, (above - below) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_the_cost_is_least_at_the_measured_wave(likelihood: str) -> None:
    wave, _ = _waves(4)
    background = BACKGROUND if likelihood == "poisson" else 0.0
    amplitude = np.sqrt(np.abs(wave) ** 2 + background)
    cost, gradient = _cost_and_gradient(likelihood, wave, amplitude)
    assert abs(cost) < 1e-12 and np.abs(gradient).max() < 1e-12
    for factor in (0.95, 1.05):
        assert _cost_and_gradient(likelihood, factor * wave, amplitude)[0] > 1e-3


def test_the_cost_of_one_pixel_by_hand() -> None:
    """½ (2 - 1)² = 0.5, and ¼ (4.001 - 1 + ln(1 / 4.001)) = 0.4036139 with the background in the model."""
    wave, amplitude = np.zeros(SHAPE, complex), np.zeros(SHAPE)
    wave[0, 0, 0], amplitude[0, 0, 0] = 2j, 1.0
    assert _cost_and_gradient("amplitude", wave, amplitude)[0] == pytest.approx(0.5, rel=1e-12)
    dark = 0.25 * BACKGROUND * (wave.size - 1)  # ¼ m in each pixel without electrons
    assert _cost_and_gradient("poisson", wave, amplitude)[0] == pytest.approx(0.4036139 + dark, abs=1e-6)
