"""The GPU that a reconstruction takes, or why there is none for it."""

from __future__ import annotations

import functools

from aetlab.core.backend import gpu_problem
from aetlab.gpu.device import Device, GpuError, first_line

#: What compiled kernels, recorded graphs and the FFT library may take besides what is counted.
RESERVE_BYTES = 2e8


def open_device(needed_bytes: int) -> Device:
    """The current GPU, with its kernels compiled and tried, if ``needed_bytes`` fit.

    Raises
    ------
    GpuError
        One line: no CuPy, no driver, no device, versions that do not go together, or too little memory.
    """
    problem = gpu_problem()
    if problem:
        raise GpuError(problem)
    device = _open()
    check_room(device, needed_bytes)
    return device


def check_room(device: Device, needed_bytes: int) -> None:
    """Raises :class:`GpuError` where ``device`` has too little memory free."""
    missing = needed_bytes + RESERVE_BYTES - device.free_bytes()
    if missing > 0:
        raise GpuError(f"{needed_bytes / 1e9:.1f} GB are needed on {device.name}, {missing / 1e9:.1f} GB more than are "
                       "free: stop what else runs there, choose a smaller scale, or engine=cpu")


@functools.cache
def _open() -> Device:
    try:
        from aetlab.gpu.device_cuda import CudaDevice
    except ImportError as error:  # CuPy is there, CUDA's libraries are not
        raise GpuError(f"CuPy lacks a library: {first_line(error)} (CuPy's extra ctk brings CUDA's)") from error
    return CudaDevice()
