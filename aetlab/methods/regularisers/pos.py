"""Positivity: the projection on u ≥ 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.methods.regulariser import Launcher, NoSettings, OnGpu, Prior, Problem, Regulariser, slab_by_slab


class Positive:
    """Projection on non-negative volumes (Z, X, Y)."""

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {}

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        from aetlab.methods import prox_kernels as kernels

        kernels.clip_negative(volume.reshape(-1, volume.shape[-1]))
        return volume


class GpuPositive:
    """The same on a GPU."""

    def __init__(self, device: Launcher) -> None:
        self.state: dict[str, Any] = {}
        self._device = device

    def __call__(self, volume: Any, step: float) -> Any:
        return clip(self._device, volume)


def clip(device: Launcher, volume: Any) -> Any:
    """Replace negative voxels of ``volume`` on ``device`` by 0, in place, and return it."""
    device.launch("clip_negative", (volume.size, 1, 1), np.int64(volume.size), volume)
    return volume


def _make_on_gpu(device: Launcher, own: NoSettings, weight: float, problem: Problem) -> Prior:
    return Prior(GpuPositive(device))


ROW = Regulariser(
    meaning="real and positive", label="real, positive", settings=NoSettings, weighted=False,
    make=lambda own, weight, problem: Prior(Positive()),
    gpu=OnGpu(0, _make_on_gpu, slab_by_slab(_make_on_gpu)))
