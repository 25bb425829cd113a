"""Report the progress of a run: a progress bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TextIO, runtime_checkable

#: Seconds between two plain lines of the same stage.
PLAIN_INTERVAL_S = 10.0


@runtime_checkable
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


class NamedReporter:
    """Report to ``inner``, with the name of a part of the run before each stage and each line."""

    def __init__(self, inner: Reporter, name: str) -> None:
        self._inner, self._name = inner, name

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Pass a step on."""
        self._inner.step(f"{self._name} {stage}", done, total, detail)

    def say(self, text: str) -> None:
        """Pass a line on."""
        self._inner.say(f"{self._name}: {text}")


class Pace:
    """The time left of a stage, from the time of its steps after the first one.

    The first step is left out: it may include compiling, and a stage that was interrupted begins with many steps done.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def step(self, done: int) -> None:
        """Take note that ``done`` steps are done now."""
        self._last = (self._clock(), done)
        if self._first is None and done > 0:
            self._first = self._last

    def left_s(self, total: int) -> float | None:
        """Return the seconds left until ``total`` steps are done; None if fewer than two steps were seen."""
        if self._first is None or self._last[1] <= self._first[1]:
            return None
        each_s = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return max(self._last[0] + each_s * (total - self._last[1]) - self._clock(), 0.0)


class PlainReporter(AbstractContextManager["PlainReporter"]):
    """Print a line at the end of each stage, and in between at most one line every ``interval_s`` seconds."""

    def __init__(self, label: str, stream: TextIO | None = None, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._label = label
        self._stream = stream or sys.stdout
        self._interval_s = interval_s
        self._stage, self._done, self._ended = "", 0, False
        self._pace = Pace()
        self._started = self._last = time.monotonic()

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage or done < self._done:
            self._stage, self._started, self._last, self._pace, self._ended = stage, now, now, Pace(), False
        self._done = done
        self._pace.step(done)
        if done == 0 or self._ended or (done < total and now - self._last < self._interval_s):
            return
        self._last, self._ended = now, done == total
        left_s = self._pace.left_s(total)
        left = f" in {now - self._started:.1f} s" if done == total else f", {left_s:.0f} s left" if left_s else ""
        self.say(f"{stage} {done}/{total}{', ' + detail if detail else ''}{left}")

    def say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=self._stream, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stream.flush()


def open_reporter(label: str) -> AbstractContextManager[Reporter]:
    """Return the reporter that suits standard output, as a context manager."""
    if not sys.stdout.isatty():
        return PlainReporter(label)
    from aetlab.core.progress_bar import BarReporter

    return BarReporter(label, Pace)
