"""The ledger of a sweep: the requested jobs, the result of each finished job, and the final table.

A job may run in any process on any machine; it writes its result atomically to ``jobs/<number>.json``. Ledger folders
are numbered, not dated, so that a wrong clock has no effect. A ledger that is gone or damaged raises
:class:`StorageError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aetlab.cli.compose import SEARCH
from aetlab.cli.jobs import FAILED, LEFT_OUT, JobResult, relative_path
from aetlab.core.files import StorageError, describe, make_folder, open_regular, write_text, writing
from aetlab.core.metrics import HEADLINES, best_name, count_atoms
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind
from aetlab.store.identity import record_id

_REQUESTED = "wanted.json"
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class RequestedJob:
    """A job of a sweep as requested: its label, the id of its record (empty if left out) and its overrides."""

    label: str
    id: str
    words: tuple[str, ...]


def open_ledger(sweeps: Path, requested: Sequence[RequestedJob], fixed: Sequence[str] = (),
                inputs: Mapping[str, str] | None = None) -> Path:
    """Create a ledger of the ``requested`` jobs under ``sweeps`` and return its folder.

    A search does not know its jobs in advance; ``fixed`` are the overrides that they have in common. ``inputs`` are the
    digests of input files by their paths.
    """
    make_folder(sweeps)
    number = 1 + max((int(path.name) for path in sweeps.iterdir() if _NUMBER.fullmatch(path.name)), default=0)
    while True:
        folder = sweeps / f"{number:04d}"
        with writing(folder):
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
    make_folder(folder / "jobs")
    planned = _Planned(tuple(requested), tuple(fixed), dict(inputs or {}))
    write_text(folder / _REQUESTED, json.dumps(asdict(planned), indent=1) + "\n")
    return folder


def input_digests(spec: RunSpec) -> dict[str, str]:
    """Return the digests of the input files of ``spec`` by their paths."""
    return {group.path: group.digest for group in (spec.sample, spec.data) if group.path and group.digest}


def require_planned(folder: Path, number: int, spec: RunSpec) -> None:
    """Raise :class:`SpecError` unless ``spec`` is that of job ``number`` as it was when the sweep started.

    A worker binds the settings of its job again, when an input file may have changed.
    """
    planned = _read(folder)
    for path, found in input_digests(spec).items():
        if planned.inputs.get(path, found) != found:
            raise SpecError(f"{path} has changed since the sweep started; start the sweep again")
    if number < len(planned.jobs) and planned.jobs[number].id != record_id(spec):
        raise SpecError("the configuration has changed since the sweep started; start the sweep again")


def read_requested(folder: Path) -> list[RequestedJob]:
    """Return the jobs that the sweep of this ledger requests; none for a search."""
    return list(_read(folder).jobs)


def read_label(folder: Path, number: int, words: Sequence[str]) -> str:
    """Return the label of job ``number``; that of a search's job lists the ``words`` that the search has chosen."""
    planned = _read(folder)
    if number < len(planned.jobs):
        return planned.jobs[number].label
    fixed = planned.fixed_keys
    return " ".join(word.replace("'", "") for word in words if word.split("=")[0] not in fixed) or SEARCH


def write_result(folder: Path, number: int, result: JobResult) -> None:
    """Write the result of job ``number`` to a ledger that is still in its place."""
    _read(folder)
    write_text(make_folder(folder / "jobs") / f"{number:05d}.json", result.to_json() + "\n")


def read_result(folder: Path, number: int) -> JobResult | None:
    """Return the result of job ``number``; None if it has none yet."""
    path = folder / "jobs" / f"{number:05d}.json"
    return _read_job(path) if path.exists() else None


def read_results(folder: Path) -> dict[int, JobResult]:
    """Return the results of the finished jobs by their number."""
    paths = sorted(path for path in (folder / "jobs").glob("*.json") if _NUMBER.fullmatch(path.stem))
    return {int(path.stem): _read_job(path) for path in paths}


def _read_job(path: Path) -> JobResult:
    """Return a result; one that cannot be read counts as failed."""
    try:
        with open_regular(path) as file:
            result = bind(JobResult, json.load(file))
    except (OSError, ValueError, RecursionError) as error:
        reason = describe(error) if isinstance(error, OSError) else "it is no result of a run"
        return JobResult("", "", FAILED, 0.0, error=f"{path} cannot be read: {reason}")
    return result


def has_work(folder: Path) -> bool:
    """Return whether a job of the sweep has no result yet; always true for a search, whose jobs are not known."""
    requested = read_requested(folder)
    return not requested or len(read_results(folder)) < len(requested)


def record_worker_death(folder: Path) -> JobResult:
    """Write a failure for the first job without a result, whose worker died, and return it."""
    requested, results = read_requested(folder), read_results(folder)
    number = next(i for i in range(len(requested) + 1) if i not in results)
    label = requested[number].label if number < len(requested) else f"run {number}"
    run_id = requested[number].id if number < len(requested) else ""
    result = JobResult(run_id, label, FAILED, 0.0, error="its worker died (out of memory?)")
    write_result(folder, number, result)
    return result


def require_ledger(folder: Path) -> None:
    """Raise :class:`StorageError` if the ledger is gone or damaged."""
    _read(folder)


def print_table(folder: Path) -> int:
    """Print one row for each job of the sweep, then the failures; return the number of jobs that failed or did not run.

    A job that was left out counts as neither.
    """
    from rich.console import Console
    from rich.table import Table

    requested, results = read_requested(folder), read_results(folder)
    n_jobs = max(len(requested), *(number + 1 for number in results)) if results else len(requested)
    table = Table(title=f"sweep {folder.name}: {n_jobs} runs", title_justify="left", box=None, pad_edge=False)
    for name in ("run", "atoms", *(score.short_heading for score in HEADLINES), "time (s)", "status", "folder"):
        right = "(" in name or name == "atoms"
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "run", overflow="fold")
    n_bad = 0
    for number in range(n_jobs):
        result = results.get(number)
        label = requested[number].label if number < len(requested) else result.label if result else "?"
        if result is None:
            n_bad += 1
            table.add_row(label, "", *("" for _ in HEADLINES), "", "not run", "")
            continue
        n_bad += result.status == FAILED
        scores = [score.text(result.metrics.get(best_name(score, result.metrics))) for score in HEADLINES]
        status = result.status + (f" ({result.note})" if result.note else "")
        seconds = "" if result.status == LEFT_OUT else f"{result.seconds:.1f}"
        table.add_row(label, count_atoms(result.metrics), *scores, seconds, status, relative_path(result.folder))
    console = Console(soft_wrap=False, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=200, highlight=False, markup=False)
    console.print(table)
    for result in results.values():
        if result.status == FAILED:
            log = f"; log: {relative_path(result.log)}" if result.log else ""
            console.print(f"failed: {result.label or 'run'}: {result.error}{log}", soft_wrap=True)
    return n_bad


def print_best(folder: Path) -> None:
    """Print the best settings that a search found; print nothing for a sweep."""
    import yaml

    found = folder / "optimization_results.yaml"
    if found.exists():
        best = yaml.safe_load(found.read_text(encoding="utf-8"))
        fixed = _read(folder).fixed_keys
        words = " ".join(f"{name}={value}" for name, value in best["best_params"].items() if name not in fixed)
        print(f"best settings of the search: {words}; mean cost of a held-out tilt: {best['best_value']:.6g}")


@dataclass(frozen=True)
class _Planned:
    """Content of ``wanted.json``."""

    jobs: tuple[RequestedJob, ...]
    fixed: tuple[str, ...]
    inputs: dict[str, str]

    @property
    def fixed_keys(self) -> set[str]:
        return {word.split("=")[0] for word in self.fixed}


def _read(folder: Path) -> _Planned:
    try:
        with open_regular(folder / _REQUESTED) as file:
            return bind(_Planned, json.load(file))
    except OSError as error:
        raise StorageError(f"the ledger {folder} cannot be read: {describe(error)}; was the outputs folder moved or "
                           "removed during the sweep? Repeat the command to continue") from None
    except (ValueError, RecursionError):
        raise StorageError(f"the ledger {folder} is damaged: repeat the command") from None
