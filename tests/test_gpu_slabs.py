"""Several GPUs that share a volume in slabs along y agree with one; they are emulated on the processor."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, host_library
from host_group import OwnDevice, host_group
from priors import PROBLEM

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.gpu import (
    GpuError,
    GpuModel,
    Group,
    SlabModel,
    choose,
    memory_needed_bytes,
    open_group,
    slab_needed_bytes,
)
from aetlab.gpu.group import slab_widths
from aetlab.methods.regulariser import OnGpu, Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reconstruction.device import require_gpu
from aetlab.reconstruction.estimate import estimate
from aetlab.reconstruction.fit import align_when_due, fit_volume, make_aligner, make_model
from aetlab.reconstruction.on_gpu import gpu_bytes
from aetlab.spec import MicroscopeSpec, RunSpec, SpecError, tilt_angles_deg
from aetlab.spec.unread import why_unread

SHAPE = (12, 16, 20)
TILT_DEG = np.array([0.0, -37.3, 31.7, 135.0])
MICROSCOPE = MicroscopeSpec(Cs_mm=0.01, A1_nm=2.0, A1_deg=20.0)


@pytest.fixture(scope="module")
def device() -> HostDevice:
    return HostDevice(host_library())


@pytest.fixture(params=[2, 3], ids="{} devices".format)
def group(request: pytest.FixtureRequest) -> Any:
    group = host_group(request.param, SHAPE[2])
    yield group
    for device in group.devices:
        device.check_guards()


def make_series(**more: Any) -> TiltSeries:
    images = np.random.default_rng(1).uniform(0.7, 1.3, (len(TILT_DEG), 2, *SHAPE[1:])).astype(np.float32)
    return TiltSeries(images, TILT_DEG, np.array([200.0, 450.0]), 0.5, **more)


def relative_error(found: Any, expected: Any) -> float:
    expected = np.asarray(to_numpy(expected), np.float64)
    return float(np.linalg.norm(to_numpy(found) - expected) / np.linalg.norm(expected))


def test_slabs_differ_by_one_row_at_most_and_return_what_was_placed(group: Group) -> None:
    assert slab_widths(20, 3) == (7, 7, 6) and slab_widths(4, 4) == (1, 1, 1, 1)
    volume = np.random.default_rng(2).uniform(-1, 1, SHAPE).astype(np.float32)
    placed = group.place(volume)
    assert placed.shape == SHAPE and placed.dtype == np.float32
    copied = placed.copy()
    placed[...] = group.zeros(SHAPE, np.float32)
    np.testing.assert_array_equal(to_numpy(copied), volume)
    assert not to_numpy(placed).any()


@pytest.mark.parametrize("reach", [0, 1, 9, 25])
def test_widened_slabs_have_the_rows_of_all_slabs_around_them(group: Group, reach: int) -> None:
    volume = np.random.default_rng(3).uniform(-1, 1, SHAPE).astype(np.float32)
    wide, padded = group.widen(group.place(volume), reach), np.pad(volume, ((0, 0), (0, 0), (reach, reach)))
    for slab, first, width in zip(wide.arrays, group.first, group.widths, strict=True):
        np.testing.assert_array_equal(slab, padded[..., first:first + width + 2 * reach])


OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {}, "cubic, Poisson": {"rotation": "cubic", "likelihood": "poisson"}, "Fourier": {"rotation": "fourier"},
    "blurred": {"blur_A": 0.4}, "MTF": {"microscope": dataclasses.replace(MICROSCOPE, mtf_half=0.4)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_steps_in_slabs_agree_with_one_device_and_float64(device: HostDevice, group: Group,
                                                          options: dict[str, Any]) -> None:
    """With a metric and weights of pixels; the second step is recorded, later ones replayed, a tilt is placed."""
    rng = np.random.default_rng(4)
    series = make_series(pixel_weight=rng.uniform(0.5, 1, (len(TILT_DEG), 2, *SHAPE[1:])).astype(np.float32))
    options = {"microscope": MICROSCOPE, "n_layers_per_slice": 5, **options}
    slabs, one = SlabModel(series, SHAPE, group=group, **options), GpuModel(series, SHAPE, device=device, **options)
    reference = ForwardModel(series, SHAPE, dtype=np.float64, **options)
    assert (slabs.n_tilts, slabs.lipschitz) == (one.n_tilts, one.lipschitz)
    start, metric = (rng.uniform(0, k, SHAPE).astype(np.float32) for k in (60, 2))
    step = 1.5 / one.lipschitz
    volumes = [group.place(start), device.upload(start), start.astype(np.float64)]
    metrics = [group.place(metric), device.upload(metric), metric.astype(np.float64)]
    for k, i_tilt in enumerate((1, 3, 0, 2, 3)):
        if k == 3:
            transfer = np.exp(2j * np.pi * rng.uniform(0, 1, (2, *SHAPE[1:]))) / (SHAPE[1] * SHAPE[2])
            for model in (slabs, one, reference):
                model.place_tilt(3, 77.0, transfer, np.ones((2, *SHAPE[1:]), np.float32),
                                 np.ones((2, *SHAPE[1:]), np.float32))
        costs = [float(model.descend(volume, i_tilt, step, by if k % 2 else None))
                 for model, volume, by in zip((slabs, one, reference), volumes, metrics, strict=True)]
        assert costs[0] == pytest.approx(costs[1], rel=1e-6) and costs[0] == pytest.approx(costs[2], rel=1e-5)
        assert relative_error(to_numpy(volumes[0]) - start, volumes[1] - start) < 2e-6
        assert relative_error(to_numpy(volumes[0]) - start, volumes[2] - start) < 1e-5
    assert slabs.cost(volumes[0], 1) == pytest.approx(one.cost(volumes[1], 1), rel=1e-6)
    assert relative_error(slabs.images(volumes[0], 2), one.images(volumes[1], 2)) < 1e-6
    assert relative_error(slabs.form_potential(volumes[0]), one.form_potential(volumes[1])) < 1e-6


@pytest.mark.parametrize("warm_start", [False, True])
def test_total_variation_in_slabs_agrees_with_one_device(device: HostDevice, group: Group, warm_start: bool) -> None:
    """The dual variables of a warm start continue on one device, and those of one device in slabs."""
    row, rng = REGULARISERS["tv"], np.random.default_rng(5)
    own = row.settings(inner_iterations=4, warm_start=warm_start)
    slabs, one = row.gpu.in_slabs(group, own, 0.5, PROBLEM).prox, row.gpu.make(device, own, 0.5, PROBLEM).prox
    for k in range(3):
        volume = rng.uniform(-5, 20, SHAPE).astype(np.float32)
        found, expected = group.place(volume), device.upload(volume)
        assert relative_error(slabs(found, 6.0), one(expected, 6.0)) < 1e-6
        if warm_start and k == 1:
            duals = to_numpy(slabs.state["dual"]), to_numpy(one.state["dual"])
            assert relative_error(duals[0].ravel(), duals[1]) < 1e-6
            slabs = row.gpu.in_slabs(group, own, 0.5, PROBLEM).prox
            slabs.state["dual"] = group.place(duals[1].reshape(3, *SHAPE))
            one = row.gpu.make(device, own, 0.5, PROBLEM).prox
            one.state["dual"] = device.upload(duals[0])
    assert warm_start or slabs.state == {}
    found = group.place(volume)
    np.testing.assert_array_equal(to_numpy(slabs(found, 0.0)), np.maximum(volume, 0))


def test_a_device_refuses_arrays_of_another() -> None:
    one, other = OwnDevice(), OwnDevice()
    with pytest.raises(AssertionError, match="an array of another device"):
        one.launch("clip_negative", (4, 1, 1), np.int64(4), other.zeros((4,), np.float32))


@pytest.fixture
def tiny(smoke_spec: RunSpec, change) -> RunSpec:
    """Return the settings of a run of a second: 12 × 16 × 20 voxels, 5 tilts."""
    spec = change(smoke_spec, "scale", shape_zxy=SHAPE)
    spec = change(change(spec, "tilts", n_tilts=5), "binning", n_layers=4)
    return change(spec, "engine", device="auto", n_iterations=4)


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch, device: HostDevice) -> None:
    """Replace three GPUs by the processor."""
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr("aetlab.core.backend.n_gpus", lambda: 3)
    monkeypatch.setattr(choose, "_open", lambda: device)
    groups = {n: host_group(n, SHAPE[2]) for n in (2, 3)}
    monkeypatch.setattr(choose, "_open_several", lambda n: (groups[n].devices, groups[n].exchange))


@pytest.mark.parametrize("kind", ["tv", "lasso", "pos", "atoms"])
def test_reconstructions_from_settings_agree_on_one_and_several_gpus(with_gpus: None, tiny: RunSpec, change,
                                                                     kind: str) -> None:
    """With the adapting prior, and resumed from a checkpoint of another number of devices, or of the CPU."""
    spec = change(tiny, "reg", kind=kind, weight=1e-5, warm_start=True, metric_at=1, reweight_at=(2,))
    tilt_deg, defocus_A = np.array(tilt_angles_deg(tiny.tilts, tiny.wedge)), 10.0 * np.array(tiny.defocus.planes_nm)
    images = np.random.default_rng(1).uniform(0.8, 1.2, (len(tilt_deg), len(defocus_A), *SHAPE[1:]))
    series = TiltSeries(images.astype(np.float32), tilt_deg, defocus_A, tiny.scale.voxel_A)
    said: list[str] = []

    def fit(n_iterations: int, resume=None, rng=None, **engine: Any) -> Any:
        on = change(spec, "engine", **engine)
        model = make_model(on, series, said.append)
        solution = fit_volume(on, model, np.arange(5), 1e-5, n_iterations=n_iterations, resume=resume, tolerance=1e-9,
                              rng=rng or np.random.default_rng(2))
        return to_numpy(model.form_potential(solution.volume)), solution

    expected, by_one = fit(4)
    adapts = kind in ("tv", "atoms")  # keeps arrays between iterations
    for n_devices in (2, 3) if adapts else (3,):
        found, by_several = fit(4, devices=n_devices)
        assert said[-1] == f"{n_devices} x the processor reconstructs"
        np.testing.assert_allclose(by_several.cost, by_one.cost, rtol=1e-6)
        assert by_several.restarts == by_one.restarts
        np.testing.assert_allclose(by_several.state.changes, by_one.state.changes, rtol=1e-4)
        assert relative_error(found, expected) < 1e-5
    changes = [({"devices": 2}, {"devices": 3}), ({"devices": 3}, {}), ({"device": "cpu"}, {"devices": 3}),
               ({"devices": 2}, {"device": "cpu"})]
    for first, then in changes if adapts else ():
        rng = np.random.default_rng(2)
        _, half = fit(2, rng=rng, **first)
        resume = type(half.state).restore(half.state.arrays(), half.state.values())
        resumed, _ = fit(4, resume=resume, rng=rng, **then)
        assert relative_error(resumed, expected) < 1e-3


def test_an_aligned_reconstruction_agrees_on_one_and_several_gpus(with_gpus: None, tiny: RunSpec, change) -> None:
    """Exit waves of the alignment come from the only GPU, or from the CPU; both round in float32."""
    spec = change(change(tiny, "align", enabled=True, at=(1,), smoothing_A=(2.0,)), "reg", weight=1e-5)
    series = make_series()
    found = []
    for n_devices in (1, 2):
        on = change(change(spec, "engine", devices=n_devices), "tilts", n_tilts=len(TILT_DEG))
        model = make_model(on, series, lambda text: None)
        aligner = make_aligner(on, series, model)
        assert aligner is not None
        solution = fit_volume(on, model, np.arange(len(TILT_DEG)), 1e-5, n_iterations=3, rng=np.random.default_rng(2),
                              align=functools.partial(align_when_due, on, aligner))
        found.append((aligner.table, solution.cost, to_numpy(model.form_potential(solution.volume))))
    for several, one, allowed in zip(found[1], found[0], (1e-4, 1e-4, 1e-3), strict=True):
        assert relative_error(several, one) < allowed


def test_a_setting_of_several_gpus_is_refused_in_one_line(with_gpus: None, tiny: RunSpec, change,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    asked = change(tiny, "engine", device="gpu", devices=4)
    with pytest.raises(SpecError, match=r"engine.devices=4 exceeds the visible GPUs \(3\); choose"):
        require_gpu(asked)
    monkeypatch.setitem(REGULARISERS, "tv", dataclasses.replace(REGULARISERS["tv"], gpu=OnGpu(9, lambda *own: None)))
    with pytest.raises(SpecError, match="reg.kind=tv has no version for engine.devices=2"):
        require_gpu(change(tiny, "engine", device="gpu", devices=2))
    with pytest.raises(GpuError, match="engine.devices=3 cannot share 2 voxels along y"):
        open_group((1, 1, 1), 2)
    monkeypatch.setattr(OwnDevice, "free_bytes", lambda self: 7 * 10**8)
    with pytest.raises(GpuError, match="0.6 GB are needed on the processor, 0.1 GB more than are free"):
        open_group((10, 2 * 10**8), 20)
    assert why_unread(change(tiny, "engine", device="cpu", devices=2), "engine.devices").startswith(
        "engine.devices cannot be set with engine.device=cpu")


@pytest.mark.parametrize(("kind", "rotation"), [("tv", "linear"), ("pos", "fourier"), ("atoms", "linear")])
def test_the_estimate_of_each_device_is_that_of_its_arrays(group: Group, kind: str, rotation: str) -> None:
    blur_A = 0.4 if kind == "atoms" else 0.0
    row, series = REGULARISERS[kind], make_series()
    model = SlabModel(series, SHAPE, group=group, microscope=MICROSCOPE, n_layers_per_slice=5, rotation=rotation,
                      blur_A=blur_A)
    volume, _ = group.zeros(SHAPE, np.float32), group.zeros(SHAPE, np.float32)
    prox = row.gpu.in_slabs(group, row.settings(), 1e-5, Problem(SHAPE, 0.5, len(TILT_DEG), blur_A)).prox
    model.descend(volume, 0, 1.0)
    prox(volume, 1.0)
    needed = slab_needed_bytes(SHAPE, len(TILT_DEG), 2, n_devices=len(group.devices), n_layers_per_slice=5,
                               rotation=rotation, regulariser=kind)
    # Counted and not allocated here: the FFT library, halos without total variation, and what NumPy allocates.
    plane, volumes = 4 * SHAPE[0] * SHAPE[1], {"tv": 0, "pos": 0, "atoms": 5}[kind]
    for i, (own, width, counted) in enumerate(zip(group.devices, group.widths, needed, strict=True)):
        more = 2 * 2 * 8 * SHAPE[1] * SHAPE[2] if i == 0 else 0
        more += volumes * plane * width + plane * {"tv": 0, "pos": 14, "atoms": 14 + 32}[kind]
        assert counted - more <= own.n_bytes <= counted - more + 5000


def test_a_device_of_several_needs_about_its_share() -> None:
    about = {"n_layers_per_slice": 10, "rotation": "linear", "regulariser": "tv"}
    one = memory_needed_bytes((480, 480, 480), 60, 3, **about)
    for n_devices in (2, 4, 8):
        needed = slab_needed_bytes((480, 480, 480), 60, 3, n_devices=n_devices, **about)
        assert max(needed) < one / n_devices + 0.5e9 and min(needed) < 1.05 * one / n_devices


def test_the_estimate_tries_several_gpus_and_counts_the_memory_of_each(with_gpus: None, tiny: RunSpec, change,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.reconstruction.trials._tried", {})
    monkeypatch.setattr("aetlab.reconstruction.trials._clock_s", lambda work: (work(), 0.01)[1])
    spec = change(change(tiny, "reg", kind="tv"), "engine", devices=2)
    atoms = Atoms(np.array([14]), np.zeros((1, 3)), np.zeros(1, int))
    found = estimate(spec, atoms)
    assert (found.gpu, found.n_gpus) == ("2 x the processor", 2)
    assert found.gpu_bytes == gpu_bytes(spec) < gpu_bytes(tiny)
    assert "0.00 GB of each of 2 x the processor (simulate" in found.in_one_line()
    assert found.as_table().splitlines()[-1].split() == ["of", "each", "GPU", "0.00", "2", "x", "the", "processor",
                                                         "reconstruct"]
    # Four tilts are tried together; an iteration has five, and a step of the regulariser.
    assert found.seconds["reconstruct"] == pytest.approx(spec.engine.n_iterations * (5 * 0.01 / 4 + 0.01))
