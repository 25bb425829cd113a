"""Compare the CPU engine with other programs on the same work in the same run.

    pip install -e .
    pip install abtem torch          # in an environment of its own; the CPU version of PyTorch suffices
    python -m experiments.peers                                # 96³ and 240³, then seconds to a given error at 96³
    python -m experiments.peers --table                        # the stored results as Markdown

The work is one tilt of a reconstruction: rotate the volume, sum 10 layers into each slice, propagate a wave to 3
images, compare, and step along the gradient, in float32 and complex64. The peers are

    aetlab             the engine with its default linear rotation
    torch              tests/torch_multislice.py: the same model as ``aetlab`` in PyTorch, differentiated automatically
    aetlab_fourier     the engine with the paper's Fourier rotation
    reference          tests/reference.py: the same model as ``aetlab_fourier`` in plain NumPy and SciPy

abTEM has no gradient: ``abtem_images`` are the 3 images of the same slices, which it is given, without rotation.
``aetlab_images`` are the images and their cost, with the rotation.

All peers run in one process, in turn in each round, so that other programs on the machine disturb them alike. Times
are medians of all tilts, ratios are those of medians. The first tilts of each, which compile and plan, are left out.
Memory is measured in a process for each peer: its largest resident size beyond the one after a tilt of 32³ voxels. It
contains the volume and the images of two tilts; a few MB are not resolved.

Seconds to a given error: 20 tilts of the noise-free needle at 96³ and positivity, until the cost of a pass over the
tilts falls below TARGET times that of an empty volume. ``aetlab`` and ``torch`` take the same steps by the same solver.
``torch_adam`` takes a step of Adam for each tilt, in the same order; learning rate (2 V, times 0.8 after each pass) and
averages (0.9, 0.9) were the best of eight choices in earlier runs. Results go into peers.json in this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.backend import empty_aligned, n_threads, prepare_process, threads
from aetlab.core.grid import n_slices, slice_centres_A
from aetlab.core.nouns import TiltSeries
from aetlab.forward import ForwardModel, build_potential, simulate_tilt_series
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.methods.regularisers.pos import Positive
from aetlab.methods.rotations import make_rotation
from aetlab.solve import Stopping, minimize
from aetlab.spec import SimulateSpec, TiltsSpec, WedgeSpec, tilt_angles_deg
from aetlab.store.environment import StageClock, describe_environment, peak_memory_bytes
from experiments.benchmark_simulation import BLUR_A2, DEFOCI_A, MICROSCOPE, load_sample

HERE = Path(__file__).parent
PATH = HERE / "peers.json"
VOXEL_A, N_LAYERS, THREADS = 0.5, 10, 2
STEP = 1e-6  # V², so small that the volume stays as it is
#: Rounds, and tilts of each peer in a round, by size.
ROUNDS = {96: 5, 240: 3}
TILTS = {"aetlab": 10, "aetlab_fourier": 10, "aetlab_images": 10, "torch": 3, "abtem_images": 3, "reference": 1}
N_TILTS, N_PASSES, N_REPEATS = 20, 20, 3
TARGET = 0.03
ADAM = {"learning_rate_V": 2.0, "decay_of_a_pass": 0.8, "beta1": 0.9, "beta2": 0.9}

#: Do the work of one tilt.
Work = Callable[[int], object]


def vacuum_series(n: int, n_tilts: int = 2) -> TiltSeries:
    """Return images of vacuum with noise; times do not depend on the content."""
    images = np.random.default_rng(0).normal(1.0, 0.1, (n_tilts, len(DEFOCI_A), n, n)).astype(np.float32)
    return TiltSeries(np.maximum(images, 0), 33.0 + 40.0 * np.arange(n_tilts), DEFOCI_A, VOXEL_A)


def constant_volume(n: int) -> np.ndarray:
    volume = empty_aligned((n, n, n))
    volume[...] = 5.0
    return volume


def make_model(series: TiltSeries, rotation: str = "linear") -> ForwardModel:
    n = series.images.shape[-1]
    return ForwardModel(series, (n, n, n), microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, rotation=rotation)


def make_torch(series: TiltSeries) -> Any:
    """Return the model in PyTorch; it rotates as many parts of the y axis in parallel as there are threads."""
    import torch

    from tests.torch_multislice import TorchMultislice

    torch.set_num_threads(n_threads())
    return TorchMultislice(series.images, series.tilt_deg, DEFOCI_A, series.images.shape[-1], VOXEL_A, N_LAYERS,
                           n_groups=n_threads())


def work_of_aetlab(n: int, rotation: str = "linear") -> Work:
    model, volume = make_model(vacuum_series(n), rotation), constant_volume(n)
    return lambda i_tilt: model.descend(volume, i_tilt, STEP)


def work_of_aetlab_images(n: int) -> Work:
    model, volume = make_model(vacuum_series(n)), constant_volume(n)
    return lambda i_tilt: model.cost(volume, i_tilt)


def work_of_torch(n: int) -> Work:
    model, volume = make_torch(vacuum_series(n)), constant_volume(n)
    return lambda i_tilt: model.descend(volume, i_tilt, STEP)


def work_of_reference(n: int) -> Work:
    from tests.reference import Reference

    series = vacuum_series(n)
    reference = Reference(series.images, series.tilt_deg, DEFOCI_A, n, VOXEL_A, N_LAYERS, workers=n_threads())
    volume = constant_volume(n).astype(np.complex64)
    return lambda i_tilt: np.subtract(volume, STEP * reference.cost_and_gradient(volume, i_tilt)[1], out=volume)


def work_of_abtem_images(n: int) -> Work:
    slices = np.full((n_slices(n, N_LAYERS), n, n), 5.0 * N_LAYERS, np.float32)
    return lambda i_tilt: images_by_abtem(slices, n)


PEERS: dict[str, Callable[[int], Work]] = {
    "aetlab": work_of_aetlab,
    "torch": work_of_torch,
    "aetlab_fourier": lambda n: work_of_aetlab(n, "fourier"),
    "reference": work_of_reference,
    "aetlab_images": work_of_aetlab_images,
    "abtem_images": work_of_abtem_images,
}
#: Peers that do the same work, and the one of aetlab they are compared with.
COMPARED = {"torch": "aetlab", "reference": "aetlab_fourier", "abtem_images": "aetlab_images"}


def images_by_abtem(slices_V: np.ndarray, n_z: int) -> np.ndarray:
    """Return abTEM's images (F, X, Y) of slices (S, X, Y) of a volume of ``n_z`` layers."""
    import abtem

    # abTEM propagates behind a slice by its thickness, and leaves the exit wave one slab behind the last one.
    middles_A = slice_centres_A(n_z, N_LAYERS, VOXEL_A)
    thickness_A = [*np.diff(middles_A), N_LAYERS * VOXEL_A]
    to_centre_A = -(middles_A[-1] + thickness_A[-1])
    cut_off_mrad = 1e3 * physics.wavelength_A(MICROSCOPE.energy_keV) * MICROSCOPE.aperture_per_A
    # No band limit: abTEM's circle is set to extend beyond the corners of frequency space.
    with abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False, "antialias.cutoff": 2.0,
                           "antialias.taper": 0.0, "fft": "fftw", "fftw.threads": n_threads()}):
        potential = abtem.PotentialArray(slices_V * np.float32(VOXEL_A), slice_thickness=thickness_A, sampling=VOXEL_A)
        waves = abtem.PlaneWave(energy=1e3 * MICROSCOPE.energy_keV).multislice(potential)
        ctfs = [abtem.CTF(energy=1e3 * MICROSCOPE.energy_keV, semiangle_cutoff=cut_off_mrad, soft=False,
                          C10=defocus_A + to_centre_A) for defocus_A in DEFOCI_A]
        return np.stack([waves.apply_ctf(ctf).intensity().array for ctf in ctfs])


def compare_images(series: TiltSeries, truth_V: np.ndarray) -> float:
    """Return the RMS difference of both programs' images of the same slices, in % of their contrast."""
    slices = empty_aligned((n_slices(len(truth_V), N_LAYERS), *truth_V.shape[1:]))
    make_rotation("linear", truth_V.shape, N_LAYERS, series.tilt_deg).rotate_and_bin(truth_V, 0, slices)
    by_abtem = images_by_abtem(slices, len(truth_V))
    engine = Multislice(series_optics(series, truth_V.shape, MICROSCOPE, N_LAYERS), gradient=False)
    images = np.abs(engine.images(slices)) ** 2
    return 100 * float(np.sqrt(np.mean((by_abtem - images) ** 2)) / np.std(images))


def measure_times(n: int) -> dict[str, Any]:
    """Return the median seconds of a tilt of each peer at n³ voxels, and the ratios of medians."""
    works = {name: make(n) for name, make in PEERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in PEERS}
    for name, work in works.items():
        for i_tilt in range(0 if name == "reference" else 2):  # the reference has nothing to compile or plan
            work(i_tilt)
    for _ in range(ROUNDS[n]):
        for name, work in works.items():
            for i in range(TILTS[name]):
                start = time.perf_counter()
                work(i % 2)
                seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    return {"n": n, "tilt_s": medians, "tilts": {name: len(s) for name, s in seconds.items()},
            "ratio": {name: medians[name] / medians[other] for name, other in COMPARED.items()}}


def measure_memory(name: str, n: int) -> float:
    """Return the peak memory in GB of tilts of a peer, beyond what the process has after a tilt of 32³ voxels."""
    PEERS[name](32)(0)
    before = peak_memory_bytes()
    work = PEERS[name](n)
    for i_tilt in range(1 if name == "reference" else 2):
        work(i_tilt)
    return (peak_memory_bytes() - before) / 1e9


def memory_in_own_process(name: str, n: int) -> float:
    words = [sys.executable, "-m", "experiments.peers", "--memory", name, str(n)]
    output = subprocess.run(words, cwd=HERE.parent, check=True, text=True, stdout=subprocess.PIPE).stdout
    return float(output.splitlines()[-1])


def needle_series() -> tuple[TiltSeries, np.ndarray]:
    """Return noise-free images of the needle at 96³, simulated with a slice for each layer, and its potential in V."""
    atoms, scale = load_sample("small")
    tilts_deg = np.array(tilt_angles_deg(TiltsSpec(n_tilts=N_TILTS), WedgeSpec()))
    debye_waller_A2 = {"default": BLUR_A2}
    series = simulate_tilt_series(atoms, scale.shape_zxy, scale.voxel_A, tilts_deg, DEFOCI_A, microscope=MICROSCOPE,
                                  simulate=SimulateSpec(), debye_waller_A2=debye_waller_A2,
                                  rng=np.random.default_rng(0))
    return series, build_potential(atoms, scale.shape_zxy, scale.voxel_A, debye_waller_A2=debye_waller_A2)


def relative_error(volume: np.ndarray, truth_V: np.ndarray) -> float:
    return float(np.linalg.norm(volume - truth_V) / np.linalg.norm(truth_V))


def descend_by(descend: Callable[[np.ndarray, int, float], float], step: float, truth_V: np.ndarray,
               target: float) -> dict[str, Any]:
    """Reconstruct with the accelerated incremental solver and positivity until the cost falls below ``target``."""
    stopping = Stopping(n_iterations=N_PASSES,
                        enough=lambda state: "the target is reached" if state.cost[-1] < target else "")
    solution = minimize(np.zeros(truth_V.shape, np.float32), descend, Positive(), stopping, n_tilts=N_TILTS,
                        step=step, rng=np.random.default_rng(1))
    return {"costs": solution.cost.tolist(), "seconds": float(np.sum(solution.seconds)),
            "volume_error": relative_error(solution.volume, truth_V)}


def descend_by_adam(series: TiltSeries, truth_V: np.ndarray, target: float) -> dict[str, Any]:
    """Reconstruct with a step of Adam for each tilt, clipped at 0, until the cost falls below ``target``."""
    import torch

    model, rng = make_torch(series), np.random.default_rng(1)
    volume = torch.zeros(truth_V.shape, requires_grad=True)
    optimiser = torch.optim.Adam([volume], lr=ADAM["learning_rate_V"], betas=(ADAM["beta1"], ADAM["beta2"]))
    rates = torch.optim.lr_scheduler.ExponentialLR(optimiser, ADAM["decay_of_a_pass"])
    costs: list[float] = []
    start = time.perf_counter()
    while len(costs) < N_PASSES and not (costs and costs[-1] < target):
        costs.append(0.0)
        for i_tilt in rng.permutation(N_TILTS):
            optimiser.zero_grad()
            cost = model.cost(volume, int(i_tilt))
            cost.backward()
            optimiser.step()
            with torch.no_grad():
                volume.clamp_(min=0)
            costs[-1] += cost.item()
        rates.step()
    seconds = time.perf_counter() - start
    return {"costs": costs, "seconds": seconds, "volume_error": relative_error(volume.detach().numpy(), truth_V)}


def measure_convergence(series: TiltSeries, truth_V: np.ndarray) -> dict[str, Any]:
    """Return passes and median seconds of each way until the cost of a pass falls below TARGET."""
    model, peer = make_model(series), make_torch(series)
    step, empty = 1.5 / model.lipschitz, sum(model.cost(np.zeros_like(truth_V), i) for i in range(N_TILTS))
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "aetlab": lambda: descend_by(model.descend, step, truth_V, TARGET * empty),
        "torch": lambda: descend_by(peer.descend, step, truth_V, TARGET * empty),
        "torch_adam": lambda: descend_by_adam(series, truth_V, TARGET * empty)}
    runs = [{name: way() for name, way in ways.items()} for _ in range(N_REPEATS)]
    seconds = {name: float(np.median([run[name]["seconds"] for run in runs])) for name in ways}
    return {"n": len(truth_V), "tilts": N_TILTS, "target": TARGET, "adam": ADAM, "seconds": seconds,
            "passes": {name: len(run["costs"]) for name, run in runs[0].items()},
            "ratio": {name: seconds[name] / seconds["aetlab"] for name in ways},
            "costs_over_empty": {name: [c / empty for c in run["costs"]] for name, run in runs[0].items()},
            "volume_error": {name: run["volume_error"] for name, run in runs[0].items()}}


def environment() -> dict[str, Any]:
    content = describe_environment(StageClock(), "cpu")
    content["versions"] |= {name: metadata.version(name) for name in ("torch", "abtem", "pyfftw", "dask")}
    content["load_average"] = os.getloadavg()
    return content


def table(content: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    def three_digits(value: float) -> str:
        return f"{float(f'{value:.3g}'):g}"

    lines = ["| peer | voxels | a tilt (ms) | ratio | compared with | memory (GB) |", "|---|---|---|---|---|---|"]
    for r in content["tilts"].values():
        for name, seconds in r["tilt_s"].items():
            ratio = f"{r['ratio'][name]:.3g}" if name in COMPARED else ""
            lines.append(f"| {name} | {r['n']}³ | {three_digits(1e3 * seconds)} | {ratio} | {COMPARED.get(name, '')} | "
                         f"{r['memory_GB'][name]:.2g} |")
    c = content["convergence"]
    lines += ["", "| to a cost of " + f"{100 * c['target']:g} % | passes | seconds | ratio | error of the volume |",
              "|---|---|---|---|---|"]
    lines += [f"| {name} | {c['passes'][name]} | {c['seconds'][name]:.3g} | {c['ratio'][name]:.3g} | "
              f"{100 * c['volume_error'][name]:.3g} % |"
              for name in c["passes"]]
    return "\n".join(lines)


def measure(sizes: list[int]) -> dict[str, Any]:
    content: dict[str, Any] = {"tilts": {}, "environment": environment(), "threads": n_threads()}
    # Before this process grows: Linux counts the memory of a process as that of the programs which it starts.
    memory_GB = {n: {name: memory_in_own_process(name, n) for name in PEERS} for n in sizes}
    for n in sizes:
        content["tilts"][f"{n}"] = {**measure_times(n), "memory_GB": memory_GB[n]}
    series, truth_V = needle_series()
    content["abtem_difference_percent_of_contrast"] = compare_images(series, truth_V)
    content["convergence"] = measure_convergence(series, truth_V)
    return content


def main() -> None:
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument("--memory", nargs=2, metavar=("PEER", "N"), help="measure in this process")
    parser.add_argument("--table", action="store_true", help="print the stored results only")
    arguments = parser.parse_args()
    with threads(THREADS):
        if arguments.memory:
            print(measure_memory(arguments.memory[0], int(arguments.memory[1])))
            return
        if not arguments.table:
            PATH.write_text(json.dumps(measure(arguments.sizes), indent=1) + "\n", encoding="utf-8")
    content = json.loads(PATH.read_text("utf-8"))
    print(table(content))


if __name__ == "__main__":
    main()
