"""Time the simulation of a tilt series and compare it with abTEM doing the same work on the same machine.

    python experiments/benchmark_simulation.py                   # scale=small, 60 tilts × 3 defoci, and abTEM
    python experiments/benchmark_simulation.py --scale paper     # scale=paper, all 60 tilts × 3 defoci; no abTEM
    python experiments/benchmark_simulation.py --potential       # one potential of 150 000 atoms in 480³ voxels

Both programs rotate the atoms, build the potential of every tilt with one slice per voxel layer, propagate a plane wave
and form the images, on as many threads as there are cores. Both run once before timing starts, so that compilation and
FFT planning are excluded. abTEM uses its faster potentials (``projection="infinite"``) and the fastest of its ways to
use threads: FFTW's own, or dask over tilts. It samples potentials where aetlab averages them over voxels, so the images
differ at 0.5 Å (docs/conventions.md); the work is the same. Results go into benchmark_simulation.json in this folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from aetlab.core import physics
from aetlab.core.backend import n_cores, prepare_process
from aetlab.core.grid import rotation_matrix
from aetlab.core.nouns import Atoms
from aetlab.core.seeds import generator
from aetlab.forward import build_potential, simulate_tilt_series
from aetlab.samples import build_sample
from aetlab.samples.needle import build_needle
from aetlab.spec import MicroscopeSpec, SampleSpec, ScaleSpec, SimulateSpec, TiltsSpec, WedgeSpec, tilt_angles_deg
from aetlab.spec.bind import bind
from aetlab.store.environment import StageClock, describe_environment, peak_memory_bytes

HERE = Path(__file__).parent
DEFOCI_A = np.array([200.0, 450.0, 1000.0])
MICROSCOPE = MicroscopeSpec()
BLUR_A2 = 0.5
N_RUNS = 3


def load_sample(name: str) -> tuple[Atoms, ScaleSpec]:
    scale = bind(ScaleSpec, yaml.safe_load((HERE.parent / "conf" / "scale" / f"{name}.yaml").read_text("utf-8")))
    return build_sample(SampleSpec(), scale, generator(0, "sample")), scale


def by_aetlab(atoms: Atoms, scale: ScaleSpec, tilts_deg: np.ndarray) -> np.ndarray:
    return simulate_tilt_series(atoms, scale.shape_zxy, scale.voxel_A, tilts_deg, DEFOCI_A, microscope=MICROSCOPE,
                                simulate=SimulateSpec(), debye_waller_A2={"default": BLUR_A2},
                                rng=np.random.default_rng(0)).images


def by_abtem(atoms: Atoms, scale: ScaleSpec, tilts_deg: np.ndarray, *, lazy: bool) -> np.ndarray:
    """Return abTEM's images (T, F, X, Y) with atoms, pixels and defocus placed as in aetlab."""
    import abtem
    import ase
    import dask

    box_A = np.array(scale.shape_zxy)[[1, 2, 0]] * scale.voxel_A
    # abTEM's first pixel lies at 0, and a slice acts at the front of its slab.
    origin_A = np.array([scale.voxel_A / 2, scale.voxel_A / 2, 0.0]) - box_A / 2
    sigma_A = math.sqrt(BLUR_A2 / (8 * np.pi**2))
    parametrization = abtem.parametrizations.LobatoParametrization(sigmas={"Si": sigma_A, "O": sigma_A})
    cut_off_mrad = 1e3 * physics.wavelength_A(MICROSCOPE.energy_keV) * MICROSCOPE.aperture_per_A
    images = []
    for tilt_deg in tilts_deg:
        turned_A = atoms.positions_A @ rotation_matrix(tilt_deg).T - origin_A
        potential = abtem.Potential(ase.Atoms(atoms.numbers, turned_A, cell=box_A), gpts=scale.shape_zxy[1:],
                                    slice_thickness=scale.voxel_A, parametrization=parametrization,
                                    projection="infinite")
        exit_waves = abtem.PlaneWave(energy=1e3 * MICROSCOPE.energy_keV).multislice(potential, lazy=lazy)
        for defocus_A in DEFOCI_A:
            ctf = abtem.CTF(energy=1e3 * MICROSCOPE.energy_keV, semiangle_cutoff=cut_off_mrad, soft=False,
                            C10=defocus_A - (box_A[2] + scale.voxel_A) / 2)
            images.append(exit_waves.apply_ctf(ctf).intensity().array)
    if lazy:
        images = dask.compute(*images, scheduler="threads", num_workers=n_cores())
    return np.array(images).reshape(len(tilts_deg), len(DEFOCI_A), *scale.shape_zxy[1:])


def fastest(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the least of N_RUNS wall times in s, and the result."""
    seconds = []
    for _ in range(N_RUNS):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def compare(scale_name: str) -> dict[str, object]:
    import abtem

    atoms, scale = load_sample(scale_name)
    tilts_deg = np.array(tilt_angles_deg(TiltsSpec(n_tilts=60), WedgeSpec()))
    by_aetlab(atoms, scale, tilts_deg[:2])
    aetlab_s, images = fastest(lambda: by_aetlab(atoms, scale, tilts_deg))
    ways = {}
    # No band limit in either program: abTEM's circle is set to extend beyond the corners of frequency space.
    with abtem.config.set({"diagnostics.progress_bar": False, "antialias.cutoff": 2.0, "antialias.taper": 0.0}):
        for name, fftw_threads, lazy in (("one thread", 1, False), ("FFTW threads", n_cores(), False),
                                         ("dask threads", 1, True)):
            with abtem.config.set({"fft": "fftw", "fftw.threads": fftw_threads}):
                by_abtem(atoms, scale, tilts_deg[:2], lazy=lazy)
                ways[name], reference = fastest(lambda lazy=lazy: by_abtem(atoms, scale, tilts_deg, lazy=lazy))
    abtem_s = min(ways.values())
    return {"scale": scale_name, "n_atoms": len(atoms), "n_tilts": len(tilts_deg), "n_defoci": len(DEFOCI_A),
            "aetlab_s": aetlab_s, "abtem_s": abtem_s, "abtem_ways_s": ways, "abtem_version": abtem.__version__,
            "abtem_over_aetlab": abtem_s / aetlab_s,
            "rms_difference_percent_of_contrast":
                100 * float(np.sqrt(np.mean((images - reference) ** 2)) / np.std(reference))}


def time_once(scale_name: str, n_tilts: int) -> dict[str, object]:
    """Measure wall time and memory of ``n_tilts`` tilts over 180°, after compilation."""
    atoms, scale = load_sample(scale_name)
    small_atoms, small = load_sample("small")
    by_aetlab(small_atoms, small, np.array([0.0, 3.0]))
    before = peak_memory_bytes()
    tilts_deg = np.array(tilt_angles_deg(TiltsSpec(n_tilts=n_tilts), WedgeSpec()))
    start = time.perf_counter()
    images = by_aetlab(atoms, scale, tilts_deg)
    seconds = time.perf_counter() - start
    return {"scale": scale_name, "n_atoms": len(atoms), "n_tilts": n_tilts, "n_defoci": len(DEFOCI_A),
            "aetlab_s": seconds, "images_GB": images.nbytes / 1e9,
            "volume_GB": 4 * math.prod(scale.shape_zxy) / 1e9,
            "peak_memory_beyond_the_start_GB": (peak_memory_bytes() - before) / 1e9}


def time_potential() -> dict[str, object]:
    """Time one potential of the paper's whole needle, 150 000 atoms, in 480³ voxels."""
    _, scale = load_sample("paper")
    atoms = build_needle(scale, SampleSpec().min_distance_A, generator(0, "sample"))
    # Wrap atoms that lie outside along y back into the volume, so that every atom is included.
    height_A = scale.voxel_A * scale.shape_zxy[2]
    positions_A = atoms.positions_A.copy()
    positions_A[:, 1] = (positions_A[:, 1] + height_A / 2) % height_A - height_A / 2
    atoms = dataclasses.replace(atoms, positions_A=positions_A)
    out = np.empty(scale.shape_zxy, np.float32)
    seconds, _ = fastest(lambda: build_potential(atoms, scale.shape_zxy, scale.voxel_A, out=out,
                                                 debye_waller_A2={"default": BLUR_A2}))
    return {"scale": "paper", "n_atoms": len(atoms), "potential_s": seconds}


def main() -> None:
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="small", choices=["small", "medium", "paper"])
    parser.add_argument("--potential", action="store_true", help="time one potential of 150 000 atoms in 480³ voxels")
    parser.add_argument("--n-tilts", type=int, default=60, help="tilts at the scales not compared with abTEM")
    arguments = parser.parse_args()
    name = "potential" if arguments.potential else arguments.scale
    if arguments.potential:
        measured = time_potential()
    else:
        measured = compare("small") if name == "small" else time_once(name, arguments.n_tilts)
    path = HERE / "benchmark_simulation.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    environment = describe_environment(StageClock(), "cpu")
    results[name] = {**measured, "threads": n_cores(), "environment": environment}
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
