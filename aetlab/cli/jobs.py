"""One job from its settings to its record: skipped where the record exists, gone on with where it was cut off.

A job that fails says so in one line and leaves its log; it never stops the other jobs of a sweep.
"""

from __future__ import annotations

import json
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
from aetlab.core.progress import Reporter, open_reporter
from aetlab.spec import RunSpec
from aetlab.store.files import StorageError, make_folder
from aetlab.store.identity import record_id
from aetlab.store.record import FAILURE, Places, Record, RecordError, read_record

#: What can become of a job.
DONE, SKIPPED, RESUMED, RETRIED, FAILED, CUT_OFF = "done", "skipped", "resumed", "retried", "failed", "cut off"
#: What becomes of an experiment that a pattern fits but that cannot be made with the other words.
LEFT_OUT = "left out"

class Stopped(BaseException):
    """The system asked the process to end (SIGTERM); not an error of the run."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: one line of a sweep's ledger."""

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
        """This outcome as JSON text."""
        return json.dumps(asdict(self))


def perform(spec: RunSpec, label: str, *, outputs: Path, use_other_code: bool) -> Outcome:
    """Makes the record of ``spec`` under ``outputs``, or finds it; a failure is an outcome, not an exception."""
    started = time.monotonic()
    places = Places(outputs.absolute())
    run_id = record_id(spec)
    with open_reporter(label) as reporter, terminable():
        found = _complete(places.records / run_id, use_other_code)
        if found is not None:
            outcome = _ended(found, label, SKIPPED, started)
        else:
            outcome = _make(places, spec, run_id, label, reporter, started, use_other_code)
        reporter.say(one_line(outcome))
    return outcome


def one_line(outcome: Outcome) -> str:
    """The outcome of a job in one line."""
    if outcome.status == FAILED:
        log = f"; log: {shown(outcome.log)}" if outcome.log else ""
        return f"FAILED after {outcome.seconds:.1f} s: {outcome.error}{log}"
    scores = ", ".join(f"{outcome.metrics[name]:.{digits}f} {unit}" for name, digits, unit in (
        ("position_error_pm", 1, "pm"), ("found_percent", 2, "% found"), ("false_positive_percent", 2, "% false"),
        ("correct_species_percent", 1, "% species")) if outcome.metrics.get(name) is not None)
    words = {SKIPPED: "skipped, the record is complete", RESUMED: "went on from its checkpoint and is done",
             RETRIED: "failed before, tried again and is done"}.get(outcome.status, outcome.status)
    note = f" ({outcome.note})" if outcome.note else ""
    spent = "" if outcome.status == SKIPPED else f" in {outcome.seconds:.1f} s"
    return f"{words}{note}{spent}: {scores}; record: {shown(outcome.folder)}"


def shown(path: str) -> str:
    """``path`` as seen from the current folder where it lies in it."""
    try:
        return str(Path(path).relative_to(Path.cwd())) if path else ""
    except ValueError:
        return path


def _complete(folder: Path, use_other_code: bool) -> Record | None:
    """The whole record in ``folder`` where it may be used: found without loading what computes."""
    try:
        record = read_record(folder)
    except RecordError:
        return None  # it is told and set aside under the lock of the run
    return record if use_other_code or not record.made_by_other_code else None


def _make(places: Places, spec: RunSpec, run_id: str, label: str, reporter: Reporter, started: float,
          use_other_code: bool) -> Outcome:
    log_path = places.log(run_id)
    try:
        from aetlab import keeper
        from aetlab.core import backend

        backend.prepare_process()
        backend.limit_threads(spec.engine.n_threads)
        result = keeper.run(spec, places=places, reporter=reporter, use_other_code=use_other_code)
    except Exception as error:
        message = _in_one_line(error)
        _keep(log_path, message)
        return Outcome(run_id, label, FAILED, time.monotonic() - started, error=message,
                       log=str(log_path) if log_path.exists() else "")
    with suppress(OSError):
        places.work(run_id).rmdir()
    return _ended(result.record, label, result.status, started)


def _ended(record: Record, label: str, status: str, started: float) -> Outcome:
    note = "made by other code" if record.made_by_other_code else ""
    return Outcome(record.id, label, status, time.monotonic() - started, str(record.folder), record.metrics, note=note)


def _keep(log_path: Path, message: str) -> None:
    try:
        make_folder(log_path.parent)
        with open(log_path, "a", encoding="utf-8") as log:
            log.write(f"{traceback.format_exc()}{FAILURE} {message}\n")
    except (OSError, StorageError):
        pass  # the disk that failed the run may refuse the log as well; the message is printed


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    if isinstance(error, AetlabError):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what is inside in order, by :class:`Stopped`: locks are freed, half-written files removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not own:  # a cluster's own handling of the signal stays
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
