"""Total variation: R is the isotropic total variation with periodic forward differences, over u ≥ 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.methods.dual_solver import DualSolver, inner_iterations, warm_start
from aetlab.methods.regulariser import Launcher, OnGpu, Prior, Problem, Regulariser
from aetlab.methods.regularisers.pos import clip


@dataclass(frozen=True, kw_only=True)
class TvSettings:
    """The settings of the dual solver."""

    inner_iterations: int = inner_iterations()
    warm_start: bool = warm_start()


class GpuTotalVariation:
    """The :class:`~aetlab.methods.dual_solver.DualSolver` of total variation on a GPU."""

    def __init__(self, device: Launcher, weight: float, own: TvSettings) -> None:
        self.state: dict[str, Any] = {}
        self._device = device
        self._weight = weight
        self._inner_iterations = own.inner_iterations
        self._warm_start = own.warm_start
        self._duals: tuple[Any, Any] | None = None
        self._primal: Any = None

    def __call__(self, volume: Any, step: float) -> Any:
        if step * self._weight == 0:
            return clip(self._device, volume)
        launch = self._device.launch
        n_z, n_x, n_y = volume.shape
        extent, counts = (n_y, n_x, n_z), (np.int32(n_z), np.int32(n_x), np.int32(n_y))
        threshold, dual_step = np.float32(step * self._weight), np.float32(1 / (12 * step * self._weight))
        if self._primal is None:
            self._primal = self._device.zeros(volume.shape, np.float32)
        p, q = self._start(3 * volume.size)
        momentum, beta = 1.0, np.float32(0)
        for _ in range(self._inner_iterations):
            launch("tv_primal", extent, volume, p, q, beta, threshold, *counts, self._primal)
            launch("tv_dual", extent, self._primal, p, beta, dual_step, *counts, q)
            p, q = q, p
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            beta, momentum = np.float32((momentum - 1) / following), following
        launch("tv_primal", extent, volume, p, p, np.float32(0), threshold, *counts, volume)
        self._duals = p, q
        if self._warm_start:
            self.state["dual"] = p
        return volume

    def _start(self, n_dual: int) -> tuple[Any, Any]:
        """Return the first dual iterate, and memory for the second."""
        if self._duals is None:
            kept = self.state.get("dual") if self._warm_start else None
            zeros = self._device.zeros
            self._duals = (zeros((n_dual,), np.float32) if kept is None else kept, zeros((n_dual,), np.float32))
        p, q = self._duals
        if not self._warm_start:
            p[...] = 0
        return p, q


def _make(own: TvSettings, weight: float, problem: Problem) -> Prior:
    return Prior(DualSolver(weight, own))


def _make_on_gpu(device: Launcher, own: TvSettings, weight: float, problem: Problem) -> Prior:
    return Prior(GpuTotalVariation(device, weight, own))


#: Two sets of dual variables; on a GPU also the primal estimate.
ROW = Regulariser(meaning="total variation, positive", label="total variation", settings=TvSettings, make=_make,
                  gpu=OnGpu(7, _make_on_gpu), volumes=6, cost="inner")
