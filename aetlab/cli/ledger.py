"""The ledger of a sweep: what was asked for, one line for each job that ended, and the table at the end.

Jobs run in any process of any machine; each writes ``jobs/<number>.json`` whole. The folder is numbered, not dated, so
that a clock set back changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aetlab.cli.compose import SEARCH
from aetlab.cli.jobs import FAILED, LEFT_OUT, Outcome, shown
from aetlab.store.files import make_folder, write_text, writing

_WANTED = "wanted.json"
#: The paper's columns, with the digits that the table shows.
_SCORES = (
    ("position_error_pm", 2), ("found_percent", 2), ("false_positive_percent", 3), ("correct_species_percent", 2)
)


@dataclass(frozen=True)
class Wanted:
    """A job that a sweep asks for."""

    label: str
    id: str
    words: tuple[str, ...]


def open_ledger(sweeps: Path, wanted: Sequence[Wanted], fixed: Sequence[str] = ()) -> Path:
    """A new ledger under ``sweeps`` with what is asked for; gives its folder.

    A search does not know its jobs yet; ``fixed`` are the words that they have in common.
    """
    make_folder(sweeps)
    number = 1 + max((int(path.name) for path in sweeps.iterdir() if path.name.isdigit()), default=0)
    while True:
        folder = sweeps / f"{number:04d}"
        with writing(folder):
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
    make_folder(folder / "jobs")
    rows = [{"number": i, "label": job.label, "id": job.id, "words": list(job.words)} for i, job in enumerate(wanted)]
    write_text(folder / _WANTED, json.dumps({"jobs": rows, "fixed": list(fixed)}, indent=1) + "\n")
    return folder


def read_wanted(folder: Path) -> list[Wanted]:
    """What the sweep of this ledger asks for."""
    rows = json.loads((folder / _WANTED).read_text(encoding="utf-8"))["jobs"]
    return [Wanted(row["label"], row["id"], tuple(row["words"])) for row in rows]


def read_label(folder: Path, number: int, words: Sequence[str]) -> str:
    """What job ``number`` is called; a job of a search by those of its ``words`` that the search has chosen."""
    wanted = read_wanted(folder)
    if number < len(wanted):
        return wanted[number].label
    fixed = _fixed_keys(folder)
    return " ".join(word.replace("'", "") for word in words if word.split("=")[0] not in fixed) or SEARCH


def write_outcome(folder: Path, number: int, outcome: Outcome) -> None:
    """Enters what became of job ``number``."""
    write_text(make_folder(folder / "jobs") / f"{number:05d}.json", outcome.to_json() + "\n")


def read_outcomes(folder: Path) -> dict[int, Outcome]:
    """What became of the jobs that ended, by their number."""
    paths = sorted((folder / "jobs").glob("[0-9]*.json"))
    return {int(path.stem): Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def has_work(folder: Path) -> bool:
    """Whether a job of the sweep has not ended yet; a search cannot know and always has."""
    wanted = read_wanted(folder)
    return not wanted or len(read_outcomes(folder)) < len(wanted)


def note_death(folder: Path) -> str:
    """Enters a failure for the first job without an outcome, whose worker died; gives its label."""
    wanted, outcomes = read_wanted(folder), read_outcomes(folder)
    number = next(i for i in range(len(wanted) + 1) if i not in outcomes)
    label = wanted[number].label if number < len(wanted) else f"run {number}"
    run_id = wanted[number].id if number < len(wanted) else ""
    reason = "its worker died, perhaps for want of memory"
    write_outcome(folder, number, Outcome(run_id, label, FAILED, 0.0, error=reason))
    return label


def print_table(folder: Path) -> int:
    """Prints one row for each job of the sweep, then each failure again; gives how many did not end well."""
    from rich.console import Console
    from rich.table import Table

    wanted, outcomes = read_wanted(folder), read_outcomes(folder)
    n_jobs = max(len(wanted), *(number + 1 for number in outcomes)) if outcomes else len(wanted)
    table = Table(title=f"sweep {folder.name}: {n_jobs} runs", title_justify="left", box=None, pad_edge=False)
    for name in ("run", "error (pm)", "found (%)", "false (%)", "species (%)", "time (s)", "status", "folder"):
        right = "(" in name
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "run", overflow="fold")
    n_bad = 0
    for number in range(n_jobs):
        outcome = outcomes.get(number)
        label = wanted[number].label if number < len(wanted) else outcome.label if outcome else "?"
        if outcome is None:
            n_bad += 1
            table.add_row(label, "", "", "", "", "", "not run", "")
            continue
        n_bad += outcome.status == FAILED
        scores = [_number(outcome.metrics.get(name), digits) for name, digits in _SCORES]
        status = outcome.status + (f" ({outcome.note})" if outcome.note else "")
        seconds = "" if outcome.status == LEFT_OUT else f"{outcome.seconds:.1f}"
        table.add_row(label, *scores, seconds, status, shown(outcome.folder))
    console = Console(soft_wrap=False, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=200, highlight=False, markup=False)
    console.print(table)
    for outcome in outcomes.values():
        if outcome.status == FAILED:
            log = f"; log: {shown(outcome.log)}" if outcome.log else ""
            console.print(f"failed: {outcome.label}: {outcome.error}{log}", soft_wrap=True)
    return n_bad


def print_best(folder: Path) -> None:
    """Prints what a search found; nothing for a sweep."""
    import yaml

    found = folder / "optimization_results.yaml"
    if found.exists():
        best = yaml.safe_load(found.read_text(encoding="utf-8"))
        fixed = _fixed_keys(folder)
        words = " ".join(f"{name}={value}" for name, value in best["best_params"].items() if name not in fixed)
        print(f"best of the search: {words}, cost of the images held out {best['best_value']:.6g}")


def _fixed_keys(folder: Path) -> set[str]:
    content = json.loads((folder / _WANTED).read_text(encoding="utf-8"))
    return {word.split("=")[0] for word in content["fixed"]}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"
