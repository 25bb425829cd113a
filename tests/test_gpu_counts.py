"""Launches, bytes, registers and shared memory of the GPU engine, counted without a GPU, cannot grow unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from counting_device import CountingDevice
from cubin import Use, read_use
from priors import PROBLEM, make_gpu_prox
from test_gpu_compile import machine_code

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.forward.posed_images import PosedOptics
from aetlab.forward.series_optics import series_optics
from aetlab.forward.simulate import SimulatedMicroscope
from aetlab.forward.tilt_equations import AddedColumns, PosedTilt
from aetlab.gpu import (
    GpuExitWaves,
    GpuExposure,
    GpuFits,
    GpuModel,
    GpuSearch,
    GpuSlices,
    GpuTiltEquations,
    Group,
    SlabModel,
)
from aetlab.gpu.atom_slices import GpuAtomSlices
from aetlab.gpu.group import Transfer
from aetlab.gpu.kernels import KERNELS, SOURCES
from aetlab.gpu.rotation import make_gpu_rotation
from aetlab.methods.regularisers import REGULARISERS
from aetlab.refinement.tables import tabulate_atoms
from aetlab.spec import MicroscopeSpec, SimulateSpec, TraceSpec
from aetlab.tracing.sites import fit_sites, list_neighbours

#: As many slices as at 480³ with N_B = 10, on planes of 32 by 32.
N_Z, N_LAYERS, N_SLICES, N_DEFOCI = 480, 10, 48, 3
#: Largest numbers of registers of a thread, 32 if not listed.
REGISTERS = {"add_adjoint": 48, "add_adjoint_in_metric": 56, "rotate_linear": 48, "rotate_cubic": 56,
             "build_rotation": 40, "detected_residual": 48, "poisson_residual": 48, "residual": 40, "to_images": 40,
             "from_images": 40, "tv_step": 48, "tv_step_in_slab": 56, "deposit_atoms": 40, "gather_atoms": 64,
             "correlate": 48, "form_columns": 48, "fit_gaussians": 112, "count_maxima": 56, "write_maxima": 56,
             "shear_in": 64, "shear_columns": 64, "shear_rows": 64, "shear_out": 64,
             **{name: 64 for name, kernel in KERNELS.items() if kernel.source == "fused.cu"}}


def count_tilt(shape_xy: tuple[int, int], microscope: MicroscopeSpec | None = None) -> CountingDevice:
    """Return a device that has counted one step."""
    device, n_tilts = CountingDevice(), 60
    images = np.ones((n_tilts, N_DEFOCI, *shape_xy), np.float32)
    series = TiltSeries(images, np.arange(n_tilts) * 3.0, np.array([200.0, 450.0, 1000.0]), 0.5)
    model = GpuModel(series, (N_Z, *shape_xy), microscope=microscope or MicroscopeSpec(), n_layers_per_slice=N_LAYERS,
                     device=device)
    device.reset()
    model.descend(device.zeros((N_Z, *shape_xy), np.float32), 7, 1.0)
    return device


def test_a_tilt_takes_four_launches_a_slice_in_fused_planes() -> None:
    expected = {"set_tilt": 1, "build_rotation": 1, "rotate_linear": 1, "transmit_columns": N_SLICES,
                "propagate_rows": 2 * (N_SLICES - 1), "rows_to_images": 1, "compare_columns": 1, "sum_cost": 1,
                "rows_from_images": 1, "back_columns": N_SLICES, "add_adjoint": 1}
    assert count_tilt((32, 32)).launches == Counter(expected)
    assert sum(expected.values()) == 198


def test_an_exit_wave_of_the_alignment_takes_two_launches_a_slice() -> None:
    device, images = CountingDevice(), np.ones((1, N_DEFOCI, 32, 32), np.float32)
    series = TiltSeries(images, np.zeros(1), np.array([200.0, 450.0, 1000.0]), 0.5)
    shape = (N_Z, 32, 32)
    waves = GpuExitWaves(series_optics(series, shape, MicroscopeSpec(), N_LAYERS), shape, N_LAYERS, "cubic", device)
    volume = device.zeros(shape, np.float32)
    device.reset()
    waves.wave(volume, 12.5)
    expected = {"build_rotation": 1, "rotate_cubic": 1, "transmit_columns": N_SLICES, "propagate_rows": N_SLICES - 1,
                "rows_to_images": 1, "transform_columns": 1}
    assert device.launches == Counter(expected) and sum(expected.values()) == 99


@pytest.mark.parametrize(("turned", "n_turns"), [(0.0, 0), (0.3, 1)])
def test_a_tilt_of_the_alignment_takes_18_launches_beside_its_exit_waves_and_returns_376_bytes_an_image(
        turned: float, n_turns: int) -> None:
    """FFTs count as one. A turned tilt takes 13 more for each of two exit waves, and for each two measured images."""
    device, n_tilts = CountingDevice(), 60
    series = TiltSeries(np.ones((n_tilts, N_DEFOCI, 32, 32), np.float32), np.arange(n_tilts) * 3.0,
                        np.array([200.0, 450.0, 1000.0]), 0.5)
    shape, options = (N_Z, 32, 32), {"microscope": MicroscopeSpec(), "n_layers_per_slice": N_LAYERS}
    model = GpuModel(series, shape, device=device, **options)
    equations = GpuTiltEquations(PosedOptics(series, shape, **options), series, AddedColumns(), model=model)
    tilt, volume = PosedTilt(7, np.array([0.1, turned, 0, 0, 0, 1])), device.zeros(shape, np.float32)
    for _ in range(2):  # the first call places the low-pass filter as well
        device.reset()
        equations.compare(volume, tilt, 0.5)
    assert sum(device.launches.values()) == 2 * 99 + 18 + 2 * 13 * n_turns
    of_exit_waves = {name: 2 * n for name, n in (("build_rotation", 1), ("rotate_cubic", 1), ("rows_to_images", 1),
                                                 ("transmit_columns", N_SLICES), ("propagate_rows", N_SLICES - 1),
                                                 ("transform_columns", 1))}
    assert device.launches - Counter(of_exit_waves) == Counter(
        {"fft": 7 + 2 * 6 * n_turns, "differentiate": 1, "turn_slopes": 1, "pose_images": 1, "pair_products": 1,
         "sum_amplitudes": 1, "form_columns": 1, "multiply_real": 1, "sum_products": 1, "sum_groups": 3}
        | ({"mirror_lines": 6, "shift_lines": 6, "take_lines": 2} if n_turns else {}))
    assert device.n_returned == N_DEFOCI * 376 and device.n_sent == N_DEFOCI * 36 + 2 * 16
    device.reset()
    equations.search(volume, tilt, 0.5, np.linspace(-50, 50, 11), 4)
    assert sum(device.launches.values()) == 99 + 3 + 13 * n_turns + 8 * 11
    assert device.n_returned == 24 * 11 and device.n_sent == 16 + 8 * N_DEFOCI + 11 * 32 * N_DEFOCI
    equations.place(tilt)
    device.reset()
    equations.place(tilt)
    assert sum(device.launches.values()) == 3 + 2 * 13 * n_turns
    assert device.n_returned == 0 and device.n_sent == 16 + 32 * N_DEFOCI


def test_the_equations_of_a_tilt_move_less_than_its_exit_waves() -> None:
    """At 480³ those of two angles move 1.9 GB, and images, columns and sums 0.6 GB."""
    device, shape = CountingDevice(), (N_Z, 480, 480)
    images = np.ones((1, N_DEFOCI, 480, 480), np.float32)
    series = TiltSeries(images, np.zeros(1), np.array([200.0, 450.0, 1000.0]), 0.5)
    options = {"microscope": MicroscopeSpec(), "n_layers_per_slice": N_LAYERS}
    optics, volume = PosedOptics(series, shape, **options), device.zeros(shape, np.float32)
    equations = GpuTiltEquations(optics, series, AddedColumns(),
                                 model=GpuModel(series, shape, device=device, **options))
    device.reset()
    equations._exit_waves.wave(volume, 3.0)
    wave = device.n_bytes
    device.reset()
    equations.compare(volume, PosedTilt(0, np.array([0.1, 0, 0, 0, 0, 1])), 0.5)
    assert 1.8e9 < 2 * wave < 2e9 and 0.5e9 < device.n_bytes - 2 * wave < 0.61e9


def test_a_tilt_rotated_by_shears_takes_seven_launches_for_64_rows() -> None:
    """Forward 4, back 3; 100 rows of y are two blocks of rows."""
    device, now, shape, n_layers = CountingDevice(), np.zeros(2, np.int32), (48, 40, 100), 10
    rotation = make_gpu_rotation("fourier", shape, n_layers, np.zeros(3), device, now)
    volume, slices = np.zeros(shape, np.float32), np.zeros((5, *shape[1:]), np.float32)
    device.reset()
    rotation.rotate_and_bin(volume, slices)
    rotation.add_adjoint(slices, np.zeros(1, np.float32), volume, None)
    assert device.launches == Counter({"shear_in": 4, "shear_columns": 4, "shear_rows": 2, "bin_layers": 2,
                                       "shear_out": 2})


def test_a_tilt_takes_eight_launches_a_slice_in_other_planes() -> None:
    """A FFT of the library is two launches or more."""
    launches = count_tilt((32, 34)).launches
    assert launches["fft"] == 4 * N_SLICES and sum(launches.values()) == 390


def test_a_tilt_moves_the_bytes_that_its_fused_kernels_need() -> None:
    """An array that a kernel updates in place counts once."""
    plane, columns = 8 * 32 * 32, N_Z * 32
    slices = N_SLICES * plane // 2
    # A slice and the wave behind it are used once each way, the plane by each kernel, the propagator between slices.
    waves = 2 * (N_SLICES * (plane + plane + plane // 2) + (N_SLICES - 1) * 2 * plane)
    images = 2 * (1 + 2 * N_DEFOCI) * plane + N_DEFOCI * (plane + plane // 2)
    # Sampling points and the entries of voxels are written and read once, the volume read twice, the slices as well.
    rotation = 2 * columns * (8 + 8 + 4 + 8 * 8) + 2 * (4 * N_Z * 32 * 32 + slices)
    found = count_tilt((32, 32)).n_bytes
    assert waves + images + rotation < found < 1.01 * (waves + images + rotation)


def count_pass(shape_xy: tuple[int, int], n_atoms: int) -> tuple[CountingDevice, GpuAtomSlices]:
    """Return a device that has counted the cost and gradient of atoms at one tilt."""
    device, rng = CountingDevice(), np.random.default_rng(1)
    images = np.ones((1, N_DEFOCI, *shape_xy), np.float32)
    series = TiltSeries(images, np.zeros(1), np.array([200.0, 450.0, 1000.0]), 0.5)
    tables = tabulate_atoms((8, 14), 0.5, parametrization="lobato", debye_waller_A2={"default": 0.5})
    slices = GpuSlices(device)(series_optics(series, (N_Z, *shape_xy), MicroscopeSpec(), N_LAYERS), N_Z, N_LAYERS)
    kinds, occupancy = rng.integers(0, 2, n_atoms), np.ones(n_atoms)
    device.reset()
    slices.deposit(tables, rng.uniform(0, 1, (n_atoms, 3)) * (N_Z, *shape_xy), kinds, occupancy)
    slices.cost_and_gradient(images[0])
    slices.gather(tables, kinds, occupancy, np.empty((n_atoms, 4)))
    return device, slices


def test_atoms_take_two_launches_a_tilt_beside_the_waves() -> None:
    expected = {"deposit_atoms": 1, "transmit_columns": N_SLICES, "propagate_rows": 2 * (N_SLICES - 1),
                "rows_to_images": 1, "compare_columns": 1, "sum_cost": 1, "rows_from_images": 1,
                "back_columns": N_SLICES, "gather_atoms": 1}
    device, _ = count_pass((32, 32), 50)
    assert device.launches == Counter(expected) and sum(expected.values()) == 196


def test_an_atom_is_sent_in_less_than_a_hundred_bytes_and_returns_as_32() -> None:
    """The slices of a tilt are not sent: 44 MB at 480³."""
    (few, slices), (many, _) = count_pass((32, 32), 50), count_pass((32, 32), 5050)
    assert (many.n_sent - few.n_sent) / 5000 < 100 and (many.n_returned - few.n_returned) / 5000 == 32
    assert few.n_returned == 50 * 32 + 8
    assert few.n_sent - 4 * N_DEFOCI * 32 * 32 - slices._tables[0].nbytes < 4 * slices._atoms.starts.size + 50 * 200


class CountingExchange:
    """Counts groups of transfers, and the bytes of all."""

    def __init__(self) -> None:
        self.calls = self.n_bytes = 0

    def __call__(self, transfers: Sequence[Transfer]) -> None:
        self.calls += 1
        for each in transfers:
            assert each.values.shape == each.out.shape and each.source != each.target
            self.n_bytes += each.values.nbytes


def count_group(n_devices: int) -> tuple[Group, list[CountingDevice], CountingExchange]:
    devices, exchange = [CountingDevice() for _ in range(n_devices)], CountingExchange()
    return Group(devices, exchange, 32), devices, exchange


@pytest.mark.parametrize(("band_limit", "of_slice"), [(1.0, 2), (2 / 3, 5)])
def test_a_simulated_tilt_takes_two_or_five_launches_a_slice(band_limit: float, of_slice: int) -> None:
    """Five where frequencies are cut; slices of one layer come in portions, each filled by one launch."""
    device, rng = CountingDevice(), np.random.default_rng(1)
    atoms = Atoms(rng.choice([8, 14], 100), rng.uniform(-8, 8, (100, 3)), np.zeros(100, int))
    how = SimulateSpec(band_limit=band_limit)
    optics = SimulatedMicroscope((N_Z, 32, 32), 0.5, np.array([200.0, 450.0, 1000.0]), MicroscopeSpec(), how)
    tables = tabulate_atoms((8, 14), 0.5, parametrization="lobato", debye_waller_A2={"default": 0.5})
    expose = GpuExposure(optics, np.array([8, 14]), tables, device)
    device.reset()
    expose(atoms, None)
    expected = 1 + of_slice * N_Z - 1 + 1 + 1 + 1  # no propagator in front of the first slice
    assert sum(device.launches.values()) == expected and device.launches["deposit_atoms"] == 1
    assert device.n_sent < 100 * 150 + 1000  # lists of tiles
    assert device.n_returned == 4 * N_DEFOCI * 32 * 32


def test_a_search_filters_a_volume_by_eight_launches_and_moves_it_sixteen_times() -> None:
    """Without candidates; one more launch writes those that were counted."""
    device, volume = CountingDevice(), np.zeros((8, 16, 32), np.float32)
    assert GpuSearch(device)(volume, TraceSpec()).shape == (0, 5)
    assert device.launches == Counter({"blur_axis_nearest": 6, "subtract": 1, "count_maxima": 1})
    assert 16 * volume.nbytes <= device.n_bytes < 16 * volume.nbytes + 4 * 8 * 16 + 1000
    assert device.n_returned == 4 * 8 * 16


def test_all_sites_are_fitted_by_one_launch_and_return_as_44_bytes() -> None:
    device, rng = CountingDevice(), np.random.default_rng(1)
    volume, spec = np.zeros((40, 40, 40), np.float32), TraceSpec()
    fits = GpuFits(device)
    sites = np.column_stack([rng.uniform(0, 39, (500, 3)), np.full((500, 2), 2.0)])
    for _ in range(2):
        device.reset()
        fit_sites(volume, sites, spec, fit=fits)
    assert device.launches == Counter({"fit_gaussians": 1}) and device.n_returned == 500 * 44
    n_neighbours = len(list_neighbours(sites, spec.neighbour_radius)[1])
    assert device.n_sent == 500 * (40 + 40 + 4 + 4 + 4) + 4 + 4 * n_neighbours + 7 * 8  # the volume stays


@pytest.mark.parametrize("n_devices", [2, 4])
def test_a_tilt_in_slabs_takes_four_launches_on_each_device_and_sends_the_slices_twice(n_devices: int) -> None:
    """The first device also propagates the waves, and puts the slices together and apart."""
    group, devices, exchange = count_group(n_devices)
    images = np.ones((60, N_DEFOCI, 32, 32), np.float32)
    series = TiltSeries(images, np.arange(60) * 3.0, np.array([200.0, 450.0, 1000.0]), 0.5)
    model = SlabModel(series, (N_Z, 32, 32), microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS, group=group)
    volume = group.zeros((N_Z, 32, 32), np.float32)
    for device in devices:
        device.reset()
    model.descend(volume, 7, 1.0)
    assert sum(devices[0].launches.values()) == 198 + 2 * n_devices
    for device in devices[1:]:
        assert device.launches == Counter({"set_tilt": 1, "build_rotation": 1, "rotate_linear": 1, "add_adjoint": 1})
    slices = 4 * N_SLICES * 32 * 32
    assert exchange.calls == 2 and exchange.n_bytes == 2 * slices * (n_devices - 1) / n_devices
    # Putting the slices together and apart reads and writes all of them twice.
    assert devices[0].n_bytes < count_tilt((32, 32)).n_bytes + 4 * slices


@pytest.mark.parametrize("n_devices", [2, 4])
def test_an_iteration_of_total_variation_in_slabs_is_one_launch_and_sends_four_planes(n_devices: int) -> None:
    group, devices, exchange = count_group(n_devices)
    row, n_inner, plane = REGULARISERS["tv"], 15, 4 * 8 * 16
    row.gpu.in_slabs(group, row.settings(inner_iterations=n_inner), 0.5, PROBLEM).prox(
        group.zeros((8, 16, 32), np.float32), 1.0)
    for device, width in zip(devices, group.widths, strict=True):
        # Three copies of an edge of the volume and of the dual variables of a warm start.
        assert device.launches == Counter({"tv_step_in_slab": n_inner, "tv_primal_in_slab": 1, "copy_columns": 3})
        assert device.n_bytes < plane * (width * (10 * n_inner + 5 + 5) + 14 * n_inner + 20)
    assert exchange.calls == n_inner + 2 and exchange.n_bytes == n_devices * plane * (4 * (n_inner + 1) + 1)


@pytest.mark.parametrize("n_inner", [1, 15])
def test_an_iteration_of_total_variation_moves_ten_volumes(n_inner: int) -> None:
    device, shape = CountingDevice(), (8, 16, 16)
    make_gpu_prox(device, "tv", 0.5, inner_iterations=n_inner)(device.zeros(shape, np.float32), 1.0)
    assert device.launches == Counter({"tv_step": n_inner, "tv_primal": 1})
    assert device.n_bytes == 4 * 8 * 16 * 16 * (10 * n_inner + 5)


def test_other_passes_over_the_volume_are_one_launch() -> None:
    for kind in ("lasso", "pos"):
        device = CountingDevice()
        make_gpu_prox(device, kind, 0.5)(device.zeros((4, 4, 4), np.float32), 1.0)
        assert sum(device.launches.values()) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_fit_into_registers_and_shared_memory(source: str) -> None:
    """A thread that needs more registers spills them to memory, or fewer blocks run at once."""
    for name, use in read_use(machine_code(source, "sm_90")).items():
        assert use.stack_bytes == 0, name
        assert use.registers <= REGISTERS.get(name, 32), name
        assert use.shared_bytes <= 48 * 1024, name
        threads = int(np.prod(KERNELS[name].block))
        # At least 1024 threads, half of the greatest number, fit on a multiprocessor by their registers; of the fits
        # half as many, which compute in double precision.
        assert use.registers * (512 if name == "fit_gaussians" else 1024) <= 65536 and threads <= 256


def test_the_reader_of_machine_code_finds_what_the_assembler_states() -> None:
    """100 live values take more than 100 registers; 32 doubles in shared memory and 1 KB of stack are seen."""
    from test_gpu_compile import compile_source

    text = ('extern "C" __global__ void one(float* v, int k) { __shared__ double room[32]; float a[256];\n'
            "for (int i = 0; i < 256; ++i) a[i] = v[i]; room[threadIdx.x % 32] = a[k]; __syncthreads();\n"
            "v[0] = room[k % 32] + a[(k + 1) % 256]; }\n"
            'extern "C" __global__ void two(float* v) { float a[100]; float sum = 0;\n'
            "#pragma unroll\nfor (int i = 0; i < 100; ++i) a[i] = v[i];\n__syncthreads();\n"
            "#pragma unroll\nfor (int i = 0; i < 100; ++i) { v[i] = a[99 - i]; sum += a[i]; }\nv[100] = sum; }")
    found = read_use(compile_source(text, "sm_80")[0])
    assert found["one"] == Use(found["one"].registers, 1024, 256)
    assert found["two"].registers > 100 and found["two"].stack_bytes == found["two"].shared_bytes == 0
