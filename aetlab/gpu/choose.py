"""Open the GPU for a reconstruction, or raise an error that states why none can be used."""

from __future__ import annotations

import functools

from aetlab.core.backend import gpu_problem
from aetlab.gpu.device import Device, GpuError, first_line

#: Memory for compiled kernels, recorded graphs and the FFT library, in addition to the counted memory.
RESERVE_BYTES = 2e8


def open_device(needed_bytes: int) -> Device:
    """Return the current GPU, with its kernels compiled and tested, if ``needed_bytes`` are free.

    Raises
    ------
    GpuError
        Without CuPy, driver or device, with incompatible versions, or with too little memory; one line.
    """
    problem = gpu_problem()
    if problem:
        raise GpuError(problem)
    device = _open()
    check_room(device, needed_bytes)
    return device


def check_room(device: Device, needed_bytes: int) -> None:
    """Raise :class:`GpuError` if ``device`` has too little free memory."""
    missing = needed_bytes + RESERVE_BYTES - device.free_bytes()
    if missing > 0:
        raise GpuError(f"{needed_bytes / 1e9:.1f} GB are needed on {device.name}, {missing / 1e9:.1f} GB more than are "
                       "free: stop other programs on it, or choose a smaller scale or engine=cpu")


@functools.cache
def _open() -> Device:
    try:
        from aetlab.gpu.device_cuda import CudaDevice
    except ImportError as error:  # CuPy is installed, but a CUDA library is missing
        raise GpuError(f"CuPy lacks a library: {first_line(error)} (CuPy's extra ctk brings those of CUDA)") from error
    return CudaDevice()
