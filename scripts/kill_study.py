"""Kill a sweep at random times, resume it without kills, and compare its records with those of an unbroken sweep.

    python scripts/kill_study.py --kills 200 --seed 0 --folder kills

``--add FILE`` appends the result to a JSON list, so that a study can be made in parts with different seeds. A sweep
that ends before its kill is deleted and started again, so that every kill hits a running sweep. The exit status is 0 if
all records are complete and equal after each last start.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from aetlab.store.record import Places, Record, array_names, list_records, read_array, read_history

SWEEP = ("-m", "dose=inf,50k", "reg=tv", "scale=smoke", "tilts=20", "engine.n_threads=1")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--add", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if any(arguments.folder.iterdir()):
        sys.exit(f"--folder={arguments.folder} cannot be used: it is not empty")
    words = [*SWEEP, f"engine.n_iterations={arguments.iterations}"]
    quiet, killed = Places(arguments.folder / "quiet"), Places(arguments.folder / "killed")
    _finish(killed, words)  # compiles the kernels before the unbroken sweep is timed
    shutil.rmtree(killed.outputs)
    started = time.monotonic()
    _finish(quiet, words)
    seconds = time.monotonic() - started
    chance = random.Random(arguments.seed)
    n_kills = n_rounds = n_cut_off = 0
    while n_kills < arguments.kills:
        process = _start(killed, words)
        try:
            process.wait(chance.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            n_kills += 1
            n_cut_off += any(killed.outputs.glob("work/*/checkpoint.arrays"))
            continue
        _compare(quiet, killed)
        n_rounds += 1
        shutil.rmtree(killed.outputs)
    _finish(killed, words)
    _compare(quiet, killed)
    print(f"{n_kills} kills, {n_cut_off} with a checkpoint left, {n_rounds + 1} sweeps compared: all records whole and "
          f"equal; a quiet sweep took {seconds:.1f} s, all {time.monotonic() - started:.0f} s")
    if arguments.add:
        portions = json.loads(arguments.add.read_text(encoding="utf-8")) if arguments.add.exists() else []
        portions.append({"seed": arguments.seed, "kills": n_kills, "kills_with_a_checkpoint_left": n_cut_off,
                         "sweeps_whole_and_equal": n_rounds + 1, "iterations": arguments.iterations,
                         "quiet_sweep_s": round(seconds, 2)})
        arguments.add.write_text(json.dumps(portions, indent=1) + "\n", encoding="utf-8")


def _start(places: Places, words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "aetlab.run", *words, f"outputs={places.outputs}"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _finish(places: Places, words: list[str]) -> None:
    status = _start(places, words).wait()
    if status:
        sys.exit(f"a sweep ended with {status}; see {places.outputs}")


def _compare(quiet: Places, killed: Places) -> None:
    wanted, broken = list_records(quiet.records, verify=True)
    made, broken_too = list_records(killed.records, verify=True)
    if broken or broken_too:
        sys.exit(f"broken records: {[str(error) for error in broken + broken_too]}")
    if sorted(record.id for record in wanted) != sorted(record.id for record in made):
        sys.exit("a record is missing or too many")
    others = {record.id: record for record in made}
    for record in wanted:
        if not equal(record, others[record.id]):
            sys.exit(f"record {record.id} differs")


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
