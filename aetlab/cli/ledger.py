"""The ledger of a sweep: the requested jobs, their settings, the result of each finished job, and the final table.

A job may run in any process on any machine: it reads its settings, a line of ``settings.jsonl``, and writes its result
atomically to ``jobs/<number>.json``. Ledger folders are numbered, not dated, so that a wrong clock has no effect. A
ledger that is gone or damaged raises :class:`StorageError`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from aetlab.cli.jobs import FAILED, LEFT_OUT, JobResult, relative_path
from aetlab.core.files import StorageError, describe, file_signature, make_folder, open_regular, write_text, writing
from aetlab.core.metrics import HEADLINES, best_name, count_atoms
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind, bind_run, unbind
from aetlab.store.identity import record_id

_REQUESTED, _ORDERS = "wanted.json", "settings.jsonl"
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class RequestedJob:
    """A job of a sweep as requested: its label, the id of its record (empty if left out) and its overrides."""

    label: str
    id: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """The settings of a job, the absolute path of its folder of results, and whether records of other code are used.

    ``part`` is the tile of the joined run whose part in the join the job does; None for a job that makes a record.
    """

    spec: RunSpec
    outputs: str
    use_other_code: bool
    part: int | None = None


def open_ledger(sweeps: Path, requested: Sequence[RequestedJob], orders: Sequence[Order | None],
                inputs: Mapping[str, str] | None = None, *, is_search: bool = False) -> Path:
    """Create a ledger of the ``requested`` jobs under ``sweeps`` and return its folder.

    ``orders`` are their settings, None for a job that is left out. ``inputs`` are the digests of input files by their
    paths. A search adds its jobs later.
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
    planned = _Planned(tuple(requested), dict(inputs or {}), is_search)
    write_text(folder / _ORDERS, "".join(map(_line, orders)))
    write_text(folder / _REQUESTED, json.dumps(asdict(planned), indent=1) + "\n")
    return folder


def add_job(folder: Path, number: int, job: RequestedJob, order: Order | None) -> None:
    """Add job ``number`` of a search, the next one, to its ledger; a job that is there already stays as it is."""
    planned = _read(folder)
    if number < len(planned.jobs):
        return
    with writing(folder), open(folder / _ORDERS, "a", encoding="utf-8") as file:
        file.write(_line(order))
    planned = replace(planned, jobs=(*planned.jobs, job))
    write_text(folder / _REQUESTED, json.dumps(asdict(planned), indent=1) + "\n")


def read_order(folder: Path, number: int) -> tuple[RequestedJob, Order]:
    """Return job ``number`` and its settings."""
    job = _read(folder).jobs[number]
    try:
        with open_regular(folder / _ORDERS) as file:
            found = json.loads(next(itertools.islice(file, number, None)))
        spec = bind_run(found["settings"])
        if record_id(spec) == job.id:
            part = found.get("part")
            return job, Order(spec, str(found["outputs"]), bool(found["use_other_code"]),
                              None if part is None else int(part))
    except OSError as error:
        raise StorageError(f"the ledger {folder} cannot be read: {describe(error)}; repeat the command") from None
    except (ValueError, TypeError, LookupError, StopIteration, RecursionError):
        pass
    raise StorageError(f"the ledger {folder} is damaged: repeat the command")


def _line(order: Order | None) -> str:
    content = order and {"settings": unbind(order.spec), "outputs": order.outputs,
                         "use_other_code": order.use_other_code, "part": order.part}
    return json.dumps(content, allow_nan=False) + "\n"


def input_digests(spec: RunSpec) -> dict[str, str]:
    """Return the digests of the input files of ``spec`` by their paths."""
    return {group.path: group.digest for group in (spec.sample, spec.data) if group.path and group.digest}


def require_inputs(folder: Path, spec: RunSpec) -> None:
    """Raise :class:`SpecError` unless the input files of ``spec`` are as they were when the search started."""
    planned = _read(folder)
    for path, found in input_digests(spec).items():
        if planned.inputs.get(path, found) != found:
            raise SpecError(f"{path} has changed since the search started; start the search again")


def read_requested(folder: Path) -> list[RequestedJob]:
    """Return the jobs that the sweep of this ledger requests; of a search, those that it has chosen."""
    return list(_read(folder).jobs)


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
    planned = _read(folder)
    return planned.is_search or len(read_results(folder)) < len(planned.jobs)


def record_worker_death(folder: Path) -> JobResult | None:
    """Write a failure for the first job without a result, whose worker died, and return it; None if all have one."""
    results = read_results(folder)
    waiting = [(number, job) for number, job in enumerate(read_requested(folder)) if number not in results]
    if not waiting:
        return None
    number, job = waiting[0]
    result = JobResult(job.id, job.label, FAILED, 0.0, error="its worker died (out of memory?)")
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
        words = " ".join(f"{name}={value}" for name, value in best["best_params"].items()).replace("'", "")
        print(f"best settings of the search: {words}; mean cost of a held-out tilt: {best['best_value']:.6g}")


@dataclass(frozen=True)
class _Planned:
    """Content of ``wanted.json``."""

    jobs: tuple[RequestedJob, ...]
    inputs: dict[str, str]
    is_search: bool


def _read(folder: Path) -> _Planned:
    try:
        return _parse(folder / _REQUESTED, file_signature(folder / _REQUESTED))
    except OSError as error:
        raise StorageError(f"the ledger {folder} cannot be read: {describe(error)}; was the outputs folder moved or "
                           "removed during the sweep? Repeat the command to continue") from None
    except (ValueError, RecursionError):
        raise StorageError(f"the ledger {folder} is damaged: repeat the command") from None


@lru_cache(maxsize=1)
def _parse(path: Path, signature: tuple[int, ...]) -> _Planned:
    """Return the content of a file, which is read again where its ``signature`` has changed."""
    with open_regular(path) as file:
        return bind(_Planned, json.load(file))
