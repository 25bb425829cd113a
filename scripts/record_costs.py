"""Measure the cost of records: their share of the time of a run, and the time to list a thousand of them.

    python scripts/record_costs.py --folder costs --add experiments/results/record_costs.json

A run at ``scale=small`` is made twice in this process, so that the second includes no compilation. Its time for the
identity, the lock, the shared tilt series on the disk, checkpoints, the record and its checksums is compared with the
total. Then 1 000 small records are written, and ``python -m aetlab.runs`` lists them from start to end of the process.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aetlab import keeper
from aetlab.cli.compose import compose_spec
from aetlab.core.progress import open_reporter
from aetlab.store import cache, checkpoint, record
from aetlab.store.environment import StageClock, describe_environment

#: Functions that store results, by the modules that call them.
TIMED = ((keeper, "record_id"), (keeper, "describe_environment"), (keeper, "describe_arrays"),
         (record, "find_record"), (record, "write_record"), (record, "read_record"), (cache, "write_container"),
         (checkpoint, "load_checkpoint"), (checkpoint, "save_checkpoint"))
N_RECORDS = 1000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--add", type=Path, help="JSON file that the outcome is written to")
    arguments = parser.parse_args()
    measured = {"overhead": measure_overhead(arguments.folder / "run"),
                "listing": measure_listing(arguments.folder / "many")}
    environment = describe_environment(StageClock(), "cpu")
    measured["machine"] = {name: environment[name] for name in ("processor", "n_cores")}
    print(json.dumps(measured, indent=1))
    if arguments.add:
        arguments.add.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def measure_overhead(outputs: Path) -> dict[str, Any]:
    """Return the seconds of a run at scale=small, and those spent on storing results."""
    spec = compose_spec()
    seconds: dict[str, float] = defaultdict(float)
    whole_s = 0.0
    for module, name in TIMED:
        setattr(module, name, _timed(getattr(module, name), name, seconds))
    for _ in range(2):
        shutil.rmtree(outputs, ignore_errors=True)
        seconds.clear()
        places = record.Places(outputs)
        places.logs.mkdir(parents=True)
        places.log(record.record_id(spec)).touch()
        start = time.perf_counter()
        with open_reporter("overhead") as reporter:
            keeper.run(spec, places=places, reporter=reporter)
        whole_s = time.perf_counter() - start
    kept_s = sum(seconds.values())
    return {"run_s": round(whole_s, 3), "kept_s": round(kept_s, 4), "share_percent": round(100 * kept_s / whole_s, 2),
            "by_step_s": {name: round(value, 4) for name, value in seconds.items()}}


def _timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **settings)
        finally:
            seconds[name] += time.perf_counter() - start

    return timed


def measure_listing(outputs: Path) -> dict[str, Any]:
    """Return the seconds of a process that lists 1 000 records, the fastest of three."""
    spec = compose_spec(["scale=smoke"])
    for seed in range(N_RECORDS):
        record.write_record(
            outputs / "records", dataclasses.replace(spec, seed=seed), metrics={"found_percent": 99.0},
            history=record.History(np.ones(60), np.arange(60.0)), log="made for a measurement\n",
            arrays={"volume/potential_V": record.Dataset(np.zeros((4, 5, 6), np.float32), "V", {})},
            environment={"finished": f"2026-01-01T00:00:{seed % 60:02d}+00:00"})
    times_s = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "aetlab.runs", "--outputs", str(outputs)], check=True,
                       stdout=subprocess.DEVNULL)
        times_s.append(time.perf_counter() - start)
    return {"records": N_RECORDS, "listed_s": round(min(times_s), 3)}


if __name__ == "__main__":
    main()
