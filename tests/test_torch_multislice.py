"""The engine against the gradient that PyTorch finds by automatic differentiation of the same model."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.spec import MicroscopeSpec

SHAPE = (24, 32, 48)
N_LAYERS = 10
TILT_DEG = np.array([0.0, 21.0, 90.0, 127.0])
DEFOCUS_A = np.array([200.0, 450.0])


@pytest.mark.parametrize("i_tilt", range(len(TILT_DEG)))
def test_cost_and_gradient_agree_with_automatic_differentiation(i_tilt: int) -> None:
    """The last slice has 4 layers, so that two propagators are needed."""
    pytest.importorskip("torch", reason="PyTorch is not a dependency")
    from tests.torch_multislice import TorchMultislice

    rng = np.random.default_rng(1)
    images = rng.normal(1.0, 0.1, (len(TILT_DEG), len(DEFOCUS_A), *SHAPE[1:])).astype(np.float32)
    volume = rng.uniform(0.0, 20.0, SHAPE).astype(np.float32)
    model = ForwardModel(TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5), SHAPE, microscope=MicroscopeSpec(),
                         n_layers_per_slice=N_LAYERS, rotation="linear")
    peer = TorchMultislice(images, TILT_DEG, DEFOCUS_A, SHAPE[0], 0.5, N_LAYERS)
    cost, gradient = model.cost_and_gradient(volume, i_tilt)
    expected_cost, expected = peer.cost_and_gradient(volume, i_tilt)
    assert cost == pytest.approx(expected_cost, rel=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
