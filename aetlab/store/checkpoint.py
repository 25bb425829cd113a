"""Checkpoints of a reconstruction: where a cut-off run goes on from, with the same final volume bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.store.array_file import read_container, write_container
from aetlab.store.files import StorageError
from aetlab.store.identity import code_id


def save_checkpoint(
    path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any], rng: np.random.Generator
) -> None:
    """Writes the arrays, the JSON-able ``state`` and the state of ``rng`` atomically to ``path``."""
    write_container(path, arrays, {"code": code_id(), "state": dict(state), "rng": rng.bit_generator.state})


def load_checkpoint(path: Path, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and state of the checkpoint, with ``rng`` set to where it was; None where none can be used.

    A checkpoint that is missing, damaged or made by other code is not used: the run then starts from the beginning.
    """
    if not path.exists():
        return None
    try:
        arrays, content = read_container(path)
        if content["code"] != code_id():
            return None
        state = dict(content["state"])
        rng.bit_generator.state = content["rng"]
    except (StorageError, KeyError, TypeError, ValueError):
        return None
    return arrays, state


class Schedule:
    """Says when a checkpoint is due: so seldom that writing costs less than ``share`` of the time."""

    def __init__(self, share: float = 0.01, least_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._wait_s = least_s
        self._least_s = least_s
        self._clock = clock
        self._last = clock()

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint."""
        return self._clock() - self._last >= self._wait_s

    def write(self, save: Callable[[], None]) -> None:
        """Calls ``save`` and sets the next date by how long it took."""
        started = self._clock()
        save()
        self._last = self._clock()
        self._wait_s = max(self._least_s, (self._last - started) / self._share)
