"""Run one job from its settings to its record: skip it where the record exists, resume it where it was interrupted.

A job that fails prints one line and keeps its log; it never stops the other jobs of a sweep.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from aetlab.core.errors import AetlabError
from aetlab.core.files import StorageError, append_text, make_folder
from aetlab.core.metrics import HEADLINES, best_name, count_atoms
from aetlab.core.progress import Reporter, open_reporter
from aetlab.spec import RunSpec
from aetlab.store.identity import record_id
from aetlab.store.record import FAILURE, Places, Record, RecordError, read_record

#: Statuses of a job that was started.
DONE, SKIPPED, RESUMED, RETRIED, FAILED = "done", "skipped", "resumed", "retried", "failed"
#: Status of an experiment that matches a pattern but cannot run with the other overrides.
LEFT_OUT = "left out"


class Terminated(BaseException):
    """The system asked the process to end (SIGTERM); not an error of the run."""


@dataclass(frozen=True)
class JobResult:
    """The result of a job: its status, time, record and metrics, or its error. One entry of a sweep's ledger."""

    id: str
    label: str
    status: str
    seconds: float
    folder: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    log: str = ""
    note: str = ""

    def to_json(self) -> str:
        """Return this result as JSON text, without metrics that are not finite."""
        metrics = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        return json.dumps({**asdict(self), "metrics": metrics}, allow_nan=False)


def run_job(spec: RunSpec, label: str, *, outputs: Path, use_other_code: bool, part: int | None = None) -> JobResult:
    """Make the record of ``spec`` under ``outputs``, or find it there, and print the result in one line.

    With ``part`` do that of one tile in the work of joining tiles instead; its result has no record. A failure is
    returned as a result with status ``failed``; it raises no exception.
    """
    found = skip_complete(record_id(spec), label, outputs=outputs, use_other_code=use_other_code)
    if found is not None:
        return found
    with open_reporter(label) as reporter, terminable():
        result = _make(Places(outputs.absolute()), spec, label, reporter, use_other_code, part)
        reporter.say(summary_line(result))
    return result


def skip_complete(run_id: str, label: str, *, outputs: Path, use_other_code: bool) -> JobResult | None:
    """Return and print the result of a job whose record is complete; None if it is not, or may not be used.

    This loads no numerics.
    """
    started = time.monotonic()
    try:
        record = read_record(Places(outputs.absolute()).records / run_id)
    except RecordError:
        return None  # a damaged record is reported and set aside later, under the lock of the run
    if record is None or record.made_by_other_code and not use_other_code:
        return None
    result = _result_of(record, label, SKIPPED, started)
    with open_reporter(label) as reporter:
        reporter.say(summary_line(result))
    return result


def failed_job(label: str, error: Exception) -> JobResult:
    """Return the result of a job that ``error`` stopped before its run, and print it in one line."""
    result = JobResult("", label, FAILED, 0.0, error=_in_one_line(error))
    with open_reporter(label) as reporter:
        reporter.say(summary_line(result))
    return result


def summary_line(result: JobResult) -> str:
    """Return the result of a job in one line; scores are of the refined atoms if there are any."""
    if result.status == FAILED:
        log = f"; log: {relative_path(result.log)}" if result.log else ""
        return f"FAILED after {result.seconds:.1f} s: {result.error}{log}"
    counted = count_atoms(result.metrics)
    scores = ", ".join([f"{counted} atoms"] * bool(counted) + [
        f"{score.short or score.label} {score.text(value)} {score.unit}" for score in HEADLINES
        if (value := result.metrics.get(best_name(score, result.metrics))) is not None and value == value])
    status = {SKIPPED: "skipped, the record is complete", RESUMED: "resumed from its checkpoint, done",
              RETRIED: "retried after a failure, done"}.get(result.status, result.status)
    note = f" ({result.note})" if result.note else ""
    spent = "" if result.status == SKIPPED else f" in {result.seconds:.1f} s"
    folder = f"; record: {relative_path(result.folder)}" if result.folder else ""
    return f"{status}{note}{spent}{f': {scores}' if scores else ''}{folder}"


def relative_path(path: str) -> str:
    """Return ``path`` relative to the current folder if it lies inside, else unchanged."""
    try:
        return str(Path(path).relative_to(Path.cwd())) if path else ""
    except ValueError:
        return path


def _make(places: Places, spec: RunSpec, label: str, reporter: Reporter, use_other_code: bool,
          part: int | None) -> JobResult:
    started, run_id = time.monotonic(), record_id(spec)
    log_path = places.log(run_id)
    try:
        from aetlab.cli.precompile import precompile
        from aetlab.core import backend
        from aetlab.core.kernel_cache import announcing_compilation, describe_folder

        backend.prepare_process()
        if describe_folder():
            reporter.say(describe_folder())
        precompile(reporter.say, spec)
        from aetlab import keeper

        n_threads = spec.engine.n_threads or backend.n_threads()
        with backend.threads(n_threads), announcing_compilation(reporter.say):
            if part is not None:
                keeper.run_part(spec, part, places=places, reporter=reporter, use_other_code=use_other_code)
                return JobResult(run_id, label, DONE, time.monotonic() - started)
            result = keeper.run(spec, places=places, reporter=reporter, use_other_code=use_other_code)
    except Exception as error:
        message = _in_one_line(error)
        _log_failure(log_path, message)
        return JobResult(run_id, label, FAILED, time.monotonic() - started, error=message,
                         log=str(log_path) if log_path.exists() else "")
    with suppress(OSError):
        places.work(run_id).rmdir()
    return _result_of(result.record, label, result.status, started)


def _result_of(record: Record, label: str, status: str, started: float) -> JobResult:
    note = "made by other code" if record.made_by_other_code else ""
    seconds = time.monotonic() - started
    return JobResult(record.id, label, status, seconds, str(record.folder), record.metrics, note=note)


def _log_failure(log_path: Path, message: str) -> None:
    try:
        make_folder(log_path.parent)
        append_text(log_path, f"{traceback.format_exc()}{FAILURE} {message}\n")
    except (OSError, StorageError):
        pass  # a full disk may refuse the log too; the message is printed in any case


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    if isinstance(error, AetlabError):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into :class:`Terminated`, so that locks are freed and partial files removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not own:  # keep the signal handler of a cluster's launcher
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
