"""Measure the speed of the CPU engine stage by stage, and its growth with the size of the volume.

    python -m experiments.benchmark                        # 48³ to 240³ on 1 and 2 threads, and against the reference
    python -m experiments.benchmark --sizes 480 --threads 2
    python -m experiments.benchmark --table                # the stored results as Markdown

Each size and number of threads is measured in a separate process, whose peak memory is reported. The stages are
rotate-and-bin, multislice with its gradient, the adjoint with the volume's update, and TV. The bandwidth of a copy of
the volume (read and write) and the bare FFT library are measured for comparison. Bandwidths count each read or write
of the volume and the slices once. Times exclude compilation and are medians over tilts; minima are given too, since
other programs on the machine disturb them less. The reference is tests/reference.py: the paper's algorithm in NumPy and
SciPy, complex64, on the same cores. Results are added to benchmark.json in this folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np

from aetlab.core.backend import empty_aligned, n_cores, n_threads, prepare_process, threads
from aetlab.core.fft import plan_fft
from aetlab.core.grid import n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.forward import ForwardModel
from aetlab.forward.multislice import Multislice, make_multislice
from aetlab.forward.series_optics import series_optics
from aetlab.methods.dual_solver import DualSolver
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.regularisers.tv import TvSettings
from aetlab.methods.rotations import make_rotation
from aetlab.solve import Stopping, minimize
from aetlab.spec import MicroscopeSpec
from aetlab.spec.choices import settings
from aetlab.store.environment import StageClock, describe_environment, peak_memory_bytes

HERE = Path(__file__).parent
PATH = HERE / "benchmark.json"
VOXEL_A, N_LAYERS, WEIGHT = 0.5, 10, 1e-4
DEFOCUS_A = np.array([200.0, 450.0, 1000.0])
N_TILTS, N_ITERATIONS = 60, 40
N_MEASURED = 10


@nb.njit(parallel=True)
def _copy(source, target):
    for i in nb.prange(source.shape[0]):
        target[i] = source[i]


def _times_s(work: Callable[[int], object], n: int = N_MEASURED) -> list[float]:
    """Return the wall times of ``work(0)`` ... ``work(n - 1)``, which must be compiled already."""
    seconds = []
    for i in range(n):
        start = time.perf_counter()
        work(i)
        seconds.append(time.perf_counter() - start)
    return seconds


def _median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def _series(n: int, n_tilts: int) -> TiltSeries:
    """Return images of vacuum with noise; times do not depend on the content."""
    images = np.random.default_rng(0).normal(1.0, 0.1, (n_tilts, len(DEFOCUS_A), n, n)).astype(np.float32)
    return TiltSeries(np.maximum(images, 0), np.arange(n_tilts) * 180.0 / n_tilts + 1.0, DEFOCUS_A, VOXEL_A)


def measure(n: int, tv: TvSettings) -> dict[str, Any]:
    """Measure every stage for a volume of n³ voxels."""
    series = _series(n, N_MEASURED)
    shape = (n, n, n)
    model = ForwardModel(series, shape, microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS)
    volume: np.ndarray = empty_aligned(shape)
    volume[...] = 5.0
    step = 1e-3 / model.lipschitz
    model.descend(volume, 0, step)
    # The first pass over a tilt builds its matrix, which is cached while memory for it lasts.
    _times_s(lambda i: model.descend(volume, i, step))
    tilt_s = _times_s(lambda i: model.descend(volume, i, step))
    result: dict[str, Any] = {"n": n, "threads": n_threads(), "tilt_s": _median(tilt_s), "tilt_least_s": min(tilt_s)}
    result |= _measure_parts(model, series, volume)
    prox = DualSolver(WEIGHT, tv)
    prox(volume, 1e4)
    tv_s = _times_s(lambda i: prox(volume, 1e4), 5)
    result |= {"tv_s": _median(tv_s), "tv_least_s": min(tv_s)}
    result["tv_inner_iterations"] = tv.inner_iterations
    result["tv_GB_per_s"] = 10 * volume.nbytes * tv.inner_iterations / result["tv_s"] / 1e9
    for kind in ("", "_least"):
        result[f"run{kind}_s"] = N_ITERATIONS * (N_TILTS * result[f"tilt{kind}_s"] + result[f"tv{kind}_s"])
    result["peak_memory_GB"] = peak_memory_bytes() / 1e9
    # Add the images and amplitudes of the tilts that this measurement leaves out.
    result["peak_memory_of_60_tilts_GB"] = (
        result["peak_memory_GB"] + 2 * series.images.nbytes * (N_TILTS / N_MEASURED - 1) / 1e9)
    return result


def _measure_parts(model: ForwardModel, series: TiltSeries, volume: np.ndarray) -> dict[str, Any]:
    n = volume.shape[0]
    rotation = make_rotation("linear", volume.shape, N_LAYERS, series.tilt_deg)
    slices = empty_aligned((n_slices(n, N_LAYERS), n, n))
    amplitude: np.ndarray = np.sqrt(series.images)
    optics = series_optics(series, volume.shape, MicroscopeSpec(), N_LAYERS)
    fused, library = make_multislice(optics), Multislice(optics)
    rotate_s: list[float] = []
    adjoint_s: list[float] = []
    fused_s: list[float] = []
    library_s: list[float] = []
    copy_s: list[float] = []
    copy = np.empty(volume.size, np.float32)
    with model._threads():
        n_model = n_threads()
        _copy(volume.reshape(-1), copy)
        for i in range(N_MEASURED):
            # Measured together with the stages, since the bandwidth changes while other programs run.
            copy_s += _times_s(lambda _: _copy(volume.reshape(-1), copy), 3)
            rotation.rotate_and_bin(volume, i, slices)  # builds the matrix of the tilt
            rotate_s += _times_s(lambda _, i=i: rotation.rotate_and_bin(volume, i, slices), 3)
            work = slices.copy()
            fused_s += _times_s(lambda _, i=i, work=work: fused.cost_and_gradient(work, amplitude[i]), 1)
            work = slices.copy()
            library_s += _times_s(lambda _, i=i, work=work: library.cost_and_gradient(work, amplitude[i]), 1)
            adjoint_s += _times_s(lambda _, i=i: rotation.add_adjoint(slices, i, 1e-9, volume), 3)
        plane = np.empty((n, n), np.complex64)
        fft = plan_fft()
        n_each = max(1, 4_000_000 // n**2)
        plane[...] = 0
        fft_s = [s / n_each for s in _times_s(lambda _: [fft.forward(plane, plane) for _ in range(n_each)])]
    n_ffts = 4 * (len(slices) - 1) + 2 * len(DEFOCUS_A) + 2
    gigabytes, sums = volume.nbytes / 1e9, slices.nbytes / 1e9
    result: dict[str, Any] = {"threads_of_a_tilt": n_model, "ffts_per_tilt": n_ffts}
    for kind, of in (("", _median), ("_least", min)):
        rotate, adjoint, multislice, copied, bare = (of(s) for s in (rotate_s, adjoint_s, fused_s, copy_s, fft_s))
        result |= {f"rotate{kind}_s": rotate, f"adjoint{kind}_s": adjoint, f"multislice{kind}_s": multislice,
                   f"multislice_by_library{kind}_s": of(library_s), f"copy{kind}_GB_per_s": 2 * gigabytes / copied,
                   f"rotate{kind}_GB_per_s": (gigabytes + sums) / rotate,
                   f"adjoint{kind}_GB_per_s": (2 * gigabytes + sums) / adjoint,
                   f"ffts{kind}_per_s": n_ffts / multislice, f"bare_ffts{kind}_per_s": 1 / bare}
    return result


def compare_with_reference(n: int = 48, n_reference: int = 3) -> dict[str, Any]:
    """Time whole iterations (60 tilts, TV) of the engine with default settings and of the reference."""
    from tests.reference import Reference

    series = _series(n, N_TILTS)
    orders = [np.random.default_rng(1).permutation(N_TILTS) for _ in range(n_reference)]
    model = ForwardModel(series, (n, n, n), microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS)
    reference = Reference(series.images, series.tilt_deg, DEFOCUS_A, n, VOXEL_A, N_LAYERS, workers=n_cores())
    step = 1.5 / model.lipschitz

    def ours(rotation: str) -> list[float]:
        """Return the seconds of each iteration."""
        fitted = ForwardModel(series, (n, n, n), microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS,
                              rotation=rotation)
        solution = minimize(np.zeros((n, n, n), np.float32), fitted.descend, DualSolver(WEIGHT, TvSettings()),
                            Stopping(n_iterations=12), n_tilts=N_TILTS, step=step, rng=np.random.default_rng(1))
        return list(solution.seconds[2:])

    linear_s, fourier_s = ours("linear"), ours("fourier")
    reference_s = []
    for order in orders:
        start = time.perf_counter()
        reference.reconstruct([order], step, WEIGHT)
        reference_s.append(time.perf_counter() - start)
    result: dict[str, Any] = {"n": n, "tilts": N_TILTS, "defoci": len(DEFOCUS_A), "tv_inner_iterations": 15,
                              "threads": n_cores()}
    for kind, of in (("", _median), ("_least", min)):
        result |= {f"reference_iteration{kind}_s": of(reference_s), f"linear_iteration{kind}_s": of(linear_s),
                   f"fourier_iteration{kind}_s": of(fourier_s),
                   f"reference_over_linear{kind}": of(reference_s) / of(linear_s),
                   f"reference_over_fourier{kind}": of(reference_s) / of(fourier_s)}
    return result


def compare_rotations(n: int = 96) -> dict[str, Any]:
    """Time whole tilts with each method of rotation."""
    series, shape = _series(n, N_MEASURED), (n, n, n)
    result: dict[str, Any] = {"n": n, "threads": n_cores()}
    for rotation in ("linear", "cubic", "fourier"):
        model = ForwardModel(series, shape, microscope=MicroscopeSpec(), n_layers_per_slice=N_LAYERS, rotation=rotation)
        volume: np.ndarray = empty_aligned(shape)
        volume[...] = 5.0
        step = 1e-3 / model.lipschitz
        _times_s(lambda i, m=model, v=volume, s=step: m.descend(v, i, s))
        tilt_s = [s for _ in range(6) for s in _times_s(lambda i, m=model, v=volume, s=step: m.descend(v, i, s))]
        result |= {f"{rotation}_tilt_s": _median(tilt_s), f"{rotation}_tilt_least_s": min(tilt_s)}
    return result


def fit_exponent(results: dict[str, Any], threads: int) -> float | None:
    """Return p of run time ∝ N^p from 48 to 240 voxels a side, by least squares of the logarithms."""
    points = [(r["n"], r["run_s"]) for r in results.values() if r["threads"] == threads and r["n"] <= 240]
    return float(np.polyfit(*np.log(np.array(points)).T, 1)[0]) if len(points) > 1 else None


def table(content: dict[str, Any]) -> str:
    """Return the results as Markdown: medians, with some minima in brackets."""
    lines = ["| voxels | threads | rotate-and-bin (ms) | multislice (ms) | adjoint (ms) | whole tilt (ms) | TV (ms) | "
             "run (s) | copy / rotate / adjoint / TV (GB/s) | FFTs/s, bare library | memory (GB) |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in content["stages"].values():
        lines.append(
            f"| {r['n']}³ | {r['threads']} | {1e3 * r['rotate_s']:.3g} | {1e3 * r['multislice_s']:.3g} | "
            f"{1e3 * r['adjoint_s']:.3g} | {1e3 * r['tilt_s']:.3g} ({1e3 * r['tilt_least_s']:.3g}) | "
            f"{1e3 * r['tv_s']:.3g} ({1e3 * r['tv_least_s']:.3g}) | {r['run_s']:.3g} ({r['run_least_s']:.3g}) | "
            f"{r['copy_GB_per_s']:.0f} / {r['rotate_GB_per_s']:.0f} / {r['adjoint_GB_per_s']:.0f} / "
            f"{r['tv_GB_per_s']:.0f} | {r['ffts_per_s']:.0f}, {r['bare_ffts_per_s']:.0f} | "
            f"{r['peak_memory_of_60_tilts_GB']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[48, 96, 144, 240])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--one", type=int, nargs=2, metavar=("N", "THREADS"), help="measure in this process, as JSON")
    parser.add_argument("--table", action="store_true", help="print the stored results only")
    arguments = parser.parse_args()
    if arguments.one:
        n, n_used = arguments.one
        with threads(n_used):
            print(json.dumps(measure(n, default_tv())))
        return
    content = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {"stages": {}}
    if not arguments.table:
        for n in arguments.sizes:
            for n_used in arguments.threads:
                words = [sys.executable, "-m", "experiments.benchmark", "--one", str(n), str(n_used)]
                output = subprocess.run(words, cwd=HERE.parent, check=True, text=True, capture_output=True).stdout
                content["stages"][f"{n}, {n_used} threads"] = json.loads(output.splitlines()[-1])
        if arguments.reference:
            content["reference"] = compare_with_reference()
            content["rotations"] = compare_rotations()
        content["growth_exponent"] = {f"{t} threads": fit_exponent(content["stages"], t) for t in arguments.threads}
        content["environment"] = describe_environment(StageClock(), "cpu")
        PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(content))
    others = ("reference", "rotations", "growth_exponent")
    print(json.dumps({key: content[key] for key in others if key in content}, indent=1))


def default_tv() -> TvSettings:
    """Return the settings of ``reg=tv``."""
    own: TvSettings = REGULARISERS["tv"].own(settings(reg="tv").reg)
    return own


if __name__ == "__main__":
    main()
