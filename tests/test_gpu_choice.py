"""Choice of the device of a run, its messages, and how workers share GPUs; no GPU is needed."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from host_device import HostDevice, host_library

from aetlab import gpu
from aetlab.cli import workers
from aetlab.core import backend
from aetlab.core.files import StorageError
from aetlab.core.nouns import TiltSeries
from aetlab.core.seeds import generator
from aetlab.gpu import choose
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS, cubic
from aetlab.reconstruction import device as device_choice
from aetlab.reconstruction import on_gpu
from aetlab.reconstruction.estimate import estimate
from aetlab.reconstruction.fit import align_when_due, fit_volume, make_aligner, make_model
from aetlab.samples import build_sample
from aetlab.spec import RunSpec, SpecError, tilt_angles_deg

NO_GPU = "CuPy cannot reach a GPU: no driver"


class SmallDevice(HostDevice):
    """A device with little memory free."""

    name = "a small GPU"

    def free_bytes(self) -> int:
        return 10**8


@pytest.fixture
def tiny(smoke_spec: RunSpec, change) -> RunSpec:
    """Return the settings of a run of a second: 11 × 16 × 20 voxels, 5 tilts."""
    spec = change(smoke_spec, "scale", shape_zxy=(11, 16, 20))
    spec = change(change(spec, "tilts", n_tilts=5), "binning", n_layers=4)
    return change(spec, "engine", device="auto", n_iterations=4)


@pytest.fixture
def series(tiny: RunSpec) -> TiltSeries:
    tilt_deg, defocus_A = np.array(tilt_angles_deg(tiny.tilts, tiny.wedge)), 10.0 * np.array(tiny.defocus.planes_nm)
    images = np.random.default_rng(1).uniform(0.8, 1.2, (len(tilt_deg), len(defocus_A), *tiny.scale.shape_zxy[1:]))
    return TiltSeries(images.astype(np.float32), tilt_deg, defocus_A, tiny.scale.voxel_A)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """Replace the GPU by the processor, which runs the kernels of the GPU."""
    device = HostDevice(host_library())
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr(choose, "_open", lambda: device)
    return device


def test_without_a_gpu_auto_uses_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch, tiny: RunSpec,
                                                     series: TiltSeries, change) -> None:
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: NO_GPU)
    said: list[str] = []
    assert device_choice.solver_parts(make_model(tiny, series, said.append)).name == "cpu"
    assert said == [f"the CPU reconstructs: {NO_GPU}"]
    asked = change(tiny, "engine", device="gpu")
    for refuse in (lambda: device_choice.require_gpu(asked), lambda: make_model(asked, series, said.append)):
        with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: CuPy cannot reach a GPU") as refused:
            refuse()
        assert "\n" not in str(refused.value)
    device_choice.require_gpu(tiny)


def test_cupy_without_the_cuda_libraries_gives_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setitem(sys.modules, "aetlab.gpu.device_cuda", None)
    choose._open.cache_clear()
    with pytest.raises(gpu.GpuError, match="CuPy lacks a library: ModuleNotFoundError: .*ctk"):
        gpu.open_device(0)


def test_cpu_does_not_look_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tiny: RunSpec, series: TiltSeries,
                                     change) -> None:
    def fail() -> str:
        raise AssertionError("a GPU was looked for")

    monkeypatch.setattr("aetlab.core.backend.gpu_problem", fail)
    said: list[str] = []
    make_model(change(tiny, "engine", device="cpu"), series, said.append)
    assert said == []


def test_a_gpu_with_too_little_memory_is_refused_with_what_is_missing() -> None:
    device = SmallDevice(host_library())
    choose.check_room(device, 10**8 - int(choose.RESERVE_BYTES))
    with pytest.raises(gpu.GpuError, match="4.1 GB are needed on a small GPU, 4.2 GB more than are free"):
        choose.check_room(device, 4_100_000_000)


def test_a_rotation_without_a_gpu_version_is_computed_by_the_cpu(with_gpu: HostDevice, tiny: RunSpec,
                                                                 series: TiltSeries, change,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    fourier = change(tiny, "engine", rotation="fourier")
    row = dataclasses.replace(ROTATIONS["fourier"], gpu_kernel="")
    monkeypatch.setitem(ROTATIONS, "fourier", row)
    assert device_choice.solver_parts(make_model(fourier, series, said.append)).name == "cpu"
    assert said == ["the CPU reconstructs: engine.rotation=fourier has no GPU version: choose one of cubic, linear"]


def test_a_regulariser_without_a_gpu_version_is_computed_by_the_cpu(
        with_gpu: HostDevice, monkeypatch: pytest.MonkeyPatch, tiny: RunSpec, series: TiltSeries, change) -> None:
    """Use an invented kind without a GPU version, which acts as positivity."""
    monkeypatch.setitem(REGULARISERS, "made_up", dataclasses.replace(REGULARISERS["pos"], gpu=None))
    monkeypatch.setattr(gpu, "open_device", lambda needed_bytes: pytest.fail("a GPU was opened"))
    spec = change(tiny, "reg", kind="pos")
    object.__setattr__(spec.reg, "kind", "made_up")
    said: list[str] = []
    model = make_model(spec, series, said.append)
    assert said == ["the CPU reconstructs: reg.kind=made_up has no GPU version"]
    assert device_choice.solver_parts(model).name == "cpu" and device_choice.find_gpu(spec) is None
    solution = fit_volume(spec, model, np.arange(5), 0.0, n_iterations=2, rng=np.random.default_rng(2))
    assert solution.cost[-1] < solution.cost[0] and solution.volume.min() >= 0
    asked = change(tiny, "engine", device="gpu")
    asked = dataclasses.replace(asked, reg=spec.reg)
    with pytest.raises(SpecError) as refused:
        device_choice.require_gpu(asked)
    assert str(refused.value) == ("engine.device='gpu' cannot be used: reg.kind=made_up has no GPU version; choose "
                                  "one of auto, cpu")


def test_the_regularisers_of_the_paper_and_atoms_have_a_gpu_version() -> None:
    assert {"tv", "lasso", "pos", "none", "atoms"} <= {kind for kind, row in REGULARISERS.items() if row.gpu}


@pytest.mark.parametrize("kind", ["tv", "lasso", "pos", "atoms"])
def test_reconstructions_from_settings_agree_on_gpu_and_cpu(with_gpu: HostDevice, tiny: RunSpec, series: TiltSeries,
                                                            change, kind: str) -> None:
    """Compare from settings to volume, with the adapting prior, and resumed from a checkpoint."""
    spec = change(tiny, "reg", kind=kind, weight=1e-5, warm_start=True, metric_at=1, reweight_at=(2,))
    said: list[str] = []

    def fit(device: str, n_iterations: int, resume=None, rng=None):
        on = change(spec, "engine", device=device)
        model = make_model(on, series, said.append)
        solution = fit_volume(on, model, np.arange(5), 1e-5, n_iterations=n_iterations, resume=resume,
                              rng=rng or np.random.default_rng(2))
        return model.form_potential(solution.volume), solution

    expected, by_cpu = fit("cpu", 4)
    found, by_gpu = fit("auto", 4)
    assert said == ["the processor reconstructs"]
    np.testing.assert_allclose(by_gpu.cost, by_cpu.cost, rtol=1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    rng = np.random.default_rng(2)
    _, half = fit("auto", 2, rng=rng)
    resumed, _ = fit("auto", 4, resume=type(half.state).restore(half.state.arrays(), half.state.values()), rng=rng)
    np.testing.assert_array_equal(resumed, found)


def test_an_aligned_reconstruction_agrees_on_gpu_and_cpu(with_gpu: HostDevice, tiny: RunSpec, series: TiltSeries,
                                                         change) -> None:
    """The alignment runs on the device; tables, costs and volumes agree, also when resumed."""
    spec = change(change(tiny, "align", enabled=True, at=(1, 3), smoothing_A=(2.0, 1.0)), "reg", weight=1e-5)
    found = {}
    for device in ("cpu", "gpu"):
        on = change(spec, "engine", device=device)
        model = make_model(on, series, lambda text: None)
        aligner = make_aligner(on, series, model)
        assert aligner is not None
        solution = fit_volume(on, model, np.arange(5), 1e-5, n_iterations=4, rng=np.random.default_rng(2),
                              align=functools.partial(align_when_due, on, aligner))
        found[device] = (aligner.table, solution.cost, model.form_potential(solution.volume))
        again = make_model(on, series, lambda text: None)
        resumed = make_aligner(on, series, again)
        assert resumed is not None
        resumed.restore(aligner.table)
        np.testing.assert_allclose(again.cost(solution.volume, 3), model.cost(solution.volume, 3), rtol=1e-6)
    assert np.abs(found["cpu"][0] - [0, 0, 0, 0, 0, 1]).max() > 0.1
    # In units of the largest step of each unknown, 1° to 20 Å; the images are random, so that all steps are large.
    off = (found["gpu"][0] - found["cpu"][0]) / [1, 1, 1, 1, 20, 0.1]
    assert np.abs(off).max() < 5e-3
    np.testing.assert_allclose(found["gpu"][1], found["cpu"][1], rtol=1e-3)
    np.testing.assert_allclose(found["gpu"][2], found["cpu"][2], atol=1e-2 * np.abs(found["cpu"][2]).max())
    # Transfer functions of each tilt, and what computes exit waves: 8 planes of the wave and half of one for a slice.
    n_z, n_x, n_y = spec.scale.shape_zxy
    n_defoci, table = len(spec.defocus.planes_nm), n_z * n_x * (8 + 8 + 4 + 8 * cubic.MATRIX.capacity)
    needed = on_gpu.gpu_bytes(spec) - on_gpu.gpu_bytes(tiny) - gpu.equations_bytes((n_z, n_x, n_y), 5, n_defoci)
    slices = -(-n_z // spec.binning.n_layers)
    assert (needed - table) / (8 * n_x * n_y) == 5 * n_defoci + 6 + min(2, slices - 1) + slices / 2


def test_an_alignment_of_an_irregular_series_is_counted_twice_and_refused_beforehand(
        with_gpu: HostDevice, tiny: RunSpec, series: TiltSeries, change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights of pixels and the transfer functions of its tilts are those of the model and of the alignment."""
    spec = change(change(tiny, "align", enabled=True, at=(1,), smoothing_A=(2.0,)), "engine", device="gpu")
    defocus_A = series.defocus_A + np.arange(5.0)[:, None]
    irregular = dataclasses.replace(series, defocus_A=defocus_A, pixel_weight=np.full(series.images.shape, 0.5))
    differences = 4 * 8 * series.images[0].size + 4 * series.images.size
    assert gpu.differences_bytes(irregular) == differences and gpu.differences_bytes(series) == 0
    enough = on_gpu.gpu_bytes(spec) + 2 * differences + int(choose.RESERVE_BYTES)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: enough)
    make_model(spec, irregular, lambda text: None)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: enough - 1)
    make_model(spec, series, lambda text: None)
    make_model(change(spec, "align", enabled=False), irregular, lambda text: None)
    with pytest.raises(SpecError, match="GB are needed on the processor, 0.0 GB more than are free"):
        make_model(spec, irregular, lambda text: None)
    said: list[str] = []
    model = make_model(change(spec, "engine", device="auto"), irregular, said.append)
    assert device_choice.solver_parts(model).name == "cpu" and said[0].startswith("the CPU reconstructs: ")


@pytest.mark.parametrize("kind", ["tv", "atoms"])
def test_the_estimate_tries_the_gpu_and_counts_its_memory(with_gpu: HostDevice, tiny: RunSpec, smoke_spec: RunSpec,
                                                          change, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock by which each trial takes 0.01 s, as the time of so small a volume is that of the machine's load."""
    monkeypatch.setattr("aetlab.reconstruction.trials._tried", {})
    monkeypatch.setattr("aetlab.reconstruction.trials._clock_s", lambda work: (work(), 0.01)[1])
    spec = change(tiny, "reg", kind=kind)
    atoms = build_sample(smoke_spec.sample, smoke_spec.scale, generator(0, "sample"))
    found = estimate(spec, atoms)
    assert found.gpu == "the processor" and found.gpu_bytes == on_gpu.gpu_bytes(spec) > 4 * 11 * 16 * 20 * 7
    assert re.search(r"s on the CPU and 0\.00 GB of the processor \(simulate", found.in_one_line())
    assert found.as_table().splitlines()[-1].split() == ["of", "the", "GPU", "0.00", "the", "processor", "reconstructs"]
    longer = estimate(change(spec, "engine", n_iterations=8 * spec.engine.n_iterations), atoms)
    assert longer.seconds["reconstruct"] == pytest.approx(8 * found.seconds["reconstruct"])
    # Four tilts are tried together; an iteration has five, and a step of the regulariser.
    an_iteration_s = 5 * 0.01 / 4 + 0.01
    assert found.seconds["reconstruct"] == pytest.approx(spec.engine.n_iterations * an_iteration_s)
    by_cpu = estimate(change(spec, "engine", device="cpu"), atoms)
    assert by_cpu.gpu is None and "GB of" not in by_cpu.in_one_line()
    assert by_cpu.memory_bytes["reconstruct"] >= found.memory_bytes["reconstruct"]


def test_a_missing_gpu_gives_an_error_of_one_line_with_advice() -> None:
    problem = backend.gpu_problem()
    if problem is not None:
        assert "\n" not in problem
        assert problem.startswith(("CuPy is not installed (pip install", "CuPy cannot reach a GPU: ", "no CUDA device"))


def test_a_worker_of_several_gpus_holds_none_while_it_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It claims all of them at once, and only as many as there are."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr(workers, "_claimed", [])
    first = FileLock(tmp_path / "aetlab-gpu-4.lock")
    third = FileLock(tmp_path / "aetlab-gpu-6.lock")
    first.acquire(timeout=0)
    third.acquire(timeout=0)

    def wait(seconds: float) -> None:
        second = FileLock(tmp_path / "aetlab-gpu-5.lock")
        second.acquire(timeout=0)  # another worker may have it
        second.release()
        first.release()

    monkeypatch.setattr(workers.time, "sleep", wait)
    assert workers.claim_gpus(2, tmp_path) == workers.claim_gpus(2, tmp_path) == "4,5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
    for lock in (third, *workers._claimed):
        lock.release()
    monkeypatch.setattr(workers, "_claimed", [])
    with pytest.raises(StorageError, match="2 GPUs are visible to this worker, which needs 3"):
        workers.claim_gpus(3, tmp_path)


def test_each_worker_claims_its_own_gpu_and_frees_it_at_its_end(tmp_path: Path) -> None:
    code = ("import sys, pathlib; from aetlab.cli.workers import claim_gpus\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "print(claim_gpus(1, folder), claim_gpus(1, folder), flush=True); sys.stdin.read()")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3,GPU-abc/7"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, text=True,
                                stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[1])

    with start() as first, start() as second:
        claimed = [worker.stdout.readline().split() for worker in (first, second)]
        assert all(a == b for a, b in claimed)
        assert sorted(gpu_id for gpu_id, _ in claimed) == ["3", "GPU-abc/7"]
        with start() as third:
            # No GPU is left until one of the two ends, even where it is killed.
            first.kill()
            assert third.stdout.readline().split()[0] == claimed[0][0]
            for worker in (second, third):
                worker.stdin.close()
