"""The refinement of atoms on a GPU, by kernels compiled for the processor, against the CPU; and its choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from host_device import HostDevice, host_library

from aetlab import gpu
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.series_optics import series_optics
from aetlab.gpu import GpuError, GpuSlices, atom_slices_bytes, choose
from aetlab.gpu.atom_tiles import list_atoms, n_tiles
from aetlab.reconstruction import device as device_choice
from aetlab.reconstruction import on_gpu
from aetlab.refinement.atom_slices import CpuAtomSlices
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.tables import tabulate_atoms
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


def random_sites(n: int, *, seed: int = 2, half_A: float = 3.0) -> Sites:
    """Return sites of both elements in a cube of twice ``half_A``."""
    rng = np.random.default_rng(seed)
    return Sites(rng.uniform(-half_A, half_A, (n, 3)), rng.uniform(0.5, 1.2, n), rng.integers(0, 2, n))


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
    rng, sites = np.random.default_rng(2), random_sites(15)
    poses = Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    if moved:
        poses = poses.moved(0.5 * rng.normal(size=(3, 6)))

    def run(model: AtomModel) -> tuple[list[float], np.ndarray, list[np.ndarray]]:
        slices: list[np.ndarray] = []
        tilts = list(model.gradients(sites, poses, tried=(0, 1), noise=np.random.SeedSequence(3),
                                     on_slices=lambda i, gradient: slices.append(gradient.copy())))
        return [tilt.cost for tilt in tilts], np.stack([tilt.gradient for tilt in tilts]), slices

    by_gpu = run(make_model(series, make_slices=GpuSlices(device)))
    by_cpu = run(make_model(series))
    np.testing.assert_allclose(by_gpu[0], by_cpu[0], rtol=1e-5)
    np.testing.assert_allclose(by_gpu[1], by_cpu[1], atol=2e-5 * np.abs(by_cpu[1]).max())
    np.testing.assert_allclose(by_gpu[2], by_cpu[2], atol=2e-5 * np.abs(by_cpu[2]).max())
    np.testing.assert_array_equal(by_gpu[1], run(make_model(series, make_slices=GpuSlices(device)))[1])


def test_a_contrast_and_the_detectors_blur_agree_with_the_cpu(device: HostDevice, series: TiltSeries) -> None:
    """With a detector, then with another contrast of the same model, then with neither."""
    sites = Sites(np.random.default_rng(2).uniform(-3, 3, (15, 3)), np.ones(15), np.zeros(15, int))
    poses, microscope = Poses.nominal(TILT_DEG, len(DEFOCUS_A)), MicroscopeSpec(mtf_half=0.4)
    by_gpu = make_model(series, microscope, make_slices=GpuSlices(device))
    by_cpu = make_model(series, microscope)
    for contrast in (1.0, 0.8, 1.0):
        there, here = (list(model.with_contrast(contrast).gradients(sites, poses)) for model in (by_gpu, by_cpu))
        np.testing.assert_allclose([tilt.cost for tilt in there], [tilt.cost for tilt in here], rtol=1e-5)
        expected = np.stack([tilt.gradient for tilt in here])
        np.testing.assert_allclose([tilt.gradient for tilt in there], expected, atol=2e-5 * np.abs(expected).max())


def test_slices_agree_with_float64_and_depend_on_no_threads(series: TiltSeries) -> None:
    """Atoms at faces, edges and beyond; a missing wait between the threads of a block would change the bits."""
    sites, poses = random_sites(40, half_A=9.0), Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    expected = [make_model(series, dtype=np.float64).slices(sites, poses, i) for i in range(3)]
    found = []
    for n_waiting in (1, 2, 16):
        model = make_model(series, make_slices=GpuSlices(HostDevice(host_library(), n_waiting)))
        found.append(np.stack([model.slices(sites, poses, i) for i in range(3)]))
        np.testing.assert_array_equal(found[-1], found[0])
    np.testing.assert_allclose(found[0], expected, atol=3e-6 * np.max(expected))


def test_a_tile_has_the_atoms_that_reach_it() -> None:
    """Compare with each atom's slices alone: its tiles are those where they are not 0."""
    rng, n, shape, window, reach = np.random.default_rng(6), 30, (11, 20, 70), 16, np.array([3.0, 5.2])
    centres, kinds = rng.uniform(-8, 75, (n, 3)) * (0.2, 0.4, 1.0), rng.integers(0, 2, n)
    starts, members = list_atoms(centres, kinds, reach, window, shape, 4)
    assert len(starts) == n_tiles(shape, 4) + 1 == 3 * 3 * 3 + 1 and starts[-1] == len(members)
    tiles = [set(members[starts[b]:starts[b + 1]].tolist()) for b in range(27)]
    for i, (centre, r) in enumerate(zip(centres, reach[kinds], strict=True)):
        z, x, y = (np.arange(size) for size in shape)
        rows, layers = np.abs(x - centre[1]) <= r, np.abs(z - centre[0]) <= r
        first = min(max(int(np.floor(centre[2])) - 7, 0), 70 - window)
        columns = (y >= first) & (y < first + window) & (-r <= centre[2] <= 69 + r)
        for b in range(27):
            s, tile_x, tile_y = b // 9, b // 3 % 3, b % 3
            inside = (layers[4 * s:4 * s + 4].any() and rows[8 * tile_x:8 * tile_x + 8].any()
                      and columns[32 * tile_y:32 * tile_y + 32].any())
            assert (i in tiles[b]) == inside
    assert all(list(members[starts[b]:starts[b + 1]]) == sorted(tiles[b]) for b in range(27))


def test_images_agree_with_the_cpu_and_change_no_cost(device: HostDevice, uneven: TiltSeries) -> None:
    """Images at two planes, with a detector and another contrast, between two equal passes."""
    sites, poses = random_sites(15), Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    microscope, planes_A = MicroscopeSpec(mtf_half=0.4), (-30.0, 40.0)
    by_gpu, by_cpu = make_model(uneven, microscope, make_slices=GpuSlices(device)), make_model(uneven, microscope)
    before = [tilt.gradient for tilt in by_gpu.gradients(sites, poses)]
    for contrast in (1.0, 0.7):
        there, here = (np.stack(list(model.with_contrast(contrast).focal_images(sites, poses, planes_A)))
                       for model in (by_gpu, by_cpu))
        assert there.shape == (3, 2, 2, *SHAPE[1:]) and np.ptp(here) > 0.05
        np.testing.assert_allclose(there, here, atol=2e-6)
    np.testing.assert_array_equal([tilt.gradient for tilt in by_gpu.gradients(sites, poses)], before)


def test_thermal_derivatives_and_held_atoms_agree_with_the_cpu(device: HostDevice, series: TiltSeries) -> None:
    held, sites, poses = random_sites(9, seed=4), random_sites(15), Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    there, here = (list(make_model(series, held=held, **options).with_thermal(np.array([0.4, 0.8]))
                        .gradients(sites, poses, thermal=True)) for options in ({"make_slices": GpuSlices(device)}, {}))
    for found, expected in zip(there, here, strict=True):
        assert found.cost == pytest.approx(expected.cost, rel=1e-5)
        np.testing.assert_allclose(found.gradient, expected.gradient, atol=2e-5 * np.abs(expected.gradient).max())
        np.testing.assert_allclose(found.by_thermal, expected.by_thermal, atol=1e-3 * np.abs(expected.by_thermal).max())


def test_more_atoms_replace_the_arrays_of_fewer(device: HostDevice, series: TiltSeries) -> None:
    """Also no atom, and atoms that lie outside the volume or at its faces."""
    poses = Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    by_gpu, by_cpu = make_model(series, make_slices=GpuSlices(device)), make_model(series)
    for sites in (random_sites(0), random_sites(4), random_sites(60, half_A=12.0), random_sites(5)):
        there, here = (list(model.gradients(sites, poses)) for model in (by_gpu, by_cpu))
        np.testing.assert_allclose([tilt.cost for tilt in there], [tilt.cost for tilt in here], rtol=1e-5)
        expected = np.stack([tilt.gradient for tilt in here])
        largest = np.abs(expected).max(initial=0)
        np.testing.assert_allclose([tilt.gradient for tilt in there], expected, atol=2e-5 * largest)


def test_memory_is_within_its_estimate_and_a_lack_of_it_is_one_line(device: HostDevice, series: TiltSeries,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    sites, poses = random_sites(500), Poses.nominal(TILT_DEG, len(DEFOCUS_A))
    monkeypatch.setattr("aetlab.refinement.turns.n_threads", lambda: 1)
    model = make_model(series, MicroscopeSpec(mtf_half=0.4), make_slices=GpuSlices(device))
    for _ in range(2):
        list(model.gradients(sites, poses))
    counted = atom_slices_bytes(SHAPE, len(DEFOCUS_A), len(sites), n_layers_per_slice=N_LAYERS, voxel_A=0.5, mtf=True)
    assert 0.1 * counted < device.n_bytes <= counted
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: choose.RESERVE_BYTES)
    with pytest.raises(GpuError, match="GB are needed on the processor, .* more than are free"):
        list(model.gradients(random_sites(2000), poses))


def test_atoms_of_too_many_voxels_and_double_precision_are_refused(device: HostDevice, series: TiltSeries) -> None:
    make = GpuSlices(device)
    optics = series_optics(series, SHAPE, MicroscopeSpec(), N_LAYERS)
    with pytest.raises(ValueError, match="float32, not float64"):
        make(optics, SHAPE[0], N_LAYERS, np.float64)
    tables = replace(tabulate_atoms((8,), 0.5, parametrization="lobato", debye_waller_A2={"default": 0.5}), window=65)
    with pytest.raises(GpuError, match="atoms reach over 65 voxels, of which a GPU takes 64"):
        make(optics, SHAPE[0], N_LAYERS).deposit(tables, np.zeros((1, 3)), np.zeros(1, int), np.ones(1))


def test_the_settings_choose_the_device(device: HostDevice, smoke_spec: RunSpec, change,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    auto, asked, cpu = (change(change(smoke_spec, "refine", kind="atoms"), "engine", device=name)
                        for name in ("auto", "gpu", "cpu"))
    said: list[str] = []
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: "no GPU here")
    with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: no GPU here"):
        device_choice.choose_slices(asked, 9, said.append)
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr(choose, "_open", lambda: device)
    device_choice.require_gpu(asked)
    for spec in (auto, cpu):
        assert device_choice.choose_slices(spec, 9, said.append) is CpuAtomSlices
    assert said == []
    assert isinstance(device_choice.choose_slices(asked, 9, said.append), GpuSlices)
    assert said == ["the processor refines"]
    # Room for the reconstruction, not for the waves of all threads.
    few = change(change(asked, "reg", kind="none"), "binning", n_layers=1)
    room = gpu.memory_needed_bytes(few.scale.shape_zxy, 60, 3, n_layers_per_slice=1, rotation="linear",
                                   regulariser="none")
    many = room // atom_slices_bytes(few.scale.shape_zxy, 3, 9, n_layers_per_slice=1, voxel_A=0.5) + 1
    monkeypatch.setattr(on_gpu, "n_threads", lambda: many)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: int(room + choose.RESERVE_BYTES))
    for refuse in (device_choice.require_gpu, lambda spec: device_choice.choose_slices(spec, 9, said.append)):
        with pytest.raises(SpecError, match="engine.device='gpu' cannot be used: .* more than are free"):
            refuse(few)
