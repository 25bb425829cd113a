"""The array decides the device: the one place that imports CuPy, and the one that limits threads.

FFTs go through ``scipy.fft`` for NumPy arrays and ``cupyx.scipy.fft`` for CuPy arrays.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numba
import numpy as np
import scipy.fft
import scipy.ndimage
from threadpoolctl import threadpool_limits

# Threads that wait for the next kernel must sleep: where another process wants the core, waiting in a busy loop costs a
# time slice (about 10 ms) for each kernel. Read when the threads start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def array_module(x: Any) -> ModuleType:
    """numpy or cupy, whichever made ``x``."""
    if isinstance(x, np.ndarray):
        return np
    import cupy

    return cupy


def fft_module(x: Any) -> ModuleType:
    """scipy.fft or cupyx.scipy.fft, whichever serves ``x``."""
    if isinstance(x, np.ndarray):
        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


def ndimage_module(x: Any) -> ModuleType:
    """scipy.ndimage or cupyx.scipy.ndimage, whichever serves ``x``."""
    if isinstance(x, np.ndarray):
        return scipy.ndimage
    import cupyx.scipy.ndimage

    return cupyx.scipy.ndimage


def to_numpy(x: Any) -> np.ndarray:
    """``x`` in the memory of the CPU."""
    return x if isinstance(x, np.ndarray) else array_module(x).asnumpy(x)


def gpu_problem() -> str | None:
    """Why no GPU can be used, in one line; None when one can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'aetlab[cuda12]' or 'aetlab[cuda13]')"
    try:
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own, the driver's and the linker's errors
        return f"CuPy cannot reach a GPU: {str(error).splitlines()[0]}"
    return None if n_devices else "no CUDA device is visible"


def describe_gpu() -> str:
    """Device, its memory, driver and runtime of CUDA in one line; call it where :func:`gpu_problem` is None."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    free, total = runtime.memGetInfo()
    versions = [f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())]
    return (f"{name}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB; the driver serves CUDA {versions[0]}, "
            f"CuPy uses {versions[1]}")


def n_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_threads() -> int:
    """Threads that the engine's kernels and FFTs use."""
    return numba.get_num_threads()


def limit_threads(n: int) -> None:
    """Lets the engine's kernels and FFTs use at most ``n`` threads from now on; 0 leaves it as it is."""
    if n > 0:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Lets kernels and FFTs use at most ``n`` threads inside the block."""
    before = n_threads()
    numba.set_num_threads(min(n, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Let linear algebra use one thread inside the block: its own would take those of the kernels."""
    with threadpool_limits(1, user_api="blas"):
        yield


def empty_aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An uninitialised array that begins on a cache line (64 bytes), which halves the accesses of wide vectors."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(n_bytes + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + n_bytes].view(dtype).reshape(shape)


def zeros_aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Zeros as :func:`empty_aligned` places them."""
    zeros = empty_aligned(shape, dtype)
    zeros[...] = 0
    return zeros
