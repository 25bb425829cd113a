"""Reconstruct on a GPU: the forward model and Nesterov's step, with all arrays on the device.

The package also computes the cost of atoms and its gradient for their refinement. The kernels are in ``*.cu``.
:mod:`kernels` defines how each is launched, :mod:`device` the interface of a device and :mod:`device_cuda` its
implementation with CuPy. The model runs on any :class:`~aetlab.gpu.device.Device`; the tests use one that runs the same
sources compiled for the CPU.
"""

from aetlab.core.errors import GpuError
from aetlab.gpu.atom_slices import GpuSlices
from aetlab.gpu.choose import check_room, open_device, open_group
from aetlab.gpu.device import Device
from aetlab.gpu.exposure import GpuExposure, check_reach
from aetlab.gpu.footprint import (
    atom_slices_bytes,
    equations_bytes,
    exposure_bytes,
    memory_needed_bytes,
    slab_needed_bytes,
)
from aetlab.gpu.group import Group
from aetlab.gpu.model import GpuModel, extrapolate
from aetlab.gpu.rotation import check_rotation
from aetlab.gpu.series_waves import GpuExitWaves, differences_bytes
from aetlab.gpu.slab_model import SlabModel
from aetlab.gpu.tilt_equations import GpuTiltEquations
from aetlab.gpu.tracing import GpuFits, GpuSearch, check_radius, fits_bytes, search_bytes

__all__ = ["Device", "GpuError", "GpuExitWaves", "GpuExposure", "GpuFits", "GpuModel", "GpuSearch", "GpuSlices",
           "GpuTiltEquations", "Group", "SlabModel", "atom_slices_bytes", "check_radius", "check_reach", "check_room",
           "check_rotation", "differences_bytes", "equations_bytes", "exposure_bytes", "extrapolate", "fits_bytes",
           "memory_needed_bytes", "open_device", "open_group", "search_bytes", "slab_needed_bytes"]
