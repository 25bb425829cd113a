"""Change files of a folder of results and check that no command gives a wrong number for it without a word.

    python scripts/mutation_study.py --seed 0 --folder mutated --write experiments/results/mutation_study.json

The folder holds three records, the tilt series that they share, the index of records, and the checkpoint and log of a
run that was cut off. Each mutation changes one file: a bit, a byte, a digit or 512 bytes of it, its end, its
content for that of another file of the same kind, or its kind (removed, empty, a folder, a pipe, a link). For each,
``runs list``, ``runs show``, ``runs export`` and ``report`` are called, and then the run that reads the file is started
again. An answer is *harmless* if it is that of the unchanged folder, *detected* if the record is left out and named or
the command ends with one line, and *wrong* otherwise. Figures are drawn for every hundredth mutation only.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # a process that has used OpenMP cannot be forked

import pandas as pd
from kill_study import equal

import aetlab.flow
import aetlab.report
import aetlab.runs
from aetlab.cli.compose import compose_spec
from aetlab.cli.jobs import FAILED, run_job
from aetlab.reporting import build
from aetlab.spec import RunSpec
from aetlab.store import checkpoint
from aetlab.store.identity import record_id
from aetlab.store.record import Places, list_records

TINY = ("scale=smoke", "tilts.n_tilts=4", "engine.n_iterations=2", "simulate.n_layers=8", "engine.n_threads=1")
RECORDS = ((), ("reg=pos",), ("trace.smoothing=0.4",))
FROM_CACHE, CUT_OFF = ("reg=lasso",), ("dose=7k",)
COMMANDS = ("list", "show", "export", "report", "run")
_DRAWN_EVERY = 100
_LONGEST_S = 300


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for the results and their copies")
    parser.add_argument("--workers", type=int, default=2, help="processes that try mutations side by side")
    parser.add_argument("--write", type=Path, help="JSON file for the counts; those of other seeds in it are kept")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    base = folder / "base" / "outputs"
    specs = {words: compose_spec([*TINY, *words]) for words in (*RECORDS, FROM_CACHE, CUT_OFF)}
    experiments, default = aetlab.report._experiments(), compose_spec()
    aetlab.report._experiments = lambda: experiments
    aetlab.spec.choices.settings = lambda **_: default
    _prepare(base, folder / "wanted", specs)
    started = time.monotonic()
    files = sorted(path for path in base.rglob("*") if path.is_file() and path.parent.name != "locks")
    reference = _answers(shutil.copytree(base, folder / "reference" / "outputs"), specs, specs, drawn=False)
    workers = []
    for worker in range(arguments.workers):
        child = os.fork()
        if child == 0:
            with open(folder / f"worker-{worker}.jsonl", "w", encoding="utf-8") as told:
                for number in range(worker, arguments.mutations, arguments.workers):
                    chance = random.Random(f"{arguments.seed} {number}")
                    told.write(json.dumps(_try(folder, number, chance, files, specs, reference)) + "\n")
                    told.flush()
            os._exit(0)
        workers.append(child)
    if any([os.waitpid(child, 0)[1] for child in workers]):
        sys.exit("a worker died")
    counts, by_file = _count(folder)
    wrong = sum(found["wrong"] for found in counts.values())
    summary = {"mutations": arguments.mutations, "seed": arguments.seed, "wrong": wrong,
               "commands": {command: dict(sorted(found.items())) for command, found in counts.items()},
               "files": {name: dict(sorted(found.items())) for name, found in sorted(by_file.items())},
               "seconds": round(time.monotonic() - started)}
    print(json.dumps(summary, indent=1))
    if arguments.write:
        old = json.loads(arguments.write.read_text(encoding="utf-8")) if arguments.write.exists() else []
        kept = [each for each in old if each["seed"] != arguments.seed]
        arguments.write.write_text(json.dumps([*kept, summary], indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


def _count(folder: Path) -> tuple[dict[str, collections.Counter[str]], dict[str, collections.Counter[str]]]:
    """Return the numbers of verdicts by command, and by kind of file."""
    counts: dict[str, collections.Counter[str]] = {command: collections.Counter() for command in COMMANDS}
    by_file: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for path in folder.glob("worker-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, verdicts = json.loads(line)
            for command, verdict in verdicts.items():
                counts[command][verdict] += 1
                by_file[kind][verdict] += 1
    return counts, by_file


def _try(folder: Path, number: int, chance: random.Random, files: Sequence[Path], specs: dict[tuple[str, ...], RunSpec],
         reference: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Change one file of a copy of the results; return its kind and the verdict on each command."""
    base, case = folder / "base" / "outputs", folder / f"case-{number}" / "outputs"
    shutil.copytree(base, case, copy_function=_link_large)
    path = case / chance.choice(files).relative_to(base)
    change = _mutate(path, chance)
    answers = _answers(case, specs, _readers(path, specs), drawn=number % _DRAWN_EVERY == 0)
    verdicts = {}
    for command in COMMANDS:
        verdicts[command], reason = _judge(command, answers, reference, case, folder / "wanted", specs)
        if verdicts[command] == "wrong":
            print(f"{number}: {command} after {change} in {path.relative_to(case)}: {reason}", flush=True)
    if "wrong" not in verdicts.values():
        shutil.rmtree(case.parent)
    return _kind_of_file(path), verdicts


def _prepare(base: Path, wanted: Path, specs: dict[tuple[str, ...], RunSpec]) -> None:
    """Fill ``base``, and ``wanted`` with the undisturbed records of all ``specs``."""
    checkpoint.Schedule = functools.partial(checkpoint.Schedule, share=1e9, least_s=0.0)  # type: ignore[misc]
    for spec in specs.values():
        if run_job(spec, "prepare", outputs=wanted, use_other_code=False).status == FAILED:
            sys.exit(1)
    for words in RECORDS:
        run_job(specs[words], "prepare", outputs=base, use_other_code=False)
    child = os.fork()
    if child == 0:
        aetlab.flow.trace = lambda *rest, **named: os._exit(0)  # type: ignore[assignment]
        run_job(specs[CUT_OFF], "cut off", outputs=base, use_other_code=False)
        os._exit(1)
    _, ended = os.waitpid(child, 0)
    if ended or not Places(base).checkpoint(record_id(specs[CUT_OFF])).exists():
        sys.exit("the run that is cut off has left no checkpoint")


def _link_large(source: str, goal: str) -> None:
    """Copy a small file; link a large one, which no command changes in place."""
    if os.path.getsize(source) > 1 << 16:
        os.link(source, goal)
    else:
        shutil.copy2(source, goal)


def _mutate(path: Path, chance: random.Random) -> str:
    """Change the file ``path`` and return how."""
    content = bytearray(path.read_bytes())
    kinds = ["removed", "empty", "folder", "pipe", "link", "longer", "swapped"]
    kinds += 3 * ["bit", "byte", "digit", "zeros", "cut", "repeated"] if content else []
    kind = chance.choice(kinds)
    where = chance.randrange(len(content)) if content else 0
    path.unlink()
    if kind == "bit":
        content[where] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        content[where] = (content[where] + chance.randrange(1, 256)) % 256
    elif kind == "digit":
        digits = [match.start() for match in re.finditer(rb"\d", bytes(content))] or [where]
        where = chance.choice(digits)
        content[where] = ord("0") + (content[where] - ord("0") + chance.randrange(1, 10)) % 10
    elif kind == "zeros":
        content[where:where + 512] = bytes(len(content[where:where + 512]))
    elif kind == "cut":
        del content[where:]
    elif kind == "repeated":
        content[where:where] = content[max(0, where - 64):where]
    elif kind == "longer":
        content += b"\n"
    elif kind == "empty":
        content.clear()
    elif kind == "swapped":
        others = sorted(each for each in path.parents[1].rglob(f"*{path.suffix}") if each.is_file())
        content = bytearray(chance.choice(others).read_bytes()) if others else content[:-1]
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind != "removed":
        path.write_bytes(content)
    return kind


def _kind_of_file(path: Path) -> str:
    return path.name if path.parent.parent.name in ("records", "work") or path.suffix == "" else path.suffix


def _readers(path: Path, specs: dict[tuple[str, ...], RunSpec]) -> set[tuple[str, ...]]:
    """Return the runs that read the file ``path``; of an index, one that looks for a record to share."""
    if path.parent.parent.name == "records":
        return {words for words in RECORDS if record_id(specs[words]) == path.parent.name}
    if "cache" in path.parts:
        return {FROM_CACHE}
    return {CUT_OFF} if path.suffix in (".log", ".h5") else {FROM_CACHE}


def _answers(outputs: Path, specs: dict[tuple[str, ...], RunSpec], started: Collection[tuple[str, ...]], *,
             drawn: bool) -> dict[str, Any]:
    """Return exit status and text of each command in a forked process; of the runs, those ``started``."""
    ids = [record_id(specs[words]) for words in RECORDS]
    exported = outputs.parent / "exported"
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: aetlab.runs.main(["list", "--json", "--outputs", str(outputs)]),
        **{f"show {name}": lambda name=name: aetlab.runs.main(["show", name, "--json", "--outputs", str(outputs)])
           for name in ids},
        "export": lambda: aetlab.runs.main(["export", *ids, "--to", str(exported), "--outputs", str(outputs)]),
        "report": lambda: _report(outputs, drawn=drawn),
        **{f"run {' '.join(words)}": lambda spec=spec: sys.exit(
            run_job(spec, "run", outputs=outputs, use_other_code=False).status == FAILED)
           for words, spec in specs.items() if words in started},
    }
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        signal.alarm(_LONGEST_S)  # a command that hangs ends the process
        with open(telling, "w", encoding="utf-8") as pipe:
            for name, call in calls.items():
                json.dump([name, *_called(call)], pipe)
                pipe.write("\n")
                pipe.flush()
        os._exit(0)
    os.close(telling)
    with open(told, encoding="utf-8") as pipe:
        answers = {name: (status, text) for name, status, text in map(json.loads, pipe)}
    os.waitpid(child, 0)
    return {name: answers.get(name, (None, "no answer: the process hung or died")) for name in calls}


def _called(call: Callable[[], object]) -> tuple[int, str]:
    """Return the exit status of a command and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            call()
            status = 0
        except SystemExit as end:
            status = int(end.code) if isinstance(end.code, (int, type(None))) and end.code else 0
            if isinstance(end.code, str):
                print(end.code)
                status = 1
        except BaseException:
            traceback.print_exc()
            status = 255
    return status, printed.getvalue()


def _report(outputs: Path, *, drawn: bool) -> None:
    if not drawn:
        build.make_figures = lambda tasks, folder, n_processes: iter([])
        build.common_tasks = lambda *rest: []
        build.accuracy_tasks = lambda *rest: []
        build.refined_tasks = lambda *rest: []
    aetlab.report.main(["--outputs", str(outputs), "--processes", "1"])


def _judge(command: str, answers: dict[str, Any], reference: dict[str, Any], case: Path, wanted: Path,
           specs: dict[tuple[str, ...], RunSpec]) -> tuple[str, str]:
    """Return harmless, detected or wrong, and the reason of the last."""
    given = {name: answer for name, answer in answers.items() if name.split()[0] == command}
    for name, (status, text) in given.items():
        if status not in (0, 1, 2) or "Traceback" in text:
            return "wrong", f"{name} ended with {status}: {text[-400:]}"
    verdicts = {"list": _judge_list, "show": _judge_show, "export": _judge_export, "report": _judge_report}
    if command == "run":
        found = [_judge_run(words, given[f"run {' '.join(words)}"], case, wanted, spec)
                 for words, spec in specs.items() if f"run {' '.join(words)}" in given]
    else:
        found = list(verdicts[command](given, reference, case))
    for verdict, reason in found:
        if verdict == "wrong":
            return verdict, reason
    return max(found, default=("harmless", ""), key=lambda each: each[0] == "detected")


def _judge_list(given: dict[str, Any], reference: dict[str, Any], case: Path) -> Iterator[tuple[str, str]]:
    status, text = given["list"]
    if status:
        yield ("detected", "") if text.count("\n") == 1 else ("wrong", f"list ended with {text}")
        return
    shown = {entry["id"]: entry for entry in json.loads(text)}
    for entry in json.loads(reference["list"][1]):
        own = shown.get(entry["id"])
        if own is None:
            yield ("wrong", f"{entry['id']} is not listed") if entry["status"] == "complete" else ("detected", "")
        elif own["status"] != entry["status"]:
            yield "detected", ""
        else:
            same = all(own[key] == entry[key] for key in ("settings", "metrics", "note"))
            log = entry["status"] != "complete"
            yield ("harmless", "") if same or log else ("wrong", f"other values for {entry['id']}: {own}")


def _judge_show(given: dict[str, Any], reference: dict[str, Any], case: Path) -> Iterator[tuple[str, str]]:
    for name, (status, text) in given.items():
        if status:
            yield ("detected", "") if text.count("\n") == 1 else ("wrong", f"{name} ended with {text[-300:]}")
            continue
        own, entry = json.loads(text), json.loads(reference[name][1])
        same = all(own.get(key) == entry[key] for key in entry if key not in ("age_s", "place", "bytes"))
        if own["status"] != "complete":
            yield "detected", ""
        else:
            yield ("harmless", "") if same else ("wrong", f"{name}: other values")


def _judge_export(given: dict[str, Any], reference: dict[str, Any], case: Path) -> Iterator[tuple[str, str]]:
    status, text = given["export"]
    whole = case.parents[1] / "reference" / "exported"
    for path in sorted(whole.iterdir()):
        own = case.parent / "exported" / path.name
        if own.exists():
            same = own.read_bytes() == path.read_bytes()
            yield ("harmless", "") if same else ("wrong", f"{path.name} differs")
        else:
            named = path.name.split(".")[0] in text
            yield ("detected", "") if named else ("wrong", f"{path.name} is missing (status {status}): {text[-300:]}")


def _judge_report(given: dict[str, Any], reference: dict[str, Any], case: Path) -> Iterator[tuple[str, str]]:
    status, text = given["report"]
    if status:
        yield ("detected", "") if text.count("\n") == 1 else ("wrong", f"report ended with {text[-300:]}")
        return
    own, whole = (pd.read_csv(place / "report" / "summary.csv").set_index("record")
                  for place in (case, case.parents[1] / "reference" / "outputs"))
    for name, row in whole.iterrows():
        if name not in own.index:
            yield ("detected", "") if f"{name}" in text else ("wrong", f"{name} is missing from the report")
        else:
            same = row.reindex(own.columns).equals(own.loc[name])
            yield ("harmless", "") if same else ("wrong", f"{name} has other values in summary.csv")


def _judge_run(words: Sequence[str], given: tuple[int, str], case: Path, wanted: Path,
               spec: RunSpec) -> tuple[str, str]:
    status, text = given
    if status:
        return ("detected", "") if "FAILED" in text else ("wrong", f"run ended with {text[-300:]}")
    made, right = ({record.id: record for record in list_records(Places(place).records)[0]}.get(record_id(spec))
                   for place in (case, wanted))
    if made is None or right is None or not equal(made, right):
        return "wrong", f"run {' '.join(words)} gave another record: {text[-300:]}"
    usual = "skipped" in text if tuple(words) in RECORDS else "aside" not in text and "again" not in text
    return ("harmless" if usual else "detected"), ""


if __name__ == "__main__":
    main()
