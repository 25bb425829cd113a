"""The step: the Lipschitz constant bounds the curvature, and a record states that a step too long was halved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aetlab.cli import jobs
from aetlab.core.nouns import TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import make_multislice
from aetlab.forward.series_optics import series_optics
from aetlab.methods.rotations import rotate_and_bin
from aetlab.spec import MicroscopeSpec
from tests.conftest import TINY
from tests.words import spec_of

TILT_DEG, DEFOCUS_A, N_LAYERS = np.array([0.0, 31.7, 45.0, 117.3]), np.array([200.0, 450.0]), 3


def _images(volume: np.ndarray, rotation: str) -> TiltSeries:
    """Return the images of ``volume`` by the model itself."""
    shape_xy = volume.shape[1:]
    empty = TiltSeries(np.ones((len(TILT_DEG), len(DEFOCUS_A), *shape_xy)), TILT_DEG, DEFOCUS_A, 0.5)
    engine = make_multislice(series_optics(empty, volume.shape, MicroscopeSpec(), N_LAYERS))
    images = [np.abs(engine.images(rotate_and_bin(volume, tilt_deg, N_LAYERS, kind=rotation))) ** 2
              for tilt_deg in TILT_DEG]
    return TiltSeries(np.stack(images), TILT_DEG, DEFOCUS_A, 0.5)


@pytest.mark.parametrize("rotation", ["linear", "cubic", "fourier"])
@pytest.mark.parametrize("potential_V", [0.0, 40.0])
def test_the_lipschitz_constant_bounds_the_curvature_of_a_tilt(rotation: str, potential_V: float) -> None:
    """Power iteration on the Hessian by central differences, at vacuum and in a sample; the bound is not loose."""
    rng = np.random.default_rng(1)
    shape = (8, 10, 12)
    truth = rng.uniform(0, potential_V, shape).astype(np.float32)
    model = ForwardModel(_images(truth, rotation), shape, microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS,
                         rotation=rotation)
    h = np.float32(1)
    for i_tilt in range(model.n_tilts):
        direction = rng.standard_normal(shape, np.float32)
        curvature = 0.0
        for _ in range(30):
            direction /= np.linalg.norm(direction)
            ahead = model.cost_and_gradient(truth + h * direction, i_tilt)[1]
            behind = model.cost_and_gradient(truth - h * direction, i_tilt)[1]
            direction = (ahead - behind) / (2 * h)
            curvature = float(np.linalg.norm(direction))
        assert 0.6 * model.lipschitz < curvature < model.lipschitz


def test_a_step_too_long_is_halved_and_the_record_says_so(tmp_path: Path) -> None:
    spec = spec_of(*TINY, "dose=50k", "engine.n_iterations=6", "engine.step=300", "reg=pos")
    outcome = jobs.run_job(spec, "run", outputs=tmp_path, use_other_code=False)
    assert outcome.status == jobs.DONE, outcome.error
    told = json.loads((Path(outcome.folder) / "environment.json").read_text(encoding="utf-8"))
    assert told["halvings"] and told["stopped"] == "all 6 iterations done"
