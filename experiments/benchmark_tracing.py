"""Measure the time and memory of tracing, and the compilation time of its first call.

    python experiments/benchmark_tracing.py                  # scale=small (96³, 2 200 atoms) and scale=paper (480³)
    python experiments/benchmark_tracing.py --scales small

Each volume holds the needle of its scale as Gaussians of 120 V (O) and 230 V (Si), 0.7 voxels wide, with noise of 5 V,
so that the true atoms are known. Each is traced with the paper's constants, and with the default settings, which
smooth the volume first. Results go into benchmark_tracing.json in this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from aetlab.core.backend import n_cores, prepare_process
from aetlab.core.nouns import Volume
from aetlab.core.seeds import generator
from aetlab.samples import build_sample
from aetlab.scoring import match_atoms
from aetlab.spec import SampleSpec, ScaleSpec, TraceSpec
from aetlab.spec.bind import bind
from aetlab.store.environment import StageClock, describe_environment
from aetlab.tracing import trace_atoms
from aetlab.tracing.kernels_numba import subtract_gaussians

HERE = Path(__file__).parent
O_V, SI_V, WIDTH, NOISE_V = 120.0, 230.0, 0.7, 5.0
N_RUNS = {"smoke": 3, "small": 3, "medium": 1, "paper": 1}


TRACINGS = {"paper": TraceSpec(), "smoothed": TraceSpec(smoothing=0.6, cylinder_margin=2.0)}


def measure(scale_name: str, spec: TraceSpec) -> dict[str, float]:
    scale = bind(ScaleSpec, yaml.safe_load((HERE.parent / "conf" / "scale" / f"{scale_name}.yaml").read_text("utf-8")))
    atoms = build_sample(SampleSpec(), scale, generator(0, "sample"))
    centre = (np.array(scale.shape_zxy) - 1) / 2
    places = atoms.positions_A[:, [2, 0, 1]] / scale.voxel_A + centre
    intensity = np.where(atoms.numbers == 14, SI_V, O_V)
    potential_V = generator(0, "noise").standard_normal(scale.shape_zxy, dtype=np.float32)
    potential_V *= np.float32(NOISE_V)
    subtract_gaussians(potential_V, 0, np.column_stack([places, -intensity, np.full(len(atoms), WIDTH)]), 6.0)
    before_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(N_RUNS[scale_name]):
        start = time.perf_counter()
        traced = trace_atoms(Volume(potential_V, scale.voxel_A), spec, (8, 14))
        seconds.append(time.perf_counter() - start)
    peak_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    match = match_atoms(traced, atoms, traced_inside=np.ones(len(traced), dtype=bool),
                        true_inside=np.ones(len(atoms), dtype=bool), max_distance_A=1.0)
    return {"n_atoms": len(atoms), "trace_s": min(seconds), "match_s": time.perf_counter() - start,
            "n_rounds": len(traced.rounds), "peak_GB": peak_kB / 1e6, "peak_before_tracing_GB": before_kB / 1e6,
            **{name: match.metrics[name] for name in ("position_error_pm", "found_percent", "false_positive_percent",
                                                      "correct_species_percent")}}


def measure_first_call() -> float:
    """Return the seconds of the first tracing of a small volume in a process with an empty compilation cache."""
    code = ("import time, numpy as np; from aetlab.tracing import trace_atoms; from aetlab.core.nouns import Volume; "
            "from aetlab.spec import TraceSpec; rng = np.random.default_rng(0); "
            "v = 5 * rng.standard_normal((24, 26, 28), np.float32); v[12, 13, 14] = v[5, 6, 7] = 300; "
            "start = time.perf_counter(); trace_atoms(Volume(v, 0.5), TraceSpec(), (8, 14)); "
            "print(time.perf_counter() - start)")
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": cache}, check=True,
                              capture_output=True, text=True, cwd=HERE.parent)
    return float(done.stdout)


def main() -> None:
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", nargs="+", default=["small", "paper"], choices=list(N_RUNS))
    parser.add_argument("--out", type=Path, default=HERE / "benchmark_tracing.json")
    options = parser.parse_args()
    trace_atoms(Volume(np.eye(9, dtype=np.float32)[None].repeat(9, 0) * 100, 0.5), TraceSpec(), (8, 14))
    results: dict[str, object] = {"cores": n_cores(), "first_call_s": measure_first_call()}
    for name in options.scales:
        for tracing, spec in TRACINGS.items():
            results[f"{name}, trace={tracing}"] = measured = measure(name, spec)
            print(name, tracing, json.dumps(measured), flush=True)
    results["environment"] = describe_environment(StageClock(), "cpu")
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"first call with nothing compiled: {results['first_call_s']:.1f} s")


if __name__ == "__main__":
    main()
