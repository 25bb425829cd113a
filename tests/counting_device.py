"""A device that computes nothing and counts: launches, and bytes of the arrays that they read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from host_device import Parameter, signatures

#: Parameters that hold the arrays of all tilts, of which a launch uses those of one.
_OF_ALL_TILTS = ("amplitude", "weight")


class CountingDevice:
    """A :class:`aetlab.gpu.Device` of arrays of zeros, which take no memory until they are written.

    ``launches`` counts kernels by name, and FFTs as "fft". ``n_bytes`` adds the sizes of the arrays of each launch, a
    floor of its traffic: an array that is updated in place counts once. An FFT reads and writes its planes twice.
    ``n_sent`` and ``n_returned`` are the bytes copied to the device and from it.
    """

    name = "nothing"
    graph_problem = None

    def __init__(self) -> None:
        self._signatures: dict[str, list[Parameter]] = signatures()
        self.launches: Counter[str] = Counter()
        self.n_bytes = self.n_sent = self.n_returned = 0

    def reset(self) -> None:
        """Forget what was counted."""
        self.launches, self.n_bytes, self.n_sent, self.n_returned = Counter(), 0, 0, 0

    def free_bytes(self) -> int:
        return 10**12

    def held_bytes(self) -> int:
        return 0

    def release(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)

    def upload(self, values: np.ndarray) -> np.ndarray:
        self.n_sent += values.nbytes
        return values

    def write(self, values: np.ndarray, array: np.ndarray) -> None:
        self.n_sent += values.nbytes

    def read(self, array: np.ndarray, values: np.ndarray) -> None:
        self.n_returned += values.nbytes

    def use(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def queue(self) -> CountingDevice:
        return self

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        self.launches[kernel] += 1
        for value, parameter in zip(arguments, self._signatures[kernel], strict=True):
            if parameter.points:
                self.n_bytes += value.nbytes // (len(value) if parameter.name in _OF_ALL_TILTS else 1)

    def fft(self, planes: np.ndarray, out: np.ndarray, *, inverse: bool = False) -> None:
        self.launches["fft"] += 1
        self.n_bytes += 4 * planes.nbytes

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work
