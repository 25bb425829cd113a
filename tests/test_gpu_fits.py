"""Candidates and fits of sites on the GPU agree with those of the CPU, emulated on the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, host_library

from aetlab.core.nouns import Volume
from aetlab.gpu import GpuError, GpuFits, GpuSearch, check_radius, choose, fits_bytes, search_bytes
from aetlab.reconstruction.device import choose_tracing
from aetlab.spec import RunSpec, SpecError, TraceSpec
from aetlab.tracing import ON_CPU, Work, trace_atoms
from aetlab.tracing.candidates import find_candidates
from aetlab.tracing.sites import fit_sites

SHAPE = (20, 22, 24)


@pytest.fixture
def device() -> Any:
    device = HostDevice(host_library())
    yield device
    device.check_guards()


def make_volume(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy volume with atoms near each other and at its faces, bad voxels, and starts of fits."""
    rng = np.random.default_rng(seed)
    sites = np.column_stack([rng.uniform(-0.4, np.array(SHAPE) - 0.6, (60, 3)), rng.uniform(50, 150, 60),
                             rng.uniform(0.8, 1.4, 60)])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    volume = rng.normal(0, 3, SHAPE)
    for site in sites:
        volume += site[3] * np.exp(-((grid - site[:3]) ** 2).sum(axis=-1) / (2 * site[4] ** 2))
    volume[rng.uniform(size=SHAPE) < 0.02] = np.nan
    volume[2:11, 3:12, 4:13] = np.nan
    start = sites + rng.normal(0, [0.2, 0.2, 0.2, 10, 0.1], sites.shape)
    start[:, 4] = np.abs(start[:, 4]) + 0.2
    start[0, :3] = 6, 7, 8  # among the bad voxels
    return volume.astype(np.float32), start


@pytest.mark.parametrize("how", [{}, {"n_fixed": 20}, {"subtract_neighbours": False}], ids=str)
@pytest.mark.parametrize("spec", [TraceSpec(), TraceSpec(fit_radius=3.2, clip_at_zero=True, neighbour_radius=6.0)],
                         ids=["narrow", "wide"])
def test_fits_agree_with_the_cpu(device: HostDevice, spec: TraceSpec, how: dict[str, Any]) -> None:
    """Every outcome occurs: converged, at a bound, not converged, too few voxels."""
    volume, start = make_volume()
    fits = GpuFits(device)
    expected, expected_status = fit_sites(volume, start, spec, **how)
    for _ in range(2):
        found, status = fit_sites(volume, start, spec, fit=fits, **how)
        np.testing.assert_array_equal(status, expected_status)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    assert how.get("n_fixed") or {0, 1, 2} <= set(status.tolist())
    assert (found[:how.get("n_fixed", 0)] == start[:how.get("n_fixed", 0)]).all()


@pytest.mark.parametrize("n_waiting", [1, 32])
def test_fits_hardly_depend_on_the_threads_of_a_block(n_waiting: int) -> None:
    volume, start = make_volume(2)
    found = [fit_sites(volume, start, TraceSpec(), fit=GpuFits(HostDevice(host_library(), n)))[0]
             for n in (n_waiting, 4)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7, atol=1e-7)


def test_no_sites_and_a_new_volume_are_taken(device: HostDevice) -> None:
    fits = GpuFits(device)
    for seed in (1, 2):
        volume, start = make_volume(seed)
        assert len(fit_sites(volume, start[:0], TraceSpec(), fit=fits)[0]) == 0
        np.testing.assert_allclose(fit_sites(volume, start, TraceSpec(), fit=fits)[0],
                                   fit_sites(volume, start, TraceSpec())[0], rtol=1e-7, atol=1e-7)


def test_a_traced_volume_has_the_same_atoms(device: HostDevice) -> None:
    volume = Volume(make_volume()[0], 0.5)
    on_gpu = Work(GpuSearch(device), GpuFits(device))
    expected, found = (trace_atoms(volume, TraceSpec(), (8, 14), work=work) for work in (ON_CPU, on_gpu))
    assert len(expected) > 20 and found.removed == expected.removed and found.n_candidates == expected.n_candidates
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_allclose(found.positions_A, expected.positions_A, atol=1e-5)
    np.testing.assert_allclose(found.position_error_A, expected.position_error_A, rtol=1e-3)


def test_engine_gpu_fits_on_the_gpu_or_says_why_not(device: HostDevice, smoke_spec: RunSpec, change,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.core.backend.gpu_problem", lambda: None)
    monkeypatch.setattr(choose, "_open", lambda: device)
    said: list[str] = []
    volume = Volume(np.zeros(SHAPE, np.float32), 0.5)
    on_gpu = change(smoke_spec, "engine", device="gpu")
    assert choose_tracing(smoke_spec, TraceSpec(), volume, said.append) is ON_CPU and not said
    assert isinstance(choose_tracing(on_gpu, TraceSpec(), volume, said.append).fit, GpuFits)
    wide = choose_tracing(on_gpu, TraceSpec(fit_radius=5.0), volume, said.append)
    assert isinstance(wide.search, GpuSearch) and wide.fit is ON_CPU.fit
    assert said == [*2 * ["the processor traces"], "the CPU fits the sites: trace.fit_radius=5 takes up to 1331 voxels "
                    "about a site, of which a GPU takes 512 at most"]
    check_radius(3.9)
    monkeypatch.setattr(HostDevice, "free_bytes", lambda self: 10**5)
    with pytest.raises(SpecError, match="engine.device='gpu' cannot be used"):
        choose_tracing(on_gpu, TraceSpec(), volume, said.append)
    with pytest.raises(GpuError, match="more than are free"):
        fit_sites(*make_volume(), TraceSpec(), fit=GpuFits(device))


def test_memory_is_that_of_the_arrays(device: HostDevice) -> None:
    volume, start = make_volume()
    held = device.n_bytes
    fit_sites(volume, start, TraceSpec(), fit=GpuFits(device))
    assert device.n_bytes - held <= fits_bytes(SHAPE, len(start)) + 1000
    held = device.n_bytes
    n_found = len(GpuSearch(device)(volume, TraceSpec()))
    assert device.n_bytes - held <= search_bytes(SHAPE) + 60 * n_found + 2000


@pytest.mark.parametrize("n_y", [24, 71])
def test_candidates_are_those_of_the_cpu_in_their_order(device: HostDevice, n_y: int) -> None:
    """Of a volume with bad voxels, one of noise alone, and what sites leave."""
    volume, start = make_volume()
    noise = np.random.default_rng(4).normal(0, 30, (9, 11, n_y)).astype(np.float32)
    for searched, spec, subtract in ((volume, TraceSpec(), None), (volume, TraceSpec(), start),
                                     (noise, TraceSpec(candidate_fraction=0.1), None)):
        expected = find_candidates(searched, spec, subtract=subtract)
        found = GpuSearch(device)(searched, spec, subtract=subtract)
        assert len(expected) > 10 and len(found) == len(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_equal_voxels_have_one_candidate_and_a_flat_volume_has_none(device: HostDevice) -> None:
    search = GpuSearch(device)
    plateau = np.zeros(SHAPE, np.float32)
    plateau[5:7, 8:10, 10:12] = 200
    np.testing.assert_allclose(search(plateau, TraceSpec()), find_candidates(plateau, TraceSpec()), atol=1e-4)
    assert search(np.zeros(SHAPE, np.float32), TraceSpec()).shape == (0, 5)
