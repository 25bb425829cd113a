"""Lasso: R(u) = ‖u‖₁, whose proximal operator is the soft threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.methods.regulariser import Launcher, NoSettings, OnGpu, Prior, Problem, Regulariser, slab_by_slab


class Lasso:
    """Soft threshold: each voxel moves towards 0 by step · weight."""

    def __init__(self, weight: float) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        from aetlab.methods import prox_kernels as kernels

        kernels.soft_threshold(volume.reshape(-1, volume.shape[-1]), volume.dtype.type(step * self._weight))
        return volume


class GpuLasso:
    """The same on a GPU."""

    def __init__(self, device: Launcher, weight: float) -> None:
        self.state: dict[str, Any] = {}
        self._device = device
        self._weight = weight

    def __call__(self, volume: Any, step: float) -> Any:
        self._device.launch("soft_threshold", (volume.size, 1, 1), np.float32(step * self._weight),
                            np.int64(volume.size), volume)
        return volume


def _make_on_gpu(device: Launcher, own: NoSettings, weight: float, problem: Problem) -> Prior:
    return Prior(GpuLasso(device, weight))


ROW = Regulariser(
    meaning="sparse, by the sum of magnitudes", label="Lasso", settings=NoSettings,
    make=lambda own, weight, problem: Prior(Lasso(weight)),
    gpu=OnGpu(0, _make_on_gpu, slab_by_slab(_make_on_gpu)))
