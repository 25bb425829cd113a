"""Separate the position errors of traced atoms into a random and a constant part, and compare with the standard errors.

    python experiments/error_bars.py --doses inf 50k 7k --reg tv

One sample is imaged several times with independent noise, reconstructed and traced each time. For the atoms found every
time, the variation of the error between the repeats is due to noise. Its mean over the repeats is due to the
regulariser, the limited resolution and the model, and cannot be detected by a fit to one volume. Results go into
error_bars.json in this folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from aetlab import flow, forward, samples
from aetlab.cli.compose import compose_spec
from aetlab.core.progress import PlainReporter
from aetlab.core.seeds import generator
from aetlab.spec import RunSpec
from aetlab.store.environment import StageClock, describe_environment

HERE = Path(__file__).parent


def measure(spec: RunSpec, n_repeats: int) -> dict[str, object]:
    """Return the RMS in pm along x, y, z of both parts of the error, of the whole error and of the standard errors."""
    atoms = flow.sample(spec)
    errors_A, sigmas_A = np.full((2, n_repeats, len(atoms), 3), np.nan)
    with PlainReporter("error bars", interval_s=60) as reporter:
        ideal = flow.simulate(spec, atoms, noise=False, progress=reporter)
        for repeat in range(n_repeats):
            series = forward.add_shot_noise(ideal, flow.electrons_per_pixel(spec),
                                            generator(spec.seed, f"noise of repeat {repeat}"))
            reconstruction = flow.reconstruct(spec, series, progress=reporter)
            traced = flow.trace(spec, reconstruction, elements=samples.sample_elements(atoms))
            match = flow.score(spec, traced, atoms).match
            errors_A[repeat, match.true] = traced.positions_A[match.traced] - atoms.positions_A[match.true]
            sigmas_A[repeat, match.true] = traced.position_error_A[match.traced]
    always = (np.isfinite(errors_A) & np.isfinite(sigmas_A)).all(axis=(0, 2))
    errors_pm, sigmas_pm = 100 * errors_A[:, always], 100 * sigmas_A[:, always]
    random2 = errors_pm.var(axis=0, ddof=1).mean(axis=0)
    lasting2 = (errors_pm.mean(axis=0) ** 2).mean(axis=0) - random2 / n_repeats
    parts = {"random_pm": random2, "lasting_pm": np.maximum(lasting2, 0), "whole_pm": (errors_pm**2).mean(axis=(0, 1)),
             "standard_error_pm": (sigmas_pm**2).mean(axis=(0, 1))}
    ratio = errors_pm / sigmas_pm
    return {"n_atoms": int(always.sum()), **{name: np.sqrt(value).round(3).tolist() for name, value in parts.items()},
            "error_over_sigma": np.sqrt((ratio**2).mean(axis=(0, 1))).round(3).tolist(),
            "within_sigma_percent": round(100 * float((np.abs(ratio) < 1).mean()), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doses", nargs="+", default=["inf", "50k", "7k"])
    parser.add_argument("--reg", default="tv")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    path = HERE / "error_bars.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for dose in options.doses:
        name = f"dose={dose} reg={options.reg}"
        results[name] = measure(compose_spec([f"dose={dose}", f"reg={options.reg}"]), options.repeats)
        print(name, json.dumps(results[name]), flush=True)
    results["repeats"], results["environment"] = options.repeats, describe_environment(StageClock(), "cpu")
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
