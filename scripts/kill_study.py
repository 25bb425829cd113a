"""Kill commands at random times, repeat them, and compare what they leave with what undisturbed commands make.

    python scripts/kill_study.py --kills 200 40 60 120 80 --seed 0 --folder kills --add kill_study.json

The numbers are kills of a sweep with the launcher basic, a sweep with the launcher cores, a report, an export and a
removal. ``--add FILE`` appends the results to a JSON list, so that a study can be made in parts with different seeds;
``--minutes`` ends each of them earlier, and the numbers are then those reached.

- sweep: it is killed and repeated until one repetition ends before its kill. All records must then be complete and
  equal, bit for bit, to those of the undisturbed sweep.
- report and export: an earlier, complete result is in place. After each kill, every file under its final name must be
  complete and as an undisturbed command writes it.
- remove: after each kill, every record is complete or gone, and the records that were not chosen are complete.

Commands start in processes forked from one that has imported their modules, so that kills hit their work rather than
the start of Python. The exit status is 0 if all comparisons hold.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import os
import random
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.store.places import Places
from aetlab.store.record import Record, array_names, list_records, read_array, read_history

SWEEP = ("-m", "dose=inf,50k", "reg=tv", "scale=smoke", "tilts.n_tilts=6", "simulate.n_layers=8", "engine.n_threads=1")
OPERATIONS = ("sweep basic", "sweep cores", "report", "export", "remove")
#: Longest time of one command in seconds.
LONGEST_S = 1200.0

_FORKS = multiprocessing.get_context("forkserver")
_PRELOADED = ("aetlab.keeper", "aetlab.cli.jobs", "aetlab.cli.compose", "aetlab.cli.preflight", "aetlab.runs")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, nargs=5, default=[200, 40, 60, 120, 80], metavar="N",
                        help=f"kills of: {', '.join(OPERATIONS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1e6, help="longest time of one operation")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--add", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if any(arguments.folder.iterdir()):
        sys.exit(f"--folder={arguments.folder} cannot be used: it is not empty")
    _FORKS.set_forkserver_preload([*_PRELOADED, *(["aetlab.report"] if arguments.kills[2] else [])])
    study = Study(arguments.folder.absolute(), arguments.iterations, random.Random(arguments.seed))
    for operation, n_kills in zip(OPERATIONS, arguments.kills, strict=True):
        if n_kills == 0:
            continue
        started = time.monotonic()
        study.deadline = started + 60 * arguments.minutes
        found = {"operation": operation, "seed": arguments.seed, **study.kill(operation, n_kills),
                 "seconds": round(time.monotonic() - started)}
        print(f"{operation}: {found['kills']} kills, {found['checks']} comparisons: all complete and equal", flush=True)
        if arguments.add:
            portions = json.loads(arguments.add.read_text(encoding="utf-8")) if arguments.add.exists() else []
            arguments.add.write_text(json.dumps([*portions, found], indent=1) + "\n", encoding="utf-8")


class Study:
    """Kill commands that work in ``folder``; ``chance`` draws the times."""

    def __init__(self, folder: Path, iterations: int, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.deadline = math.inf
        self.sweep = [*SWEEP, f"engine.n_iterations={iterations}"]
        self.quiet = Places(folder / "quiet")
        self._finish("run", [*self.sweep, f"outputs={self.quiet.outputs}"])

    def kill(self, operation: str, n_kills: int) -> dict[str, int]:
        """Return the numbers of kills, of kills that left something unfinished, and of comparisons."""
        if operation.startswith("sweep"):
            launcher = ["hydra/launcher=cores", "hydra.launcher.n_jobs=2"] if "cores" in operation else []
            return self._kill_sweep([*self.sweep, *launcher], n_kills)
        outputs = ["--outputs", str(self.quiet.outputs)]
        if operation == "report":
            return self._kill_writing("report", outputs, self.quiet.outputs / "report", n_kills)
        if operation == "export":
            goal = self.folder / "export"
            return self._kill_writing("runs", ["export", 'reg == "tv"', *outputs, "--to", str(goal)], goal, n_kills)
        return self._kill_remove(n_kills)

    def _kill_sweep(self, words: list[str], n_kills: int) -> dict[str, int]:
        killed = Places(self.folder / "killed")
        words = [*words, f"outputs={killed.outputs}"]
        seconds = self._finish("run", words)
        counts = {"kills": 0, "left_unfinished": 0, "checks": 0}
        shutil.rmtree(killed.outputs)
        while self._goes_on(counts["kills"] < n_kills):
            if self._was_killed("run", words, seconds):
                counts["kills"] += 1
                counts["left_unfinished"] += any(killed.outputs.glob("work/*/checkpoint.h5"))
                continue
            self._compare_records(killed)
            counts["checks"] += 1
            shutil.rmtree(killed.outputs)
        self._finish("run", words)
        self._compare_records(killed)
        shutil.rmtree(killed.outputs)
        return {**counts, "checks": counts["checks"] + 1}

    def _kill_writing(self, module: str, words: list[str], goal: Path, n_kills: int) -> dict[str, int]:
        seconds = self._finish(module, words)
        made = digests(goal)
        counts = {"kills": 0, "left_unfinished": 0, "checks": 0}
        while self._goes_on(counts["kills"] < n_kills):
            if counts["kills"] % 2 == 0:  # every other time there is no earlier result
                shutil.rmtree(goal, ignore_errors=True)
            was_killed = self._was_killed(module, words, seconds)
            counts["kills"] += was_killed
            found = digests(goal) if goal.exists() else {}
            if not found.items() <= made.items() or (not was_killed and found != made):
                sys.exit(f"{module}: {sorted(set(found) ^ set(made)) or 'files'} differ from an undisturbed {goal}")
            counts["left_unfinished"] += found != made
            counts["checks"] += 1
        self._finish(module, words)
        if digests(goal) != made:
            sys.exit(f"{module}: the repeated command leaves other files than the first one")
        return counts

    def _kill_remove(self, n_kills: int) -> dict[str, int]:
        goal = Places(self.folder / "removed")
        words = ["remove", "dose_e_A2 == inf", "--yes", "--outputs", str(goal.outputs)]
        shutil.copytree(self.quiet.outputs, goal.outputs)
        seconds = self._finish("runs", words)
        counts = {"kills": 0, "left_unfinished": 0, "checks": 0}
        while self._goes_on(counts["kills"] < n_kills):
            shutil.rmtree(goal.outputs)
            shutil.copytree(self.quiet.outputs, goal.outputs)
            counts["kills"] += self._was_killed("runs", words, seconds)
            records, broken = list_records(goal.records, verify=True)
            kept = [record for record in records if record.spec.dose.total_e_A2 == 5e4]
            if broken or len(kept) != 1:
                sys.exit(f"remove: {[str(error) for error in broken]}, {len(kept)} records are left of those to keep")
            counts["left_unfinished"] += any(goal.records.glob(".*")) or len(records) > 1
            counts["checks"] += 1
        return counts

    def _goes_on(self, wanted: bool) -> bool:
        return wanted and time.monotonic() < self.deadline

    def _compare_records(self, killed: Places) -> None:
        wanted, broken = list_records(self.quiet.records, verify=True)
        made, broken_too = list_records(killed.records, verify=True)
        if broken or broken_too:
            sys.exit(f"damaged records: {[str(error) for error in broken + broken_too]}")
        others = {record.id: record for record in made}
        if {record.id for record in wanted} != set(others):
            sys.exit("a record is missing, or there is one too many")
        for record in wanted:
            if not equal(record, others[record.id]):
                sys.exit(f"record {record.id} differs from that of the undisturbed sweep")

    def _finish(self, module: str, words: list[str]) -> float:
        """Run a command to its end; return its seconds."""
        started = time.monotonic()
        process = self._start(module, words)
        process.join(LONGEST_S)
        if process.exitcode != 0:
            process.kill()
            sys.exit(f"{module} {' '.join(words)} ended with {process.exitcode}")
        return time.monotonic() - started

    def _was_killed(self, module: str, words: list[str], seconds: float) -> bool:
        """Start a command and kill it at a random time; return whether it was still at work."""
        process = self._start(module, words)
        process.join(self.chance.uniform(0.02, 1.05) * seconds)
        if process.exitcode is not None:
            if process.exitcode != 0:
                sys.exit(f"{module} {' '.join(words)} ended with {process.exitcode} before it was killed")
            return False
        process.kill()
        process.join()
        return True

    def _start(self, module: str, words: list[str]) -> Any:
        process = _FORKS.Process(target=_become, args=(module, words, self.folder))
        process.start()
        return process


def _become(module: str, words: list[str], folder: Path) -> None:
    """Run a command in this process, silently, with checkpoints from the first iteration on."""
    from aetlab.store import checkpoint

    checkpoint.Schedule = functools.partial(checkpoint.Schedule, least_s=0.02)  # type: ignore[misc, assignment]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(folder)
    sys.argv = [module, *words]
    status: Any = 0
    try:
        runpy.run_module(f"aetlab.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code or 0
    # A forked process would wait for minutes until the workers of the launcher cores end.
    os._exit(status if isinstance(status, int) else 1)


def digests(folder: Path, name: Callable[[str], bool] = lambda name: not name.startswith(".")) -> dict[str, str]:
    """Return the SHA-256 of all files in ``folder`` that do not lie under a hidden name, by their paths."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
            if all(name(part) for part in path.relative_to(folder).parts)}


def equal(one: Record, other: Record) -> bool:
    """Return whether two records of the same settings hold the same numbers, bit for bit."""
    if array_names(one) != array_names(other) or not np.array_equal(read_history(one).cost, read_history(other).cost):
        return False
    for name in ("spec.json", "metrics.json"):
        if (one.folder / name).read_bytes() != (other.folder / name).read_bytes():
            return False
    return all(np.array_equal(read_array(one, name).values, read_array(other, name).values, equal_nan=True)
               for name in array_names(one))


if __name__ == "__main__":
    main()
