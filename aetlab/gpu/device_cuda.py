"""Implement a device with CuPy: kernels by NVRTC, transforms by cuFFT, a tilt recorded as a CUDA graph."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np
from cupy.cuda import cufft

from aetlab.core.backend import gpu_problem
from aetlab.core.errors import GpuError
from aetlab.gpu.device import Array, first_line
from aetlab.gpu.kernels import KERNELS, SOURCES, read_source


class CudaDevice:
    """A GPU. All its methods use one stream, whatever thread calls them.

    The thread that creates it uses that stream for its other CuPy work on this GPU as well.

    Parameters
    ----------
    number : int, optional
        The number of the GPU among those that this process sees; the current one by default.

    Attributes
    ----------
    graph_problem : str or None
        The reason why a recording is not a CUDA graph; None if it is one.

    Raises
    ------
    GpuError
        If there is no GPU, or if it is not compatible with the driver or the installed CuPy.
    """

    def __init__(self, number: int | None = None) -> None:
        problem = gpu_problem()
        if problem:
            raise GpuError(problem)
        try:
            self._alone = threading.RLock()
            self._card = cupy.cuda.Device(number)
            with self._card:
                self._open()
        except Exception as error:  # errors of CuPy, the driver, the compiler and the linker
            raise GpuError(f"the GPU cannot be used with CuPy {cupy.__version__}: {first_line(error)}") from error
        self.graph_problem: str | None = None

    def _open(self) -> None:
        """Compile the kernels, and compute and read back a result, which would otherwise fail in a reconstruction."""
        # A blocking stream and the null stream wait for each other. The null stream itself cannot be recorded.
        self._stream = cupy.cuda.Stream()
        self._stream.use()
        modules = {name: cupy.RawModule(code=read_source(name), options=("--std=c++17",)) for name in SOURCES}
        self._functions = {name: modules[kernel.source].get_function(name) for name, kernel in KERNELS.items()}
        plane = self.zeros((8, 8), np.complex64)
        self._plans: dict[tuple[int, ...], Any] = {}
        self.fft(plane, plane)
        self.launch("clip_negative", (64, 1, 1), np.int64(64), self.zeros((64,), np.float32))
        float(abs(plane).sum())

    @contextmanager
    def use(self) -> Iterator[None]:
        """Make card and stream those of the calling thread inside the block; CuPy keeps them for each thread.

        One thread is inside at a time, so that a recording has the launches of its thread alone.
        """
        with self._alone, self._card, self._stream:
            yield

    @property
    def number(self) -> int:
        """Return the number of the GPU among those that this process sees."""
        return int(self._card.id)

    @property
    def stream(self) -> int:
        """Return the address of the stream."""
        return int(self._stream.ptr)

    @property
    def name(self) -> str:
        properties = cupy.cuda.runtime.getDeviceProperties(self._card.id)
        return str(properties["name"].decode())

    def free_bytes(self) -> int:
        with self.use():
            return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())

    def held_bytes(self) -> int:
        """Return the bytes that this process has allocated so far, including freed memory that it keeps."""
        with self.use():
            return int(cupy.get_default_memory_pool().total_bytes())

    def release(self) -> None:
        """Return freed memory, which CuPy keeps for the next arrays, to the driver."""
        self.synchronize()
        with self.use():
            cupy.get_default_memory_pool().free_all_blocks()

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Array:
        with self.use():
            return cupy.zeros(shape, dtype)

    def upload(self, values: np.ndarray) -> Array:
        """Return a copy of ``values`` on the device.

        :func:`cupy.asarray` would keep a page-locked copy of the same size in the memory of the CPU.
        """
        with self.use():
            array = cupy.empty(values.shape, values.dtype)
            self.write(values, array)
            return array

    def write(self, values: np.ndarray, array: Array) -> None:
        with self.use():
            array.set(np.ascontiguousarray(values))

    def read(self, array: Array, values: np.ndarray) -> None:
        with self.use():
            array.get(stream=self._stream, out=values)

    def queue(self) -> CudaDevice:
        other = copy.copy(self)
        with self._card:
            other._alone, other._stream, other._plans = threading.RLock(), cupy.cuda.Stream(), {}
        return other

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def synchronize(self) -> None:
        """Wait until all work in the stream is done."""
        self._stream.synchronize()

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        layout = KERNELS[kernel]
        with self.use():
            self._functions[kernel](layout.grid(extent), layout.block, arguments)

    def fft(self, planes: Array, out: Array, *, inverse: bool = False) -> None:
        shape = planes.shape
        with self.use():
            if shape not in self._plans:
                *batch, n_x, n_y = shape
                n = n_x * n_y
                self._plans[shape] = cufft.PlanNd((n_x, n_y), (n_x, n_y), 1, n, (n_x, n_y), 1, n, cufft.CUFFT_C2C,
                                                  int(np.prod(batch, dtype=int)), "C", 1, None)
            self._plans[shape].fft(planes, out, cufft.CUFFT_INVERSE if inverse else cufft.CUFFT_FORWARD)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        try:
            with self.use():
                self._stream.begin_capture()
                try:
                    work()
                finally:
                    graph = self._stream.end_capture()
        except Exception as error:  # without a graph the work is only slower
            self.graph_problem = first_line(error)
            return work

        def play() -> None:
            with self.use():
                graph.launch(self._stream)

        return play
