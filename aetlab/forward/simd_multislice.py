"""Compute cost and gradient of one tilt as :mod:`multislice` does, in single precision with fused CPU kernels."""

from __future__ import annotations

import numpy as np

from aetlab.core import simd_fft
from aetlab.core.backend import empty_aligned, zeros_aligned
from aetlab.core.simd import WIDTH
from aetlab.forward import simd_kernels as kernels
from aetlab.forward.detector import Detector


def fits(shape_xy: tuple[int, int]) -> bool:
    """Return whether the kernels support this shape: sides of at least ``WIDTH`` with no primes other than 2, 3, 5."""
    return all(n >= WIDTH and simd_fft.factors(n) is not None for n in shape_xy)


class SimdMultislice:
    """Implement :class:`aetlab.forward.multislice.TiltCost` for float32 planes that :func:`fits` accepts.

    The parameters are those of :class:`aetlab.forward.multislice.Optics`.
    """

    def __init__(self, transfer: np.ndarray, free: np.ndarray, which: np.ndarray, phase_per_V: float,
                 mtf: np.ndarray | None = None) -> None:
        n_defoci, n_x, n_y = transfer.shape
        self._shape_xy = (n_x, n_y)
        stored = (kernels.stored_side(n_x), kernels.stored_side(n_y))
        self._phase = np.float32(phase_per_V)
        self._which = which
        self._plan_x, self._plan_y = simd_fft.make_plan(n_x), simd_fft.make_plan(n_y)
        self._transfer = kernels.pack_factors(transfer)
        self._free = [kernels.pack_factors(p[None]) for p in free]
        self._waves = empty_aligned((len(which) + 1, 2, *stored))
        self._plane = zeros_aligned((1, 2, *stored))
        self._images = zeros_aligned((n_defoci, 2, *stored))
        self._cost = empty_aligned((n_defoci, stored[1]))
        self._nothing = empty_aligned((0, *stored))
        # Memory for padded copies of the arguments, if a side is not a multiple of WIDTH.
        self._room = None if stored == self._shape_xy else (
            zeros_aligned((len(which) + 1, *stored)), zeros_aligned((n_defoci, *stored)))
        self._weight_room = self._nothing
        self._detector: Detector | None = None
        self.use_mtf(mtf)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following images; None: an ideal detector."""
        self._detector = None if mtf is None else Detector(mtf, len(self._images), np.float32)

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y) in the form that :meth:`use_transfer` takes."""
        return kernels.pack_factors(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        """Use these transfer functions for all following images."""
        self._transfer = packed

    def cost(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Return the cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity.

        ``weight`` (F, X, Y), float32 like ``amplitude``, is the weight of each pixel; None: 1.
        """
        return self._forward(*self._stored(slices, amplitude), self._stored_weight(weight))

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Return the cost as :meth:`cost` does; overwrite ``slices`` by the gradient with respect to it, in 1/V."""
        stored, stored_amplitude = self._stored(slices, amplitude)
        cost = self._forward(stored, stored_amplitude, self._stored_weight(weight))
        n_x, n_y = self._shape_xy
        kernels.rows(True, self._images, self._transfer, self._plane, n_y, self._plan_y)
        for m in range(len(slices) - 1, -1, -1):
            self._columns(kernels.BACK_TRANSMIT, stored[m], self._waves[m], forward=m > 0)
            if m > 0:
                kernels.rows(True, self._plane, self._free[self._which[m - 1]], self._plane, n_y, self._plan_y)
        if stored is not slices:
            slices[...] = stored[:, :n_x, :n_y]
        return cost

    def _stored(self, slices: np.ndarray, amplitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both arrays in the layout of the kernels: padded copies if a side is not a multiple of ``WIDTH``."""
        if self._room is None:
            return slices, amplitude
        n_x, n_y = self._shape_xy
        for room, given in zip(self._room, (slices, amplitude), strict=True):
            room[:, :n_x, :n_y] = given
        return self._room

    def _stored_weight(self, weight: np.ndarray | None) -> np.ndarray | None:
        """Return the weight in the layout of the kernels; memory for a copy is allocated at its first use."""
        if weight is None or self._room is None:
            return weight
        if not len(self._weight_room):
            self._weight_room = zeros_aligned(self._room[1].shape)
        self._weight_room[:, :self._shape_xy[0], :self._shape_xy[1]] = weight
        return self._weight_room

    def _forward(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None) -> float:
        n_x, n_y = self._shape_xy
        self._columns(kernels.ENTER, slices[0], self._waves[0])
        for m in range(1, len(slices)):
            kernels.rows(False, self._plane, self._free[self._which[m - 1]], self._plane, n_y, self._plan_y)
            self._columns(kernels.TRANSMIT, slices[m], self._waves[m])
        kernels.rows(False, self._plane, self._transfer, self._images, n_y, self._plan_y)
        if self._detector is not None:
            return self._compare(self._detector, amplitude, weight)
        kernels.columns(kernels.RESIDUAL, self._images, self._phase, slices[0], self._waves[0], amplitude, weight,
                        self._cost, n_x, self._plan_x, True)
        return float(self._cost[:, :n_y].sum(dtype=np.float64))

    def _compare(self, detector: Detector, amplitude: np.ndarray, weight: np.ndarray | None) -> float:
        """Return the cost of the images as ``detector`` sees them; replace the images by residuals."""
        n_x, n_y = self._shape_xy
        kernels.transform_columns(self._images, n_x, self._plan_x, False)
        waves = self._images[:, :, :n_x, :n_y]
        factor = waves[:, 0] ** 2 + waves[:, 1] ** 2
        cost = detector.compare(factor, amplitude[:, :n_x, :n_y], None if weight is None else weight[:, :n_x, :n_y])
        waves *= factor[:, None]
        kernels.transform_columns(self._images, n_x, self._plan_x, True)
        return cost

    def _columns(self, kind: int, slice_V: np.ndarray, wave: np.ndarray, *, forward: bool = True) -> None:
        kernels.columns(kind, self._plane, self._phase, slice_V, wave, self._nothing, None, self._cost,
                        self._shape_xy[0], self._plan_x, forward)
