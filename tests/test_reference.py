"""The engine against the paper's algorithm in plain NumPy: gradient, cost curve and volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from aetlab import forward, solve
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.spec import MicroscopeSpec, SimulateSpec
from tests.priors import make_prox
from tests.reference import Reference

SHAPE = (24, 32, 48)
TILT_DEG = np.array([0.0, 21.0, 60.0, 93.0, 127.0, 160.0])
DEFOCUS_A = np.array([200.0, 450.0])
N_LAYERS = 10


def _series() -> TiltSeries:
    """Images of a few atoms with little noise; planes of 32 × 48 pixels take the fused kernels."""
    rng = np.random.default_rng(1)
    atoms = Atoms(np.where(rng.random(12) < 0.5, 14, 8), rng.uniform(-5.0, 5.0, (12, 3)), np.zeros(12, int))
    series = forward.simulate_tilt_series(atoms, SHAPE, 0.5, TILT_DEG, DEFOCUS_A, microscope=MicroscopeSpec(),
                                          simulate=SimulateSpec(), debye_waller_A2={"default": 0.5}, rng=rng)
    return forward.add_shot_noise(series, 1e4, rng)


def _reference(series: TiltSeries) -> Reference:
    return Reference(series.images, TILT_DEG, DEFOCUS_A, SHAPE[0], 0.5, N_LAYERS, dtype=np.complex128)


def _model(series: TiltSeries, dtype: type = np.float32) -> ForwardModel:
    return ForwardModel(series, SHAPE, microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS, rotation="fourier",
                        dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cost_and_gradient_of_a_tilt_agree(dtype: type) -> None:
    series = _series()
    # Smooth: a complex plane keeps the imaginary part that a shift gives to the Nyquist frequency, a real one drops it.
    volume = np.zeros(SHAPE)
    volume[8:-8, 8:-8, 8:-8] = 100 * np.random.default_rng(2).uniform(size=(8, 16, 32))
    volume = gaussian_filter(volume, 1.5)
    for i_tilt in range(len(TILT_DEG)):
        cost, gradient = _model(series, dtype).cost_and_gradient(volume.astype(dtype), i_tilt)
        expected_cost, expected = _reference(series).cost_and_gradient(volume.astype(complex), i_tilt)
        assert cost == pytest.approx(expected_cost, rel=1e-5)
        np.testing.assert_allclose(gradient, expected, atol=1e-3 * np.abs(expected).max())


def test_cost_curve_and_volume_with_total_variation_agree() -> None:
    """Ten iterations with the same orders of the tilts, two resets among them."""
    series = _series()
    model, n_iterations = _model(series), 10
    step, weight = 1.5 / model.lipschitz, 2e-6
    solution = solve.minimize(np.zeros(SHAPE, np.float32), model.descend, make_prox("tv", weight),
                              solve.Stopping(n_iterations=n_iterations), n_tilts=len(TILT_DEG), step=step,
                              rng=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(TILT_DEG)) for _ in range(n_iterations)]
    volume, costs = _reference(series).reconstruct(orders, step, weight)
    assert costs[-1] < 0.9 * costs[0]
    assert solution.restarts
    np.testing.assert_allclose(solution.cost, costs, rtol=1e-3)
    assert np.linalg.norm(solution.volume - volume) < 1e-3 * np.linalg.norm(volume)
