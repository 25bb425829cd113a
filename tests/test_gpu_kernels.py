"""The GPU engine's kernels, compiled for the processor, against their CPU twins and by their laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from host_device import HostDevice, compile_for_host, compilers, host_library, signatures
from priors import make_gpu_prox, make_prox

from aetlab.core.nouns import TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.gpu import GpuError, GpuModel, extrapolate, memory_needed_bytes
from aetlab.gpu.kernels import KERNELS
from aetlab.gpu.rotation import check_rotation, make_gpu_rotation
from aetlab.methods.fourier_rotation import FourierRotation
from aetlab.methods.regularisers.atoms import sparsify_on
from aetlab.methods.rotations import make_rotation
from aetlab.spec import MicroscopeSpec

#: Odd, not cubic, with rows longer than a block of the rotation is wide.
SHAPES = ((9, 10, 13), (8, 11, 141))
TILT_DEG = np.array([0.0, 90.0, -37.3, 31.7, 135.0, 180.0])
DEFOCUS_A = np.array([200.0, 450.0, 1000.0])
MICROSCOPE = MicroscopeSpec(Cs_mm=0.01, A1_nm=2.0, A1_deg=20.0)


@pytest.fixture
def device() -> Iterator[HostDevice]:
    device = HostDevice(host_library())
    yield device
    device.check_guards()


def make_series(shape: tuple[int, int, int], seed: int = 0) -> TiltSeries:
    images = np.random.default_rng(seed).uniform(0.5, 1.5, (len(TILT_DEG), len(DEFOCUS_A), *shape[1:]))
    return TiltSeries(images.astype(np.float32), TILT_DEG, DEFOCUS_A, 0.5)


def make_model(device: HostDevice, shape: tuple[int, int, int], n_layers: int = 4,
               rotation: str = "linear") -> GpuModel:
    return GpuModel(make_series(shape), shape, microscope=MICROSCOPE, n_layers_per_slice=n_layers, rotation=rotation,
                    device=device)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def test_the_table_lists_exactly_the_kernels_of_the_sources() -> None:
    assert set(signatures()) == set(KERNELS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n_layers", [1, 4])
@pytest.mark.parametrize("rotation", ["linear", "cubic"])
def test_rotation_and_its_adjoint_agree_with_the_cpu(device: HostDevice, rotation: str, n_layers: int,
                                                     shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    model = make_model(device, shape, n_layers, rotation)
    reference = make_rotation(rotation, shape, n_layers, TILT_DEG, dtype=np.float64)
    slices = np.empty((-(-shape[0] // n_layers), *shape[1:]))
    for i_tilt in range(len(TILT_DEG)):
        volume = device.upload(rng.uniform(-1, 1, shape).astype(np.float32))
        reference.rotate_and_bin(volume.astype(np.float64), i_tilt, slices)
        assert relative_error(model.rotate_and_bin(volume, i_tilt), slices) < 3e-7
        gradient = rng.uniform(-1, 1, slices.shape).astype(np.float32)
        expected = volume.astype(np.float64)
        reference.add_adjoint(gradient.astype(np.float64), i_tilt, 0.7, expected)
        model.add_adjoint(gradient, i_tilt, 0.7, volume)
        assert relative_error(volume, expected) < 3e-7


@pytest.mark.parametrize("rotation", ["linear", "cubic"])
def test_add_adjoint_is_the_adjoint_of_rotate_and_bin(device: HostDevice, rotation: str) -> None:
    rng = np.random.default_rng(2)
    shape = SHAPES[0]
    model = make_model(device, shape, 4, rotation)
    for i_tilt in range(len(TILT_DEG)):
        volume = device.upload(rng.uniform(0, 1, shape).astype(np.float32))
        turned = model.rotate_and_bin(volume, i_tilt).astype(np.float64)
        slices = rng.uniform(0, 1, turned.shape).astype(np.float32)
        back = device.zeros(shape, np.float32)
        model.add_adjoint(slices, i_tilt, 1.0, back)
        np.testing.assert_allclose(np.vdot(turned, slices.astype(np.float64)),
                                   np.vdot(volume.astype(np.float64), back.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize(("rotation", "likelihood"), [("linear", "amplitude"), ("cubic", "amplitude"),
                                                      ("linear", "poisson")])
@pytest.mark.parametrize("n_layers", [1, 4, 9])
def test_a_step_of_one_tilt_agrees_with_the_cpu(device: HostDevice, n_layers: int, rotation: str,
                                                likelihood: str) -> None:
    """Compare cost and step with float64, for tilts in any order; from the third on a recording is replayed."""
    rng = np.random.default_rng(3)
    shape = SHAPES[0]
    options = {"microscope": MICROSCOPE, "n_layers_per_slice": n_layers, "rotation": rotation, "likelihood": likelihood}
    model = GpuModel(make_series(shape), shape, device=device, **options)
    reference = ForwardModel(make_series(shape), shape, dtype=np.float64, **options)
    assert (model.n_tilts, model.lipschitz) == (reference.n_tilts, reference.lipschitz)
    start = rng.uniform(0, 60, shape).astype(np.float32)
    volume, step = device.upload(start), 1.5 / model.lipschitz
    for n_done, i_tilt in enumerate((3, 0, 5, 2, 1, 4, 3)):
        expected = volume.astype(np.float64)
        before = expected.copy()
        by = step / (1 + n_done)
        cost = reference.descend(expected, i_tilt, by)
        assert float(model.descend(volume, i_tilt, by)) == pytest.approx(cost, rel=1e-5)
        assert relative_error(volume - before, expected - before) < 1e-5
        assert model.cost(volume, i_tilt) == pytest.approx(reference.cost(volume.astype(np.float64), i_tilt), rel=1e-5)


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
@pytest.mark.parametrize("by_pixel", [False, True])
@pytest.mark.parametrize("mtf_half", [1.0, 0.4])
def test_a_step_with_weights_and_defoci_of_each_tilt_agrees_with_the_cpu(device: HostDevice, by_pixel: bool,
                                                                         likelihood: str, mtf_half: float) -> None:
    """Missing images, bad pixels and tilts of different defoci; from the third step on a recording is replayed."""
    rng = np.random.default_rng(11)
    shape = SHAPES[0]
    plain = make_series(shape)
    defocus_A = np.array(plain.defocus_A)
    defocus_A[[2, 4]] += [[30.0], [-20.0]]
    weight = rng.uniform(0.2, 2, defocus_A.shape)
    weight[3, 1] = weight[5] = 0
    images, pixel_weight = plain.images.copy(), None
    images[weight == 0] = np.nan
    if by_pixel:
        pixel_weight = np.maximum(rng.uniform(-0.3, 1.5, images.shape), 0).astype(np.float32)
    series = TiltSeries(images, TILT_DEG, defocus_A, 0.5, weight=weight, pixel_weight=pixel_weight)
    microscope = dataclasses.replace(MICROSCOPE, mtf_half=mtf_half)
    options = {"microscope": microscope, "n_layers_per_slice": 4, "likelihood": likelihood}
    model = GpuModel(series, shape, device=device, **options)
    reference = ForwardModel(series, shape, dtype=np.float64, **options)
    assert model.lipschitz == reference.lipschitz
    volume, step = device.upload(rng.uniform(0, 60, shape).astype(np.float32)), 1.5 / model.lipschitz
    for i_tilt in (3, 0, 2, 1, 4, 2, 0):
        expected = volume.astype(np.float64)
        before = expected.copy()
        cost = reference.descend(expected, i_tilt, step)
        assert float(model.descend(volume, i_tilt, step)) == pytest.approx(cost, rel=1e-5)
        assert relative_error(volume - before, expected - before) < 1e-5
        assert model.cost(volume, i_tilt) == pytest.approx(reference.cost(volume.astype(np.float64), i_tilt), rel=1e-5)
    before = volume.copy()
    assert float(model.descend(volume, 5, step)) == 0
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("shape", [(9, 10, 13), (9, 16, 18)], ids=str)
@pytest.mark.parametrize("by_pixel", [False, True])
def test_tilts_that_are_placed_anew_agree_with_the_cpu(device: HostDevice, shape: tuple[int, int, int],
                                                       by_pixel: bool) -> None:
    """Other angles, transfer functions, images and weights of some tilts, before and after a recording is replayed."""
    rng = np.random.default_rng(12)
    plain = make_series(shape)
    pixel_weight = rng.uniform(0.5, 1, plain.images.shape).astype(np.float32) if by_pixel else None
    series = TiltSeries(plain.images, TILT_DEG, plain.defocus_A + 10.0 * np.array([[0], [0], [1], [0], [2], [0]]), 0.5,
                        pixel_weight=pixel_weight)
    options = {"microscope": MICROSCOPE, "n_layers_per_slice": 4}
    model = GpuModel(series, shape, device=device, **options)
    reference = ForwardModel(series, shape, dtype=np.float64, **options)
    volume, step = device.upload(rng.uniform(0, 60, shape).astype(np.float32)), 1.5 / model.lipschitz

    def compare(tilts: tuple[int, ...]) -> None:
        for i_tilt in tilts:
            expected = volume.astype(np.float64)
            before = expected.copy()
            cost = reference.descend(expected, i_tilt, step)
            assert float(model.descend(volume, i_tilt, step)) == pytest.approx(cost, rel=1e-5)
            assert relative_error(volume - before, expected - before) < 1e-5

    compare((0, 2, 4))
    for placed in ((2, 5), (0, 2)):
        for i_tilt in placed:
            transfer = np.exp(2j * np.pi * rng.uniform(0, 1, (3, *shape[1:]))) / (shape[1] * shape[2])
            amplitude = rng.uniform(0.7, 1.3, transfer.shape).astype(np.float32)
            weight = rng.uniform(0, 1, transfer.shape).astype(np.float32) if by_pixel else None
            for of in (model, reference):
                of.place_tilt(i_tilt, TILT_DEG[i_tilt] + 3.3, transfer, amplitude, weight)
        compare((0, 2, 4, 5, 2))


def test_defoci_of_each_tilt_that_exceed_the_memory_are_refused(device: HostDevice,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_series(SHAPES[0])
    series = TiltSeries(plain.images, TILT_DEG, plain.defocus_A + np.arange(6.0)[:, None], 0.5)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: 1000)
    GpuModel(plain, SHAPES[0], device=device, microscope=MICROSCOPE, n_layers_per_slice=4)
    with pytest.raises(GpuError, match="more than are free"):
        GpuModel(series, SHAPES[0], device=device, microscope=MICROSCOPE, n_layers_per_slice=4)


def test_a_step_in_a_metric_with_blurred_slices_agrees_with_the_cpu(device: HostDevice) -> None:
    rng = np.random.default_rng(9)
    shape, options = SHAPES[0], {"microscope": MICROSCOPE, "n_layers_per_slice": 4, "blur_A": 0.7}
    model = GpuModel(make_series(shape), shape, device=device, **options)
    reference = ForwardModel(make_series(shape), shape, dtype=np.float64, **options)
    volume, metric = (device.upload(rng.uniform(0, k, shape).astype(np.float32)) for k in (60, 2))
    for i_tilt in (1, 3, 2):
        before, expected = volume.astype(np.float64), volume.astype(np.float64)
        cost = reference.descend(expected, i_tilt, 1.5 / model.lipschitz, metric.astype(np.float64))
        found = model.descend(volume, i_tilt, 1.5 / model.lipschitz, metric)
        assert float(found) == pytest.approx(cost, rel=1e-5)
        assert relative_error(volume - before, expected - before) < 1e-5
    np.testing.assert_allclose(model.form_potential(volume), reference.form_potential(volume.astype(np.float64)),
                               rtol=1e-5)


def test_costs_of_an_iteration_stay_until_they_are_read(device: HostDevice) -> None:
    shape = SHAPES[0]
    model = make_model(device, shape)
    volume = device.zeros(shape, np.float32)
    costs = [model.descend(volume, i, 0.0) for i in range(model.n_tilts)]
    assert len({cost.tobytes() for cost in costs}) == model.n_tilts
    np.testing.assert_array_equal(costs, [model.cost(volume, i) for i in range(model.n_tilts)])


def test_another_volume_is_not_mistaken_for_the_recorded_one(device: HostDevice) -> None:
    shape = SHAPES[0]
    model, twin = make_model(device, shape), make_model(device, shape)
    volumes = [device.upload(np.full(shape, float(k), np.float32)) for k in range(2)]
    for i in range(3):
        model.descend(volumes[0], i, 100.0)
    model.descend(volumes[1], 3, 100.0)
    expected = device.upload(np.ones(shape, np.float32))
    twin.descend(expected, 3, 100.0)
    np.testing.assert_array_equal(volumes[1], expected)


@pytest.mark.parametrize("n_waiting", [1, 2, 128])
def test_the_cost_does_not_depend_on_the_threads_of_a_block(n_waiting: int) -> None:
    shape = SHAPES[0]
    device = HostDevice(host_library(), n_waiting)
    volume = np.random.default_rng(4).uniform(0, 60, shape).astype(np.float32)
    costs = [make_model(d, shape).cost(d.upload(volume), 2) for d in (device, HostDevice(host_library()))]
    assert costs[0] == pytest.approx(costs[1], rel=1e-14)


def test_a_dark_pixel_has_no_gradient(device: HostDevice) -> None:
    """ψ = 0 would divide by 0; its residual is 0 and its cost ½ a²."""
    images = device.upload(np.array([[0, 3 + 4j, 0.6 - 0.8j]], np.complex64))
    amplitude, row_cost = device.upload(np.array([[2, 4, 2]], np.float32)), device.zeros((1,), np.float64)
    device.launch("residual", (1, 1, 1), amplitude, amplitude, np.int32(0), device.zeros((2,), np.int32),
                  np.int32(1), np.int32(3), images, row_cost)
    np.testing.assert_allclose(images[0], [0, 0.6 + 0.8j, -0.6 + 0.8j], atol=1e-6)
    np.testing.assert_allclose(row_cost, 0.5 * (4 + 1 + 1), rtol=1e-6)


def test_a_dark_pixel_with_a_weight_has_no_gradient(device: HostDevice) -> None:
    images = device.upload(np.array([[0, 3 + 4j, 0.6 - 0.8j]], np.complex64))
    amplitude, row_cost = device.upload(np.array([[2, 4, 2]], np.float32)), device.zeros((1,), np.float64)
    weight = device.upload(np.array([[2, 3, 0]], np.float32))
    device.launch("residual", (1, 1, 1), amplitude, weight, np.int32(3), device.zeros((2,), np.int32),
                  np.int32(1), np.int32(3), images, row_cost)
    np.testing.assert_allclose(images[0], [0, 1.8 + 2.4j, 0], atol=1e-6)
    np.testing.assert_allclose(row_cost, 0.5 * (8 + 3), rtol=1e-6)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 3)], ids=str)
def test_total_variation_agrees_with_the_cpu(device: HostDevice, shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(5).uniform(-5, 20, shape)
    expected = make_prox("tv", 0.5)(volume.copy(), 6.0)
    found = make_gpu_prox(device, "tv", 0.5)(device.upload(volume.astype(np.float32)), 6.0)
    assert relative_error(found, expected) < 1e-6


def test_total_variation_keeps_its_dual_variables_only_with_a_warm_start(device: HostDevice) -> None:
    """Warm calls agree with the CPU and continue from restored dual variables; cold calls keep no state."""
    shape, rng = SHAPES[0], np.random.default_rng(6)
    volumes = [rng.uniform(-5, 20, shape) for _ in range(3)]
    warm = {"inner_iterations": 4, "warm_start": True}
    cpu, gpu = make_prox("tv", 0.5, **warm), make_gpu_prox(device, "tv", 0.5, **warm)
    for volume in volumes[:2]:
        expected = cpu(volume.copy(), 6.0)
        assert relative_error(gpu(device.upload(volume.astype(np.float32)), 6.0), expected) < 1e-6
    resumed = make_gpu_prox(device, "tv", 0.5, **warm)
    resumed.state.update({"dual": device.upload(gpu.state["dual"])})
    results = [prox(device.upload(volumes[2].astype(np.float32)), 6.0) for prox in (gpu, resumed)]
    np.testing.assert_array_equal(*results)
    cold = make_gpu_prox(device, "tv", 0.5, inner_iterations=4)
    results = [cold(device.upload(volumes[0].astype(np.float32)), 6.0) for _ in range(2)]
    np.testing.assert_array_equal(*results)
    assert cold.state == {}


@pytest.mark.parametrize("kind", ["tv", "lasso", "pos", "none"])
@pytest.mark.parametrize("step", [0.0, 3.0])
def test_proximal_operators_agree_with_the_cpu(device: HostDevice, kind: str, step: float) -> None:
    volume = np.random.default_rng(7).uniform(-5, 5, SHAPES[0]).astype(np.float32)
    expected = make_prox(kind, 0.5)(volume.copy(), step)
    found = make_gpu_prox(device, kind, 0.5)(device.upload(volume), step)
    np.testing.assert_allclose(found, expected, atol=0 if kind != "tv" else 1e-5)


@pytest.mark.parametrize(("shape", "numbers"), [((9, 10, 13), "9 and 10"), ((14, 12, 8), "14 and 12"),
                                                ((800, 10, 8), "800 and 10")])
def test_a_padded_square_that_the_shears_do_not_hold_is_refused(shape: tuple[int, int, int], numbers: str) -> None:
    with pytest.raises(GpuError, match=f"engine.rotation=fourier .* even numbers .* up to 720, not {numbers}$"):
        check_rotation("fourier", shape)


@pytest.mark.parametrize("shape", [(12, 16, 13), (18, 10, 71)], ids=str)
def test_shears_agree_with_the_cpu_and_are_adjoint(device: HostDevice, shape: tuple[int, int, int]) -> None:
    """Every quarter turn, one with no rest, more rows of y than a block, a last slice of other thickness, a metric."""
    rng, n_layers, tilt_deg = np.random.default_rng(1), 5, np.array([0.0, 31.7, 90.0, 100.0, -170.3, -97.0, 44.0])
    now, scale = device.zeros((2,), np.int32), device.upload(np.array([0.7], np.float32))
    rotation = make_gpu_rotation("fourier", shape, n_layers, tilt_deg[::-1], device, now)
    reference = make_rotation("fourier", shape, n_layers, tilt_deg, dtype=np.float64)
    assert isinstance(reference, FourierRotation)
    slices = device.zeros((-(-shape[0] // n_layers), *shape[1:]), np.float32)
    expected = np.empty(slices.shape)
    for i_tilt, angle in enumerate(tilt_deg):
        rotation.place(i_tilt, float(angle))
        now[0] = i_tilt
        volume, metric = (device.upload(rng.uniform(-1, 1, shape).astype(np.float32)) for _ in range(2))
        rotation.rotate_and_bin(volume, slices)
        reference.rotate_and_bin(volume.astype(np.float64), i_tilt, expected)
        assert relative_error(slices, expected) < 1e-6
        gradient, before = device.upload(rng.uniform(-1, 1, slices.shape).astype(np.float32)), volume.astype(np.float64)
        turned_back = device.zeros(shape, np.float32)
        rotation.add_adjoint(gradient, scale, turned_back, None)
        assert np.vdot(slices.astype(float), gradient) * 0.7 == pytest.approx(
            np.vdot(before, turned_back), abs=1e-6 * np.linalg.norm(before) * np.linalg.norm(turned_back))
        rotation.add_adjoint(gradient, scale, volume, metric)
        reference.add_adjoint(gradient.astype(np.float64), i_tilt, 0.7, before, metric.astype(np.float64))
        assert relative_error(volume, before) < 1e-6


def test_extrapolation_updates_both_volumes(device: HostDevice) -> None:
    rng = np.random.default_rng(8)
    new, old = (rng.uniform(0, 1, SHAPES[0]).astype(np.float32) for _ in range(2))
    volume, previous = device.upload(new), device.upload(old)
    extrapolate(device, volume, previous, 0.4)
    np.testing.assert_allclose(volume, new + 0.4 * (new - old), rtol=1e-6)
    np.testing.assert_array_equal(previous, new)


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
def test_sparsity_shrinks_by_metric_and_weights(device: HostDevice, with_metric: bool, with_weights: bool) -> None:
    rng = np.random.default_rng(10)
    volume, metric, weights = (rng.uniform(0, 2, SHAPES[0]).astype(np.float32) for _ in range(3))
    by = 0.6 * (metric if with_metric else 1) * (weights if with_weights else 1)
    found = device.upload(volume)
    sparsify_on(device, found, 0.6, device.upload(metric) if with_metric else None,
             device.upload(weights) if with_weights else None)
    np.testing.assert_allclose(found, np.maximum(volume - by, 0), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "rotation"), [("tv", "linear"), ("pos", "linear"), ("pos", "fourier")])
def test_the_estimate_of_memory_is_that_of_the_allocated_arrays(shape: tuple[int, int, int], kind: str,
                                                                rotation: str) -> None:
    device = HostDevice(host_library())
    shape = (8, 10, shape[2]) if rotation == "fourier" else shape
    model = make_model(device, shape, rotation=rotation)
    volume, _ = device.zeros(shape, np.float32), device.zeros(shape, np.float32)
    prox = make_gpu_prox(device, kind, 0.5)
    model.descend(volume, 0, 1.0)
    prox(volume, 1.0)
    needed = memory_needed_bytes(shape, len(TILT_DEG), len(DEFOCUS_A), n_layers_per_slice=4, rotation=rotation,
                                 regulariser=kind)
    fft_room = 2 * len(DEFOCUS_A) * 8 * shape[1] * shape[2]
    small = 5000
    assert needed - fft_room <= device.n_bytes <= needed - fft_room + small


def test_the_papers_size_takes_5_to_6_gb() -> None:
    needed = memory_needed_bytes((480, 480, 480), 60, 3, n_layers_per_slice=10, rotation="linear", regulariser="tv")
    assert 5e9 < needed < 6e9


def test_every_compiler_here_builds_the_kernels(tmp_path: object) -> None:
    """The one that a bare machine has (the package ziglang) as well."""
    assert any("ziglang" in compiler for compiler in compilers()), "pip install -e '.[test]' brings the package ziglang"
    device = HostDevice(compile_for_host(tmp_path, compilers()[-1]))
    volume = device.upload(np.array([-1.0, 2.0, -3.0], np.float32))
    device.launch("clip_negative", (3, 1, 1), np.int64(3), volume)
    np.testing.assert_array_equal(volume, [0, 2, 0])
