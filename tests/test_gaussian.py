"""The likelihood of Gaussian noise on intensities: by its formula, through a run, and not in the refinement."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab import flow
from aetlab.core.nouns import TiltSeries
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.spec import MicroscopeSpec, SpecError
from aetlab.spec.choices import settings

SHAPE = (2, 8, 9)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Waves (F, X, Y), measured amplitudes and weights."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((*SHAPE, 2)) @ [1, 1j], np.sqrt(rng.poisson(1.0, SHAPE)), rng.uniform(0, 2, SHAPE)


@pytest.mark.parametrize("weighted", [False, True])
def test_cost_and_gradient_of_waves(problem: tuple[np.ndarray, np.ndarray, np.ndarray], weighted: bool) -> None:
    """The cost is Σ w (|ψ|² - I)²/8, and its slope along any change of the waves is Re Σ r* dψ."""
    waves, amplitude, weight = problem

    def cost_of(psi: np.ndarray) -> float:
        return float(((weight if weighted else 1.0) * (np.abs(psi) ** 2 - amplitude**2) ** 2).sum() / 8)

    residual, row_cost = waves.copy(), np.empty(SHAPE[:2])
    LIKELIHOODS["gaussian"].compare(residual, amplitude, weight if weighted else None, row_cost)
    assert row_cost.sum() == pytest.approx(cost_of(waves), rel=1e-12)
    direction, h = np.random.default_rng(2).standard_normal((*SHAPE, 2)) @ [1, 1j], 1e-6
    slope = (cost_of(waves + h * direction) - cost_of(waves - h * direction)) / (2 * h)
    assert (residual.conj() * direction).sum().real == pytest.approx(slope, rel=1e-7)


def test_an_intensity_below_the_darkest_has_no_slope(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    waves, amplitude, weight = problem
    intensity = np.abs(waves) ** 2
    intensity[0, 0, 0] = -0.2
    factor, row_cost = intensity.copy(), np.empty(SHAPE[:2])
    LIKELIHOODS["gaussian"].compare_detected(factor, amplitude, weight, row_cost)
    np.testing.assert_allclose(factor.ravel()[1:], (weight * (intensity - amplitude**2) / 2).ravel()[1:], rtol=1e-12)
    assert factor[0, 0, 0] == 0


def test_slices_by_central_differences() -> None:
    """Value and gradient together, in float64, with an odd shape."""
    rng = np.random.default_rng(3)
    blank = TiltSeries(np.ones((1, 2, 9, 10)), np.zeros(1), np.array([200.0, 450.0]), 0.5)
    engine = Multislice(series_optics(blank, (12, 9, 10), MicroscopeSpec(), 4), np.float64, "gaussian")
    slices, direction = rng.uniform(0, 40, (3, 9, 10)), rng.standard_normal((3, 9, 10))
    amplitude = rng.uniform(0.8, 1.2, (2, 9, 10))
    gradient = slices.copy()
    cost = engine.cost_and_gradient(gradient, amplitude)
    assert cost == pytest.approx(float(((np.abs(engine.images(slices)) ** 2 - amplitude**2) ** 2).sum() / 8), rel=1e-12)
    above, below = (engine.cost(slices + s * 1e-4 * direction, amplitude) for s in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((above - below) / 2e-4, rel=1e-6)


def test_a_run_fits_intensities_and_the_refinement_refuses_them() -> None:
    tiny = {"tilts.n_tilts": 4, "engine.n_iterations": 3, "simulate.n_layers": 8}
    spec = settings(scale="smoke", reg="pos", overrides=tiny | {"engine.likelihood": "gaussian"})
    series = flow.simulate(spec, flow.sample(spec))
    cost = flow.reconstruct(spec, series).cost
    assert cost[-1] < cost[0]
    with pytest.raises(SpecError, match="engine.likelihood='gaussian' cannot be used: refine=atoms compares by amplit"):
        settings(refine="atoms", overrides={"engine.likelihood": "gaussian"})
