"""The reconstruction on a GPU: forward model, proximal operators and Nesterov's step with everything on the device;
and the waves of the refinement of atoms.

``*.cu`` hold the kernels, :mod:`kernels` how each is launched, :mod:`device` what the model asks of a device and
:mod:`device_cuda` the one made of CuPy. The model runs on any :class:`~aetlab.gpu.device.Device`; the tests give it one
that runs the same sources, compiled for the processor.
"""

from aetlab.gpu.choose import open_device
from aetlab.gpu.device import Device, GpuError
from aetlab.gpu.footprint import ROTATIONS, memory_needed_bytes, tilt_cost_bytes
from aetlab.gpu.model import GpuModel
from aetlab.gpu.multislice import GpuTiltCosts
from aetlab.gpu.passes import REGULARISERS, extrapolate, make_prox, sparsify

__all__ = ["REGULARISERS", "ROTATIONS", "Device", "GpuError", "GpuModel", "GpuTiltCosts", "extrapolate",
           "make_prox", "memory_needed_bytes", "open_device", "sparsify", "tilt_cost_bytes"]
