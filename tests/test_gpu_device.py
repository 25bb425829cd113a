"""The whole GPU engine against float64 on the CPU, its memory, and its recorded launches.

Everything runs on the processor (:mod:`host_device`) and, where there is one, on a real GPU. There it needs NumPy,
SciPy, Numba, CuPy and pytest alone: ``python -m pytest --noconftest -W default tests/test_gpu_device.py``.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gpu_equations import NOMINAL, OFF, check_equations
from gpu_slices import CostOfSlices
from host_device import HostDevice, host_library
from priors import make_gpu_prox, make_prox

from aetlab.core.backend import gpu_problem, to_numpy
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.alignment import Search, TiltAligner
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.forward.simulate import CpuExposure, SimulatedMicroscope
from aetlab.forward.tilt_equations import PosedTilt
from aetlab.gpu import (
    GpuExitWaves,
    GpuExposure,
    GpuFits,
    GpuModel,
    GpuSearch,
    GpuSlices,
    GpuTiltEquations,
    extrapolate,
    memory_needed_bytes,
    open_device,
)
from aetlab.gpu.choose import RESERVE_BYTES
from aetlab.methods.regulariser import Prior
from aetlab.methods.regulariser import Problem as Facts
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import make_rotation, rotate_and_bin
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.tables import tabulate_atoms
from aetlab.solve import Stopping, minimize
from aetlab.spec import MicroscopeSpec, SimulateSpec, TraceSpec
from aetlab.tracing.candidates import find_candidates
from aetlab.tracing.sites import fit_sites

PROBLEM = gpu_problem()
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu,
                                   pytest.mark.skipif(PROBLEM is not None, reason=f"no GPU to test on: {PROBLEM}")])
MICROSCOPE = MicroscopeSpec()


@dataclass(frozen=True)
class Problem:
    """A volume of random atoms, its noise-free images, and the device that reconstructs it."""

    device: Any
    truth: np.ndarray
    series: TiltSeries
    n_layers: int
    n_iterations: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.truth.shape

    @property
    def options(self) -> dict[str, Any]:
        return {"microscope": MICROSCOPE, "n_layers_per_slice": self.n_layers}


@pytest.fixture(scope="module", params=["host", CUDA])
def device(request: pytest.FixtureRequest) -> Any:
    return HostDevice(host_library()) if request.param == "host" else open_device(0)


@pytest.fixture(scope="module")
def problem(device: Any) -> Problem:
    """Return a small problem for the processor, a larger one for a GPU."""
    if isinstance(device, HostDevice):
        return make_problem(device, (12, 16, 20), 5, np.arange(-60.0, 121.0, 30.0), 6)
    return make_problem(device, (44, 48, 60), 10, np.arange(-60.0, 121.0, 15.0), 12)


def make_problem(device: Any, shape: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray,
                 n_iterations: int) -> Problem:
    """Return Gaussian atoms in the middle of ``shape``, and their images by the model in float64."""
    rng = np.random.default_rng(1)
    z, x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    truth = np.zeros(shape)
    for centre in rng.uniform(-0.3, 0.3, (shape[0] * 3, 3)) * shape:
        truth += 60 * np.exp(-((z - centre[0]) ** 2 + (x - centre[1]) ** 2 + (y - centre[2]) ** 2) / 2)
    defocus_A = np.array([200.0, 450.0])
    empty = TiltSeries(np.ones((len(tilt_deg), len(defocus_A), *shape[1:])), tilt_deg, defocus_A, 0.5)
    waves = Multislice(series_optics(empty, shape, MICROSCOPE, n_layers), np.float64)
    images = [np.abs(waves.images(rotate_and_bin(truth, float(t), n_layers))) ** 2 for t in tilt_deg]
    series = TiltSeries(np.array(images, np.float32), tilt_deg, defocus_A, 0.5)
    return Problem(device, truth, series, n_layers, n_iterations)


def relative_error(found: Any, expected: np.ndarray) -> float:
    return float(np.linalg.norm(to_numpy(found).astype(np.float64) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("rotation", "blur_A"), [("linear", 0.0), ("cubic", 0.0), ("linear", 0.4), ("cubic", 0.4),
                                                  ("fourier", 0.0)])
def test_steps_agree_with_float64(problem: Problem, rotation: str, blur_A: float) -> None:
    device, options = problem.device, {**problem.options, "rotation": rotation, "blur_A": blur_A}
    model = GpuModel(problem.series, problem.shape, device=device, **options)
    reference = ForwardModel(problem.series, problem.shape, dtype=np.float64, **options)
    volume = device.upload((0.8 * problem.truth).astype(np.float32))
    scale = np.random.default_rng(2).uniform(0, 2, problem.shape).astype(np.float32) if blur_A else None
    metric = None if scale is None else device.upload(scale)
    step = 1.5 / model.lipschitz
    for i_tilt in (0, 5, 3, 6, 4):
        before = to_numpy(volume).astype(np.float64)
        expected = before.copy()
        cost = reference.descend(expected, i_tilt, step, None if scale is None else scale.astype(np.float64))
        assert float(model.descend(volume, i_tilt, step, metric)) == pytest.approx(cost, rel=1e-4)
        assert relative_error(to_numpy(volume) - before, expected - before) < 1e-4
    assert device.graph_problem is None


@pytest.mark.parametrize("rotation", ["cubic", "fourier"])
def test_exit_waves_at_any_angle_agree_with_float64(problem: Problem, rotation: str) -> None:
    """As the alignment needs them: each call has an angle of its own."""
    device, shape = problem.device, problem.shape
    optics = series_optics(problem.series, shape, MICROSCOPE, problem.n_layers)
    waves_of = GpuExitWaves(optics, shape, problem.n_layers, rotation, device)
    turning = make_rotation(rotation, shape, problem.n_layers, np.zeros(1), dtype=np.float64)
    waves, slices = Multislice(optics, np.float64), np.empty((-(-shape[0] // problem.n_layers), *shape[1:]))
    volume = device.upload(problem.truth.astype(np.float32))
    for tilt_deg in (0.0, -31.7, 58.2):
        turning.set_angle(0, tilt_deg)
        turning.rotate_and_bin(problem.truth, 0, slices)
        spectrum = waves.exit_spectrum(slices).copy()
        spectrum[0, 0] -= spectrum.size  # what the atoms scatter
        found = np.fft.fft2(to_numpy(waves_of.wave(volume, tilt_deg)))
        found[0, 0] -= found.size
        assert np.linalg.norm(found - spectrum) < 1e-4 * np.linalg.norm(spectrum)


@pytest.mark.parametrize("microscope", [MICROSCOPE, MicroscopeSpec(mtf_half=0.6)], ids=["ideal", "blurred"])
def test_equations_of_the_alignment_agree_with_the_cpu_and_repeat_bit_for_bit(problem: Problem,
                                                                              microscope: MicroscopeSpec) -> None:
    own = np.array([[0.1, -0.2, 3.0, 0.02], [-0.1, 0.2, -3.0, -0.02]])
    tilts = [PosedTilt(0, NOMINAL), PosedTilt(2, OFF), PosedTilt(3, OFF, own)]
    check_equations(problem.series, problem.shape, problem.device, (0.8 * problem.truth).astype(np.float32),
                    microscope=microscope, n_layers=problem.n_layers, tilts=tilts)


def test_an_alignment_agrees_with_the_cpu(problem: Problem) -> None:
    """From poses that are off, with a search and steps; the tilts are placed in a model on the same device."""
    device, series, shape = problem.device, problem.series, problem.shape
    volume = (0.9 * problem.truth).astype(np.float32)
    search, tables, costs = Search(1.0, np.linspace(-20, 20, 3)), [], []
    on_gpu = GpuModel(series, shape, device=device, **problem.options)
    for model, make in ((ForwardModel(series, shape, **problem.options), None),
                        (on_gpu, functools.partial(GpuTiltEquations, model=on_gpu))):
        aligner = TiltAligner(model, series, shape, contrast=True, make_equations=make, **problem.options)
        aligner.restore(np.tile(OFF, (series.n_tilts, 1)))
        on_device = device.upload(volume) if model is on_gpu else volume
        for first in (True, False):
            aligner.align(on_device, search, smoothing_A=0.5, angles=not first, first=first)
        tables.append(aligner.table)
        costs.append([model.cost(on_device, i_tilt) for i_tilt in range(series.n_tilts)])
    expected, found = tables
    assert np.abs(expected - OFF).max(axis=0).min() > 1e-3
    # By the angle, amplitudes are subtracted that differ in their third digit over 0.1°.
    assert (np.abs(found - expected).max(axis=0) < [5e-3, 5e-3, 2e-4, 2e-4, 0.03, 3e-5]).all()
    np.testing.assert_allclose(costs[1], costs[0], rtol=1e-3)


def test_poisson_steps_and_images_agree_with_float64(problem: Problem) -> None:
    options = {**problem.options, "likelihood": "poisson"}
    model = GpuModel(problem.series, problem.shape, device=problem.device, **options)
    reference = ForwardModel(problem.series, problem.shape, dtype=np.float64, **options)
    volume = problem.device.upload(problem.truth.astype(np.float32))
    assert relative_error(model.images(volume, 2), problem.series.images[2]) < 1e-5
    start = (0.8 * problem.truth).astype(np.float32)
    volume, expected = problem.device.upload(start), start.astype(np.float64)
    for i_tilt in (2, 0, 3):
        cost = reference.descend(expected, i_tilt, 1.5 / model.lipschitz)
        assert float(model.descend(volume, i_tilt, 1.5 / model.lipschitz)) == pytest.approx(cost, rel=1e-4)
    assert relative_error(to_numpy(volume) - start, expected - start) < 1e-4


def test_a_tilt_that_is_placed_anew_agrees_with_float64(problem: Problem) -> None:
    """As by the alignment: before and after the steps are recorded."""
    model = GpuModel(problem.series, problem.shape, device=problem.device, **problem.options)
    reference = ForwardModel(problem.series, problem.shape, dtype=np.float64, **problem.options)
    optics = series_optics(problem.series, problem.shape, MICROSCOPE, problem.n_layers)
    start = (0.8 * problem.truth).astype(np.float32)
    volume, expected = problem.device.upload(start), start.astype(np.float64)
    for i_tilt, places in ((1, False), (2, False), (3, False), (2, True), (1, False), (2, False)):
        if places:
            for of in (model, reference):
                of.place_tilt(i_tilt, 12.3, optics.transfer.conj(), 1.1 * np.sqrt(problem.series.images[0]))
        cost = reference.descend(expected, i_tilt, 1.5 / model.lipschitz)
        assert float(model.descend(volume, i_tilt, 1.5 / model.lipschitz)) == pytest.approx(cost, rel=1e-4)
    assert relative_error(to_numpy(volume) - start, expected - start) < 1e-4


@pytest.mark.parametrize("shape", [(12, 16, 18), (9, 11, 13)], ids=str)
def test_a_tilt_reads_and_writes_inside_its_arrays(device: Any, shape: tuple[int, int, int]) -> None:
    """Planes of the fused kernels and of the FFT library agree with float64; tools that check memory run this alone."""
    images = np.random.default_rng(9).uniform(0.5, 1.5, (3, 2, *shape[1:])).astype(np.float32)
    series = TiltSeries(images, np.array([-40.0, 0.0, 70.0]), np.array([200.0, 450.0]), 0.5)
    options = {"microscope": MICROSCOPE, "n_layers_per_slice": 4}
    model = GpuModel(series, shape, device=device, **options)
    reference = ForwardModel(series, shape, dtype=np.float64, **options)
    volume, prox, expected = device.zeros(shape, np.float32), make_gpu_prox(device, "tv", 1e-4), np.zeros(shape)
    for i_tilt in (0, 1, 2):
        cost = reference.descend(expected, i_tilt, 1.5 / model.lipschitz)
        assert float(model.descend(volume, i_tilt, 1.5 / model.lipschitz)) == pytest.approx(cost, rel=1e-4)
    assert relative_error(volume, expected) < 1e-4
    assert relative_error(prox(volume, 50.0), make_prox("tv", 1e-4)(expected, 50.0)) < 1e-4
    if isinstance(device, HostDevice):
        device.check_guards()


def test_a_step_in_another_thread_gives_the_same_bits(problem: Problem) -> None:
    """A new thread of CuPy starts with another stream."""
    def steps() -> np.ndarray:
        model = GpuModel(problem.series, problem.shape, device=problem.device, **problem.options)
        volume = problem.device.upload((0.8 * problem.truth).astype(np.float32))
        costs = [float(model.descend(volume, i_tilt, 1.5 / model.lipschitz)) for i_tilt in (1, 3, 2)]
        problem.device.synchronize()
        return np.append(to_numpy(volume).ravel(), costs)

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(steps) for _ in range(2)]
    for each in found:
        np.testing.assert_array_equal(each.result(), steps())


def test_cost_and_gradient_of_one_tilt_agree_with_float64(problem: Problem) -> None:
    """The second call is recorded, the third replayed."""
    optics = series_optics(problem.series, problem.shape, MICROSCOPE, problem.n_layers)
    cost, reference = CostOfSlices(problem.device, optics), Multislice(optics, np.float64)
    for i_tilt in (0, 4, 2):
        amplitude = np.sqrt(np.maximum(problem.series.images[i_tilt], 0))
        expected = rotate_and_bin(0.8 * problem.truth, float(problem.series.tilt_deg[i_tilt]), problem.n_layers)
        found = expected.astype(np.float32)
        both = [of.cost_and_gradient(slices, amplitude) for of, slices in ((cost, found), (reference, expected))]
        assert both[0] == pytest.approx(both[1], rel=1e-4)
        assert relative_error(found, expected) < 1e-4


def test_a_pass_over_atoms_agrees_with_float64_and_repeats_bit_for_bit(problem: Problem) -> None:
    """Atoms are put into slices and gradients gathered on the device, by several threads with queues of their own."""
    rng, n_atoms, half_A = np.random.default_rng(5), 30, 0.2 * np.array(problem.shape)[[1, 2, 0]]
    sites = Sites(rng.uniform(-half_A, half_A, (n_atoms, 3)), rng.uniform(0.5, 1.2, n_atoms),
                  rng.integers(0, 2, n_atoms))
    poses = Poses.nominal(problem.series.tilt_deg, problem.series.n_defoci)

    def run(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        model = AtomModel(problem.series, problem.shape, (8, 14), parametrization="lobato",
                          debye_waller_A2={"default": 0.5}, **problem.options, **options)
        for _ in range(2):  # the second pass replays
            tilts = list(model.gradients(sites, poses))
        return np.array([tilt.cost for tilt in tilts]), np.stack([tilt.gradient for tilt in tilts])

    (costs, gradients), again = (run(make_slices=GpuSlices(problem.device)) for _ in range(2))
    np.testing.assert_array_equal(again[0], costs)
    np.testing.assert_array_equal(again[1], gradients)
    expected_costs, expected = run(dtype=np.float64)
    np.testing.assert_allclose(costs, expected_costs, rtol=1e-4)
    assert relative_error(gradients, expected) < 1e-4


@pytest.mark.parametrize("how", [SimulateSpec(n_layers=5), SimulateSpec(band_limit=2 / 3, oversample=2)],
                         ids=["thick slices", "cut"])
def test_simulated_images_agree_with_the_cpu_and_repeat_bit_for_bit(device: Any, how: SimulateSpec) -> None:
    rng, elements = np.random.default_rng(6), np.array([8, 14])
    atoms = Atoms(rng.choice(elements, 20), rng.uniform(-5, 5, (20, 3)), np.zeros(20, int))
    factors = {"default": 0.5}
    optics = SimulatedMicroscope((18, 20, 24), 0.5, np.array([200.0, 450.0]), MICROSCOPE, how)
    tables = tabulate_atoms((8, 14), optics.voxel_A, parametrization="lobato", debye_waller_A2=factors)
    exposure = GpuExposure(optics, elements, tables, device)
    first, *others = (exposure(atoms, None) for _ in range(3))  # the second is recorded, the third replayed
    for each in others:
        np.testing.assert_array_equal(each, first)
    expected = CpuExposure(optics, atoms, "lobato", factors)(atoms, None)
    assert np.abs(expected - 1).max() > 0.1
    np.testing.assert_allclose(first, expected, atol=1e-4)


def test_candidates_and_fits_of_sites_agree_with_the_cpu(device: Any) -> None:
    rng, shape = np.random.default_rng(8), (24, 26, 30)
    volume = rng.normal(0, 5, shape).astype(np.float32)
    sites = np.column_stack([rng.uniform(2, np.array(shape) - 3, (40, 3)), rng.uniform(50, 150, 40), np.full(40, 1.1)])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    for site in sites:
        volume += (site[3] * np.exp(-((grid - site[:3]) ** 2).sum(axis=-1) / 2.4)).astype(np.float32)
    start, fits = sites + rng.normal(0, 0.1, sites.shape), GpuFits(device)
    (found, status), again = (fit_sites(volume, start, TraceSpec(), fit=fits) for _ in range(2))
    np.testing.assert_array_equal(again[0], found)
    expected, expected_status = fit_sites(volume, start, TraceSpec())
    np.testing.assert_array_equal(status, expected_status)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    candidates = find_candidates(volume, TraceSpec())
    assert len(candidates) > 20
    np.testing.assert_allclose(GpuSearch(device)(volume, TraceSpec()), candidates, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("warm_start", [False, True])
def test_total_variation_agrees_with_float64(problem: Problem, warm_start: bool) -> None:
    rng, own = np.random.default_rng(3), {"inner_iterations": 4, "warm_start": warm_start}
    cpu, gpu = make_prox("tv", 0.5, **own), make_gpu_prox(problem.device, "tv", 0.5, **own)
    for _ in range(3):
        volume = rng.uniform(-5, 20, problem.shape)
        expected = cpu(volume.copy(), 6.0)
        assert relative_error(gpu(problem.device.upload(volume.astype(np.float32)), 6.0), expected) < 1e-5


@pytest.mark.parametrize("kind", ["tv", "lasso", "pos", "atoms"])
def test_a_reconstruction_agrees_with_the_cpu(problem: Problem, kind: str) -> None:
    """Costs, restarts and volume agree up to rounding and repeat bit for bit; memory is within its estimate.

    The prior of atoms takes its metric and its weights from the solution.
    """
    device, series, shape = problem.device, problem.series, problem.shape
    n_tilts, n_defoci = series.images.shape[:2]
    stopping = Stopping(n_iterations=problem.n_iterations)
    own = {"metric_at": 2, "reweight_at": (3,)} if kind == "atoms" else {}
    options = {**problem.options, "blur_A": 0.4 if kind == "atoms" else 0.0}
    reference = ForwardModel(series, shape, dtype=np.float64, **options)
    step, weight, row = 1.5 / reference.lipschitz, 1e-5, REGULARISERS[kind]
    about = Facts(shape, 0.5, n_tilts, 0.4)

    def solve(model: Any, prior: Prior, volume: Any, **more: Any) -> Any:
        return minimize(volume, lambda v, i, by: model.descend(v, i, by, prior.metric() if prior.metric else None),
                        prior.prox, stopping, n_tilts=n_tilts, step=step, adapt=prior.adapt,
                        rng=np.random.default_rng(4), **more)

    expected = solve(reference, row.make(row.settings(**own), weight, about), np.zeros(shape))
    solutions = []
    for _ in range(2):
        held = device.held_bytes()
        model = GpuModel(series, shape, device=device, **options)
        solutions.append(solve(model, row.gpu.make(device, row.settings(**own), weight, about),
                               device.zeros(shape, np.float32),
                               extrapolate=lambda v, p, beta: extrapolate(device, v, p, beta)))
        needed = memory_needed_bytes(shape, n_tilts, n_defoci, n_layers_per_slice=problem.n_layers, rotation="linear",
                                     regulariser=kind)
        assert device.held_bytes() - held < needed + RESERVE_BYTES
    first, second = solutions
    np.testing.assert_array_equal(to_numpy(first.volume), to_numpy(second.volume))
    np.testing.assert_array_equal(first.cost, second.cost)
    assert first.restarts == expected.restarts
    np.testing.assert_allclose(first.cost, expected.cost, rtol=1e-3)
    assert relative_error(first.volume, expected.volume) < 1e-3
    assert kind == "atoms" or relative_error(first.volume, problem.truth) < 0.7
