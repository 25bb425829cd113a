"""Take multislice steps on a GPU with kernels that keep lines of a plane in shared memory.

A slice takes two kernels each way: FFT, propagator and inverse FFT along y; inverse FFT, slice and FFT along x. With
the FFTs of a library it takes six.
"""

from __future__ import annotations

import numpy as np

from aetlab.core import simd_fft
from aetlab.forward.multislice import Optics
from aetlab.gpu.device import Array, Device
from aetlab.gpu.kernels import COLUMNS, LONGEST
from aetlab.methods.likelihood import GpuKernels

#: Shortest side, as on the CPU.
_SHORTEST = 16


def fits(shape_xy: tuple[int, int]) -> bool:
    """Return whether the kernels support this shape: sides of 16 to 1440 with no primes other than 2, 3 and 5."""
    return all(_SHORTEST <= n <= LONGEST and simd_fft.factors(n) is not None for n in shape_xy)


class FusedSteps:
    """Implement :class:`aetlab.gpu.multislice.Steps` for planes that :func:`fits` accepts.

    Between the calls ``images`` are functions of the frequency along x, in scrambled order, and of y.
    """

    def __init__(self, optics: Optics, device: Device, *, gradient: bool = True,
                 limit: np.ndarray | None = None) -> None:
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        self._phase = np.float32(optics.phase_per_V)
        self._which = [int(i) for i in optics.which]
        self.orders = simd_fft.scrambled_order(n_x), simd_fft.scrambled_order(n_y)
        self._sizes = np.int32(n_x), np.int32(n_y)
        self._along_x = np.int32(radices_of(n_x)), device.upload(twiddles_of(n_x))
        self._along_y = np.int32(radices_of(n_y)), device.upload(twiddles_of(n_y))
        self._free = device.upload(self.pack(optics.free))
        self._limit = None if limit is None else device.upload(self.pack(limit))
        self._transmission = None if limit is None else device.zeros((n_x, n_y), np.complex64)
        self._waves = device.zeros((len(self._which) + 1 if gradient else 1, n_x, n_y), np.complex64)
        self._plane = device.zeros((n_x, n_y), np.complex64)
        self.images = device.zeros((n_defoci, n_x, n_y), np.complex64)
        #: Blocks of columns in a plane.
        self._n_blocks = -(-n_y // COLUMNS)

    def pack(self, factors: np.ndarray) -> np.ndarray:
        """Return factors (..., X, Y) in scrambled order of both frequencies."""
        return factors.astype(np.complex64)[..., self.orders[0], :][..., self.orders[1]]

    def propagate(self, slices: Array, first: int = 0) -> None:
        for m, one_slice in enumerate(slices, start=first):
            if m > 0:
                self._propagate(self._free[self._which[m - 1]], self._plane, back=False)
            if self._limit is None:
                self._transmit(one_slice, self._waves[m % len(self._waves)], self._plane, enters=m == 0)
            else:
                self._transmit_limited(one_slice, enters=m == 0)

    def _transmit(self, one_slice: Array, wave: Array, plane: Array, *, enters: bool) -> None:
        """Pass ``plane`` through a slice, or the incident wave into it; the ``wave`` behind it is kept."""
        self._device.launch("transmit_columns", (self._n_blocks, 1, 1), self._phase, one_slice, np.int32(enters),
                            *self._sizes, *self._along_x, wave, plane)

    def _transmit_limited(self, one_slice: Array, *, enters: bool) -> None:
        """Do the same with a transmission function that is cut at the limit of frequencies."""
        plane = self._plane if enters else self._transmission
        self._transmit(one_slice, self._waves[0], plane, enters=True)
        self._propagate(self._limit, plane, back=False)
        self._transform(plane, forward=False)
        if enters:
            self._transform(plane, forward=True)
        else:
            self._device.launch("multiply_columns", (self._n_blocks, 1, 1), plane, *self._sizes, *self._along_x,
                                self._plane)

    def to_images(self, transfer: Array, set_of: Array, now: Array) -> None:
        self._device.launch("rows_to_images", (int(self._sizes[0]), 1, 1), self._plane, transfer, set_of, now,
                            np.int32(len(self.images)), *self._sizes, *self._along_y, self.images)

    def show_images(self) -> None:
        self._transform(self.images, forward=False)

    def hide_images(self) -> None:
        self._transform(self.images, forward=True)

    def compare(self, likelihood: GpuKernels, amplitude: Array, weights: tuple[Array, np.int32], now: Array,
                cost: Array) -> int:
        n_defoci = len(self.images)
        self._device.launch("compare_columns", (n_defoci * self._n_blocks, 1, 1), amplitude, *weights, now,
                            np.float32(likelihood.background), np.int32(n_defoci), *self._sizes, *self._along_x,
                            self.images, cost)
        return n_defoci * self._n_blocks

    def back(self, slices: Array, transfer: Array, set_of: Array, now: Array) -> None:
        self._device.launch("rows_from_images", (int(self._sizes[0]), 1, 1), self.images, transfer, set_of, now,
                            np.int32(len(self.images)), *self._sizes, *self._along_y, self._plane)
        for m in range(len(self._waves) - 1, -1, -1):
            self._device.launch("back_columns", (self._n_blocks, 1, 1), self._phase, self._waves[m], np.int32(m > 0),
                                *self._sizes, *self._along_x, self._plane, slices[m])
            if m > 0:
                self._propagate(self._free[self._which[m - 1]], self._plane, back=True)

    def _propagate(self, factor: Array, plane: Array, *, back: bool) -> None:
        self._device.launch("propagate_rows", (int(self._sizes[0]), 1, 1), factor, np.int32(back), self._sizes[1],
                            *self._along_y, plane)

    def _transform(self, planes: Array, *, forward: bool) -> None:
        """Transform ``planes`` (..., X, Y) from frequencies along x to x, or back."""
        n_planes = planes.size // (int(self._sizes[0]) * int(self._sizes[1]))
        self._device.launch("transform_columns", (n_planes * self._n_blocks, 1, 1), np.int32(forward), *self._sizes,
                            *self._along_x, planes)


def radices_of(n: int) -> int:
    """Return the radices of the stages of a forward transform of length ``n``, 4 bits each, the first lowest."""
    return sum(radix << 4 * i for i, radix in enumerate(simd_fft.factors(n) or ()))


def twiddles_of(n: int) -> np.ndarray:
    """Return exp(-2πi k/n), complex64 (n,)."""
    return np.exp(-2j * np.pi / n * np.arange(n)).astype(np.complex64)
