"""Equations of one tilt in an alignment: its images at given unknowns, their derivatives, and sums of both.

Notation: :mod:`aetlab.forward.alignment`. A step of the unknowns p of a tilt minimises ½ Σ |r + A p|², with r the
residual w ∗ √p_j (a_j - √I_j) of all images and the columns of A its derivatives. Only AᵀA, Aᵀr and a few sums like
them leave the device that computes images: :class:`TiltEquations` is what the alignment needs of it,
:class:`CpuTiltEquations` its version on the CPU, and :class:`aetlab.gpu.GpuTiltEquations` that on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.fft

from aetlab.core.backend import to_numpy
from aetlab.core.grid import coordinates_A, in_plane_rotation, squared_frequencies
from aetlab.core.nouns import TiltSeries
from aetlab.forward.imaging import blur_by_detector
from aetlab.forward.posed_images import (
    DARK,
    PosedImages,
    PosedOptics,
    brightness_of,
    image_waves,
    shift_and_defocus,
)
from aetlab.forward.resampling import rotate_images
from aetlab.methods.rotations.cubic import MATRIX
from aetlab.methods.sparse_rotation import SparseRotation

#: Step of the difference quotient of the tilt angle, in degrees.
ANGLE_STEP_DEG = 0.1
#: A pixel of the rotated image is bad if the share of bad pixels in it exceeds this.
BAD_SHARE = 0.1


class PosedModel(Protocol):
    """The part of a forward model, on the CPU or a GPU, that the alignment uses."""

    def form_potential(self, volume: Any) -> Any:
        """Return V in volts from the reconstructed ``volume``."""

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls."""


@dataclass(frozen=True)
class PosedTilt:
    """A tilt at its unknowns ``row`` (6,), with what its images have of their ``own`` (F, 4).

    ``factors`` (F,) multiply the weights of the pixels. None: the images have nothing of their own; factors of 1.
    """

    i_tilt: int
    row: np.ndarray
    own: np.ndarray | None = None
    factors: np.ndarray | None = None


@dataclass(frozen=True)
class AddedColumns:
    """Unknowns of a step besides the six of a tilt: ``contrast`` of its images, and ``magnification`` of single images.
    """

    contrast: bool = False
    magnification: bool = False


@dataclass(frozen=True)
class Fit:
    """Images at one defocus compared with the measured ones at all shifts within reach.

    ``power`` is half the squared norm of the model's images, ``correlation`` the largest of all shifts with the
    measured ones, and ``shift_px`` (2,) where it lies; the first of equal ones along x, then y.
    """

    power: float
    correlation: float
    shift_px: np.ndarray


class ImageEquations(Protocol):
    """Normal equations of one image in what it has of its own: shift along x and y, defocus, brightness, and contrast.
    """

    @property
    def normal(self) -> np.ndarray:
        """Return the normal matrix, float64 (K, K)."""

    @property
    def slope(self) -> np.ndarray:
        """Return the derivative of the cost, float64 (K,)."""

    @property
    def radial_slope(self) -> np.ndarray | None:
        """Return the products (K,) of the columns with that of the magnification; None without."""

    def of_magnification(self, along: np.ndarray, step: np.ndarray) -> tuple[float, float]:
        """Return slope and curvature of the cost by the magnification.

        The image follows it by ``along`` (K,), and has taken ``step`` (K,).
        """


class Equations(Protocol):
    """Normal equations of all images of a tilt, of K unknowns: the six of a row of the table, and the contrast."""

    @property
    def normal(self) -> np.ndarray:
        """Return the normal matrix, float64 (K, K)."""

    @property
    def slope(self) -> np.ndarray:
        """Return the derivative of the cost, float64 (K,)."""

    @property
    def misfit(self) -> np.ndarray:
        """Return the misfits (F,) as :meth:`TiltEquations.misfits`."""

    def of_images(self, step: np.ndarray) -> Sequence[ImageEquations]:
        """Return the equations of each image after the ``step`` (K,) of the tilt."""


class TiltEquations(Protocol):
    """Images of a volume at the unknowns of a tilt, and their comparison with measured ones."""

    def use(self, series: TiltSeries) -> None:
        """Compare with the images of ``series`` from now on: those measured, at the magnifications of their planes."""

    def take(self, potential_V: Any) -> Any:
        """Return ``potential_V`` (Z, X, Y) of a forward model where the other methods need it."""

    def compare(self, potential_V: Any, tilt: PosedTilt, smoothing_A: float) -> Equations:
        """Return the equations of a step."""

    def misfits(self, potential_V: Any, tilt: PosedTilt) -> np.ndarray:
        """Return χ²/4 per value (F,) of the images without ``factors`` and smoothing; NaN for missing ones.

        Images without noise count one electron a pixel.
        """

    def search(self, potential_V: Any, tilt: PosedTilt, smoothing_A: float, defocus_A: np.ndarray, reach_px: int,
               ) -> Sequence[Fit]:
        """Return the fit at each change of the defocus (K,), for shifts up to ``reach_px`` pixels along x and y.

        ``tilt`` has no ``own``.
        """

    def place(self, tilt: PosedTilt) -> None:
        """Set the angle, transfer functions and measured amplitudes of a tilt in the model at its unknowns.

        The measured images are turned instead of the waves, and the shift with them.
        """


class CpuTiltEquations:
    """Implement :class:`TiltEquations` on the CPU, for a ``model`` on any device.

    Exit waves come from a rotation by cubic interpolation.
    """

    def __init__(self, optics: PosedOptics, series: TiltSeries, added: AddedColumns, model: PosedModel) -> None:
        self._series, self._added, self._model = series, added, model
        shape = optics.shape_zxy
        # The angle changes with each exit wave, so that no matrix is kept.
        rotation = SparseRotation(MATRIX, shape, optics.n_layers_per_slice, np.zeros(1), budget_bytes=0)
        self._optics, self._images = optics, PosedImages(optics, rotation)
        self._shape_xy = shape_xy = (shape[1], shape[2])
        x_A, y_A = (np.deg2rad(coordinates_A(n, optics.pixel_A)).astype(np.float32) for n in shape_xy)
        #: Displacement by a turn of one degree, along y and along -x, in Å.
        self._lever_y, self._lever_x = x_A[:, None], y_A[None, :]
        self._x_A, self._y_A = np.rad2deg(self._lever_y), np.rad2deg(self._lever_x)

    def use(self, series: TiltSeries) -> None:
        self._series = series

    def take(self, potential_V: Any) -> np.ndarray:
        return to_numpy(potential_V)

    def amplitudes(self, potential_V: np.ndarray, tilt: PosedTilt) -> np.ndarray:
        """Return a_j (F, X, Y)."""
        return self._images.amplitudes(potential_V, tilt.i_tilt, tilt.row, tilt.own)

    def derivatives(self, potential_V: np.ndarray, tilt: PosedTilt) -> tuple[np.ndarray, np.ndarray]:
        """Return :meth:`amplitudes` and their derivatives (6, F, X, Y) with respect to the row, per degree, Å and 1."""
        images, optics, (i_tilt, row, own) = self._images, self._optics, (tilt.i_tilt, tilt.row, tilt.own)
        transfer = optics.transfer_at(i_tilt, *shift_and_defocus(row, own))
        spectrum = images.exit_spectrum(potential_V, i_tilt, row[0], row[1])
        waves = image_waves(spectrum * transfer)
        amplitude = images.detect(waves)
        unit = waves.conj() / np.maximum(amplitude, DARK) if optics.mtf is None else waves.conj()
        # -2πi q multiplies the transform of -∂g.
        by_x, by_y = (scipy.fft.ifft2(spectrum * ramp) for ramp in (optics.ramp_x, optics.ramp_y))
        turned = scipy.fft.fft2(by_y * self._lever_y - by_x * self._lever_x)
        slopes = [(unit * image_waves(each * transfer)).real
                  for each in (turned, spectrum * optics.ramp_x, spectrum * optics.ramp_y, spectrum * optics.lift)]
        if optics.mtf is not None:
            slopes = [blur_by_detector(each, optics.mtf) / np.maximum(amplitude, DARK) for each in slopes]
        ahead = images.exit_spectrum(potential_V, i_tilt, row[0] + ANGLE_STEP_DEG, row[1])
        slopes.insert(0, (images.detect(image_waves(ahead * transfer)) - amplitude) / ANGLE_STEP_DEG)
        brightness = brightness_of(row, own)
        root, twice = np.sqrt(brightness).astype(np.float32), (2 * brightness).astype(np.float32)
        return root * amplitude, root * np.stack([*slopes, amplitude / twice])

    def compare(self, potential_V: np.ndarray, tilt: PosedTilt, smoothing_A: float) -> CpuEquations:
        i_tilt, added = tilt.i_tilt, self._added
        amplitude, by = self.derivatives(potential_V, tilt)
        weight = low_pass(self._half_q2(), smoothing_A)
        # These columns of the half plane count twice.
        weight[:, 1:(self._shape_xy[1] + 1) // 2] *= np.float32(np.sqrt(2))
        if added.contrast:
            by = np.concatenate([by, (amplitude - amplitude.mean(axis=(1, 2), keepdims=True))[None]])
        n_common = len(by)
        if added.magnification:
            by = np.concatenate([by, (self._x_A * by[2] + self._y_A * by[3])[None]])
        residual = amplitude - self._series.amplitudes(i_tilt, centred=True)
        misfit = misfit_per_value(self._series, i_tilt, residual)
        by_pixel = weights_at(self._series, i_tilt, tilt.factors)
        if by_pixel is not None:
            root = np.sqrt(by_pixel)
            residual, by = root * residual, root * by
        residual = scipy.fft.rfft2(residual) * weight
        every = (scipy.fft.rfft2(by) * weight).view(np.float32).reshape(len(by), -1)
        return CpuEquations(every, residual.view(np.float32).reshape(-1), len(amplitude), n_common, misfit)

    def misfits(self, potential_V: np.ndarray, tilt: PosedTilt) -> np.ndarray:
        residual = self.amplitudes(potential_V, tilt) - self._series.amplitudes(tilt.i_tilt, centred=True)
        return misfit_per_value(self._series, tilt.i_tilt, residual)

    def search(self, potential_V: np.ndarray, tilt: PosedTilt, smoothing_A: float, defocus_A: np.ndarray,
               reach_px: int) -> list[Fit]:
        weight = low_pass(self._half_q2(), smoothing_A) ** 2
        measured = self._series.amplitudes(tilt.i_tilt, centred=True) - 1
        by_pixel = weights_at(self._series, tilt.i_tilt, tilt.factors)
        if by_pixel is not None:
            measured = measured * by_pixel
        measured = scipy.fft.rfft2(measured)
        row = tilt.row
        exit_spectrum = self._images.exit_spectrum(potential_V, tilt.i_tilt, row[0], row[1])
        x, y = np.meshgrid(np.arange(-reach_px, reach_px + 1), np.arange(-reach_px, reach_px + 1), indexing="ij")
        fits = []
        for by_A in defocus_A:
            transfer = self._optics.transfer_at(tilt.i_tilt, row[2:4], row[4] + by_A)
            waves = image_waves(exit_spectrum * transfer)
            seen = scipy.fft.rfft2(self._images.detect(waves) - 1)
            product = (measured * seen.conj() * weight).sum(axis=0)
            correlation = scipy.fft.irfft2(product, s=self._shape_xy)[x, y]
            square = np.abs(seen) ** 2 * weight
            if by_pixel is not None:
                # Bad pixels take their share of the power, wherever the shift puts them.
                square = square * by_pixel.mean(axis=(1, 2))[:, None, None]
            power = 0.5 * float(scipy.fft.irfft2(square.sum(axis=0), s=self._shape_xy)[0, 0])
            top = np.unravel_index(int(correlation.argmax()), correlation.shape)
            fits.append(Fit(power, correlation[top], np.array([x[top], y[top]])))
        return fits

    def place(self, tilt: PosedTilt) -> None:
        i_tilt, row, series = tilt.i_tilt, tilt.row, self._series
        amplitude = rotate_images(series.amplitudes(i_tilt), -float(row[1]))
        turned_A, defocus_A = turned_back(tilt)
        self._model.place_tilt(i_tilt, float(self._optics.tilt_deg[i_tilt] + row[0]),
                               self._optics.transfer_at(i_tilt, turned_A, defocus_A),
                               amplitude / np.sqrt(brightness_of(row, tilt.own)).astype(np.float32),
                               self._turned_weight(tilt))

    def _turned_weight(self, tilt: PosedTilt) -> np.ndarray | None:
        """Return weights (F, X, Y) rotated with the image, 0 where bad pixels contribute; None without bad pixels."""
        by_pixel = weights_at(self._series, tilt.i_tilt, tilt.factors)
        if self._series.pixel_weight is None or by_pixel is None:
            return None
        angle_deg = -float(tilt.row[1])
        share = rotate_images((by_pixel == 0).astype(np.float32), angle_deg)
        return np.where(np.abs(share) > BAD_SHARE, np.float32(0), np.maximum(rotate_images(by_pixel, angle_deg), 0))

    def _half_q2(self) -> np.ndarray:
        """Return |q|² in 1/Å² of the half plane of real transforms (X, Y/2 + 1)."""
        return squared_frequencies(self._shape_xy, self._optics.pixel_A)[:, :self._shape_xy[1] // 2 + 1]


class CpuEquations:
    """Implement :class:`Equations` by columns and residual in Fourier space.

    ``every`` (N, F·P) are the columns of the ``n_common`` unknowns of a tilt and possibly that of the magnification,
    and ``off`` (F·P,) the residual, of ``n_images`` images with P values each.
    """

    def __init__(self, every: np.ndarray, off: np.ndarray, n_images: int, n_common: int, misfit: np.ndarray) -> None:
        self._every, self._off, self._n_images, self._n_common = every, off, n_images, n_common
        self.misfit = misfit
        columns = every[:n_common]
        self.normal = (columns @ columns.T).astype(float)
        self.slope = (columns @ off).astype(float)

    def of_images(self, step: np.ndarray) -> list[CpuImageEquations]:
        n, every = self._n_images, self._every
        of_images = every.reshape(len(every), n, -1)
        left = (self._off + step.astype(np.float32) @ every[:self._n_common]).reshape(n, -1)
        return [CpuImageEquations(of_images[2:self._n_common, j], left[j],
                                  of_images[-1, j] if len(every) > self._n_common else None) for j in range(n)]


@dataclass(frozen=True)
class CpuImageEquations:
    """Implement :class:`ImageEquations` by columns (K, P), residual (P,) and the column of the magnification (P,)."""

    columns: np.ndarray
    residual: np.ndarray
    radial: np.ndarray | None

    @property
    def normal(self) -> np.ndarray:
        found: np.ndarray = (self.columns @ self.columns.T).astype(float)
        return found

    @property
    def slope(self) -> np.ndarray:
        found: np.ndarray = (self.columns @ self.residual).astype(float)
        return found

    @property
    def radial_slope(self) -> np.ndarray | None:
        return None if self.radial is None else (self.columns @ self.radial).astype(float)

    def of_magnification(self, along: np.ndarray, step: np.ndarray) -> tuple[float, float]:
        assert self.radial is not None
        moving = self.radial + (along.astype(np.float32) @ self.columns)
        left = self.residual + (step.astype(np.float32) @ self.columns)
        return float(moving @ left), float(moving @ moving)


def low_pass(q2_per_A2: np.ndarray, smoothing_A: float) -> np.ndarray:
    """Return the Fourier transform of w, float32, where |q|² in 1/Å² is ``q2_per_A2``."""
    return np.exp(-2 * (np.pi * smoothing_A) ** 2 * q2_per_A2).astype(np.float32)


def turned_back(tilt: PosedTilt) -> tuple[np.ndarray, Any]:
    """Return :func:`shift_and_defocus` of images that are turned by -φ."""
    shift_A, defocus_A = shift_and_defocus(tilt.row, tilt.own)
    return (in_plane_rotation(tilt.row[1]).T @ shift_A.T).T, defocus_A


def weights_at(series: TiltSeries, i_tilt: int, factors: np.ndarray | None) -> np.ndarray | None:
    """Return the weights (F, X, Y) of the pixels of one tilt, times ``factors`` (F,); None for a regular series."""
    by_pixel = series.weights_of(i_tilt)
    if by_pixel is None or factors is None:
        return by_pixel
    return by_pixel * factors.astype(np.float32)[:, None, None]


def misfit_per_value(series: TiltSeries, i_tilt: int, residual: np.ndarray) -> np.ndarray:
    """Return χ²/4 per value (F,) of the images of one tilt by their ``residual`` (F, X, Y); NaN for missing ones."""
    weights = series.weights_of(i_tilt)
    weights = np.ones_like(residual) if weights is None else weights
    total = weights.sum(axis=(1, 2), dtype=np.float64)
    square = (weights * residual**2).sum(axis=(1, 2), dtype=np.float64)
    return misfit_of_sums(series, i_tilt, square, total)


def misfit_of_sums(series: TiltSeries, i_tilt: int, square: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return χ²/4 per value (F,) by the sums Σ p r² and Σ p of each image; NaN for missing ones."""
    electrons = series.electrons_per_pixel[i_tilt]
    square = square * np.where(np.isfinite(electrons), electrons, 1)
    misfit: np.ndarray = np.where(total > 0, square / np.where(total > 0, total, 1), np.nan)
    return misfit
