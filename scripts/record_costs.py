"""Measure the cost of records: their share of a run, the time to list and search many, and the start of a large sweep.

    python scripts/record_costs.py --folder costs --add experiments/results/record_costs.json

A run at ``scale=small`` is made twice in this process, so that the second includes no compilation. Its time for the
identity, the lock, the shared tilt series on the disk, checkpoints, the record and its checksums is compared with the
total. Then small records of one seed are written. ``python -m aetlab.runs`` lists a thousand of them from start to end
of the process, and the search of two thousand for a reconstruction is timed without and with its index. At last, a
sweep of a thousand runs is started and stopped when its first run begins. ``cpu`` seconds are those of the process
alone; on a busy machine they are the better measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import resource
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
from aetlab.keeper import stages
from aetlab.spec import RunSpec
from aetlab.store import cache, checkpoint, record
from aetlab.store.environment import StageClock, describe_environment
from aetlab.store.places import Places
from aetlab.store.sharing import find_reconstruction

#: Functions that store results, by the modules that call them.
TIMED = ((keeper, "record_id"), (stages, "record_id"), (stages, "describe_environment"), (stages, "describe_arrays"),
         (record, "find_record"), (record, "write_record"), (record, "read_record"), (cache, "write_container"),
         (checkpoint, "load_checkpoint"), (checkpoint, "save_checkpoint"))
N_RECORDS = 1000
N_RUNS = 1000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--add", type=Path, help="JSON file that the outcome is written to")
    arguments = parser.parse_args()
    measured = {"overhead": measure_overhead(arguments.folder / "run"),
                "listing": measure_listing(arguments.folder / "many"),
                "search": measure_search(arguments.folder / "searched"),
                "sweep": measure_sweep(arguments.folder / "sweep")}
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
        places = Places(outputs)
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


def write_records(outputs: Path, n: int) -> RunSpec:
    """Write ``n`` small records of one seed that differ in their dose; return settings that none of them has."""
    spec = compose_spec(["scale=smoke"])
    for i in range(n):
        dose = dataclasses.replace(spec.dose, total_e_A2=1e3 + i)
        record.write_record(
            outputs / "records", dataclasses.replace(spec, dose=dose), metrics={"found_percent": 99.0},
            history=record.History(np.ones(60), np.arange(60.0)), log="made for a measurement\n",
            arrays={"volume/potential_V": record.Dataset(np.zeros((4, 5, 6), np.float32), "V", {})},
            environment={"finished": f"2026-01-01T00:00:{i % 60:02d}+00:00"})
    return spec


def measure_listing(outputs: Path) -> dict[str, Any]:
    """Return the seconds of a process that lists 1 000 records, the fastest of three."""
    write_records(outputs, N_RECORDS)
    times_s = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "aetlab.runs", "--outputs", str(outputs)], check=True,
                       stdout=subprocess.DEVNULL)
        times_s.append(time.perf_counter() - start)
    return {"records": N_RECORDS, "listed_s": round(min(times_s), 3)}


def measure_search(outputs: Path) -> dict[str, Any]:
    """Return the seconds to search 2 000 records for a reconstruction, before and after there is an index."""
    spec = write_records(outputs, 2 * N_RECORDS)
    times_s, cpu_s = [], []
    for _ in range(4):
        start, before = time.perf_counter(), time.process_time()
        find_reconstruction(Places(outputs), spec)
        times_s.append(time.perf_counter() - start)
        cpu_s.append(time.process_time() - before)
    return {"records": 2 * N_RECORDS, "first_s": round(times_s[0], 3), "first_cpu_s": round(cpu_s[0], 3),
            "next_s": round(min(times_s[1:]), 4), "next_cpu_s": round(min(cpu_s[1:]), 4)}


def measure_sweep(outputs: Path) -> dict[str, Any]:
    """Return the seconds from the start of a sweep of 1 000 runs to the log of its first run, the shortest of three."""
    times_s, cpu_s = [], []
    for _ in range(3):
        shutil.rmtree(outputs, ignore_errors=True)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        sweep = subprocess.Popen([sys.executable, "-m", "aetlab.run", "-m", "scale=smoke", f"seed=range({N_RUNS})",
                                  f"outputs={outputs}"], stdout=subprocess.DEVNULL)
        while not any((outputs / "logs").glob("*.log")):
            if sweep.poll() is not None:
                sys.exit("the sweep ended before its first run")
            time.sleep(0.01)
        times_s.append(time.perf_counter() - start)
        sweep.kill()
        sweep.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"runs": N_RUNS, "first_run_begins_after_s": round(min(times_s), 2), "cpu_s": round(min(cpu_s), 2)}


if __name__ == "__main__":
    main()
