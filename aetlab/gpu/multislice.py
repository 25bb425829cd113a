"""Compute cost and gradient of the slices of a tilt on a GPU."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.errors import GpuError
from aetlab.forward.multislice import Optics
from aetlab.gpu.device import Array, Device
from aetlab.gpu.fused import FusedSteps, fits
from aetlab.methods.likelihood import DARKEST, GpuKernels
from aetlab.methods.likelihoods import LIKELIHOODS


class Steps(Protocol):
    """The multislice steps between the slices of a tilt and its images; ``images`` (F, X, Y) are overwritten."""

    images: Array
    #: Frequencies along x and y, as indices of the FFT grid, in the order of packed factors.
    orders: tuple[np.ndarray, np.ndarray]

    def pack(self, factors: np.ndarray) -> np.ndarray:
        """Return factors (..., X, Y) of frequencies in the form of these steps, complex64."""

    def propagate(self, slices: Array, first: int = 0) -> None:
        """Propagate the incident wave through ``slices`` (S, X, Y).

        If they begin with number ``first`` above 0, propagate the wave of the last call.
        """

    def to_images(self, transfer: Array, set_of: Array, now: Array) -> None:
        """Propagate the wave behind the slices to the images."""

    def show_images(self) -> None:
        """Turn the waves of the images into functions of x and y, for work on pixels."""

    def hide_images(self) -> None:
        """Undo :meth:`show_images`."""

    def compare(self, likelihood: GpuKernels, amplitude: Array, weights: tuple[Array, np.int32], now: Array,
                cost: Array) -> int:
        """Replace the images by residuals; write the costs of parts to ``cost``, and return the number of parts."""

    def back(self, slices: Array, transfer: Array, set_of: Array, now: Array) -> None:
        """Propagate the images back, and replace ``slices`` by the gradient."""


class LibrarySteps:
    """Implement :class:`Steps` for planes of any shape, with the FFTs of a library."""

    def __init__(self, optics: Optics, device: Device, *, gradient: bool = True,
                 limit: np.ndarray | None = None) -> None:
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        self._phase = np.float32(optics.phase_per_V)
        self._which = [int(i) for i in optics.which]
        self._free = device.upload(self.pack(optics.free))
        self._limit = None if limit is None else device.upload(self.pack(limit))
        self._transmission = None if limit is None else device.zeros((n_x, n_y), np.complex64)
        self._waves = device.zeros((len(self._which) + 1 if gradient else 1, n_x, n_y), np.complex64)
        self._plane = device.zeros((n_x, n_y), np.complex64)
        self.images = device.zeros((n_defoci, n_x, n_y), np.complex64)
        self.orders = np.arange(n_x), np.arange(n_y)

    def pack(self, factors: np.ndarray) -> np.ndarray:
        return factors.astype(np.complex64)

    def propagate(self, slices: Array, first: int = 0) -> None:
        device, n, extent = self._device, np.int32(self._plane.size), (int(self._plane.size), 1, 1)
        n_kept = len(self._waves)
        for m, one_slice in enumerate(slices, start=first):
            wave = self._waves[m % n_kept]
            if m > 0:
                device.fft(self._waves[(m - 1) % n_kept], self._plane)
                self._multiply(self._free[self._which[m - 1]], self._plane)
            if self._limit is not None:
                transmission = self._transmission if m > 0 else self._plane
                device.launch("enter", extent, self._phase, one_slice, n, transmission)
                device.fft(transmission, transmission)
                self._multiply(self._limit, transmission)
                if m > 0:
                    device.launch("multiply", extent, transmission, n, self._plane)
                # The wave times the transmission function of nothing.
                device.launch("transmit", extent, np.float32(0), one_slice, self._plane, n, wave)
            elif m > 0:
                device.launch("transmit", extent, self._phase, one_slice, self._plane, n, wave)
            else:
                device.launch("enter", extent, self._phase, one_slice, n, wave)

    def _multiply(self, factor: Array, plane: Array) -> None:
        """Multiply the frequencies ``plane`` by ``factor``, and transform it back."""
        self._device.launch("multiply", (int(plane.size), 1, 1), factor, np.int32(plane.size), plane)
        self._device.fft(plane, plane, inverse=True)

    def to_images(self, transfer: Array, set_of: Array, now: Array) -> None:
        device, n, extent = self._device, np.int32(self._plane.size), (int(self._plane.size), 1, 1)
        device.fft(self._waves[-1], self._plane)
        device.launch("to_images", extent, self._plane, transfer, set_of, now, np.int32(len(self.images)), n,
                      self.images)
        device.fft(self.images, self.images, inverse=True)

    def show_images(self) -> None:
        """Do nothing: they are."""

    def hide_images(self) -> None:
        """Do nothing."""

    def compare(self, likelihood: GpuKernels, amplitude: Array, weights: tuple[Array, np.int32], now: Array,
                cost: Array) -> int:
        n_defoci, n_x, n_y = self.images.shape
        n_rows, own = n_defoci * n_x, (np.float32(value) for value in likelihood.arguments)
        self._device.launch(likelihood.residual, (n_rows, 1, 1), amplitude, *weights, now, *own, np.int32(n_rows),
                            np.int32(n_y), self.images, cost)
        return n_rows

    def back(self, slices: Array, transfer: Array, set_of: Array, now: Array) -> None:
        device, n, extent = self._device, np.int32(self._plane.size), (int(self._plane.size), 1, 1)
        device.fft(self.images, self.images)
        device.launch("from_images", extent, self.images, transfer, set_of, now, np.int32(len(self.images)), n,
                      self._plane)
        device.fft(self._plane, self._plane, inverse=True)
        for m in range(len(self._waves) - 1, -1, -1):
            device.launch("back_transmit", extent, self._phase, self._waves[m], n, self._plane, slices[m])
            if m > 0:
                device.fft(self._plane, self._plane)
                device.launch("multiply_conjugate", extent, self._free[self._which[m - 1]], n, self._plane)
                device.fft(self._plane, self._plane, inverse=True)


class GpuWaves:
    """Propagate waves through slices to images, and residuals back, for arrays of ``device``.

    Parameters
    ----------
    optics : Optics
        The optics, as for the multislice on the CPU.
    device : Device
        The device that holds the arrays.
    likelihood : str
        A row of :data:`aetlab.methods.likelihoods.LIKELIHOODS` with a GPU version.
    transfer : complex (K, F, X, Y), optional
        Transfer functions of K sets of defoci; they replace those of ``optics``.
    set_of : int (T,), optional
        The set of each tilt; by default there is one tilt.
    gradient : bool
        Whether the waves behind all slices are kept, which the gradient needs.
    limit : complex (X, Y), optional
        Factor of the frequencies of the transmission functions, with the 1/(X·Y) of the inverse FFT; images alone can
        be computed with it.

    Attributes
    ----------
    transfer : array of the device
        The transfer functions, as :meth:`pack` returns them.
    set_of : int array of the device (T,)
        The set of each tilt in ``transfer``.
    mtf : float (X, Y) or None
        The MTF of the last :meth:`use_mtf`.
    """

    def __init__(self, optics: Optics, device: Device, likelihood: str = "amplitude",
                 transfer: np.ndarray | None = None, set_of: np.ndarray | None = None, *, gradient: bool = True,
                 limit: np.ndarray | None = None) -> None:
        kernels = LIKELIHOODS[likelihood].gpu
        if kernels is None:
            raise GpuError(f"engine.likelihood={likelihood} has no GPU version")
        n_defoci, n_x, n_y = optics.transfer.shape
        self._device = device
        make_steps = FusedSteps if fits((n_x, n_y)) else LibrarySteps
        self._steps: Steps = make_steps(optics, device, gradient=gradient, limit=limit)
        self.transfer = device.upload(self.pack(optics.transfer[None] if transfer is None else transfer))
        self.set_of = device.upload(np.zeros(1, np.int32) if set_of is None else set_of.astype(np.int32))
        self._likelihood = kernels
        self._cost = device.zeros((n_defoci * max(n_x, n_y),), np.float64)
        self._written: np.ndarray | None = None
        self._mtf: Array = None
        self._planes: Array = None
        self.use_mtf(optics.mtf)

    def pack(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (..., X, Y) in the form of :attr:`transfer`, complex64."""
        return self._steps.pack(transfer)

    @property
    def orders(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the frequencies along x and y, as indices of the FFT grid, in the order of :meth:`pack`."""
        return self._steps.orders

    def separate_sets(self, n_tilts: int) -> None:
        """Give each of ``n_tilts`` a copy of its transfer functions, so that they can be replaced one by one."""
        separate = self._device.zeros((n_tilts, *self.transfer.shape[1:]), np.complex64)
        for i_tilt, i_set in enumerate(to_numpy(self.set_of).tolist()):
            separate[i_tilt] = self.transfer[i_set]
        self.transfer, self.set_of = separate, self._device.upload(np.arange(n_tilts, dtype=np.int32))

    def place_transfer(self, packed: np.ndarray, i_set: int) -> None:
        """Replace the transfer functions (F, X, Y) of one set by those that :meth:`pack` returned."""
        self._device.write(packed, self.transfer[i_set])

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following images; None: an ideal detector.

        Its array on the device stays the same: recordings with one MTF work with another.
        """
        if mtf is not None and self._planes is None:
            self._planes = self._device.zeros(self._steps.images.shape, np.complex64)
            self._mtf = self._device.zeros(mtf.shape, np.complex64)
        if mtf is not None and mtf is not self._written:
            self._device.write((mtf / mtf.size).astype(np.complex64), self._mtf)
            self._written = mtf
        self.mtf = mtf

    def measure(self, slices: Array, amplitude: Array, weight: Array | None, now: Array, costs: Array) -> None:
        """Propagate ``slices`` (S, X, Y) to images and replace the images by residuals.

        ``now`` (2,) holds the index of the tilt in ``amplitude`` (T, F, X, Y) and the index of its cost in ``costs``.
        ``weight`` is that of pixels (T, F, X, Y) or of rows (T, F, X, 1); None: 1.
        """
        weights = (amplitude, np.int32(0)) if weight is None else (weight, np.int32(weight.shape[3]))
        self._steps.propagate(slices)
        self._steps.to_images(self.transfer, self.set_of, now)
        if self.mtf is None:
            n_parts = self._steps.compare(self._likelihood, amplitude, weights, now, self._cost)
        else:
            n_parts = self._compare_detected(amplitude, weights, now)
        self._device.launch("sum_cost", (1, 1, 1), self._cost, now, np.int32(n_parts), costs)

    def propagate(self, slices: Array, first: int = 0) -> None:
        """Propagate the incident wave through ``slices`` (S, X, Y); see :meth:`Steps.propagate`."""
        self._steps.propagate(slices, first)

    def exit_wave(self, slices: Array, now: Array) -> Array:
        """Return the first image wave (X, Y) of ``slices``; the next call overwrites it. ``now`` is as elsewhere."""
        self._steps.propagate(slices)
        self._steps.to_images(self.transfer, self.set_of, now)
        self._steps.show_images()
        return self._steps.images[0]

    def intensities(self, slices: Array, now: Array, *, propagated: bool = False) -> Array:
        """Return noise-free images (F, X, Y) of ``slices``, vacuum 1; ``now`` is as for :meth:`measure`.

        ``propagated`` says that the wave behind the slices is that of the last call.
        """
        steps = self._steps
        if not propagated:
            steps.propagate(slices)
        steps.to_images(self.transfer, self.set_of, now)
        steps.show_images()
        planes = self._device.zeros(steps.images.shape, np.complex64)
        self._device.launch("intensities", (int(planes.size), 1, 1), steps.images, np.int32(planes.size), planes)
        if self.mtf is not None:
            self._blur(planes)
        return planes.real

    def _compare_detected(self, amplitude: Array, weights: tuple[Array, np.int32], now: Array) -> int:
        """Replace the images by residuals of what the detector sees of them (:mod:`aetlab.forward.detector`)."""
        device, images = self._device, self._steps.images
        extent, n = (int(images.size), 1, 1), np.int32(images.size)
        n_defoci, n_x, n_y = images.shape
        self._steps.show_images()
        device.launch("intensities", extent, images, n, self._planes)
        self._blur(self._planes)
        device.launch("detected_residual", (n_defoci * n_x, 1, 1), amplitude, *weights, now,
                      np.float32(self._likelihood.background), np.float32(DARKEST), np.int32(n_defoci * n_x),
                      np.int32(n_y), self._planes, self._cost)
        self._blur(self._planes)
        device.launch("weigh", extent, self._planes, n, images)
        self._steps.hide_images()
        return n_defoci * n_x

    def _blur(self, planes: Array) -> None:
        """Blur ``planes`` (F, X, Y) as the detector does."""
        device, n = self._device, int(self._mtf.size)
        device.fft(planes, planes)
        for plane in planes:
            device.launch("multiply", (n, 1, 1), self._mtf, np.int32(n), plane)
        device.fft(planes, planes, inverse=True)

    def propagate_back(self, slices: Array, now: Array) -> None:
        """Replace ``slices``, those of the last :meth:`measure`, by the gradient; ``now`` is as there."""
        self._steps.back(slices, self.transfer, self.set_of, now)
