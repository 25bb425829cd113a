"""Time the GPU engine by parts and as a whole, and compare it with the copy bandwidth of the same device.

    python experiments/benchmark_gpu.py                                  # 96³ to 480³, then 40 iterations at 480³
    python experiments/benchmark_gpu.py --sizes 48 96 --iterations 5 --output somewhere.json

It needs only aetlab's sources on PYTHONPATH, NumPy, SciPy, Numba and CuPy. Images are random: times do not depend on
them. The geometry is the paper's: 60 tilts over 180°, 3 defoci, 10 layers per slice, total variation. Every time is the
median over batches of launches, each ending with a synchronisation. Results go into benchmark_gpu.json in this folder.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TiltSeries
from aetlab.forward import ForwardModel
from aetlab.gpu import Device, GpuModel, extrapolate, memory_needed_bytes, open_device
from aetlab.methods.regularisers.tv import GpuTotalVariation, TvSettings
from aetlab.solve import minimize
from aetlab.spec import MicroscopeSpec

DEFOCUS_A = np.array([200.0, 450.0, 1000.0])
N_LAYERS, N_INNER, N_TILTS, VOXEL_A = 10, 15, 60, 0.5
MICROSCOPE = MicroscopeSpec()
WEIGHT = 1e-4
N_BATCHES = 5


def random_series(n: int, n_tilts: int = N_TILTS) -> TiltSeries:
    rng = np.random.default_rng(0)
    images = rng.uniform(0.8, 1.2, (n_tilts, len(DEFOCUS_A), n, n)).astype(np.float32)
    return TiltSeries(images, np.arange(n_tilts) * 180 / n_tilts, DEFOCUS_A, VOXEL_A)


def seconds(device: Device, work: Callable[[], Any], n: int) -> float:
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


def copy_bandwidth(device: Device, n_bytes: int) -> float:
    """Return the bytes per second of a copy on the device, counting read and write."""
    source, target = (device.zeros((n_bytes // 4,), np.float32) for _ in range(2))
    source[...] = 1.5

    def copy() -> None:
        target[...] = source

    return 2 * n_bytes / seconds(device, copy, 10)


def measure_parts(device: Device, n: int, bandwidth: float) -> dict[str, Any]:
    """Measure the milliseconds of each part of a tilt, of the passes over the volume at n³, and of a whole tilt."""
    series = random_series(n)
    model = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device)
    volume = device.upload(np.random.default_rng(1).uniform(0, 20, (n, n, n)).astype(np.float32))
    previous = device.upload(np.random.default_rng(2).uniform(0, 20, (n, n, n)).astype(np.float32))
    n_slices = -(-n // N_LAYERS)
    n_ffts = 4 * (n_slices - 1) + 2 * len(DEFOCUS_A) + 2
    gb = 4e-9 * n**3
    # Least traffic: every volume and the slices read or written once.
    floors_gb = {"rotate": gb * (1 + 1 / N_LAYERS), "adjoint": gb * (2 + 1 / N_LAYERS), "total variation":
                 gb * (N_INNER * 18 + 5), "extrapolate": 4 * gb}
    step = 1.5 / model.lipschitz
    model.descend(volume, 7, step)
    repeats = 3 if n >= 400 else 20
    works = {name: (work, repeats) for name, work in model.parts(volume).items()}
    prox = GpuTotalVariation(device, WEIGHT, TvSettings(inner_iterations=N_INNER))
    works["total variation"] = (lambda: prox(volume, step), 2)
    works["extrapolate"] = (lambda: extrapolate(device, volume, previous, 0.3), repeats)
    found: dict[str, Any] = {"n": n, "ffts_per_tilt": n_ffts, "parts": {}}
    for name, (work, times) in works.items():
        taken = seconds(device, work, times)
        found["parts"][name] = {"ms": 1e3 * taken}
        if name in floors_gb:
            rate = 1e9 * floors_gb[name] / taken
            found["parts"][name] |= {"GB_per_s": rate / 1e9, "of_copy": rate / bandwidth}
    plane = device.upload(np.random.default_rng(3).standard_normal((n, n)).astype(np.complex64))
    out = device.zeros((n, n), np.complex64)
    found["one_fft_us"] = 1e6 * seconds(device, lambda: device.fft(plane, out), 200)
    fresh = device.upload(np.random.default_rng(4).uniform(0, 20, (n, n, n)).astype(np.float32))
    tilts = np.random.default_rng(5).permutation(N_TILTS)

    def some_tilts() -> None:
        for i_tilt in tilts[:10]:
            model.descend(fresh, int(i_tilt), 0.1 * step)

    found["tilt_ms"] = 1e3 * seconds(device, some_tilts, 1) / 10
    found["graph_problem"] = device.graph_problem
    return found


def measure_reconstruction(device: Device, n: int, n_iterations: int) -> dict[str, Any]:
    """Time a reconstruction of n³ voxels from images to volume, both in the memory of the CPU."""
    series = random_series(n)
    held = device.held_bytes()
    start = time.perf_counter()
    model = GpuModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, device=device)
    prox = GpuTotalVariation(device, WEIGHT, TvSettings(inner_iterations=N_INNER))
    solution = minimize(
        device.zeros((n, n, n), np.float32), model.descend, prox,
        n_tilts=N_TILTS, n_iterations=n_iterations, step=1.5 / model.lipschitz, rng=np.random.default_rng(6),
        extrapolate=lambda volume, proximal, beta: extrapolate(device, volume, proximal, beta))
    finite = bool(np.isfinite(float(abs(solution.volume).max())))
    return {"n": n, "iterations": n_iterations, "seconds": time.perf_counter() - start, "finite": finite,
            "seconds_per_iteration": statistics.median(solution.seconds.tolist()), "cost": solution.cost.tolist(),
            "counted_GB": 1e-9 * memory_needed_bytes((n, n, n), N_TILTS, len(DEFOCUS_A), n_layers_per_slice=N_LAYERS,
                                                     rotation="linear", regulariser="tv"),
            "held_before_GB": 1e-9 * held, "held_after_GB": 1e-9 * device.held_bytes()}


def measure_error(device: Device, n: int) -> dict[str, float]:
    """Return the relative error of the cost and of one step at n³ against float64 on the CPU."""
    series, options = random_series(n, 5), {"microscope": MICROSCOPE, "n_layers_per_slice": N_LAYERS}
    model = GpuModel(series, (n, n, n), device=device, **options)
    reference = ForwardModel(series, (n, n, n), dtype=np.float64, **options)
    before = np.random.default_rng(7).uniform(0, 20, (n, n, n)).astype(np.float32)
    volume, expected = device.upload(before), before.astype(np.float64)
    step = 1.5 / model.lipschitz
    cost = float(model.descend(volume, 2, step))
    expected_cost = reference.descend(expected, 2, step)
    moved = expected - before
    error = to_numpy(volume) - expected
    return {"cost": abs(cost / expected_cost - 1), "step": float(np.linalg.norm(error) / np.linalg.norm(moved))}


def exponent(results: Sequence[dict[str, Any]]) -> float:
    """Return p of the time of a tilt ∝ N^p, by least squares of the logarithms."""
    sizes, times = [math.log(r["n"]) for r in results], [math.log(r["tilt_ms"]) for r in results]
    return float(np.polyfit(sizes, times, 1)[0]) if len(results) > 1 else math.nan


def benchmark(device: Device, sizes: Sequence[int], n_iterations: int, *, copy_bytes: int = 2**30,
              error_at: int = 48) -> dict[str, Any]:
    """Make all measurements, the smallest first, so that failures appear early."""
    error = measure_error(device, error_at)
    bandwidth = copy_bandwidth(device, copy_bytes)
    results = [measure_parts(device, n, bandwidth) for n in sorted(sizes)]
    return {"device": device.name, "python": platform.python_version(), "copy_GB_per_s": bandwidth / 1e9,
            "relative_error": error, "parts": results, "tilt_exponent": exponent(results),
            "reconstruction": measure_reconstruction(device, max(sizes), n_iterations)}


def versions() -> dict[str, Any]:
    """Return the versions of CuPy, the driver and the CUDA runtime."""
    import cupy

    runtime = cupy.cuda.runtime
    return {"cupy": cupy.__version__, "driver_cuda": runtime.driverGetVersion(), "cuda": runtime.runtimeGetVersion()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the GPU engine.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 144, 240, 360, 480], help="voxels per side")
    parser.add_argument("--iterations", type=int, default=40, help="iterations of the largest reconstruction")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    found = benchmark(open_device(0), arguments.sizes, arguments.iterations) | {"versions": versions()}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for result in found["parts"]:
        parts = ", ".join(f"{name} {part['ms']:.3f}" for name, part in result["parts"].items())
        print(f"{result['n']}³: a tilt {result['tilt_ms']:.3f} ms ({parts}); an FFT {result['one_fft_us']:.1f} µs")
    whole = found["reconstruction"]
    print(f"{whole['n']}³, {whole['iterations']} iterations: {whole['seconds']:.2f} s, {whole['held_after_GB']:.2f} GB")


if __name__ == "__main__":
    main()
