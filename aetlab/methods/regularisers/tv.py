"""Total variation: R is the isotropic total variation with periodic forward differences, over u ≥ 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.methods.dual_solver import DualSolver, extrapolations, inner_iterations, warm_start
from aetlab.methods.regulariser import Launcher, Launchers, OnGpu, Prior, Problem, Regulariser
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
        self._duals: tuple[Any, Any, Any] | None = None

    def __call__(self, volume: Any, step: float) -> Any:
        if step * self._weight == 0:
            return clip(self._device, volume)
        launch = self._device.launch
        n_z, n_x, n_y = volume.shape
        extent, counts = (n_y, n_x, n_z), (np.int32(n_z), np.int32(n_x), np.int32(n_y))
        threshold, dual_step = np.float32(step * self._weight), np.float32(1 / (12 * step * self._weight))
        p, q, following_p = self._start(3 * volume.size)
        for beta in map(np.float32, extrapolations(self._inner_iterations)):
            launch("tv_step", extent, volume, p, q, beta, threshold, dual_step, *counts, following_p)
            p, q, following_p = following_p, p, q
        launch("tv_primal", extent, volume, p, threshold, *counts, volume)
        self._duals = p, q, following_p
        if self._warm_start:
            self.state["dual"] = p
        return volume

    def _start(self, n_dual: int) -> tuple[Any, Any, Any]:
        """Return the first dual iterate, that before it, and memory for the next."""
        if self._duals is None:
            kept = self.state.get("dual") if self._warm_start else None
            zeros = self._device.zeros
            first = zeros((n_dual,), np.float32) if kept is None else kept.reshape(-1)
            self._duals = first, zeros((n_dual,), np.float32), zeros((n_dual,), np.float32)
        if not self._warm_start:
            self._duals[0][...] = 0
        return self._duals


def _make(own: TvSettings, weight: float, problem: Problem) -> Prior:
    return Prior(DualSolver(weight, own, support=problem.support))


def _make_on_gpu(device: Launcher, own: TvSettings, weight: float, problem: Problem) -> Prior:
    return Prior(GpuTotalVariation(device, weight, own))


def _make_in_slabs(devices: Launchers, own: TvSettings, weight: float, problem: Problem) -> Prior:
    from aetlab.methods.slab_tv import SlabTotalVariation  # only a run on several GPUs needs it

    return Prior(SlabTotalVariation(devices, weight, own))


#: Two sets of dual variables; on a GPU three.
ROW = Regulariser(meaning="total variation, positive", label="total variation", settings=TvSettings, make=_make,
                  gpu=OnGpu(9, _make_on_gpu, _make_in_slabs), volumes=6, cost="inner")
