"""Save and load checkpoints of a reconstruction: an interrupted run continues with bit-identical results.

A checkpoint holds the ``code_id`` and a digest of the tilt series. It is used only with the same code and images.
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


def save_checkpoint(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any], rng: np.random.Generator,
                    *, data: str) -> None:
    """Write the arrays, the JSON-able ``state`` and the state of ``rng`` atomically to ``path``.

    ``data`` is the digest of the tilt series (:meth:`aetlab.core.nouns.TiltSeries.digest`).
    """
    write_container(path, arrays, {"code": code_id(), "data": data, "state": dict(state),
                                   "rng": rng.bit_generator.state})


def load_checkpoint(path: Path, rng: np.random.Generator, *,
                    data: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return the arrays and state of the checkpoint, and set ``rng`` to its state; None if it cannot be used.

    A checkpoint that is missing, damaged, written by other code or made from other images is not used. The run then
    starts from the beginning.
    """
    if not path.exists():
        return None
    try:
        arrays, content = read_container(path)
        if content["code"] != code_id() or content["data"] != data:
            return None
        state = dict(content["state"])
        rng.bit_generator.state = content["rng"]
    except (StorageError, KeyError, TypeError, ValueError):
        return None
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
    """The checkpoint file ``path`` of one reconstruction of the series with the digest ``data``.

    ``resumed`` is True if a checkpoint was found and used.
    """

    def __init__(self, path: Path, data: str) -> None:
        self._path = path
        self._data = data
        self._schedule = Schedule()
        self.resumed = False

    def load(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the arrays and values last saved, and set ``rng`` to its saved state; None if there are none."""
        saved = load_checkpoint(self._path, rng, data=self._data)
        self.resumed = saved is not None
        return saved

    def due(self) -> bool:
        """Return whether the state should be saved now."""
        return self._schedule.due()

    def save(self, arrays: dict[str, np.ndarray], values: dict[str, Any], rng: np.random.Generator) -> None:
        """Save the state and replace the last one."""
        self._schedule.write(lambda: save_checkpoint(self._path, arrays, values, rng, data=self._data))
