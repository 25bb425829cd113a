"""Prior for atoms: the potential is a sum of few narrow peaks, V = g ∗ c with c ≥ 0 and sparse.

R(c) = Σ a_i c_i over c ≥ 0. The weights a_i are 1 at first; later they depend on the solution: small at atoms, so that
atoms are not shrunk, and large elsewhere, so that noise is (iteratively reweighted ℓ₁: E. J. Candès,
M. B. Wakin and S. P. Boyd, J. Fourier Anal. Appl. 14, 877, 2008).

Steps are taken in a diagonal metric d: voxel i moves by step · d_i times its gradient, and is shrunk by
step · d_i · weight · a_i, which is the proximal step in that metric and does not move the minimum. At first d is 1 and
steps are bounded by low frequencies, which every layer and every tilt shares. Once c shows where the atoms are, d
comes from it (as in scaled gradient projection: S. Bonettini, R. Zanella, L. Zanni, Inverse Problems 25, 015002, 2009),
and the peaks move some ten times as fast. The bound of the steps stays the same: the matrix of one tilt, to first
order Pᵀ G² P d with P the projection along the beam and G the blur, has no negative entry, so that its norm is at most
its greatest row sum, the greatest value of the projected and twice blurred d, which is set to the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.core.backend import ndimage_module
from aetlab.solve import kernels_numba as kernels
from aetlab.solve.fista import State


@dataclass(frozen=True)
class AtomsSchedule:
    """Iterations at which an :class:`AtomsPrior` adapts, and the parameters.

    Before iteration ``metric_at`` (from 0) the metric is made from V = g ∗ c of the last proximal point, with the
    floor ``metric_floor`` times the root mean square of the voxels above 0; ``blur_px`` is the standard deviation of g
    in voxels. Before each of ``reweight_at`` the weights become gain · δ / (m/p + δ), where m is c smoothed by
    ``reweight_sigma_px`` voxels, p the median of m where there are atoms (above a fifth of its greatest value),
    δ ``reweight_softness`` and gain ``reweight_gain``.
    """

    metric_at: int
    metric_floor: float
    blur_px: float
    reweight_at: tuple[int, ...]
    reweight_sigma_px: float
    reweight_softness: float
    reweight_gain: float


#: There are atoms where smoothed c exceeds this fraction of its greatest value.
_ATOM_FRACTION = 0.2


class AtomsPrior:
    """The proximal operator of Σ a_i c_i over c ≥ 0 with ``weight`` in 1/V, adapted to the solution.

    ``sparsify(volume, threshold, metric, weights)`` shrinks arrays of other libraries in place; None is 1 everywhere.
    """

    def __init__(self, weight: float, schedule: AtomsSchedule, *,
                 sparsify: Callable[[Any, float, Any, Any], None] | None = None) -> None:
        self.state: dict[str, np.ndarray] = {}
        self._weight = weight
        self._schedule = schedule
        self._sparsify = sparsify or _sparsify

    @property
    def metric(self) -> np.ndarray | None:
        """Return d of the steps (Z, X, Y), or None while it is 1 everywhere."""
        return self.state.get("metric")

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        self._sparsify(volume, step * self._weight, self.metric, self.state.get("weights"))
        return volume

    def adapt(self, state: State) -> bool:
        """Adapt before the next iteration if the schedule says so; return True if momentum must be reset."""
        if state.n_done in self._schedule.reweight_at:
            self.state["weights"] = self._weights(state.proximal)
        if state.n_done != self._schedule.metric_at:
            return False
        self.state["metric"] = self._metric(state.proximal)
        return True

    def _metric(self, volume: np.ndarray) -> np.ndarray:
        blur, real = ndimage_module(volume).gaussian_filter, volume.dtype.type
        metric: np.ndarray = blur(volume, self._schedule.blur_px, mode="constant")
        if metric.any():
            metric /= real(math.sqrt(float((metric[metric > 0] ** 2).mean(dtype=np.float64))))
        metric += real(self._schedule.metric_floor)
        # Tilts project d along every direction perpendicular to y; z and x represent them.
        sums = (metric.mean(axis=axis, dtype=np.float64) for axis in (0, 1))
        metric /= real(max(float(blur(s, math.sqrt(2) * self._schedule.blur_px).max()) for s in sums))
        return metric

    def _weights(self, volume: np.ndarray) -> np.ndarray:
        schedule, real = self._schedule, volume.dtype.type
        near: np.ndarray = ndimage_module(volume).gaussian_filter(volume, schedule.reweight_sigma_px, mode="constant")
        highest = float(near.max())
        if highest <= 0:
            return np.ones_like(volume)
        typical = float(np.median(near[near > _ATOM_FRACTION * highest]))
        near /= real(typical)
        near += real(schedule.reweight_softness)
        return real(schedule.reweight_gain * schedule.reweight_softness) / near


def _sparsify(volume: np.ndarray, threshold: float, metric: np.ndarray | None, weights: np.ndarray | None) -> None:
    """Replace every voxel by max(0, v - threshold · metric · weights) in place; None is 1 everywhere."""
    one = np.ones(1, volume.dtype)
    scales = ((one if scale is None else scale).reshape(-1) for scale in (metric, weights))
    kernels.sparsify(volume.reshape(-1), volume.dtype.type(threshold), *scales)
