"""Report the progress of a run: a progress bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TextIO

#: Seconds between two plain lines of the same stage.
PLAIN_INTERVAL_S = 10.0


class Reporter(Protocol):
    """The interface of progress reports: ``done`` of ``total`` steps of ``stage``, with the latest value ``detail``."""

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None: ...

    def say(self, text: str) -> None: ...


class SilentReporter:
    """Report nothing."""

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass


#: The default reporter of functions.
SILENT = SilentReporter()


class PlainReporter(AbstractContextManager["PlainReporter"]):
    """Print a line at the end of each stage, and in between at most one line every ``interval_s`` seconds."""

    def __init__(self, label: str, stream: TextIO | None = None, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._label = label
        self._stream = stream or sys.stdout
        self._interval_s = interval_s
        self._stage = ""
        self._started = self._last = time.monotonic()

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._last = stage, now, now
        elif done < total and now - self._last < self._interval_s:
            return
        if done == 0 or (done < total and now - self._started < self._interval_s):
            return
        self._last = now
        spent = now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if done < total else f" in {spent:.1f} s"
        self.say(f"{stage} {done}/{total}{', ' + detail if detail else ''}{left}")

    def say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=self._stream, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stream.flush()


class BarReporter(AbstractContextManager["BarReporter"]):
    """Show a bar with the stage, the step, the latest value (the cost in a reconstruction) and the time left."""

    def __init__(self, label: str) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[label]}"), progress.TextColumn("{task.description:<11}"),
            progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[detail]}"),
            progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn())
        self._label = label
        self._stage = ""
        self._task = self._bar.add_task("start", total=None, label=label, detail="")
        self._bar.start()

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(self._task, total=total, label=self._label, description=stage, detail="")
        self._bar.update(self._task, completed=done, total=total, detail=detail)

    def say(self, text: str) -> None:
        self._bar.console.print(f"{self._label}: {text}", highlight=False, markup=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()


def open_reporter(label: str) -> BarReporter | PlainReporter:
    """Return the reporter that suits standard output, as a context manager."""
    return BarReporter(label) if sys.stdout.isatty() else PlainReporter(label)
