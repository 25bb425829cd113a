"""Proximal operators of the regularisers: prox(v) = argmin_u ½ ‖u - v‖² + step · weight · R(u).

``tv``: R is the isotropic total variation with periodic forward differences, over u ≥ 0, by the fast dual gradient
method (A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419, 2009, algorithm FGP of section 4, here in three
dimensions, where the squared norm of the differences is at most 12). ``lasso``: R = ‖u‖₁, the soft threshold alone.
``pos``: the projection on u ≥ 0. ``none``: the identity.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from aetlab.solve import kernels_numba as kernels


class Prox(Protocol):
    """A proximal operator that works in place; ``state`` holds by name the arrays kept between calls."""

    state: dict[str, np.ndarray]

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray: ...


def make_prox(kind: str, weight: float = 0.0, *, inner_iterations: int = 15, warm_start: bool = False) -> Prox:
    """Return the proximal operator of a regulariser.

    Parameters
    ----------
    kind : str
        tv, lasso, pos or none.
    weight : float
        Weight in 1/V; the threshold of a call is step · weight, in V.
    inner_iterations : int
        Dual iterations of a call (tv).
    warm_start : bool
        Start from the dual variables of the previous call (tv) instead of 0.
    """
    if kind == "tv":
        return TotalVariation(weight, inner_iterations, warm_start)
    if kind == "lasso":
        return Lasso(weight)
    if kind == "pos":
        return Positive()
    if kind == "none":
        return Identity()
    raise ValueError(f"reg.kind={kind!r} is unknown: choose one of tv, lasso, pos, none")


class TotalVariation:
    """Isotropic total variation over non-negative volumes (Z, X, Y)."""

    def __init__(self, weight: float, inner_iterations: int = 15, warm_start: bool = False) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight
        self._inner_iterations = inner_iterations
        self._warm_start = warm_start
        self._duals: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
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


class Lasso:
    """Soft threshold: each voxel moves towards 0 by step · weight."""

    def __init__(self, weight: float) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        kernels.soft_threshold(volume.reshape(-1, volume.shape[-1]), volume.dtype.type(step * self._weight))
        return volume


class Positive:
    """Projection on non-negative volumes."""

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {}

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        kernels.clip_negative(volume.reshape(-1, volume.shape[-1]))
        return volume


class Identity:
    """The identity, for no regulariser."""

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {}

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        return volume
