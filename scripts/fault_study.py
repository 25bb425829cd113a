"""Let each system call of a run that writes fail, one at a time, and check what is left and what a second start gives.

    python scripts/fault_study.py --folder faults --write experiments/results/fault_study.json

The calls are those that open a file to write, write, truncate, flush, rename, make or remove below the folder of
results (scripts/faults.c, which needs Linux; it is compiled by the ``ziglang`` of the extra ``test``). A run writes a
checkpoint after every iteration. For each call and each error the study checks that

- the run ends with status 0, 1 or 2, without a traceback, and with the error in one line unless the status is 0;
- no partial file stands under a final name: records are verified, cache files equal those of an undisturbed run;
- the same command, repeated without a fault, ends with status 0 and a record that is equal bit for bit.

A full disk (ENOSPC) stays full from the call on, except that files can be removed; EIO and EACCES strike once. Runs
are forked from one process that has composed the settings and computed all but the reconstruction, which writes
checkpoints. Where a fault leaves the same files as an earlier one, the second start is not repeated.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_study import equal

import aetlab.run
from aetlab import flow, samples
from aetlab.cli import compose
from aetlab.cli.jobs import FAILED, run_job
from aetlab.core.files import StorageError
from aetlab.keeper import stages
from aetlab.store import checkpoint
from aetlab.store.array_file import read_container
from aetlab.store.record import Places, list_records

HERE = Path(__file__).resolve().parent
RUN = ("scale=smoke", "tilts.n_tilts=4", "engine.n_iterations=2", "simulate.n_layers=8", "engine.n_threads=1")
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
_LIBRARY = "AETLAB_FAULTS"
_NEVER = 1 << 40


@dataclass
class Outcome:
    """The end of one run: exit status, text, number of calls that write, and the name of the call that failed."""

    status: int
    text: str
    n_calls: int
    call: str


@dataclass
class Tally:
    """Counts of one error over all calls, and what went wrong."""

    ended: collections.Counter[str] = field(default_factory=collections.Counter)
    calls: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    states: set[frozenset[tuple[str, int]]] = field(default_factory=set)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--every", type=int, default=1, help="try every n-th call only")
    parser.add_argument("--write", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if _LIBRARY not in os.environ:
        sys.exit(_start_with_library(folder))
    library = ctypes.CDLL(os.environ[_LIBRARY])
    library.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_int]
    library.faults_count.restype = ctypes.c_long
    library.faults_name.restype = ctypes.c_char_p
    # The clock decides only how often checkpoints are written.
    checkpoint.Schedule = functools.partial(checkpoint.Schedule, share=1e9, least_s=0.0)  # type: ignore[misc]
    started = time.monotonic()
    _warm(folder / "warm")
    quiet = run(library, folder / "quiet", _NEVER, _NEVER, 0)
    if quiet.status:
        sys.exit(f"the undisturbed run ended with {quiet.status}: {quiet.text}")
    results = {"calls_that_write": quiet.n_calls, "command": " ".join(RUN), "errors": {}}
    problems: list[str] = []
    for name, number in ERRORS.items():
        tally = Tally()
        for call in range(1, quiet.n_calls + 1, arguments.every):
            _try(library, folder, call, name, number, tally)
        print(f"{name}: {dict(tally.ended)}; {len(tally.problems)} problems", flush=True)
        results["errors"][name] = {"faults": sum(tally.ended.values()), "ended": dict(sorted(tally.ended.items())),
                                   "calls": dict(sorted(tally.calls.items())),
                                   "states_left": len(tally.states), "problems": len(tally.problems)}
        problems += tally.problems
    results["seconds"] = round(time.monotonic() - started)
    for problem in problems:
        print(problem)
    if arguments.write:
        arguments.write.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if problems else 0)


def _start_with_library(folder: Path) -> int:
    """Compile the library and start this study again with it."""
    folder.mkdir(parents=True)
    library = folder / "faults.so"
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-o", str(library),
                    str(HERE / "faults.c")], check=True)
    # Processes are forked from one that has made a run, so that its libraries may have no threads.
    environment = {**os.environ, "LD_PRELOAD": str(library), _LIBRARY: str(library), "OMP_NUM_THREADS": "1",
                   "NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}
    return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def _warm(folder: Path) -> None:
    """Make the run once in this process; later runs take the results of stages that write nothing from it."""
    for module, name in ((flow, "sample"), (flow, "simulate"), (flow, "trace"), (flow, "compare"),
                         (stages, "estimate"), (samples, "build_sample")):
        setattr(module, name, _ignoring_arguments(getattr(module, name)))
    planned = compose.compose_all(RUN, multirun=False)
    compose.compose_all = lambda words, *, multirun, config_dir: planned  # type: ignore[assignment]
    result = run_job(planned.jobs[0].spec, "warm", outputs=folder, use_other_code=False)
    if result.status == FAILED:
        sys.exit(f"the undisturbed run failed: {result.error}")


def _ignoring_arguments(stage: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``stage`` with its first result for all later calls."""
    results: list[Any] = []

    def once(*rest: Any, **named: Any) -> Any:
        if not results:
            results.append(stage(*rest, **named))
        return results[0]

    return once


def run(library: ctypes.CDLL, folder: Path, first: int, last: int, error: int) -> Outcome:
    """Run the command in a forked process, in which the calls from ``first`` to ``last`` fail with ``error``."""
    folder.mkdir(parents=True, exist_ok=True)
    printed = folder.with_suffix(".txt")
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.close(told)
            handle = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.chdir(folder)
            sys.argv = ["aetlab.run", *RUN]
            library.faults_arm(str(folder / "outputs").encode(), first, last, error)
            try:
                aetlab.run.main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            sys.stdout.flush()
            os.write(telling, json.dumps([library.faults_count(), library.faults_name().decode()]).encode())
        finally:
            os._exit(status)
    os.close(telling)
    with open(told, encoding="utf-8") as pipe:
        counted = pipe.read()
    _, ended = os.waitpid(child, 0)
    n_calls, call = json.loads(counted or '[0, ""]')
    text = printed.read_text(encoding="utf-8", errors="replace")
    return Outcome(os.waitstatus_to_exitcode(ended), text, n_calls, call)


def _try(library: ctypes.CDLL, folder: Path, call: int, name: str, number: int, tally: Tally) -> None:
    place = folder / f"{name}-{call}"
    first = run(library, place, call, _NEVER if name == "ENOSPC" else call, number)
    wrong = list(_check_end(first, number)) + list(_check_files(place / "outputs", folder / "quiet" / "outputs"))
    state = _left(place / "outputs")
    if state not in tally.states:
        tally.states.add(state)
        again = run(library, place, _NEVER, _NEVER, 0)
        if again.status:
            wrong.append(f"the second start ended with {again.status}: {again.text[-300:]}")
        else:
            wrong += _check_result(place / "outputs", folder / "quiet" / "outputs")
    tally.calls[first.call or "none"] += 1
    tally.ended[f"status {first.status}"] += 1
    tally.problems += [f"{name} at call {call} ({first.call}): {each}" for each in wrong]
    if not wrong:
        shutil.rmtree(place)
        place.with_suffix(".txt").unlink()


def _check_end(outcome: Outcome, number: int) -> list[str]:
    wrong = []
    if outcome.status not in (0, 1, 2):
        wrong.append(f"it ended with status {outcome.status}")
    if "Traceback" in outcome.text:
        wrong.append(f"a traceback: {outcome.text[-300:]}")
    lines = [line for line in outcome.text.splitlines() if os.strerror(number) in line]
    if outcome.status and len(lines) != 1:
        wrong.append(f"{len(lines)} lines name the error: {outcome.text[-300:]}")
    return wrong


def _check_files(outputs: Path, quiet: Path) -> list[str]:
    _, broken = list_records(Places(outputs).records, verify=True)
    wrong = [f"a broken record: {error}" for error in broken]
    for path in Places(outputs).cache.glob("*/*.h5"):
        if path.name[0] != "." and path.read_bytes() != (quiet / path.relative_to(outputs)).read_bytes():
            wrong.append(f"a partial file: {path}")
    for path in outputs.glob("work/*/checkpoint.h5"):
        try:
            read_container(path)
        except StorageError as error:
            wrong.append(f"a partial file: {error}")
    return wrong


def _left(outputs: Path) -> frozenset[tuple[str, int]]:
    """Return the files below ``outputs`` with their sizes, or 0 for those that hold times."""
    def size(path: Path) -> int:
        timed = path.suffix == ".log" or path.name in ("checkpoint.h5", "environment.json", "log.txt")
        return 0 if timed or path.name == "history.csv" else path.stat().st_size

    files = (path for path in outputs.rglob("*") if path.is_file())
    return frozenset((path.relative_to(outputs).as_posix(), size(path)) for path in files)


def _check_result(outputs: Path, quiet: Path) -> list[str]:
    made, wanted = (list_records(Places(place).records, verify=True)[0] for place in (outputs, quiet))
    if [record.id for record in made] != [record.id for record in wanted] or not equal(made[0], wanted[0]):
        return ["the second start gave another record"]
    rest = [path for path in (*Places(outputs).records.glob(".*"), *Places(outputs).cache.glob("*/.*"))]
    return [f"the second start left {path}" for path in rest]


if __name__ == "__main__":
    main()
