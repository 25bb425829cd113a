"""What the GPU engine asks of a device. An array of a device may be of any type that can be sliced and added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from aetlab.core.errors import AetlabError

Array = Any


class GpuError(AetlabError, RuntimeError):
    """No GPU, or none that serves; the message is one line."""


def first_line(error: Exception) -> str:
    """What ``error`` says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class Device(Protocol):
    """Memory, kernels and Fourier transforms, all in one queue: nothing waits for the result of a launch."""

    @property
    def name(self) -> str:
        """The device, in words."""

    @property
    def graph_problem(self) -> str | None:
        """Why a recording is played launch by launch; None where it is played in one go."""

    def free_bytes(self) -> int:
        """Memory that can be allocated."""

    def held_bytes(self) -> int:
        """Memory taken from the device so far, what is free again for this process's own use included."""

    def synchronize(self) -> None:
        """Wait until everything is done."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Array:
        """A new array of zeros."""

    def upload(self, values: np.ndarray) -> Array:
        """A copy of ``values`` on the device."""

    def address(self, array: Array) -> int:
        """Where ``array`` begins."""

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        """Run a kernel of :data:`aetlab.gpu.kernels.KERNELS`; arguments are arrays and NumPy scalars of its types."""

    def fft(self, planes: Array, out: Array, *, inverse: bool = False) -> None:
        """2D FFTs of complex64 ``planes`` (..., X, Y) without any factor; ``out`` may be ``planes``."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A callable that does again what ``work`` launches, with the same arguments; it may cost less than ``work``.

        ``work`` must have run once before.
        """
