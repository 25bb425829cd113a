"""Open the GPU or the GPUs for a reconstruction, or raise an error that states why they cannot be used."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from aetlab.core import backend
from aetlab.core.errors import GpuError
from aetlab.gpu.device import Device, first_line
from aetlab.gpu.group import Exchange, Group

#: Memory for compiled kernels, recorded graphs and the FFT library, in addition to the counted memory.
RESERVE_BYTES = 2e8
#: Memory for the buffers of the exchange between GPUs; a cautious value, not a measured one.
EXCHANGE_BYTES = 4e8


def open_device(needed_bytes: int) -> Device:
    """Return the current GPU, with its kernels compiled and tested, if ``needed_bytes`` are free.

    Raises
    ------
    GpuError
        Without CuPy, driver or device, with incompatible versions, or with too little memory; one line.
    """
    problem = backend.gpu_problem()
    if problem:
        raise GpuError(problem)
    device = _open()
    check_room(device, needed_bytes)
    return device


def open_group(needed_bytes: Sequence[int], n_y: int) -> Group:
    """Return as many GPUs as ``needed_bytes`` has entries, if each has its entry free; raise as :func:`open_device`.

    The first one is the current GPU. Volumes have ``n_y`` voxels along y.
    """
    n_devices = len(needed_bytes)
    problem = backend.gpu_problem()
    if problem:
        raise GpuError(problem)
    if n_devices > backend.n_gpus():
        raise GpuError(f"engine.devices={n_devices} exceeds the visible GPUs ({backend.n_gpus()})")
    if n_devices > n_y:
        raise GpuError(f"engine.devices={n_devices} cannot share {n_y} voxels along y")
    devices, exchange = _open_several(n_devices)
    for device, n_bytes in zip(devices, needed_bytes, strict=True):
        check_room(device, round(n_bytes + EXCHANGE_BYTES))
    return Group(devices, exchange, n_y)


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


@functools.cache
def _open_several(n_devices: int) -> tuple[tuple[Device, ...], Exchange]:
    first = _open()
    from aetlab.gpu.device_cuda import CudaDevice
    from aetlab.gpu.exchange_cuda import NcclExchange

    assert isinstance(first, CudaDevice)
    others = [number for number in range(backend.n_gpus()) if number != first.number]
    devices = (first, *(CudaDevice(number) for number in others[:n_devices - 1]))
    return devices, NcclExchange(devices)
