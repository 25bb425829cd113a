"""Save and load checkpoints of a reconstruction: an interrupted run continues with bit-identical results.

A checkpoint holds the id of its run, the ``code_id`` and a digest of the tilt series. It is used only by the same run
with the same code and images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError
from aetlab.store.array_file import read_container, write_container
from aetlab.store.identity import code_id
from aetlab.store.interruption import PostponedStop


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
