"""Choose the array library by the device of an array, and control the number of threads.

Only this module and ``*_cuda.py`` of :mod:`aetlab.gpu` import CuPy, and only this module changes the number of threads
of a library. FFTs use ``scipy.fft`` for NumPy arrays and ``cupyx.scipy.fft`` for CuPy arrays.
"""

from __future__ import annotations

import importlib
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

from aetlab.core.slabs import Slabs


def array_module(x: Any) -> ModuleType:
    """Return the module that made ``x``: numpy or cupy."""
    if isinstance(x, np.ndarray):
        return np
    import cupy

    return cupy


def fft_module(x: Any) -> ModuleType:
    """Return the module with the FFTs of ``x``: scipy.fft or cupyx.scipy.fft."""
    if isinstance(x, np.ndarray):
        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


def ndimage_module(x: Any) -> ModuleType:
    """Return the module with the filters of ``x``: scipy.ndimage or cupyx.scipy.ndimage."""
    if isinstance(x, np.ndarray):
        return scipy.ndimage
    import cupyx.scipy.ndimage

    return cupyx.scipy.ndimage


def to_numpy(x: Any) -> np.ndarray:
    """Return ``x``, which may be in slabs of several devices, in the memory of the CPU."""
    if isinstance(x, Slabs):
        return np.concatenate(list(x.each(to_numpy)), axis=-1)
    return x if isinstance(x, np.ndarray) else array_module(x).asnumpy(x)


def gpu_problem() -> str | None:
    """Return in one line why no GPU can be used, or None if one can be used."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'aetlab[cuda12]' or 'aetlab[cuda13]')"
    try:
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # errors of CuPy, the driver and the linker
        return f"CuPy cannot reach a GPU: {str(error).splitlines()[0]}"
    return None if n_devices else "no CUDA device is visible"


def n_gpus() -> int:
    """Return the number of GPUs that this process sees; valid only if :func:`gpu_problem` returns None."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def describe_gpu() -> str:
    """Return device, memory, driver and CUDA runtime in one line; valid only if :func:`gpu_problem` returns None."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    free, total = runtime.memGetInfo()
    versions = [f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())]
    return (f"{name}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB; the driver supports CUDA {versions[0]}, "
            f"CuPy uses {versions[1]}")


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_threads() -> int:
    """Return the number of threads that kernels and FFTs use."""
    return numba.get_num_threads()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Limit kernels and FFTs to ``n`` threads inside the block."""
    before = n_threads()
    numba.set_num_threads(min(n, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit linear algebra to one thread inside the block, and restore the limits afterwards.

    Linear algebra is a small part of the work, and its threads would compete for cores with the threads of the kernels.
    The limit holds for the whole process. Only one thread may therefore enter the block at a time.
    """
    # The GPU engine runs where this package is not installed.
    import threadpoolctl

    # A library that is loaded inside the block would not be limited; scipy ships a second copy of OpenBLAS.
    importlib.import_module("scipy.linalg")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def prepare_process() -> None:
    """Let waiting OpenMP threads sleep, unless ``OMP_WAIT_POLICY`` is set; call it before the first parallel kernel.

    If threads wait in a busy loop and another process needs the core, each kernel costs a time slice (about 10 ms).
    This function changes the environment of the process: computing calls it, importing does not.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def empty_aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Return an uninitialised array that starts on a cache line (64 bytes), which halves wide memory accesses."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(n_bytes + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + n_bytes].view(dtype).reshape(shape)


def zeros_aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Return an array of zeros, aligned as by :func:`empty_aligned`."""
    zeros = empty_aligned(shape, dtype)
    zeros[...] = 0
    return zeros
