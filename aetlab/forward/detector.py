r"""Blur of images by the detector: its modulation transfer function (MTF) in the cost of a tilt and its gradient.

A detector records m = K |ψ|² with the blur K, a product with the MTF in Fourier space. K is real and symmetric, and its
own adjoint. With the cost C = Σ c(m, a), a = √I measured, the residual of the wave is

    r = (K f) ψ,    f = 2 ∂c/∂m

(:mod:`aetlab.forward.multislice` for the rest of the gradient), for example f = w (1 - a/√m) for the amplitude. Without
a blur this is the residual of :mod:`aetlab.forward.multislice`.

A table of the MTF is interpolated in the frequency by monotone cubics, as an even function, so that it is flat at 0.
Beyond the table its logarithm goes on as it ends, a straight line. A movement of the sample or of the image during an
exposure blurs the intensities as well, by a Gaussian whose Fourier transform multiplies the MTF.
"""

from __future__ import annotations

import numpy as np

from aetlab.core.fft import plan_fft
from aetlab.core.grid import squared_frequencies
from aetlab.forward.imaging import detector_mtf
from aetlab.methods.likelihood import Likelihood
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.spec import MicroscopeSpec


def mtf_of(microscope: MicroscopeSpec, shape_xy: tuple[int, int], pixel_A: float) -> np.ndarray | None:
    """Return the MTF of the detector on the FFT grid, float64 (X, Y), 1 at q = 0; None for an ideal detector."""
    return mtf_between_pixels(microscope, shape_xy, pixel_A, 1)


def mtf_between_pixels(microscope: MicroscopeSpec, fine_xy: tuple[int, int], fine_A: float, factor: int, *,
                       averaged: bool = False) -> np.ndarray | None:
    """Return the MTF of a detector whose pixels are ``factor`` times those of the FFT grid ``fine_xy``, float64 (X, Y).

    ``fine_A`` is the pixel of the grid. With ``averaged``, the images were averaged over the area of the pixels before
    the detector, whose MTF has no part of it, and the average is in the result. A blur of the images by a movement
    multiplies it by a Gaussian. None for an ideal detector and images that are not blurred.
    """
    mtf = None
    if microscope.mtf_values:
        cycles = np.sqrt(squared_frequencies(fine_xy, fine_A)) * fine_A * factor
        mtf = interpolate_mtf(np.array(microscope.mtf_cycles_per_pixel), np.array(microscope.mtf_values), cycles)
    elif microscope.mtf_half < 1:
        mtf = detector_mtf(fine_xy, fine_A, microscope.mtf_half ** (factor * factor))
    if microscope.blur_sigma_A > 0:
        moved = np.exp(-2 * (np.pi * microscope.blur_sigma_A) ** 2 * squared_frequencies(fine_xy, fine_A))
        mtf = moved if mtf is None else mtf * moved
    if not averaged:
        return mtf
    of_x, of_y = (np.sinc(factor * np.fft.fftfreq(n)) for n in fine_xy)
    return np.outer(of_x, of_y) if mtf is None else mtf * np.outer(of_x, of_y)


def interpolate_mtf(cycles_per_pixel: np.ndarray, mtf: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the MTF at the frequencies ``at``, from a table (N,) of values over cycles per pixel that starts at 0."""
    from scipy.interpolate import PchipInterpolator  # its import takes a tenth of the start of a command

    u, values = np.asarray(cycles_per_pixel, float), np.minimum(np.asarray(mtf, float) / mtf[0], 1.0)
    inside = PchipInterpolator(np.concatenate([-u[:0:-1], u]), np.concatenate([values[:0:-1], values]))
    slope = min(np.log(values[-1] / values[-2]) / (u[-1] - u[-2]), 0.0)
    beyond = values[-1] * np.exp(slope * np.maximum(at - u[-1], 0.0))
    return np.where(at <= u[-1], inside(np.minimum(at, u[-1])), beyond)


def with_contrast(mtf: np.ndarray | None, contrast: float, shape_xy: tuple[int, int]) -> np.ndarray | None:
    """Return an MTF whose modulation is multiplied by ``contrast``: all frequencies but 0. None stays None for 1."""
    if contrast == 1:
        return mtf
    scaled = contrast * (np.ones(shape_xy) if mtf is None else mtf)
    scaled[0, 0] = 1.0
    return scaled


class Detector:
    """Cost of image waves seen through a detector, and the factor of the waves in the residual.

    Two images share a complex FFT. ``mtf`` (X, Y) is that of the FFT grid, ``n_images`` the images of a tilt.
    """

    def __init__(self, mtf: np.ndarray, n_images: int, dtype: type,
                 likelihood: Likelihood = LIKELIHOODS["amplitude"]) -> None:
        complex_type = np.result_type(dtype, np.complex64)
        self._mtf: np.ndarray = (mtf / mtf.size).astype(dtype)
        self._planes = np.zeros((-(-n_images // 2), *mtf.shape), complex_type)
        self._row_cost = np.empty((n_images, mtf.shape[0]), np.float64)
        self._fft = plan_fft()
        self._likelihood = likelihood

    def blur(self, images: np.ndarray) -> np.ndarray:
        """Replace images (F, X, Y) by K images, in place; K is its own adjoint."""
        planes, n_second = self._planes, len(images) // 2
        planes.real[...] = images[::2]
        planes.imag[:n_second] = images[1::2]
        planes.imag[n_second:] = 0  # of an odd number of images: what the last call left there is not quite 0
        self._fft.forward(planes, planes)
        planes *= self._mtf
        self._fft.inverse(planes, planes)
        images[::2] = planes.real
        images[1::2] = planes.imag[:n_second]
        return images

    def compare(self, intensity: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None) -> float:
        """Return the cost of intensities |ψ|² (F, X, Y); replace them by the factor K f of the waves.

        ``amplitude`` and ``weight`` are those of :class:`aetlab.forward.multislice.TiltCost`.
        """
        self.blur(intensity)
        self._likelihood.compare_detected(intensity, amplitude, weight, self._row_cost)
        self.blur(intensity)
        return cost_of_rows(self._row_cost)


def cost_of_rows(row_cost: np.ndarray) -> float:
    """Return the sum of ``row_cost`` in a fixed order."""
    return float(row_cost.sum(dtype=np.float64))
