"""Define the interface of the GPU engine to a device.

An array of a device may be of any type that supports slicing and addition.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

Array = Any


def first_line(error: Exception) -> str:
    """Return the type and the first line of the message of ``error``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class Device(Protocol):
    """Memory, kernels and Fourier transforms in one queue, whatever thread calls; all launches are asynchronous."""

    @property
    def name(self) -> str:
        """Return the name of the device."""

    @property
    def graph_problem(self) -> str | None:
        """Return why recordings are replayed launch by launch; None if they are replayed as a whole."""

    def free_bytes(self) -> int:
        """Return the number of bytes that can be allocated."""

    def held_bytes(self) -> int:
        """Return the bytes allocated on the device so far, including freed memory that this process keeps."""

    def release(self) -> None:
        """Return freed memory, which this process keeps for its next arrays, to the driver."""

    def synchronize(self) -> None:
        """Wait until all work in the queue is done."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Array:
        """Return a new array of zeros."""

    def upload(self, values: np.ndarray) -> Array:
        """Return a copy of ``values`` on the device."""

    def write(self, values: np.ndarray, array: Array) -> None:
        """Copy ``values`` into ``array`` of the same shape and type, whose elements are contiguous."""

    def read(self, array: Array, values: np.ndarray) -> None:
        """Copy ``array`` to ``values`` of the same shape and type when the work in the queue is done."""

    def use(self) -> AbstractContextManager[Any]:
        """Return a block in which work of the array library, in this thread, is done in the queue of the device."""

    def queue(self) -> Device:
        """Return the same device with a queue of its own, for another thread; memory and kernels are shared."""

    def address(self, array: Array) -> int:
        """Return the address of the first element of ``array``."""

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        """Run a kernel of :data:`aetlab.gpu.kernels.KERNELS`; arguments are arrays and NumPy scalars of its types."""

    def fft(self, planes: Array, out: Array, *, inverse: bool = False) -> None:
        """Write unnormalised 2D FFTs of complex64 ``planes`` (..., X, Y) to ``out``, which may be ``planes``."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a callable that repeats the launches of ``work`` with the same arguments; it may be faster.

        ``work`` must have run once before.
        """
