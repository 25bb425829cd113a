"""Exchange cache files, checkpoints and records, run again, and compare the numbers with those of undisturbed runs.

    python scripts/swap_study.py --swaps 200 --seed 0 --folder swaps --add experiments/results/swap_study.json

Four runs (two samples, two regularisers) are made, and each is stopped once to keep its checkpoint. A trial copies this
outputs folder, exchanges or copies files of two of the runs, and repeats one of them, whose record must then hold the
numbers of the undisturbed run. The kinds of trials are drawn at random:

- cache: two tilt series change names, or one is copied over the other, and the record is missing;
- checkpoint: two checkpoints change places, or one is copied over the other, and the record is missing;
- record: two records change names, a record is copied under the name of another, or one file of a record is replaced by
  that of another, also with a manifest that names the other run.

A trial is *detected* if a line names the exchanged file or the record, *harmless* if the numbers are right without one,
and a *silent wrong number* if neither holds. The exit status is 0 if there is none.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kill_study import SWEEP, equal

from aetlab import keeper
from aetlab.cli.compose import compose_spec
from aetlab.store import checkpoint
from aetlab.store.identity import record_id
from aetlab.store.places import Places
from aetlab.store.record import FILES, MANIFEST, Record, RecordError, read_record

RUNS = [(f"seed={seed}", f"reg={reg}") for seed in (0, 1) for reg in ("tv", "pos")]


class Stopped(BaseException):
    """The run was stopped after its first checkpoint."""


class Listener:
    """Collect the lines of a run; stop it at its fourth iteration if asked to."""

    def __init__(self, stop: bool = False) -> None:
        self.lines: list[str] = []
        self._stop = stop

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if self._stop and stage == "reconstruct" and done == 4:
            raise Stopped


class Study:
    """Four runs and trials on copies of their outputs."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.whole, self.trial = Places(folder / "whole"), Places(folder / "trial")
        common = [word for word in SWEEP[2:] if not word.startswith("reg=")]
        self.specs = {}
        for words in RUNS:
            spec = compose_spec([*common, *words, "engine.n_iterations=6"])
            self.specs[record_id(spec)] = spec
        for spec in self.specs.values():
            try:
                keeper.run(spec, places=self.whole, reporter=Listener(stop=True))
            except Stopped:
                pass
        shutil.copytree(self.whole.outputs / "work", folder / "checkpoints")
        self.records = {run_id: keeper.run(spec, places=self.whole).record for run_id, spec in self.specs.items()}
        shutil.copytree(folder / "checkpoints", self.whole.outputs / "work", dirs_exist_ok=True)

    def try_one(self) -> tuple[str, str]:
        """Make one trial; return what was exchanged and the outcome."""
        shutil.rmtree(self.trial.outputs, ignore_errors=True)
        shutil.copytree(self.whole.outputs, self.trial.outputs)
        one, other = self.chance.sample(sorted(self.specs), 2)
        kind = self.chance.choice((self.swap_cache, self.swap_checkpoint, self.swap_record))
        what = kind(one, other)
        listener = Listener()
        found = self.read(one)
        if found is not None and not equal(found, self.records[one]):
            return what, "silent wrong numbers"
        made = keeper.run(self.specs[one], places=self.trial, reporter=listener).record
        if not equal(read_record(made.folder), self.records[one]):
            return what, "silent wrong numbers"
        marks = ("damaged", "belongs to", "holds the result of other", "set aside", "computed again")
        return what, "detected" if any(mark in line for line in listener.lines for mark in marks) else "harmless"

    def read(self, run_id: str) -> Record | None:
        """Return the record of the trial as a report reads it; None if it is refused."""
        try:
            return read_record(self.trial.records / run_id)
        except RecordError:
            return None

    def swap_cache(self, one: str, other: str) -> str:
        """Exchange or copy the two cached tilt series."""
        self.forget(one, other)
        names = sorted((self.trial.cache / "tilt_series").iterdir())
        return "cache, " + self.exchange(*self.chance.sample(names, 2))

    def swap_checkpoint(self, one: str, other: str) -> str:
        """Exchange or copy two checkpoints."""
        self.forget(one, other)
        return "checkpoint, " + self.exchange(self.trial.checkpoint(one), self.trial.checkpoint(other))

    def swap_record(self, one: str, other: str) -> str:
        """Exchange or copy two records or one of their files."""
        mine, others = self.trial.records / one, self.trial.records / other
        name = self.chance.choice((*FILES, MANIFEST, ""))
        what = f"record, {name or 'folder'}, " + self.exchange(mine / name, others / name)
        if self.chance.random() < 0.5:
            path = mine / MANIFEST
            path.write_text(path.read_text(encoding="utf-8").replace(other, one), encoding="utf-8")
            what += ", manifest renamed"
        return what

    def forget(self, *run_ids: str) -> None:
        """Remove records, so that their runs are made again."""
        for run_id in run_ids:
            shutil.rmtree(self.trial.records / run_id)

    def exchange(self, one: Path, other: Path) -> str:
        """Exchange two files or folders, or copy the second over the first."""
        aside = self.trial.outputs / "aside"
        if self.chance.random() < 0.5:
            one.rename(aside)
            other.rename(one)
            aside.rename(other)
            return "exchanged"
        copy: Callable[[Path, Path], object] = shutil.copytree if other.is_dir() else shutil.copy
        if one.is_dir():
            shutil.rmtree(one)
        copy(other, one)
        return "copied"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="longest time; the numbers are those reached")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--add", type=Path, help="JSON list of such studies that the result is appended to")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if any(arguments.folder.iterdir()):
        sys.exit(f"--folder={arguments.folder} cannot be used: it is not empty")
    checkpoint.Schedule.due = lambda self: True  # type: ignore[method-assign]  # a checkpoint at every iteration
    started = time.monotonic()
    study = Study(arguments.folder, random.Random(arguments.seed))
    outcomes: dict[str, Counter[str]] = {}
    for _ in range(arguments.swaps):
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        what, outcome = study.try_one()
        outcomes.setdefault(what, Counter())[outcome] += 1
    total = sum(outcomes.values(), Counter[str]())
    found = {"swaps": total.total(), "seed": arguments.seed, "silent wrong numbers": total["silent wrong numbers"],
             "detected": total["detected"], "harmless": total["harmless"],
             "seconds": round(time.monotonic() - started),
             "by_exchange": {what: dict(outcomes[what]) for what in sorted(outcomes)}}
    print(json.dumps(found, indent=1))
    if arguments.add:
        portions = json.loads(arguments.add.read_text(encoding="utf-8")) if arguments.add.exists() else []
        arguments.add.write_text(json.dumps([*portions, found], indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(total["silent wrong numbers"]))


if __name__ == "__main__":
    main()
