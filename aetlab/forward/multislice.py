r"""Propagate the electron wave through slices of projected potential (multislice), and compute the gradient.

Notation: slice m holds s_m, the sum over its layers of V in volts. Its transmission function is t_m = exp(i σ Δz s_m)
with the interaction parameter σ and the voxel Δz. The incident wave is 1. The wave behind slice m is g_m = t_m ψ_m. The
wave in front of the next slice is ψ_{m+1} = P_m g_m (equation 1 of the paper), with the propagator P_m over the
distance between the middles of the two slices (equation 2). Each image is |F⁻¹ T_j F g_S|² with a transfer function T_j
that starts behind the last slice.

The cost of a tilt is ½ Σ_j Σ w_j (|ψ_j| - a_j)² with a_j = √I_j (equation 5 halved, with weights). The weight w_j of a
pixel is the product of its image's weight and its own. It is 0 in missing images and bad pixels, whose a_j then does
not matter, and 1 in a regular series. With r_j = w_j (ψ_j - a_j ψ_j/|ψ_j|) and φ_S = F⁻¹ Σ_j T_j* F r_j, the gradient
at slice m is σ Δz Im(φ_m g_m*), and φ_{m-1} = P*_{m-1} t*_m φ_m (algorithm 2 of the paper). The variance of a_j is
1/(4n_j) for n_j electrons in a vacuum pixel. With w_j = n_j/n, where n is the mean of the n_j, 4n times the cost is the
negative log-likelihood.

With a blur by the detector, |ψ_j| is √(K |ψ_j|²) in both costs (:mod:`aetlab.forward.detector`).

Other likelihoods (:mod:`aetlab.methods.likelihoods`) have other costs and residuals r_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from aetlab.core.fft import plan_fft
from aetlab.core.grid import axial_frequencies, squared_frequencies
from aetlab.forward import kernels_numba as kernels
from aetlab.forward import simd_multislice
from aetlab.forward.detector import Detector, cost_of_rows
from aetlab.methods.likelihoods import LIKELIHOODS


def propagator(shape_xy: tuple[int, int], pixel_A: float, wavelength_A: float, distance_A: float, *,
               band_limit: float = 1.0) -> np.ndarray:
    """Return the free-space propagator over ``distance_A`` on the FFT grid, complex128 (X, Y): full angular spectrum.

    The propagator is ``exp(2πi d (√(1/λ² - q²) - 1/λ))`` (equation 2 without the constant phase on the axis).
    Frequencies beyond ``band_limit`` times the Nyquist frequency (a circle) are set to 0; 1 keeps all.
    """
    q2 = squared_frequencies(shape_xy, pixel_A)
    phase = 2 * np.pi * distance_A * axial_frequencies(shape_xy, pixel_A, wavelength_A)
    keep = q2 < 1 / wavelength_A**2
    if band_limit < 1:
        keep &= q2 <= (band_limit * 0.5 / pixel_A * (1 + 1e-9)) ** 2
    return np.exp(1j * phase) * keep


def exit_wave(slices: np.ndarray, *, phase_per_V: float, gap_A: float, pixel_A: float, wavelength_A: float,
              wave: np.ndarray | None = None, band_limit: float = 1.0) -> np.ndarray:
    """Return the wave behind the last of ``slices``, which have equal thickness and may come in several portions.

    Parameters
    ----------
    slices : float (S, X, Y)
        Sum over its layers of the potential in V, slice by slice along the beam.
    phase_per_V : float
        σ Δz in rad/V.
    gap_A : float
        Distance between the middles of neighbouring slices in Å.
    pixel_A, wavelength_A : float
        Sampling and wavelength in Å.
    wave : complex (X, Y), optional
        Wave behind the slice before ``slices[0]``, as returned for the previous portion; it is overwritten. By default
        the incident wave 1 enters ``slices[0]``.
    band_limit : float
        Cut-off of propagators and transmission functions in units of the Nyquist frequency; 1 keeps all.

    Returns
    -------
    complex64 (X, Y); complex128 for float64 slices.
    """
    real = slices.dtype.type
    complex_type = np.result_type(slices.dtype, np.complex64)
    shape_xy = slices.shape[1:]
    fft = plan_fft()
    free, limit = (_step_factor(shape_xy, pixel_A, wavelength_A, distance_A, band_limit, complex_type)
                   for distance_A in (gap_A, 0.0))
    transmission, unit = np.empty(shape_xy, complex_type), np.ones(shape_xy, complex_type)
    first = wave is None
    wave = unit.copy() if wave is None else wave
    for plane in slices:
        if not first:
            fft.forward(wave, wave)
            kernels.multiply(wave, free, wave)
            fft.inverse(wave, wave)
        first = False
        if band_limit < 1:
            kernels.transmit(real(phase_per_V), plane, unit, transmission)
            fft.forward(transmission, transmission)
            kernels.multiply(transmission, limit, transmission)
            fft.inverse(transmission, transmission)
            kernels.multiply(wave, transmission, wave)
        else:
            kernels.transmit(real(phase_per_V), plane, wave, wave)
    return wave


@lru_cache(maxsize=4)
def _step_factor(shape_xy: tuple[int, int], pixel_A: float, wavelength_A: float, distance_A: float, band_limit: float,
                 complex_type: np.dtype) -> np.ndarray:
    """Return the propagator with the 1/(X·Y) of the inverse FFT; portions and tilts share it, and none changes it."""
    factor = propagator(shape_xy, pixel_A, wavelength_A, distance_A, band_limit=band_limit)
    return (factor / factor.size).astype(complex_type)


@dataclass(frozen=True)
class Optics:
    """The propagators between the slices and the transfer functions behind them, the same for all tilts.

    ``transfer`` complex (F, X, Y) are the transfer functions from behind the last slice to the images. ``free`` complex
    (G, X, Y) are the different propagators, and ``which`` (S - 1,) is the index of the one behind each slice except the
    last. ``phase_per_V`` is σ Δz. Each factor includes the 1/(X·Y) of the inverse FFT that follows it. ``mtf`` float
    (X, Y) is the detector's MTF, 1 at frequency 0; None for an ideal detector.
    """

    transfer: np.ndarray
    free: np.ndarray
    which: np.ndarray
    phase_per_V: float
    mtf: np.ndarray | None = None


def make_optics(transfer: np.ndarray, gaps_A: np.ndarray, *, pixel_A: float, wavelength_A: float,
                phase_per_V: float, mtf: np.ndarray | None = None) -> Optics:
    """Return the optics of slices with distances ``gaps_A`` (S - 1,) between their middles.

    ``transfer`` (F, X, Y) are the transfer functions behind the last slice, ``mtf`` (X, Y) is the detector's MTF.
    """
    shape_xy = (transfer.shape[1], transfer.shape[2])
    n_pixels = shape_xy[0] * shape_xy[1]
    distances_A, which = np.unique(np.round(gaps_A, 9), return_inverse=True)
    free = np.empty((len(distances_A), *shape_xy), np.complex128)
    for i, distance_A in enumerate(distances_A):
        free[i] = propagator(shape_xy, pixel_A, wavelength_A, distance_A) / n_pixels
    return Optics(transfer / n_pixels, free, which, phase_per_V, mtf)



class TiltCost(Protocol):
    """The interface of the cost of the slices of one tilt and its gradient; all memory is allocated once."""

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y), as in :class:`Optics`, in the form that :meth:`use_transfer` takes."""

    def use_transfer(self, packed: np.ndarray) -> None:
        """Use these transfer functions for all following images."""

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following images; None: an ideal detector."""

    def cost(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
             span: tuple[int, int] | None = None) -> float:
        """Return the cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity.

        ``weight`` (F, X, Y), in the precision of ``amplitude``, is the weight of each pixel; None: 1. Slices outside
        ``span`` (first, end), which is not empty, are 0, and may be skipped.
        """

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          span: tuple[int, int] | None = None) -> float:
        """Return the cost as :meth:`cost` does; overwrite ``slices`` by the gradient with respect to it, in 1/V.

        The gradient of slices outside ``span`` may be left out: they then stay 0.
        """


def make_multislice(optics: Optics, dtype: type = np.float32, likelihood: str = "amplitude") -> TiltCost:
    """Return the fastest :class:`TiltCost` for these planes: fused kernels in float32 if shape and likelihood allow.

    ``likelihood`` is a row of :data:`aetlab.methods.likelihoods.LIKELIHOODS`.
    """
    shape_xy = (optics.transfer.shape[1], optics.transfer.shape[2])
    if dtype is np.float32 and simd_multislice.fits(shape_xy) and LIKELIHOODS[likelihood].fused:
        return simd_multislice.SimdMultislice(optics.transfer, optics.free, optics.which, optics.phase_per_V,
                                              optics.mtf)
    return Multislice(optics, dtype, likelihood)


def loses_fused_kernels(likelihood: str, shape_xy: tuple[int, int]) -> bool:
    """Return whether float32 planes of this shape would have fused kernels but for the likelihood."""
    return simd_multislice.fits(shape_xy) and not LIKELIHOODS[likelihood].fused


class Multislice:
    """Implement :class:`TiltCost` for planes of any shape, in float32 or float64, with the FFTs of a library.

    Without ``gradient`` it makes images only, and holds a single wave instead of those behind all slices.
    """

    def __init__(self, optics: Optics, dtype: type = np.float32, likelihood: str = "amplitude", *,
                 gradient: bool = True) -> None:
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood={likelihood!r} is unknown: choose one of {', '.join(LIKELIHOODS)}")
        self._likelihood = LIKELIHOODS[likelihood]
        self._dtype = dtype
        complex_type = np.result_type(dtype, np.complex64)
        n_defoci, n_x, n_y = optics.transfer.shape
        self._phase = dtype(optics.phase_per_V)
        self._transfer = optics.transfer.astype(complex_type)
        self._free = optics.free.astype(complex_type)
        self._which = optics.which
        self._waves = np.empty((len(optics.which) + 1 if gradient else 1, n_x, n_y), complex_type)
        self._plane = np.empty((n_x, n_y), complex_type)
        self._images = np.empty((n_defoci, n_x, n_y), complex_type)
        self._row_cost = np.empty((n_defoci, n_x), np.float64)
        self._unit = np.ones((n_x, n_y), complex_type)
        self._fft = plan_fft()
        self._detector: Detector | None = None
        self.use_mtf(optics.mtf)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        self._detector = None if mtf is None else Detector(mtf, len(self._images), self._dtype, self._likelihood)

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        return transfer.astype(self._transfer.dtype)

    def use_transfer(self, packed: np.ndarray) -> None:
        self._transfer = packed

    def exit_spectrum(self, slices: np.ndarray) -> np.ndarray:
        """Return the Fourier transform (X, Y) of the wave behind the last slice; the next call overwrites it."""
        fft, plane, waves = self._fft, self._plane, self._waves
        n_kept = len(waves)
        kernels.transmit(self._phase, slices[0], self._unit, waves[0])
        for m in range(1, len(slices)):
            fft.forward(waves[(m - 1) % n_kept], plane)
            kernels.multiply(plane, self._free[self._which[m - 1]], plane)
            fft.inverse(plane, plane)
            kernels.transmit(self._phase, slices[m], plane, waves[m % n_kept])
        fft.forward(waves[-1], plane)
        return plane

    def images(self, slices: np.ndarray) -> np.ndarray:
        """Return the image waves ψ_j (F, X, Y) of ``slices`` (S, X, Y); the next call overwrites the array."""
        plane = self.exit_spectrum(slices)
        for f in range(len(self._images)):
            kernels.multiply(plane, self._transfer[f], self._images[f])
        self._fft.inverse(self._images, self._images)
        return self._images

    def cost(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
             span: tuple[int, int] | None = None) -> float:
        """Return the cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity.

        ``weight`` (F, X, Y), in the precision of ``amplitude``, is the weight of each pixel; None: 1. All slices are
        computed, also those outside ``span``.
        """
        waves = self.images(slices)
        if self._detector is not None:
            factor = waves.real**2 + waves.imag**2
            cost = self._detector.compare(factor, amplitude, weight)
            waves *= factor
            return cost
        self._likelihood.compare(waves, amplitude, weight, self._row_cost)
        return cost_of_rows(self._row_cost)

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          span: tuple[int, int] | None = None) -> float:
        """Return the cost as :meth:`cost` does; overwrite ``slices`` by the gradient with respect to it, in 1/V."""
        cost = self.cost(slices, amplitude, weight)
        fft, plane = self._fft, self._plane
        fft.forward(self._images, self._images)
        kernels.add_conjugate_products(self._images, self._transfer, plane)
        fft.inverse(plane, plane)
        for m in range(len(slices) - 1, -1, -1):
            kernels.back_transmit(self._phase, self._waves[m], plane, slices[m])
            if m > 0:
                fft.forward(plane, plane)
                kernels.multiply_conjugate(plane, self._free[self._which[m - 1]], plane)
                fft.inverse(plane, plane)
        return cost
