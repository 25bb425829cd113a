"""Proximal operators of functions of the differences of neighbouring voxels, by dual variables.

They minimise ½ ‖u - b‖² + λ Σ h(|D u|) over u ≥ 0, with the periodic forward differences D along z, x, y, whose squared
norm is at most 12, and the sum over voxels. h has the conjugate h*(p) = ½ δ p² for p ≤ 1, infinite beyond. For δ = 0 it
is the identity, and R the isotropic total variation. Where the volume has a support, u is 0 outside it, and only the
differences that start within it count.

The fast dual gradient method (A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419, 2009, algorithm FGP of
section 4, here in three dimensions) steps from the extrapolated dual variables r to the projection of
c (r + s D u), u = max(0, b - λ Dᵀ r), on unit balls, with s = 1/(12 λ) and c = 1/(1 + s δ).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from aetlab.core.setting import setting


class DualSettings(Protocol):
    """The settings that regularisers with dual variables share; :func:`inner_iterations` and :func:`warm_start`."""

    @property
    def inner_iterations(self) -> int:
        """Return the number of iterations in a proximal step."""

    @property
    def warm_start(self) -> bool:
        """Return whether the dual variables are kept between proximal steps."""


def inner_iterations() -> Any:
    """Return the setting of this name."""
    return setting("iterations of the dual solver of total variation", within="[1, inf)", default=15)


def warm_start() -> Any:
    """Return the setting of this name."""
    return setting("whether the dual variables of total variation are kept between iterations", default=False)


def extrapolations(n: int) -> Iterator[float]:
    """Yield β of ``n`` iterations, r = p + β (p - previous p): (t - 1)/t' of the last, t' = (1 + √(1 + 4 t²))/2."""
    beta, t = 0.0, 1.0
    for _ in range(n):
        yield beta
        following = (1 + math.sqrt(1 + 4 * t**2)) / 2
        beta, t = (t - 1) / following, following


class DualSolver:
    """The proximal operator for volumes (Z, X, Y); a call has the threshold λ = step · ``weight`` in V.

    ``damping_V`` is δ in V. A volume must be 0 outside ``support`` (Z, X); without one there is no outside.
    """

    def __init__(self, weight: float, own: DualSettings, damping_V: float = 0.0,
                 support: np.ndarray | None = None) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight
        self._inner_iterations = own.inner_iterations
        self._warm_start = own.warm_start
        self._damping_V = damping_V
        self._support = support
        self._duals: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        from aetlab.methods import prox_kernels as kernels

        real = volume.dtype.type
        if step * self._weight == 0:
            kernels.clip_negative(volume.reshape(-1, volume.shape[-1]))
            return volume
        threshold, dual_step = real(step * self._weight), real(1 / (12 * step * self._weight))
        scale = real(1 / (1 + self._damping_V / (12 * step * self._weight)))
        n_z, n_x, n_y = shape = volume.shape
        support = np.ones((n_z, n_x), bool) if self._support is None else self._support
        edges = np.empty(-(-n_x // kernels.BLOCK) * n_z * 2 * (n_y + 1), volume.dtype)
        flat = volume.reshape(-1)
        p, q = self._start(volume)
        for beta in extrapolations(self._inner_iterations):
            # The kernels extrapolate to c r, which λ/c and s c take into account.
            factors = (real(1) + real(beta)) * scale, real(beta) * scale, threshold / scale
            kernels.tv_edges(flat, p, q, shape, support, *factors, edges)
            kernels.tv_dual_step(flat, p, q, shape, support, *factors, dual_step * scale, edges)
            p, q = q, p
        kernels.tv_primal(flat, p, shape, support, threshold)
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
            p = self.state["dual"].reshape(-1)
        return p, q
