"""Save and load checkpoints of a reconstruction: an interrupted run continues with bit-identical results.

Ctrl-C and SIGTERM are postponed to the end of an iteration, so that the iteration is saved and not lost.

A checkpoint holds the id of its run, the ``code_id`` and a digest of the tilt series. It is used only by the same run
with the same code and images.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from aetlab.core.files import StorageError
from aetlab.store.array_file import read_container, write_container
from aetlab.store.identity import code_id

#: Iterations that last longer than this, in seconds, are not waited for when the system asks to end (SIGTERM).
PATIENCE_S = 20.0


def save_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any], rng: np.random.Generator,
                    *, run: str, data: str) -> None:
    """Write the arrays, the JSON-able ``state`` and the state of ``rng`` atomically to ``path``.

    ``run`` is the id of the run, ``data`` the digest of its tilt series
    (:meth:`aetlab.core.tilt_series.TiltSeries.digest`).
    """
    write_container(path, arrays, {"run": run, "code": code_id(), "data": data, "state": dict(state),
                                   "rng": rng.bit_generator.state})


def load_checkpoint(path: Path, rng: np.random.Generator, *, run: str,
                    data: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and state of the checkpoint, and set ``rng`` to its state.

    Raises
    ------
    StorageError
        If the checkpoint is damaged, or belongs to another run, other code or other images.
    """
    arrays, content = read_container(path)
    for name, own in (("run", run), ("code", code_id()), ("data", data)):
        if content.get(name) != own:
            raise StorageError(f"{path} belongs to other {name}: {content.get(name)!r}, not {own!r}")
    try:
        state = dict(content["state"])
        rng.bit_generator.state = content["rng"]
    except (KeyError, TypeError, ValueError):
        raise StorageError(f"{path} holds no state of a reconstruction") from None
    return arrays, state


class Schedule:
    """Decide when a checkpoint is due, so that writing takes less than the fraction ``share`` of the time."""

    def __init__(self, share: float = 0.01, least_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._wait_s = least_s
        self._least_s = least_s
        self._clock = clock
        self._last = clock()

    def due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        return self._clock() - self._last >= self._wait_s

    def write(self, save: Callable[[], None]) -> None:
        """Call ``save`` and set the wait until the next checkpoint by the time that it took."""
        started = self._clock()
        save()
        self._last = self._clock()
        self._wait_s = max(self._least_s, (self._last - started) / self._share)


class CheckpointFile:
    """The checkpoint file ``path`` of the reconstruction of ``run`` from the series with the digest ``data``.

    ``say`` is called with one line if a checkpoint cannot be used. ``resumed`` is True if one was found and used. A
    signal that waits in ``stop`` acts once the state is saved.
    """

    def __init__(self, path: Path, *, run: str, data: str, say: Callable[[str], None],
                 stop: PostponedStop | None = None) -> None:
        self._stop = stop
        self._path = path
        self._run = run
        self._data = data
        self._say = say
        self._schedule = Schedule()
        self.resumed = False

    def load(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the arrays and values last saved, and set ``rng`` to its saved state; None if there are none."""
        if not self._path.exists():
            return None
        try:
            saved = load_checkpoint(self._path, rng, run=self._run, data=self._data)
        except StorageError as error:
            self._say(f"checkpoint: {error}; the reconstruction starts from the beginning")
            return None
        self.resumed = True
        return saved

    def due(self) -> bool:
        """Return whether the state should be saved now; to be asked after every iteration."""
        if self._stop is not None:
            self._stop.iterated()
            if self._stop.pending:
                return True
        return self._schedule.due()

    def save(self, arrays: dict[str, np.ndarray], values: dict[str, Any], rng: np.random.Generator) -> None:
        """Save the state and replace the last one."""
        self._schedule.write(lambda: save_checkpoint(self._path, arrays, values, rng, run=self._run,
                                                     data=self._data))
        if self._stop is not None:
            self._stop.act()


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
