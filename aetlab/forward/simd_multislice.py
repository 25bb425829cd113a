"""Cost and gradient of one tilt as in :mod:`multislice`, in single precision, by the fused kernels for the CPU."""

from __future__ import annotations

import numpy as np

from aetlab.backend import empty_aligned
from aetlab.forward import simd_fft
from aetlab.forward import simd_kernels as kernels
from aetlab.simd import WIDTH


def fits(shape_xy: tuple[int, int]) -> bool:
    """Whether planes of this shape suit the kernels: multiples of ``WIDTH`` without other primes than 2, 3 and 5."""
    return all(n % WIDTH == 0 and simd_fft.factors(n) is not None for n in shape_xy)


class SimdMultislice:
    """:class:`aetlab.forward.multislice.TiltCost` for float32 planes that :func:`fits` accepts.

    The parameters are those of :class:`aetlab.forward.multislice.Optics`.
    """

    def __init__(self, transfer: np.ndarray, free: np.ndarray, which: np.ndarray, phase_per_V: float) -> None:
        n_defoci, n_x, n_y = transfer.shape
        self._phase = np.float32(phase_per_V)
        self._which = which
        self._plan_x, self._plan_y = simd_fft.make_plan(n_x), simd_fft.make_plan(n_y)
        self._transfer = kernels.pack_factors(transfer)
        self._free = [kernels.pack_factors(p[None]) for p in free]
        self._waves = empty_aligned((len(which) + 1, 2, n_x, n_y))
        self._plane = empty_aligned((1, 2, n_x, n_y))
        self._images = empty_aligned((n_defoci, 2, n_x, n_y))
        self._cost = empty_aligned((n_defoci, n_y))
        self._no_amplitude = empty_aligned((0, n_x, n_y))

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Transfer functions (F, X, Y) the way :meth:`use_transfer` takes them."""
        return kernels.pack_factors(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        """From now on images are made by these transfer functions."""
        self._transfer = packed

    def cost(self, slices: np.ndarray, amplitude: np.ndarray) -> float:
        """Cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity."""
        self._columns(kernels.ENTER, slices[0], self._waves[0])
        for m in range(1, len(slices)):
            kernels.rows(False, self._plane, self._free[self._which[m - 1]], self._plane, self._plan_y)
            self._columns(kernels.TRANSMIT, slices[m], self._waves[m])
        kernels.rows(False, self._plane, self._transfer, self._images, self._plan_y)
        kernels.columns(kernels.RESIDUAL, self._images, self._phase, slices[0], self._waves[0], amplitude, self._cost,
                        self._plan_x, True)
        return float(self._cost.sum(dtype=np.float64))

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray) -> float:
        """Cost as in :meth:`cost`; ``slices`` is overwritten by the gradient with respect to it, in 1/V."""
        cost = self.cost(slices, amplitude)
        kernels.rows(True, self._images, self._transfer, self._plane, self._plan_y)
        for m in range(len(slices) - 1, -1, -1):
            self._columns(kernels.BACK_TRANSMIT, slices[m], self._waves[m], forward=m > 0)
            if m > 0:
                kernels.rows(True, self._plane, self._free[self._which[m - 1]], self._plane, self._plan_y)
        return cost

    def _columns(self, kind: int, slice_V: np.ndarray, wave: np.ndarray, *, forward: bool = True) -> None:
        kernels.columns(kind, self._plane, self._phase, slice_V, wave, self._no_amplitude, self._cost, self._plan_x,
                        forward)
