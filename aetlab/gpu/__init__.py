"""Reconstruct on a GPU: the forward model and Nesterov's step, with all arrays on the device.

The package also propagates the waves for the refinement of atoms. The kernels are in ``*.cu``. :mod:`kernels` defines
how each is launched, :mod:`device` the interface of a device and :mod:`device_cuda` its implementation with CuPy. The
model runs on any :class:`~aetlab.gpu.device.Device`; the tests use one that runs the same sources compiled for the CPU.
"""

from aetlab.gpu.choose import open_device
from aetlab.gpu.device import Device, GpuError
from aetlab.gpu.footprint import memory_needed_bytes, tilt_cost_bytes
from aetlab.gpu.model import GpuModel
from aetlab.gpu.passes import extrapolate
from aetlab.gpu.tilt_cost import GpuTiltCosts

__all__ = ["Device", "GpuError", "GpuModel", "GpuTiltCosts", "extrapolate", "memory_needed_bytes",
           "open_device", "tilt_cost_bytes"]
