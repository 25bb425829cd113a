"""A reconstruction does not depend on the number of threads, and the same seed gives it again bit for bit."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from aetlab.core.backend import threads
from aetlab.core.nouns import TiltSeries
from aetlab.forward.model import SMALL_PLANE, ForwardModel
from aetlab.solve import Stopping, minimize
from aetlab.spec import MicroscopeSpec
from tests.priors import make_prox

#: Planes large enough for several threads; those of the second shape are transformed by the FFT library.
SHAPES = ((20, 180, 160), (20, 164, 168))


def _reconstruct(shape: tuple[int, int, int], rotation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return volume and costs of two iterations with TV on noisy images."""
    rng = np.random.default_rng(1)
    images = rng.uniform(0.8, 1.2, (3, 2, *shape[1:])).astype(np.float32)
    series = TiltSeries(images, np.array([0.0, 50.0, 110.0]), np.array([200.0, 450.0]), 0.5)
    model = ForwardModel(series, shape, microscope=MicroscopeSpec(), n_layers_per_slice=7, rotation=rotation)
    prox = make_prox("tv", 1e-6, inner_iterations=4, warm_start=True)
    solution = minimize(np.zeros(shape, np.float32), model.descend, prox, Stopping(n_iterations=2), n_tilts=3,
                        step=1 / model.lipschitz, rng=np.random.default_rng(2))
    return solution.volume, solution.cost


@pytest.mark.parametrize(("shape", "rotation"), [(SHAPES[0], "linear"), (SHAPES[1], "linear"), (SHAPES[0], "fourier")])
def test_threads_change_nothing_beyond_rounding(shape: tuple[int, int, int], rotation: str) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this process was started with one thread")
    assert shape[1] * shape[2] > SMALL_PLANE
    with threads(1):
        volume, cost = _reconstruct(shape, rotation)
    with threads(2):
        again, cost_again = _reconstruct(shape, rotation)
    np.testing.assert_allclose(again, volume, atol=2e-6 * np.abs(volume).max())
    np.testing.assert_allclose(cost_again, cost, rtol=1e-6)


def test_the_same_seed_gives_the_same_volume_bit_for_bit() -> None:
    volume, cost = _reconstruct(SHAPES[0], "linear")
    again, cost_again = _reconstruct(SHAPES[0], "linear")
    np.testing.assert_array_equal(again, volume)
    np.testing.assert_array_equal(cost_again, cost)
