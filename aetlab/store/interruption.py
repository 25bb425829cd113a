"""Postpone Ctrl-C and SIGTERM to the end of an iteration, so that the iteration is saved and not lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import AbstractContextManager
from types import FrameType, TracebackType

#: Iterations that last longer than this, in seconds, are not waited for when the system asks to end (SIGTERM).
PATIENCE_S = 20.0


class PostponedStop(AbstractContextManager["PostponedStop"]):
    """Inside the block, the first Ctrl-C or SIGTERM after :meth:`iterated` waits for the next call of it.

    The second one, and any before the first iteration, acts at once. Other handlers of SIGTERM, such as those of a
    cluster's launcher, stay as they are if they are not Python's own.
    """

    def __init__(self) -> None:
        self._before: dict[int, signal.Handlers | object] = {}
        self._pending: int | None = None
        self._last_s: float | None = None
        self._iteration_s = 0.0

    @property
    def pending(self) -> bool:
        """Return whether a signal waits."""
        return self._pending is not None

    def iterated(self) -> None:
        """Take note of the end of an iteration."""
        now = time.monotonic()
        self._iteration_s = now - self._last_s if self._last_s is not None else 0.0
        self._last_s = now

    def act(self) -> None:
        """Let a signal that waits act now, as it would have acted without this object."""
        number, self._pending = self._pending, None
        if number is not None:
            self._restore()
            signal.raise_signal(number)

    def __enter__(self) -> PostponedStop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler) and getattr(handler, "__module__", "").startswith(("_signal", "signal", "aetlab")):
                    self._before[number] = signal.signal(number, self._postpone)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._restore()
        if kind is None:
            self.act()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyrefly: ignore[bad-argument-type]
        self._before = {}

    def _postpone(self, number: int, frame: FrameType | None) -> None:
        waits = self._last_s is not None and not self.pending
        if not waits or (number == signal.SIGTERM and self._iteration_s > PATIENCE_S):
            self._restore()
            self._pending = None
            signal.raise_signal(number)
            return
        self._pending = number
        # print() may be interrupted in the middle of a line, and cannot be entered again.
        os.write(2, (f"\nstopping once this iteration is saved, about {max(self._iteration_s, 1):.0f} s; a second "
                     "Ctrl-C stops at once\n").encode())
