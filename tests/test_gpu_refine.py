"""Propagation for the refinement of atoms on a GPU, by kernels compiled for the processor, and its choice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from host_device import HostDevice, host_library

from aetlab import gpu
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.multislice import make_multislice
from aetlab.forward.series_optics import series_optics
from aetlab.gpu import GpuTiltCosts, choose, tilt_cost_bytes
from aetlab.reconstruction import device as device_choice
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec, RunSpec, SpecError

SHAPE, TILT_DEG, DEFOCUS_A = (14, 20, 34), np.array([0.0, 37.0, -61.0]), np.array([100.0, 300.0])
N_LAYERS = 4


@pytest.fixture
def device() -> Iterator[HostDevice]:
    device = HostDevice(host_library())
    yield device
    device.check_guards()


@pytest.fixture
def series() -> TiltSeries:
    images = np.random.default_rng(1).uniform(0.7, 1.3, (len(TILT_DEG), len(DEFOCUS_A), *SHAPE[1:]))
    return TiltSeries(images.astype(np.float32), TILT_DEG, DEFOCUS_A, 0.5)


def make_model(series: TiltSeries, microscope: MicroscopeSpec | None = None, **options: object) -> AtomModel:
    return AtomModel(series, SHAPE, (8, 14), microscope=microscope or MicroscopeSpec(), n_layers_per_slice=N_LAYERS,
                     parametrization="lobato", debye_waller_A2={"default": 0.5}, **options)  # type: ignore[arg-type]


@pytest.fixture
def uneven(series: TiltSeries) -> TiltSeries:
    """Return the series with a missing image, bad pixels, other weights, and defoci of each tilt."""
    rng = np.random.default_rng(5)
    weight = rng.uniform(0.5, 2, (3, 2))
    weight[1, 0] = 0
    return TiltSeries(series.images, TILT_DEG, DEFOCUS_A + 20.0 * np.arange(3)[:, None], 0.5, weight=weight,
                      pixel_weight=np.maximum(rng.uniform(-0.2, 1, series.images.shape), 0))


@pytest.mark.parametrize("name", ["series", "uneven"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_pass_agrees_with_the_cpu(device: HostDevice, moved: bool, name: str, request: pytest.FixtureRequest) -> None:
    """Compare costs, gradients with noise for every element, and slices in their order; also with moved poses."""
    series: TiltSeries = request.getfixturevalue(name)
    rng = np.random.default_rng(2)
    sites = Sites(rng.uniform(-3, 3, (15, 3)), rng.uniform(0.5, 1.2, 15), rng.integers(0, 2, 15))
    poses = Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    if moved:
        poses = poses.moved(0.5 * rng.normal(size=(3, 6)))

    def run(model: AtomModel) -> tuple[list[float], np.ndarray, list[np.ndarray]]:
        slices: list[np.ndarray] = []
        tilts = list(model.gradients(sites, poses, tried=(0, 1), noise=np.random.SeedSequence(3),
                                     on_slices=lambda i, gradient: slices.append(gradient.copy())))
        return [tilt.cost for tilt in tilts], np.stack([tilt.gradient for tilt in tilts]), slices

    by_gpu = run(make_model(series, make_tilt_cost=GpuTiltCosts(device)))
    by_cpu = run(make_model(series))
    np.testing.assert_allclose(by_gpu[0], by_cpu[0], rtol=1e-5)
    np.testing.assert_allclose(by_gpu[1], by_cpu[1], atol=2e-5 * np.abs(by_cpu[1]).max())
    np.testing.assert_allclose(by_gpu[2], by_cpu[2], atol=2e-5 * np.abs(by_cpu[2]).max())
    np.testing.assert_array_equal(by_gpu[1], run(make_model(series, make_tilt_cost=GpuTiltCosts(device)))[1])


def test_a_contrast_and_the_detectors_blur_agree_with_the_cpu(device: HostDevice, series: TiltSeries) -> None:
    """With a detector, then with another contrast of the same model, then with neither."""
    sites = Sites(np.random.default_rng(2).uniform(-3, 3, (15, 3)), np.ones(15), np.zeros(15, int))
    poses, microscope = Poses.nominal(TILT_DEG, len(DEFOCUS_A)), MicroscopeSpec(mtf_half=0.4)
    by_gpu = make_model(series, microscope, make_tilt_cost=GpuTiltCosts(device))
    by_cpu = make_model(series, microscope)
    for contrast in (1.0, 0.8, 1.0):
        there, here = (list(model.with_contrast(contrast).gradients(sites, poses)) for model in (by_gpu, by_cpu))
        np.testing.assert_allclose([tilt.cost for tilt in there], [tilt.cost for tilt in here], rtol=1e-5)
        expected = np.stack([tilt.gradient for tilt in here])
        np.testing.assert_allclose([tilt.gradient for tilt in there], expected, atol=2e-5 * np.abs(expected).max())


def test_memory_is_within_its_estimate(device: HostDevice, series: TiltSeries) -> None:
    cost = GpuTiltCosts(device)(series_optics(series, SHAPE, MicroscopeSpec(), N_LAYERS))
    slices = np.zeros((4, *SHAPE[1:]), np.float32)
    for _ in range(3):
        cost.cost_and_gradient(slices, series.images[0], np.ones_like(series.images[0]))
    counted = tilt_cost_bytes(SHAPE, len(DEFOCUS_A), n_layers_per_slice=N_LAYERS)
    assert 0.7 * counted < device.n_bytes <= counted


def test_double_precision_is_refused(device: HostDevice, series: TiltSeries) -> None:
    with pytest.raises(ValueError, match="float32, not float64"):
        GpuTiltCosts(device)(series_optics(series, SHAPE, MicroscopeSpec(), N_LAYERS), np.float64)


def test_the_settings_choose_the_device(device: HostDevice, smoke_spec: RunSpec, change,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    auto, asked, cpu = (change(change(smoke_spec, "refine", kind="atoms"), "engine", device=name)
                        for name in ("auto", "gpu", "cpu"))
    said: list[str] = []
    monkeypatch.setattr(choose, "gpu_problem", lambda: "no GPU here")
    with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: no GPU here"):
        device_choice.choose_tilt_cost(asked, said.append)
    monkeypatch.setattr(choose, "gpu_problem", lambda: None)
    monkeypatch.setattr(choose, "_open", lambda: device)
    device_choice.require_gpu(asked)
    for spec in (auto, cpu):
        assert device_choice.choose_tilt_cost(spec, said.append) is make_multislice
    assert said == []
    assert isinstance(device_choice.choose_tilt_cost(asked, said.append), GpuTiltCosts)
    assert said == ["the processor propagates the waves of the refinement"]
    # Room for the reconstruction, not for the waves of all threads.
    few = change(change(asked, "reg", kind="none"), "binning", n_layers=1)
    room = gpu.memory_needed_bytes(few.scale.shape_zxy, 60, 3, n_layers_per_slice=1, rotation="linear",
                                   regulariser="none")
    many = room // tilt_cost_bytes(few.scale.shape_zxy, 3, n_layers_per_slice=1) + 1
    monkeypatch.setattr(device_choice, "n_threads", lambda: many)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: int(room + choose.RESERVE_BYTES))
    for refuse in (device_choice.require_gpu, lambda spec: device_choice.choose_tilt_cost(spec, said.append)):
        with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: .* more than are free"):
            refuse(few)
