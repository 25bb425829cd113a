"""Time one part of the GPU engine, and compare it with the copy bandwidth of the same device.

    python experiments/benchmark_gpu.py error --size 48 --output error.json        # against float64 on the CPU
    python experiments/benchmark_gpu.py parts --size 480 --output parts_480.json   # each part of a tilt and of TV
    python experiments/benchmark_gpu.py run --size 480 --output run.json           # 40 iterations, images to volume
    python experiments/benchmark_gpu.py refine --size 480 --output refine.json     # passes of the refinement
    python experiments/benchmark_gpu.py simulate --size 480 --output simulate.json # simulated tilts
    python experiments/benchmark_gpu.py slabs --size 480 --output slabs.json       # a volume shared by all GPUs

``experiments/gpu_check.py`` runs all of them and joins their results. A measurement needs only aetlab's sources, NumPy,
SciPy, Numba and CuPy. The geometry is the paper's: 60 tilts over 180°, 3 defoci, 10 layers per slice, total variation.
Images are those of a cylinder of atoms, made on the device, so that the solver makes the progress of a real
reconstruction. Every time is the median over batches that end with a synchronisation, after a first call that compiles.
Parts of a tilt are recorded as graphs, as in a reconstruction: the time of a part is that of all parts up to it, less
that of the parts before it. The file is rewritten after each measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aetlab.core.backend import n_gpus, n_threads, to_numpy
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import ForwardModel
from aetlab.forward.simulate import CpuExposure, SimulatedMicroscope
from aetlab.gpu import (
    Device,
    GpuError,
    GpuExposure,
    GpuModel,
    GpuSlices,
    Group,
    SlabModel,
    extrapolate,
    memory_needed_bytes,
    open_device,
    open_group,
    slab_needed_bytes,
)
from aetlab.gpu.rotation import make_gpu_rotation
from aetlab.methods.regularisers.tv import GpuTotalVariation, TvSettings
from aetlab.methods.slab_tv import SlabTotalVariation
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.tables import tabulate_atoms
from aetlab.solve import Stopping, minimize
from aetlab.spec import MicroscopeSpec, SimulateSpec

DEFOCUS_A = np.array([200.0, 450.0, 1000.0])
N_LAYERS, N_INNER, N_TILTS, VOXEL_A = 10, 15, 60, 0.5
MICROSCOPE = MicroscopeSpec()
#: Weight of total variation in 1/V, and the factor of the step at a reset, as by default.
WEIGHT, STEP_DECAY = 1e-6, 0.7
N_BATCHES = 5
#: Side of the volume on which a whole reconstruction is tried before it is timed.
N_WARM = 48
#: FFTs in a recording.
N_FFTS = 50
#: Layers of a slice of the simulation.
N_SIMULATED = 1
#: Atoms per voxel of the volume, and tilts of a pass of the refinement.
ATOMS_PER_VOXEL, N_REFINED = 120_000 / 480**3, 16

#: Exit status of a measurement for which the machine lacks something.
ABSENT = 77

Keep = Callable[[dict[str, Any]], None]


def empty_series(n: int, n_tilts: int) -> TiltSeries:
    """Return images of vacuum, n by n pixels."""
    images = np.ones((n_tilts, len(DEFOCUS_A), n, n), np.float32)
    return TiltSeries(images, np.arange(n_tilts) * 180 / n_tilts, DEFOCUS_A, VOXEL_A)


def atom_volume(n: int) -> np.ndarray:
    """Return a volume (n, n, n) with voxels above 0 where a cylinder about the tilt axis has atoms."""
    rng = np.random.default_rng(0)
    n_atoms = max(4, round(ATOMS_PER_VOXEL * n**3))
    radius, angle = 0.35 * n * np.sqrt(rng.uniform(0, 1, n_atoms)), rng.uniform(0, 2 * math.pi, n_atoms)
    z, x = (np.rint(0.5 * (n - 1) + radius * f(angle)).astype(int) for f in (np.sin, np.cos))
    volume: np.ndarray = np.zeros((n, n, n), np.float32)
    volume[z, x, rng.integers(n // 8, n - n // 8, n_atoms)] = 800.0
    return volume


def make_series(device: Device, n: int, n_tilts: int = N_TILTS) -> TiltSeries:
    """Return noise-free images of :func:`atom_volume`, made on the device."""
    series = empty_series(n, n_tilts)
    model = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device, blur_A=0.4)
    volume = model.form_potential(device.upload(atom_volume(n)))
    plain = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device)
    images = np.stack([to_numpy(plain.images(volume, i_tilt)) for i_tilt in range(n_tilts)])
    return TiltSeries(images, series.tilt_deg, DEFOCUS_A, VOXEL_A)


def seconds(device: Device | Group, work: Callable[[], Any], n: int) -> float:
    """Return the seconds of one ``work()``: the median over batches of ``n`` calls, after one call to warm up."""
    work()
    times = []
    for _ in range(N_BATCHES):
        device.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            work()
        device.synchronize()
        times.append((time.perf_counter() - start) / n)
    return statistics.median(times)


def recorded(device: Device, works: list[Callable[[], None]]) -> Callable[[], None]:
    """Return a callable that plays all of ``works`` as one recording."""
    def all_of_them() -> None:
        for work in works:
            work()

    all_of_them()
    return device.record(all_of_them)


def copy_bandwidth(device: Device, n_bytes: int) -> float:
    """Return the bytes per second of a copy on the device, counting read and write."""
    source, target = (device.zeros((n_bytes // 4,), np.float32) for _ in range(2))
    source[...] = 1.5

    def copy() -> None:
        target[...] = source

    return 2 * n_bytes / seconds(device, copy, 10)


def measure_parts(device: Device, n: int, keep: Keep, *, copy_bytes: int = 2**30) -> None:
    """Measure the milliseconds of each part of a tilt, of the passes over the volume at n³, and of a whole tilt."""
    bandwidth = copy_bandwidth(device, copy_bytes)
    device.release()
    n_slices = -(-n // N_LAYERS)
    found: dict[str, Any] = {"n": n, "copy_GB_per_s": bandwidth / 1e9,
                             "ffts_per_tilt": 4 * (n_slices - 1) + 2 * len(DEFOCUS_A) + 2, "parts": {}}
    gb = 4e-9 * n**3
    # Least traffic: every volume and the slices read or written once.
    floors_gb = {"rotate": gb * (1 + 1 / N_LAYERS), "adjoint": gb * (2 + 1 / N_LAYERS), "total variation":
                 gb * (N_INNER * 10 + 5), "extrapolate": 4 * gb}
    repeats = 3 if n >= 400 else 20

    def note(name: str, taken: float) -> None:
        found["parts"][name] = {"ms": 1e3 * taken}
        if name in floors_gb and taken > 0:
            rate = 1e9 * floors_gb[name] / taken
            found["parts"][name] |= {"GB_per_s": rate / 1e9, "of_copy": rate / bandwidth}
        keep(found)

    series = make_series(device, n)
    device.release()
    model = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device)
    volume, previous = (device.upload(atom_volume(n)) for _ in range(2))
    # With the step 0, which this sets, repeated parts change no volume.
    model.rotate_and_bin(volume, 7)
    works, before = list(model.parts(volume).items()), 0.0
    for k, (name, _) in enumerate(works):
        up_to_here = seconds(device, recorded(device, [work for _, work in works[:k + 1]]), repeats)
        note(name, up_to_here - before)
        before = up_to_here
    note("extrapolate", seconds(device, lambda: extrapolate(device, volume, previous, 0.3), repeats))
    step = 1.5 / model.lipschitz
    tilts = np.random.default_rng(5).permutation(N_TILTS)[:10]

    def some_tilts() -> None:
        for i_tilt in tilts:
            model.descend(volume, int(i_tilt), 0.1 * step)

    found["tilt_ms"] = 1e3 * seconds(device, some_tilts, 1) / len(tilts)
    found["graph_problem"] = device.graph_problem
    plane, out = device.upload(np.ones((n, n), np.complex64)), device.zeros((n, n), np.complex64)
    ffts = recorded(device, N_FFTS * [lambda: device.fft(plane, out)])
    found["one_fft_us"] = 1e6 * seconds(device, ffts, 4) / N_FFTS
    keep(found)
    now, slices = device.zeros((2,), np.int32), device.zeros((n_slices, n, n), np.float32)
    nothing = device.zeros((1,), np.float32)
    shears = make_gpu_rotation("fourier", (n, n, n), N_LAYERS, np.array([31.7]), device, now)
    # No scale: the adjoint adds 0 to the volume.
    note("rotate, fourier", seconds(device, lambda: shears.rotate_and_bin(volume, slices), repeats))
    note("adjoint, fourier", seconds(device, lambda: shears.add_adjoint(slices, nothing, volume, None), repeats))
    prox = GpuTotalVariation(device, WEIGHT, TvSettings(inner_iterations=N_INNER))
    note("total variation", seconds(device, lambda: prox(volume, step), 2))


def reconstruct(device: Device, series: TiltSeries, n: int, n_iterations: int) -> Any:
    """Return the solution of ``n_iterations`` from images in the memory of the CPU."""
    model = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device)
    prox = GpuTotalVariation(device, WEIGHT, TvSettings(inner_iterations=N_INNER))
    return minimize(
        device.zeros((n, n, n), np.float32), model.descend, prox, Stopping(n_iterations=n_iterations),
        n_tilts=series.n_tilts, step=1.5 / model.lipschitz, decay=STEP_DECAY, rng=np.random.default_rng(6),
        extrapolate=lambda volume, proximal, beta: extrapolate(device, volume, proximal, beta))


def measure_reconstruction(device: Device, n: int, keep: Keep, *, n_iterations: int) -> None:
    """Time a reconstruction of n³ voxels from images to volume, both in the memory of the CPU."""
    reconstruct(device, make_series(device, min(n, N_WARM)), min(n, N_WARM), 3)
    series = make_series(device, n)
    device.release()
    held = device.held_bytes()
    start = time.perf_counter()
    solution = reconstruct(device, series, n, n_iterations)
    volume = to_numpy(solution.volume)
    taken = time.perf_counter() - start
    counted = memory_needed_bytes((n, n, n), N_TILTS, len(DEFOCUS_A), n_layers_per_slice=N_LAYERS, rotation="linear",
                                  regulariser="tv")
    keep({"n": n, "iterations": n_iterations, "seconds": taken, "finite": bool(np.isfinite(volume).all()),
          "seconds_per_iteration": statistics.median(solution.seconds.tolist()), "cost": solution.cost.tolist(),
          "restarts": list(solution.restarts), "halvings": list(solution.halvings), "counted_GB": 1e-9 * counted,
          "held_before_GB": 1e-9 * held, "held_after_GB": 1e-9 * device.held_bytes(),
          "graph_problem": device.graph_problem})


def measure_error(device: Device, n: int, keep: Keep) -> None:
    """Measure the relative error of the cost and of one step at n³ against float64 on the CPU."""
    series, options = make_series(device, n, 5), {"microscope": MICROSCOPE, "n_layers_per_slice": N_LAYERS}
    model = GpuModel(series, (n, n, n), device=device, **options)
    reference = ForwardModel(series, (n, n, n), dtype=np.float64, **options)
    before = np.random.default_rng(7).uniform(0, 20, (n, n, n)).astype(np.float32)
    volume, expected = device.upload(before), before.astype(np.float64)
    step = 1.5 / model.lipschitz
    cost = float(model.descend(volume, 2, step))
    expected_cost = reference.descend(expected, 2, step)
    moved = expected - before
    error = to_numpy(volume) - expected
    keep({"n": n, "cost": abs(cost / expected_cost - 1), "step": float(np.linalg.norm(error) / np.linalg.norm(moved))})


def measure_refinement(device: Device, n: int, keep: Keep) -> None:
    """Time a pass of the refinement over :data:`N_REFINED` tilts on all cores of the CPU, and on the device."""
    rng = np.random.default_rng(8)
    n_atoms = max(4, round(ATOMS_PER_VOXEL * n**3))
    sites = Sites(rng.uniform(-0.35, 0.35, (n_atoms, 3)) * n * VOXEL_A, np.ones(n_atoms), rng.integers(0, 2, n_atoms))
    series = empty_series(n, N_REFINED)
    poses = Poses.nominal(series.tilt_deg, len(DEFOCUS_A))
    found: dict[str, Any] = {"n": n, "atoms": n_atoms, "tilts": N_REFINED, "cores": n_threads(), "seconds_per_tilt": {}}
    gradients = {}
    for name, options in (("gpu", {"make_slices": GpuSlices(device)}), ("cpu", {})):
        model = AtomModel(series, (n, n, n), (8, 14), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS,
                          parametrization="lobato", debye_waller_A2={"default": 0.5}, **options)  # type: ignore[arg-type]
        # On the device the first passes also allocate and record.
        for _ in range(2):
            list(model.gradients(sites if name == "gpu" else sites.select(np.arange(4)), poses))
        start = time.perf_counter()
        gradients[name] = np.stack([tilt.gradient for tilt in model.gradients(sites, poses)])
        found["seconds_per_tilt"][name] = (time.perf_counter() - start) / N_REFINED
        keep(found)
    error = np.linalg.norm(gradients["gpu"] - gradients["cpu"]) / np.linalg.norm(gradients["cpu"])
    keep(found | {"relative_error": float(error)})


def measure_simulation(device: Device, n: int, keep: Keep) -> None:
    """Time a simulated tilt, from atoms to intensities, on the device and on all cores of the CPU."""
    rng, factors = np.random.default_rng(9), {"default": 0.5}
    n_atoms = max(4, round(ATOMS_PER_VOXEL * n**3))
    atoms = Atoms(rng.choice([8, 14], n_atoms), rng.uniform(-0.35, 0.35, (n_atoms, 3)) * n * VOXEL_A,
                  np.zeros(n_atoms, int))
    optics = SimulatedMicroscope((n, n, n), VOXEL_A, DEFOCUS_A, MICROSCOPE, SimulateSpec(n_layers=N_SIMULATED))
    elements = np.array([8, 14])
    tables = tabulate_atoms((8, 14), VOXEL_A, parametrization="lobato", debye_waller_A2=factors)
    found: dict[str, Any] = {"n": n, "atoms": n_atoms, "cores": n_threads(), "seconds_per_tilt": {}}
    images = {}
    for name, expose, n_warm in (("gpu", GpuExposure(optics, elements, tables, device), 2),
                                 ("cpu", CpuExposure(optics, atoms, "lobato", factors), 0)):
        for _ in range(n_warm):
            expose(atoms, None)
        start = time.perf_counter()
        images[name] = expose(atoms, None)
        found["seconds_per_tilt"][name] = time.perf_counter() - start
        keep(found)
    contrast = np.abs(images["cpu"] - images["cpu"].mean()).max()
    keep(found | {"relative_error": float(np.abs(images["gpu"] - images["cpu"]).max() / contrast)})


def measure_slabs(group: Group, n: int, keep: Keep) -> None:
    """Time a tilt and total variation of a volume in slabs, and compare them with those on the first device."""
    device, options = group.devices[0], {"microscope": MICROSCOPE, "n_layers_per_slice": N_LAYERS}
    series = make_series(device, n, 5)
    slabs = SlabModel(series, (n, n, n), group=group, **options)
    one = GpuModel(series, (n, n, n), device=device, **options)
    start = atom_volume(n)
    volume, expected = group.place(start), device.upload(start)
    step, own = 1.5 / one.lipschitz, TvSettings(inner_iterations=N_INNER)
    of_slabs, of_one = SlabTotalVariation(group, WEIGHT, own), GpuTotalVariation(device, WEIGHT, own)
    for i_tilt in (1, 3, 0, 4):
        slabs.descend(volume, i_tilt, step)
        one.descend(expected, i_tilt, step)
    of_slabs(volume, step)
    of_one(expected, step)
    error = to_numpy(volume) - to_numpy(expected)
    needed = slab_needed_bytes((n, n, n), N_TILTS, len(DEFOCUS_A), n_devices=len(group.devices), rotation="linear",
                               n_layers_per_slice=N_LAYERS, regulariser="tv")
    found: dict[str, Any] = {"n": n, "devices": len(group.devices), "graph_problem": group.graph_problem,
                             "relative_error": float(np.linalg.norm(error) / np.linalg.norm(to_numpy(expected))),
                             "counted_GB": [1e-9 * n_bytes for n_bytes in needed],
                             "held_GB": [1e-9 * each.held_bytes() for each in group.devices]}
    keep(found)
    for name, model, on, of in (("slabs", slabs, group, volume), ("one", one, device, expected)):
        found[f"tilt_ms_{name}"] = 1e3 * seconds(on, lambda model=model, of=of: model.descend(of, 2, 0.0), 10)
        prox = of_slabs if name == "slabs" else of_one
        found[f"tv_ms_{name}"] = 1e3 * seconds(on, lambda prox=prox, of=of: prox(of, step), 2)
        keep(found)


def versions() -> dict[str, Any]:
    """Return the versions of CuPy, the driver and the CUDA runtime."""
    import cupy

    runtime = cupy.cuda.runtime
    return {"python": platform.python_version(), "numpy": np.__version__, "cupy": cupy.__version__,
            "driver_cuda": runtime.driverGetVersion(), "cuda": runtime.runtimeGetVersion()}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write ``found`` to ``path`` as a whole: a process that is killed leaves the last file."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one part of the GPU engine.")
    parser.add_argument("what", choices=["error", "parts", "run", "refine", "simulate", "slabs"])
    parser.add_argument("--size", type=int, default=480, help="voxels per side")
    parser.add_argument("--iterations", type=int, default=40, help="iterations of run")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file of the results")
    arguments = parser.parse_args()
    try:
        device = open_device(0)
    except GpuError as error:
        sys.exit(f"benchmark_gpu needs a CUDA GPU: {error}")
    about = {"device": device.name, "versions": versions()}

    def keep(found: dict[str, Any]) -> None:
        write(arguments.output, found | about)

    if arguments.what == "slabs":
        if n_gpus() < 2:
            print("only one GPU is visible")
            sys.exit(ABSENT)
        measure_slabs(open_group(n_gpus() * (0,), arguments.size), arguments.size, keep)
    elif arguments.what == "run":
        measure_reconstruction(device, arguments.size, keep, n_iterations=arguments.iterations)
    else:
        measure = {"error": measure_error, "parts": measure_parts, "refine": measure_refinement,
                   "simulate": measure_simulation}[arguments.what]
        measure(device, arguments.size, keep)
    print(arguments.output.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
