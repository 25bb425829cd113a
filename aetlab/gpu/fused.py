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

    def __init__(self, optics: Optics, device: Device) -> None:
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        self._phase = np.float32(optics.phase_per_V)
        self._which = [int(i) for i in optics.which]
        self._order_x, self._order_y = simd_fft.scrambled_order(n_x), simd_fft.scrambled_order(n_y)
        self._sizes = np.int32(n_x), np.int32(n_y)
        self._along_x = np.int32(radices_of(n_x)), device.upload(twiddles_of(n_x))
        self._along_y = np.int32(radices_of(n_y)), device.upload(twiddles_of(n_y))
        self._free = device.upload(self.pack(optics.free))
        self._waves = device.zeros((len(self._which) + 1, n_x, n_y), np.complex64)
        self._plane = device.zeros((n_x, n_y), np.complex64)
        self.images = device.zeros((n_defoci, n_x, n_y), np.complex64)
        #: Blocks of columns in a plane.
        self._n_blocks = -(-n_y // COLUMNS)

    def pack(self, factors: np.ndarray) -> np.ndarray:
        """Return factors (..., X, Y) in scrambled order of both frequencies."""
        return factors.astype(np.complex64)[..., self._order_x, :][..., self._order_y]

    def propagate(self, slices: Array) -> None:
        for m in range(len(self._waves)):
            if m > 0:
                self._propagate(self._free[self._which[m - 1]], back=False)
            self._device.launch("transmit_columns", (self._n_blocks, 1, 1), self._phase, slices[m], np.int32(m == 0),
                                *self._sizes, *self._along_x, self._waves[m], self._plane)

    def to_images(self, transfer: Array, set_of: Array, now: Array) -> None:
        self._device.launch("rows_to_images", (int(self._sizes[0]), 1, 1), self._plane, transfer, set_of, now,
                            np.int32(len(self.images)), *self._sizes, *self._along_y, self.images)

    def show_images(self) -> None:
        self._transform_images(forward=False)

    def hide_images(self) -> None:
        self._transform_images(forward=True)

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
                self._propagate(self._free[self._which[m - 1]], back=True)

    def _propagate(self, factor: Array, *, back: bool) -> None:
        self._device.launch("propagate_rows", (int(self._sizes[0]), 1, 1), factor, np.int32(back), self._sizes[1],
                            *self._along_y, self._plane)

    def _transform_images(self, *, forward: bool) -> None:
        self._device.launch("transform_columns", (len(self.images) * self._n_blocks, 1, 1), np.int32(forward),
                            *self._sizes, *self._along_x, self.images)


def radices_of(n: int) -> int:
    """Return the radices of the stages of a forward transform of length ``n``, 4 bits each, the first lowest."""
    return sum(radix << 4 * i for i, radix in enumerate(simd_fft.factors(n) or ()))


def twiddles_of(n: int) -> np.ndarray:
    """Return exp(-2πi k/n), complex64 (n,)."""
    return np.exp(-2j * np.pi / n * np.arange(n)).astype(np.complex64)
