"""Total variation: R is the isotropic total variation with periodic forward differences, over u ≥ 0.

The proximal operator is found by the fast dual gradient method (A. Beck and M. Teboulle, IEEE Trans. Image Process. 18,
2419, 2009, algorithm FGP of section 4, here in three dimensions, where the squared norm of the differences is at most
12).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.core.setting import setting
from aetlab.methods.regulariser import Launcher, OnGpu, Prior, Problem, Regulariser
from aetlab.methods.regularisers.pos import clip


@dataclass(frozen=True, kw_only=True)
class DualSolver:
    """The solution by dual variables: their iterations in a proximal step, and whether they are kept between steps."""

    inner_iterations: int = setting("iterations of the dual solver of total variation", within="[1, inf)", default=15)
    warm_start: bool = setting("whether the dual variables of total variation are kept between iterations",
                               default=False)


class TotalVariation:
    """Proximal operator over non-negative volumes (Z, X, Y); the threshold of a call is step · weight, in V."""

    def __init__(self, weight: float, own: DualSolver) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight
        self._inner_iterations = own.inner_iterations
        self._warm_start = own.warm_start
        self._duals: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        from aetlab.methods import prox_kernels as kernels

        real = volume.dtype.type
        if step * self._weight == 0:
            kernels.clip_negative(volume.reshape(-1, volume.shape[-1]))
            return volume
        threshold, dual_step = real(step * self._weight), real(1 / (12 * step * self._weight))
        n_z, n_x, n_y = shape = volume.shape
        edges = np.empty(-(-n_x // kernels.BLOCK) * n_z * 2 * (n_y + 1), volume.dtype)
        flat = volume.reshape(-1)
        p, q = self._start(volume)
        momentum, beta = 1.0, 0.0
        for _ in range(self._inner_iterations):
            kernels.tv_edges(flat, p, q, shape, real(beta), threshold, edges)
            kernels.tv_dual_step(flat, p, q, shape, real(beta), threshold, dual_step, edges)
            p, q = q, p
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            beta, momentum = (momentum - 1) / following, following
        kernels.tv_primal(flat, p, shape, threshold)
        self._duals = p, q
        if self._warm_start:
            self.state["dual"] = p
        return volume

    def _start(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first dual iterate and an array for the second."""
        n_dual = 3 * volume.size
        p, q = self._duals or (np.zeros(n_dual, volume.dtype), np.zeros(n_dual, volume.dtype))
        if not self._warm_start:
            p.fill(0)
        elif "dual" in self.state:
            p = self.state["dual"]
        return p, q


class GpuTotalVariation:
    """The same on a GPU."""

    def __init__(self, device: Launcher, weight: float, own: DualSolver) -> None:
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


def _make(own: DualSolver, weight: float, problem: Problem) -> Prior:
    return Prior(TotalVariation(weight, own))


def _make_on_gpu(device: Launcher, own: DualSolver, weight: float, problem: Problem) -> Prior:
    return Prior(GpuTotalVariation(device, weight, own))


#: Two sets of dual variables; on a GPU also the primal estimate.
ROW = Regulariser(meaning="total variation, positive", label="total variation", settings=DualSolver, make=_make,
                  gpu=OnGpu(7, _make_on_gpu), volumes=6, cost="inner")
