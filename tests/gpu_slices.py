"""Cost and gradient of slices in the memory of the CPU, by the engine of the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.forward.multislice import Optics
from aetlab.gpu import GpuSlices


class CostOfSlices:
    """Compute on ``device`` as :class:`aetlab.forward.multislice.TiltCost` does on the CPU."""

    def __init__(self, device: Any, optics: Optics) -> None:
        self._slices = GpuSlices(device)(optics, len(optics.which) + 1, 1)

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None) -> float:
        device = self._slices._device
        device.write(slices, self._slices.slices)
        cost = self._slices.cost_and_gradient(amplitude, weight)
        slices[...] = self._slices.read()
        return cost
