"""Copy arrays between GPUs of one process with NCCL, by CuPy."""

from __future__ import annotations

from collections.abc import Sequence

from cupy.cuda import nccl

from aetlab.core.errors import GpuError
from aetlab.gpu.device import first_line
from aetlab.gpu.device_cuda import CudaDevice
from aetlab.gpu.group import Transfer


class NcclExchange:
    """An :class:`aetlab.gpu.group.Exchange` of ``devices``, by sends and receives of NCCL in one group.

    Each takes place in the stream of its device. The CPU does not wait.

    Raises
    ------
    GpuError
        If NCCL is not installed, or cannot connect the devices.
    """

    def __init__(self, devices: Sequence[CudaDevice]) -> None:
        if not nccl.available:
            raise GpuError("several GPUs need NCCL, which CuPy does not find (pip install nvidia-nccl-cu12 or "
                           "nvidia-nccl-cu13)")
        self._devices = tuple(devices)
        try:
            self._ranks = nccl.NcclCommunicator.initAll([device.number for device in devices])
        except Exception as error:  # errors of NCCL and the driver
            raise GpuError(f"NCCL cannot connect {len(devices)} GPUs: {first_line(error)}") from error

    def __call__(self, transfers: Sequence[Transfer]) -> None:
        # Between the same two devices, sends and receives match in their order.
        nccl.groupStart()
        for each in transfers:
            source, target = self._devices[each.source], self._devices[each.target]
            self._ranks[each.source].send(source.address(each.values), each.values.nbytes, nccl.NCCL_UINT8, each.target,
                                          source.stream)
            self._ranks[each.target].recv(target.address(each.out), each.out.nbytes, nccl.NCCL_UINT8, each.source,
                                          target.stream)
        nccl.groupEnd()
