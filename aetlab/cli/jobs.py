"""One job from its settings to its record: skipped where the record exists, gone on with where it was cut off.

A job that fails says so in one line and leaves its log; it never stops the other jobs of a sweep.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from aetlab.progress import Reporter, open_reporter
from aetlab.results.files import StorageError, make_folder, remove_tree, writing
from aetlab.results.identity import record_id
from aetlab.results.record import Places, Record, find_record, read_record, run_lock
from aetlab.spec import RunSpec, SpecError

#: What can become of a job.
DONE, SKIPPED, RESUMED, RETRIED, FAILED, CUT_OFF = "done", "skipped", "resumed", "retried", "failed", "cut off"


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


class LogReporter:
    """Passes on what a run says and keeps it, with the time, in the run's log."""

    def __init__(self, inner: Reporter, log: TextIO) -> None:
        self._inner = inner
        self._log = log
        self._stage = ""

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage != self._stage or done == total:
            self._stage = stage
            self._write(f"{stage} {done}/{total} {detail}".rstrip())
        self._inner.step(stage, done, total, detail)

    def say(self, text: str) -> None:
        self._write(text)
        self._inner.say(text)

    def _write(self, text: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()


def perform(spec: RunSpec, label: str, *, outputs: Path, use_other_code: bool) -> Outcome:
    """Makes the record of ``spec`` under ``outputs``, or finds it; a failure is an outcome, not an exception."""
    started = time.monotonic()
    places = Places(outputs.absolute())
    run_id = record_id(spec)
    with open_reporter(label) as reporter, _terminable():
        try:
            with run_lock(places, spec, lambda: reporter.say("another process makes this record; waiting")):
                record, note = find_record(places, spec, use_other_code=use_other_code)
                if note:
                    reporter.say(note)
                if record is not None:
                    outcome = _skipped(record, label, time.monotonic() - started)
                else:
                    outcome = _make(places, spec, run_id, label, reporter, started)
        except StorageError as error:
            outcome = _failed(run_id, label, started, str(error), places.log(run_id))
        reporter.say(one_line(outcome))
    return outcome


def one_line(outcome: Outcome) -> str:
    """The outcome of a job in one line."""
    if outcome.status == FAILED:
        return f"FAILED after {outcome.seconds:.1f} s: {outcome.error}" + (f"; log: {outcome.log}" if outcome.log else "")
    scores = ", ".join(f"{outcome.metrics[name]:.{digits}f} {unit}" for name, digits, unit in (
        ("position_error_pm", 1, "pm"), ("found_percent", 2, "% found"), ("false_positive_percent", 2, "% false"),
        ("correct_species_percent", 1, "% species")) if outcome.metrics.get(name) is not None)
    words = {SKIPPED: "skipped, the record is complete", RESUMED: "went on from its checkpoint and is done",
             RETRIED: "failed before, tried again and is done"}.get(outcome.status, outcome.status)
    note = f" ({outcome.note})" if outcome.note else ""
    return f"{words}{note} in {outcome.seconds:.1f} s: {scores}; record: {outcome.folder}"


def _make(places: Places, spec: RunSpec, run_id: str, label: str, reporter: Reporter, started: float) -> Outcome:
    work = make_folder(places.work(run_id))
    failed_before = work / "failed.txt"
    status = RESUMED if places.checkpoint(run_id).exists() else RETRIED if failed_before.exists() else DONE
    if status != DONE:
        reporter.say({RESUMED: "was cut off, goes on from its checkpoint", RETRIED: "failed before, is tried again"}[status])
    log_path = places.log(run_id)
    with writing(log_path):
        log = open(log_path, "a", encoding="utf-8")
    with log:
        try:
            from aetlab import pipeline

            pipeline.run(spec, outputs=places.outputs, reporter=LogReporter(reporter, log))
            record = read_record(places.records / run_id)
        except Exception as error:
            message = _in_one_line(error)
            _keep(log, failed_before, message)
            return _failed(run_id, label, started, message, log_path)
    remove_tree(work)
    return Outcome(run_id, label, status, time.monotonic() - started, str(record.folder), record.metrics)


def _keep(log: TextIO, failed_before: Path, message: str) -> None:
    try:
        traceback.print_exc(file=log)
        failed_before.write_text(message + "\n", encoding="utf-8")
    except OSError as error:  # the disk may be what failed the run
        print(f"the log cannot be written: {error.strerror}", file=sys.stderr)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    if isinstance(error, (SpecError, StorageError)):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failed(run_id: str, label: str, started: float, message: str, log_path: Path) -> Outcome:
    log = str(log_path) if log_path.exists() else ""
    return Outcome(run_id, label, FAILED, time.monotonic() - started, error=message, log=log)


def _skipped(record: Record, label: str, seconds: float) -> Outcome:
    note = "made by other code" if record.made_by_other_code else ""
    return Outcome(record.id, label, SKIPPED, seconds, str(record.folder), record.metrics, note=note)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the job in order: locks are freed and what is half-written is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
