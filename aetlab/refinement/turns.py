"""Threads that work on several tilts at once, and the order of the tilts for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

from aetlab.core.backend import n_threads

T = TypeVar("T")


def over_tilts(work: Callable[[int], T], n_tilts: int) -> Iterator[T]:
    """Yield ``work(i_tilt)`` of each tilt, in their order; each thread of the engine works on a tilt at a time."""
    n_workers = min(n_threads(), n_tilts)
    with ThreadPoolExecutor(n_workers, initializer=numba.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, range(n_tilts))


class Turns:
    """Order of tilts for threads that work on several tilts at once."""

    def __init__(self, n: int) -> None:
        self._ended = [False] * n
        self._changed = threading.Condition()

    def wait(self, i: int) -> None:
        """Wait until all tilts before ``i`` have ended."""
        with self._changed:
            self._changed.wait_for(lambda: all(self._ended[:i]))

    def end(self, i: int) -> None:
        """Mark tilt ``i`` as ended, with or without an error."""
        with self._changed:
            self._ended[i] = True
            self._changed.notify_all()
