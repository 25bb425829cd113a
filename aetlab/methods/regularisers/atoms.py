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
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aetlab.core.setting import setting
from aetlab.core.slabs import Slabs, each_slab, map_slabs
from aetlab.methods.regulariser import Iterate, Launcher, Launchers, OnGpu, Prior, Problem, Regulariser

_REWEIGHTED = ("reg.reweight_at!=[]",)
#: Step for sparse tilts, and the limit of the sum of steps of overlapping tilts. Measured: below these the cost falls
#: without a reset at 0.08 and at 0.4 tilts per sample.
_LONGEST_STEP, _SHARED_STEP = 4.0, 0.6


@dataclass(frozen=True, kw_only=True)
class AtomsSettings:
    """The peak g, the step, and the iterations at which an :class:`AtomsPrior` adapts, with the parameters.

    Before iteration ``metric_at`` (from 0) the metric is made from V = g ∗ c of the last proximal point, with the
    floor ``metric_floor`` times the root mean square of the voxels above 0. Before each of ``reweight_at`` the weights
    become gain · δ / (m/p + δ), where m is c smoothed by ``reweight_sigma_A``, p the median of m where there are atoms
    (above a fifth of its greatest value), δ ``reweight_softness`` and gain ``reweight_gain``.
    """

    blur_A: float | None = setting(
        "standard deviation of the peak g; null for the narrowest atom that the microscope and the voxels show",
        unit="Å", within="(0, inf)", default=None)
    step: float | None = setting("step in place of engine.step, in its units; null for a rule by how densely the tilts "
                                 "sample the volume", within="(0, inf)", default=None)
    metric_at: int = setting("iteration from which the step of each voxel follows the solution", within="[1, inf)",
                             default=6)
    metric_floor: float = setting("least step of a voxel in units of that of an atom", within="(0, inf)", default=0.02)
    reweight_at: tuple[int, ...] = setting("iterations at which the weight of each voxel is set from the solution",
                                           within="[1, inf)", default=(12, 18))
    reweight_softness: float = setting("softness of these weights", within="(0, inf)", reads=_REWEIGHTED, default=0.3)
    reweight_gain: float = setting("gain of these weights", within="(0, inf)", reads=_REWEIGHTED, default=1.5)
    reweight_sigma_A: float = setting("reach of these weights", unit="Å", within="(0, inf)", reads=_REWEIGHTED,
                                      default=0.6)


#: There are atoms where smoothed c exceeds this fraction of its greatest value.
_ATOM_FRACTION = 0.2


class AtomsPrior:
    """The proximal operator of Σ a_i c_i over c ≥ 0 with ``weight`` in 1/V, adapted to the solution.

    ``sparsify(volume, threshold, metric, weights)`` shrinks arrays of other libraries in place; None is 1 everywhere.
    ``smooth(volume, sigma_px)`` returns a volume convolved with a Gaussian, for volumes in slabs.
    """

    def __init__(self, weight: float, own: AtomsSettings, problem: Problem, *,
                 sparsify: Callable[[Any, float, Any, Any], None] | None = None,
                 smooth: Callable[[Any, float], Any] | None = None) -> None:
        self.state: dict[str, Any] = {}
        self._weight = weight
        self._own = own
        self._blur_px, self._sigma_px = problem.blur_A / problem.voxel_A, own.reweight_sigma_A / problem.voxel_A
        self._sparsify, self._smooth = sparsify or _sparsify, smooth or _smooth

    @property
    def metric(self) -> Any:
        """Return d of the steps (Z, X, Y), or None while it is 1 everywhere."""
        return self.state.get("metric")

    def __call__(self, volume: np.ndarray, step: float) -> np.ndarray:
        self._sparsify(volume, step * self._weight, self.metric, self.state.get("weights"))
        return volume

    def adapt(self, state: Iterate) -> bool:
        """Adapt before the next iteration if the schedule says so; return True if momentum must be reset."""
        if state.n_done in self._own.reweight_at:
            self.state["weights"] = self._weights(state.proximal)
        if state.n_done != self._own.metric_at:
            return False
        self.state["metric"] = self._metric(state.proximal)
        return True

    def _metric(self, volume: Any) -> Any:
        real = volume.dtype.type
        metric = self._smooth(volume, self._blur_px)
        squares, n_above = (sum(parts) for parts in zip(*each_slab(_squares_above_0, metric), strict=True))
        if n_above:
            each_slab(lambda slab: operator.itruediv(slab, real(math.sqrt(squares / n_above))), metric)
        each_slab(lambda slab: operator.iadd(slab, real(self._own.metric_floor)), metric)
        # Tilts project d along every direction perpendicular to y; z and x represent them.
        sums = (_joined(map_slabs(partial(_mean, axis), metric)) for axis in (0, 1))
        greatest = max(_greatest_blurred(each, math.sqrt(2) * self._blur_px) for each in sums)
        each_slab(lambda slab: operator.itruediv(slab, real(greatest)), metric)
        return metric

    def _weights(self, volume: Any) -> Any:
        own, real = self._own, volume.dtype.type
        near = self._smooth(volume, self._sigma_px)
        highest = max(each_slab(lambda slab: float(slab.max()), near))
        if highest <= 0:
            return map_slabs(np.ones_like, volume)
        there = _joined(map_slabs(lambda slab: slab[slab > _ATOM_FRACTION * highest], near))
        typical = float(np.median(there))
        each_slab(lambda slab: operator.itruediv(slab, real(typical)), near)
        each_slab(lambda slab: operator.iadd(slab, real(own.reweight_softness)), near)
        return map_slabs(lambda slab: real(own.reweight_gain * own.reweight_softness) / slab, near)


def _smooth(volume: Any, sigma_px: float) -> Any:
    """Return ``volume`` convolved with a Gaussian; 0 outside."""
    from aetlab.core.backend import ndimage_module

    return ndimage_module(volume).gaussian_filter(volume, sigma_px, mode="constant")


def _greatest_blurred(plane: Any, sigma_px: float) -> float:
    from aetlab.core.backend import ndimage_module

    return float(ndimage_module(plane).gaussian_filter(plane, sigma_px).max())


def _squares_above_0(slab: Any) -> tuple[float, int]:
    """Return the sum of the squares of the voxels above 0, and their number."""
    above = slab[slab > 0]
    return float((above**2).sum(dtype=np.float64)), int(above.size)


def _mean(axis: int, slab: Any) -> Any:
    return slab.mean(axis=axis, dtype=np.float64)


def _joined(values: Any) -> Any:
    """Return an array, or in the memory of the CPU one that is in slabs."""
    from aetlab.core.backend import to_numpy

    return to_numpy(values) if isinstance(values, Slabs) else values


def _sparsify(volume: np.ndarray, threshold: float, metric: np.ndarray | None, weights: np.ndarray | None) -> None:
    """Replace every voxel by max(0, v - threshold · metric · weights) in place; None is 1 everywhere."""
    from aetlab.methods import prox_kernels as kernels

    one = np.ones(1, volume.dtype)
    scales = ((one if scale is None else scale).reshape(-1) for scale in (metric, weights))
    kernels.sparsify(volume.reshape(-1), volume.dtype.type(threshold), *scales)


def sparsify_on(device: Launcher, volume: Any, threshold: float, metric: Any = None, weights: Any = None) -> None:
    """Do the same to a ``volume`` on ``device``."""
    one = device.upload(np.ones(1, np.float32))
    arrays = (one if metric is None else metric, np.int32(metric is not None),
              one if weights is None else weights, np.int32(weights is not None))
    device.launch("sparsify", (volume.size, 1, 1), np.float32(threshold), *arrays, np.int64(volume.size), volume)


def sparsify_slabs(devices: Launchers, volume: Slabs, threshold: float, metric: Slabs | None = None,
                   weights: Slabs | None = None) -> None:
    """Do the same to a ``volume`` in slabs."""
    for i, (device, slab) in enumerate(zip(devices.devices, volume.arrays, strict=True)):
        own = (None if scale is None else scale.arrays[i] for scale in (metric, weights))
        sparsify_on(device, slab, threshold, *own)


def smooth_slabs(devices: Launchers, volume: Slabs, sigma_px: float) -> Slabs:
    """Return ``volume`` in slabs convolved with a Gaussian; 0 outside."""
    reach = int(4 * sigma_px + 0.5)  # where the Gaussian of _smooth ends
    return devices.widen(volume, reach).map(
        lambda slab: _smooth(slab, sigma_px)[..., reach : slab.shape[-1] - reach].copy())


def _make(own: AtomsSettings, weight: float, problem: Problem) -> Prior:
    return _prior(AtomsPrior(weight, own, problem), own)


def _make_on_gpu(device: Launcher, own: AtomsSettings, weight: float, problem: Problem) -> Prior:
    return _prior(AtomsPrior(weight, own, problem, sparsify=partial(sparsify_on, device)), own)


def _make_in_slabs(devices: Launchers, own: AtomsSettings, weight: float, problem: Problem) -> Prior:
    return _prior(AtomsPrior(weight, own, problem, sparsify=partial(sparsify_slabs, devices),
                             smooth=partial(smooth_slabs, devices)), own)


def _prior(prox: AtomsPrior, own: AtomsSettings) -> Prior:
    return Prior(prox, prox.adapt, lambda: prox.metric, settled=max((own.metric_at, *own.reweight_at)) + 1)


def _step(own: AtomsSettings, problem: Problem) -> float:
    """Return the step: as set, or 4, or less if the planes of neighbouring tilts overlap at the Nyquist frequency.

    Several tilts of a pass then step along the same direction. ``n_tilts`` planes share π N_x / 2 samples of a half
    circle; the step is at most 0.6 / (n_tilts / (π N_x / 2)).
    """
    if own.step is not None:
        return own.step
    return min(_LONGEST_STEP, _SHARED_STEP * math.pi * problem.shape_zxy[1] / (2 * problem.n_tilts))


#: Metric and weights, and the memory for computing them.
ROW = Regulariser(meaning="sparse sum of narrow peaks", label="atoms", settings=AtomsSettings, make=_make,
                  gpu=OnGpu(5, _make_on_gpu, _make_in_slabs), volumes=5, step=_step, blur_A=lambda own: own.blur_A)
