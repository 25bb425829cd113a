"""Simulated images of the GPU agree with those of the CPU, emulated on the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, host_library

from aetlab import flow
from aetlab.core.nouns import Atoms
from aetlab.core.progress import SilentReporter
from aetlab.forward import draw_poses, simulate_tilt_series
from aetlab.forward.potential import build_potential
from aetlab.forward.simulate import CpuExposure, Exposure, SimulatedMicroscope
from aetlab.gpu import GpuError, GpuExposure, choose, exposure_bytes, footprint
from aetlab.gpu.atom_slices import PlacedAtoms
from aetlab.reconstruction.device import choose_exposure, require_gpu
from aetlab.refinement.tables import tabulate_atoms
from aetlab.spec import MicroscopeSpec, RunSpec, SimulateSpec, SpecError

SHAPE, VOXEL_A = (18, 20, 24), 0.8
TILT_DEG, DEFOCUS_A = np.array([0.0, 30.0, -65.0]), np.array([100.0, 400.0])
MICROSCOPE = MicroscopeSpec(mtf_half=0.6)
B_A2 = {"default": 0.5, "Si": 1.0}


@pytest.fixture
def device() -> Any:
    device = HostDevice(host_library())
    yield device
    device.check_guards()


def make_atoms(seed: int = 1, n_atoms: int = 40) -> Atoms:
    """Return atoms of two elements, some outside the volume."""
    rng = np.random.default_rng(seed)
    half_A = 0.55 * VOXEL_A * np.array(SHAPE)[[1, 2, 0]]
    return Atoms(rng.choice([8, 14], n_atoms), rng.uniform(-half_A, half_A, (n_atoms, 3)), np.zeros(n_atoms, np.int8))


def exposer(device: HostDevice) -> Any:
    def make(optics: SimulatedMicroscope, atoms: Atoms, parametrization: str, debye_waller_A2: dict[str, float]
             ) -> Exposure:
        elements = np.unique(atoms.numbers)
        return GpuExposure(optics, elements, tabulate_atoms(
            tuple(elements.tolist()), optics.voxel_A, parametrization=parametrization, debye_waller_A2=debye_waller_A2),
            device)

    return make


def simulate(how: SimulateSpec, shape: tuple[int, int, int] = SHAPE, make_exposure: Any = None,
             **more: Any) -> np.ndarray:
    return simulate_tilt_series(make_atoms(), shape, VOXEL_A, TILT_DEG, DEFOCUS_A, microscope=MICROSCOPE, simulate=how,
                                debye_waller_A2=B_A2, rng=np.random.default_rng(3), make_exposure=make_exposure,
                                **more).images


HOW = {"plain": SimulateSpec(), "thin last slice": SimulateSpec(n_layers=4), "cut": SimulateSpec(band_limit=2 / 3),
       "finer": SimulateSpec(oversample=2, n_layers=3, band_limit=0.9), "phonons": SimulateSpec(n_frozen_phonons=2)}


@pytest.mark.parametrize("n_y", [24, 26], ids=["fused", "library"])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_images_agree_with_the_cpu(device: HostDevice, how: SimulateSpec, n_y: int,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume is propagated in several portions; repeats are equal bit for bit."""
    monkeypatch.setattr(footprint, "_PORTION_BYTES", 4 * 20 * n_y * 7)
    shape = (*SHAPE[:2], n_y)
    expected = simulate(how, shape)
    found, again = (simulate(how, shape, exposer(device)) for _ in range(2))
    np.testing.assert_array_equal(again, found)
    contrast = np.abs(expected - expected.mean()).max()
    assert contrast > 0.05 and np.abs(found - expected).max() < 1e-5


def test_poses_and_refocused_tilts_agree_with_the_cpu(device: HostDevice) -> None:
    how = SimulateSpec(n_layers=3, tilt_error_deg=1, axis_error_deg=2, shift_error_A=1, defocus_error_nm=2,
                       brightness_error=0.05)
    poses = draw_poses(how, TILT_DEG, len(DEFOCUS_A), np.random.default_rng(5))
    expected = simulate(how, poses=poses)
    assert np.abs(simulate(how, make_exposure=exposer(device), poses=poses) - expected).max() < 1e-5


def test_slices_are_the_potential_of_the_simulation(device: HostDevice) -> None:
    """With the same voxels at the edge of an atom, which those of the refinement do not have."""
    how, atoms = SimulateSpec(n_layers=4), make_atoms()
    optics = SimulatedMicroscope(SHAPE, VOXEL_A, DEFOCUS_A, MICROSCOPE, how)
    exposure = exposer(device)(optics, atoms, "lobato", B_A2)
    exposure(atoms, None)
    layers = build_potential(atoms, SHAPE, VOXEL_A, debye_waller_A2=B_A2)
    expected = np.add.reduceat(layers, np.arange(0, SHAPE[0], 4), axis=0)
    np.testing.assert_allclose(exposure._slices, expected, atol=5e-6 * expected.max())


def test_memory_is_that_of_the_arrays(device: HostDevice) -> None:
    for how in (SimulateSpec(), SimulateSpec(band_limit=0.5, n_layers=4)):
        atoms, held = make_atoms(n_atoms=2), device.n_bytes
        optics = SimulatedMicroscope(SHAPE, VOXEL_A, DEFOCUS_A, MICROSCOPE, how)
        exposer(device)(optics, atoms, "lobato", B_A2)(atoms, None)
        counted = exposure_bytes(SHAPE, 2, 2, n_layers=how.n_layers, voxel_A=VOXEL_A, limited=how.band_limit < 1)
        assert device.n_bytes - held < counted < device.n_bytes - held + 1.1e6


def test_engine_gpu_simulates_on_the_gpu_or_says_why_not(device: HostDevice, smoke_spec: RunSpec, change,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr(choose, "_open", lambda: device)
    said: list[str] = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "say", said.append)
    spec = change(smoke_spec, "binning", n_layers=4)
    spec = change(change(spec, "scale", shape_zxy=(16, 18, 20)), "tilts", n_tilts=2)
    images = {}
    for engine in ("cpu", "gpu", "auto"):
        on = change(change(spec, "engine", device=engine), "simulate", n_layers=2)
        images[engine] = flow.simulate(on, make_atoms(), noise=False, progress=reporter).images
    assert said == ["the processor simulates"]
    on_gpu = change(spec, "engine", device="gpu")
    assert choose_exposure(change(on_gpu, "simulate", kind="voxels"), said.append) is None
    make = choose_exposure(on_gpu, said.append)
    assert make is not None
    fine = SimulatedMicroscope(SHAPE, 0.05, DEFOCUS_A, MICROSCOPE, SimulateSpec())
    assert isinstance(make(fine, make_atoms(), "lobato", B_A2), CpuExposure)
    assert said[1] == "the CPU simulates: simulate=voxels has no GPU version"
    assert said[2].startswith("the CPU simulates: atoms reach over ") and said[2].endswith("a GPU takes 64 at most")
    np.testing.assert_array_equal(images["auto"], images["cpu"])
    np.testing.assert_allclose(images["gpu"], images["cpu"], atol=1e-5)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: 10**5)
    with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: 0.0 GB are needed"):
        flow.simulate(change(spec, "engine", device="gpu"), make_atoms(), noise=False)
    with pytest.raises(SpecError, match="engine.device='gpu' cannot be used"):
        require_gpu(change(spec, "engine", device="gpu"))


def test_an_atom_over_too_many_voxels_is_refused(device: HostDevice) -> None:
    optics = SimulatedMicroscope(SHAPE, 0.05, DEFOCUS_A, MICROSCOPE, SimulateSpec())
    with pytest.raises(GpuError, match="atoms reach over 1.. voxels of the simulation, of which .* 64 at most"):
        exposer(device)(optics, make_atoms(), "lobato", B_A2)
    assert CpuExposure.n_workers_most > GpuExposure.n_workers_most == 1
    assert PlacedAtoms(device, 3).starts.shape == (4,)
