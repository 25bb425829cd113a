"""Compute proximal operators and Nesterov's step on a GPU, as :mod:`aetlab.solve.prox` and the solver do on the CPU."""

from __future__ import annotations

import math

import numpy as np

from aetlab.gpu.device import Array, Device, GpuError
from aetlab.solve import Prox

#: Regularisers (``reg.kind``) with a GPU version; that of atoms is :func:`sparsify`.
REGULARISERS = ("tv", "lasso", "pos", "none", "atoms")


def make_prox(device: Device, kind: str, weight: float = 0.0, *, inner_iterations: int = 15,
              warm_start: bool = False) -> Prox:
    """Return the proximal operator of a regulariser for volumes on ``device``; see :func:`aetlab.solve.make_prox`.

    Raises
    ------
    GpuError
        If the regulariser has no GPU version.
    """
    if kind == "tv":
        return TotalVariation(device, weight, inner_iterations, warm_start)
    if kind in ("lasso", "pos", "none"):
        return _Pointwise(device, kind, weight)
    raise GpuError(f"reg.kind={kind} has no proximal operator on a GPU")


def extrapolate(device: Device, volume: Array, proximal: Array, beta: float) -> None:
    """Take Nesterov's step in place.

    Add ``beta`` · (``volume`` - ``proximal``) to ``volume``, and replace ``proximal`` by the old ``volume``.
    """
    device.launch("extrapolate", (volume.size, 1, 1), np.float32(beta), np.int64(volume.size), volume, proximal)


def sparsify(device: Device, volume: Array, threshold: float, metric: Array | None = None,
             weights: Array | None = None) -> None:
    """Replace every voxel by max(0, v - threshold · metric · weights) in place; None stands for 1 everywhere."""
    one = device.upload(np.ones(1, np.float32))
    arrays = (one if metric is None else metric, np.int32(metric is not None),
              one if weights is None else weights, np.int32(weights is not None))
    device.launch("sparsify", (volume.size, 1, 1), np.float32(threshold), *arrays, np.int64(volume.size), volume)


class TotalVariation:
    """Proximal operator of isotropic total variation over non-negative volumes (Z, X, Y)."""

    def __init__(self, device: Device, weight: float, inner_iterations: int = 15, warm_start: bool = False) -> None:
        self.state: dict[str, Array] = {}
        self._device = device
        self._weight = weight
        self._inner_iterations = inner_iterations
        self._warm_start = warm_start
        self._duals: tuple[Array, Array] | None = None
        self._primal: Array = None

    def __call__(self, volume: Array, step: float) -> Array:
        if step * self._weight == 0:
            return _clip(self._device, volume)
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

    def _start(self, n_dual: int) -> tuple[Array, Array]:
        """Return the first dual iterate, and memory for the second."""
        if self._duals is None:
            kept = self.state.get("dual") if self._warm_start else None
            zeros = self._device.zeros
            self._duals = (zeros((n_dual,), np.float32) if kept is None else kept, zeros((n_dual,), np.float32))
        p, q = self._duals
        if not self._warm_start:
            p[...] = 0
        return p, q


class _Pointwise:
    """Proximal operator of lasso (soft threshold), positivity, or none."""

    def __init__(self, device: Device, kind: str, weight: float) -> None:
        self.state: dict[str, Array] = {}
        self._device = device
        self._kind = kind
        self._weight = weight

    def __call__(self, volume: Array, step: float) -> Array:
        if self._kind == "pos":
            return _clip(self._device, volume)
        if self._kind == "lasso":
            self._device.launch("soft_threshold", (volume.size, 1, 1), np.float32(step * self._weight),
                                np.int64(volume.size), volume)
        return volume


def _clip(device: Device, volume: Array) -> Array:
    device.launch("clip_negative", (volume.size, 1, 1), np.int64(volume.size), volume)
    return volume
