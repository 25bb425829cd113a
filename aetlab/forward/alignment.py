r"""Alignment of the tilts of a series to the volume reconstructed so far.

Each tilt has six unknowns: tilt angle δ, direction of the tilt axis φ (a turn about the beam), shift d of the image
along x and y, defocus e common to the images of the tilt, and brightness b. The result is a
:class:`~aetlab.core.poses.Poses`, where e is the height with the opposite sign. The unknowns enter the model as

    a_j(r; p) = √b |F⁻¹ T_j(q) exp(2πi (e κ(q) - q·d)) F R_φ g|,    R_φ g (r) = g(R_φ⁻¹ r),

g the exit wave of the volume rotated by the nominal angle + δ, T_j the transfer function of the nominal defocus and
κ = √(1/λ² - q²) - 1/λ. With a detector's blur K, a_j is √b √(K |ψ_j|²) of the same wave ψ_j. All are exact, except that
the envelope of the convergence keeps the nominal defocus. The reconstruction treats shift and defocus in the same way;
it rotates the measured images by -φ instead of the wave, and divides them by b.

A Gauss-Newton step minimises ½ Σ (w ∗ √p_j (a_j - √I_j))². w is a Gaussian of ``smoothing_A``, which at first removes
detail that is finer than neighbouring tilts determine; p_j are the weights of the pixels (1 in a regular series), 0
where data are missing. The derivatives are ∂|ψ| = Re(ψ* ∂ψ)/|ψ|, or K Re(ψ* ∂ψ)/√(K |ψ|²), for d, e and φ, from
the same exit wave, which a turn changes by (y ∂_x - x ∂_y) g dφ; for b the amplitude itself; for δ the difference to
one more exit wave. The volume is rotated by cubic interpolation, whatever the reconstruction uses: the blur of linear
interpolation depends on the angle, which shifts the best angle by about 0.1°.

A volume that is not finished, or detail that the model has and the images lack, gives the model another contrast than
the images. At low frequencies a defocus changes the contrast as well, sin(πλ e q²) ≈ πλ e q², so that it would make up
for the difference, and the volume would follow. With ``contrast``, a factor of the modulation a_j - mean is one more
unknown of each step, which is not applied, and the search compares images at the best factor.

A tilt that lies much farther off than the others is reset and searched for again.

With ``robust``, images that fit much worse than the others lose weight (:mod:`aetlab.core.outlying`), in the steps of
the alignment and in the model. Their misfit is that before the step, unsmoothed; after a few iterations that of a bad
image stands out from what the unfinished volume leaves in all images.

With ``images``, single images may have a shift, defocus and brightness of their own, and with ``magnification`` the
planes of the defocus a size of their own (:mod:`aetlab.forward.single_images`).

A common turn of all tilts about the axis and a common shift of the sample change no image; they are not constrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import scipy.fft

from aetlab.core.backend import n_threads, threads
from aetlab.core.grid import coordinates_A, in_plane_rotation, squared_frequencies
from aetlab.core.nouns import TiltSeries
from aetlab.core.outlying import robust_factors
from aetlab.core.poses import Poses
from aetlab.forward.imaging import blur_by_detector
from aetlab.forward.model import SMALL_PLANE
from aetlab.forward.multislice import Optics
from aetlab.forward.posed_images import (
    DARK,
    NOMINAL,
    CpuExitWaves,
    ExitWaves,
    PosedImages,
    brightness_of,
    image_waves,
    shift_and_defocus,
)
from aetlab.forward.resampling import rotate_images
from aetlab.forward.single_images import DAMPING, SingleImages
from aetlab.methods.rotations.cubic import MATRIX
from aetlab.methods.sparse_rotation import SparseRotation
from aetlab.spec import MicroscopeSpec

#: Step of the difference quotient of the tilt angle, in degrees.
ANGLE_STEP_DEG = 0.1
#: Largest change in one step of tilt and axis (degrees), shift along x and y and defocus (Å), and brightness.
_MOST = np.array([1.0, 1.0, 1.0, 1.0, 20.0, 0.1])
#: A tilt is astray if an unknown is this many standard deviations (from the median deviation) off the median, ...
_ASTRAY = 6.0
#: ... and at least this much: tilt and axis (degrees), shift along x and y and defocus (Å), and brightness.
_ASTRAY_AT_LEAST = np.array([1.0, 1.0, 1.0, 1.0, 20.0, 0.1])
#: A pixel of the rotated image is bad if the share of bad pixels in it exceeds this.
_BAD_SHARE = 0.1


@dataclass(frozen=True)
class Search:
    """Shifts up to ``reach_A`` and changes of the defocus ``defocus_A`` (K,) in Å, tried before the first step."""

    reach_A: float
    defocus_A: np.ndarray


class PosedModel(Protocol):
    """The part of a forward model, on the CPU or a GPU, that the alignment uses."""

    def form_potential(self, volume: Any) -> Any:
        """Return V in volts from the reconstructed ``volume``."""

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls."""


class TiltAligner:
    """Find the poses of the tilts of ``series``, tilt by tilt, and keep ``model`` in agreement with them.

    ``shape_zxy``, ``microscope`` and ``n_layers_per_slice`` are those of ``model``. ``make_exit_waves`` returns the
    exit waves, by default on the CPU; what follows them runs on the CPU. With ``contrast``, the contrast of the images
    of a tilt is left open. With ``robust``, which needs a series with weights of pixels, images that fit much worse
    than the others lose weight. With ``images`` and ``magnification``, single images and planes differ in what they
    can.
    """

    def __init__(self, model: PosedModel, series: TiltSeries, shape_zxy: tuple[int, int, int], *,
                 microscope: MicroscopeSpec, n_layers_per_slice: int, contrast: bool = False,
                 robust: bool = False, images: bool = False, magnification: bool = False,
                 make_exit_waves: Callable[[Optics], ExitWaves] | None = None) -> None:
        self._model, self._contrast, self._robust = model, contrast, robust
        self._single = SingleImages(series, images=images, magnification=magnification)
        #: Weight of each image by its misfit, (T, F).
        self._factors = np.ones(series.weight.shape)
        self._tilt_deg = np.asarray(series.tilt_deg, float)

        def on_cpu(optics: Optics) -> ExitWaves:
            # The angle changes with each exit wave, so that no matrix is kept.
            rotation = SparseRotation(MATRIX, shape_zxy, n_layers_per_slice, np.zeros(1), budget_bytes=0)
            return CpuExitWaves(optics, shape_zxy, n_layers_per_slice, rotation)

        self._images = PosedImages(series, shape_zxy, microscope=microscope, n_layers_per_slice=n_layers_per_slice,
                                   make_exit_waves=make_exit_waves or on_cpu)
        #: Tilts with at least one image; the others keep their poses.
        self._seen = series.weight.max(axis=1) > 0
        self._shape_xy = shape_xy = (shape_zxy[1], shape_zxy[2])
        x_A, y_A = (np.deg2rad(coordinates_A(n, series.pixel_A)).astype(np.float32) for n in shape_xy)
        #: Displacement by a turn of one degree, along y and along -x, in Å.
        self._lever_y, self._lever_x = x_A[:, None], y_A[None, :]
        self._x_A, self._y_A = np.rad2deg(self._lever_y), np.rad2deg(self._lever_x)
        self._n_defoci = series.n_defoci
        self._table = np.tile(NOMINAL, (len(self._tilt_deg), 1))

    @property
    def poses(self) -> Poses:
        """Poses found so far."""
        poses = Poses.from_table(self._tilt_deg, self._n_defoci, self._table, self._single.of_images)
        return replace(poses, magnification=self._single.magnification)

    @property
    def table(self) -> np.ndarray:
        """Unknowns (T, 6) found so far, in the order of :meth:`aetlab.core.poses.Poses.from_table`."""
        return self._table.copy()

    @property
    def factors(self) -> np.ndarray:
        """Weights (T, F) that the images have by their misfits, 1 for those that do not stand out."""
        return self._factors.copy()

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`restore` takes by their names."""
        return {"tilts": self.table, "image_factors": self.factors, "of_images": self._single.of_images.copy(),
                "magnification": self._single.magnification.copy()}

    def restore(self, tilts: np.ndarray, image_factors: np.ndarray | None = None, of_images: np.ndarray | None = None,
                magnification: np.ndarray | None = None) -> None:
        """Continue, bit for bit, from where :attr:`state` was this; weights and magnifications are 1 if not given."""
        self._table = tilts.copy()
        self._factors = np.ones(self._factors.shape) if image_factors is None else image_factors.copy()
        self._single.restore(of_images, magnification)
        for i_tilt in range(len(self._table)):
            self._place(i_tilt)

    def align(self, volume: Any, search: Search, *, smoothing_A: float, angles: bool = True,
              first: bool = False) -> None:
        """Take one step for each tilt, with ``volume`` (Z, X, Y) of the model.

        ``search`` is applied to tilts that are astray, and to all if this is the ``first`` alignment. The tilt angle is
        fitted only with ``angles``: a volume of shifted images hardly determines it.
        """
        potential_V = self._images.take(self._model.form_potential(volume))
        astray, misfits = np.zeros(len(self._table), bool), np.full(self._factors.shape, np.nan)
        astray[self._seen] = find_astray(self._table[self._seen])
        self._table[astray] = NOMINAL
        self._single.reset(astray)
        with threads(1 if self._shape_xy[0] * self._shape_xy[1] <= SMALL_PLANE else n_threads()):
            for i_tilt in np.flatnonzero(self._seen).tolist():
                if first or astray[i_tilt]:
                    self._search(potential_V, i_tilt, smoothing_A, search)
                misfits[i_tilt] = self._step(potential_V, i_tilt, smoothing_A, angles)
            if first:  # shifts must settle before they tell sizes
                self._single.forget_steps()
            self._single.step_magnification()
            self._weigh(misfits)

    def weigh(self, volume: Any) -> None:
        """Weigh the images by their misfits to ``volume`` (Z, X, Y) of the model, at the poses as they are."""
        potential_V = self._images.take(self._model.form_potential(volume))
        misfits = np.full(self._factors.shape, np.nan)
        with threads(1 if self._shape_xy[0] * self._shape_xy[1] <= SMALL_PLANE else n_threads()):
            for i_tilt in np.flatnonzero(self._seen).tolist():
                row = self._table[i_tilt]
                residual = (self.amplitudes(potential_V, i_tilt, row, self._single.own(i_tilt))
                            - self._series.amplitudes(i_tilt, centred=True))
                misfits[i_tilt] = self._misfit(i_tilt, residual)
            self._weigh(misfits)

    def _weigh(self, misfits: np.ndarray) -> None:
        """Set the weights of the images by their ``misfits`` (T, F), and place all tilts in the model."""
        if self._robust:
            self._factors = robust_factors(misfits)
        for i_tilt in np.flatnonzero(self._seen).tolist():
            self._place(i_tilt)

    def _misfit(self, i_tilt: int, residual: np.ndarray) -> np.ndarray:
        """Return χ²/4 per value (F,) of the images of one tilt by their ``residual`` (F, X, Y); NaN for missing ones.

        Images without noise count one electron a pixel.
        """
        weights = self._series.weights_of(i_tilt)
        weights = np.ones_like(residual) if weights is None else weights
        total = weights.sum(axis=(1, 2), dtype=np.float64)
        square = (weights * residual**2).sum(axis=(1, 2), dtype=np.float64)
        electrons = self._series.electrons_per_pixel[i_tilt]
        square *= np.where(np.isfinite(electrons), electrons, 1)
        return np.where(total > 0, square / np.where(total > 0, total, 1), np.nan)

    @property
    def _series(self) -> TiltSeries:
        """The measured images at the magnifications of their planes."""
        return self._single.series

    def amplitudes(self, potential_V: Any, i_tilt: int, row: np.ndarray, own: np.ndarray | None = None,
                   ) -> np.ndarray:
        """Return a_j (F, X, Y) of one tilt at ``row`` (6,) of :attr:`table`, and at what images have of their ``own``.
        """
        return self._images.amplitudes(potential_V, i_tilt, row, own)

    def derivatives(self, potential_V: Any, i_tilt: int, row: np.ndarray, own: np.ndarray | None = None,
                    ) -> tuple[np.ndarray, np.ndarray]:
        """Return :meth:`amplitudes` and their derivatives (6, F, X, Y) with respect to ``row``, per degree, Å and 1."""
        images = self._images
        transfer = images.transfer_at(i_tilt, *shift_and_defocus(row, own))
        spectrum = images.exit_spectrum(potential_V, i_tilt, row[0], row[1])
        waves = image_waves(spectrum * transfer)
        amplitude = images.detect(waves)
        unit = waves.conj() / np.maximum(amplitude, DARK) if images.mtf is None else waves.conj()
        # -2πi q multiplies the transform of -∂g.
        by_x, by_y = (scipy.fft.ifft2(spectrum * ramp) for ramp in (images.ramp_x, images.ramp_y))
        turned = scipy.fft.fft2(by_y * self._lever_y - by_x * self._lever_x)
        slopes = [(unit * image_waves(each * transfer)).real
                  for each in (turned, spectrum * images.ramp_x, spectrum * images.ramp_y, spectrum * images.lift)]
        if images.mtf is not None:
            slopes = [blur_by_detector(each, images.mtf) / np.maximum(amplitude, DARK) for each in slopes]
        ahead = images.exit_spectrum(potential_V, i_tilt, row[0] + ANGLE_STEP_DEG, row[1])
        slopes.insert(0, (images.detect(image_waves(ahead * transfer)) - amplitude) / ANGLE_STEP_DEG)
        brightness = brightness_of(row, own)
        root, twice = np.sqrt(brightness).astype(np.float32), (2 * brightness).astype(np.float32)
        return root * amplitude, root * np.stack([*slopes, amplitude / twice])

    def _step(self, potential_V: Any, i_tilt: int, smoothing_A: float, angles: bool) -> np.ndarray:
        """Change the unknowns of a tilt by one step; return the misfits (F,) of its images before it."""
        row, single = self._table[i_tilt], self._single
        amplitude, by = self.derivatives(potential_V, i_tilt, row, single.own(i_tilt))
        weight = self._low_pass(smoothing_A)
        # These columns of the half plane count twice.
        weight[:, 1:(self._shape_xy[1] + 1) // 2] *= np.float32(np.sqrt(2))
        if self._contrast:
            by = np.concatenate([by, (amplitude - amplitude.mean(axis=(1, 2), keepdims=True))[None]])
        n_common = len(by)
        if single.fits_magnification:
            by = np.concatenate([by, (self._x_A * by[2] + self._y_A * by[3])[None]])
        residual = amplitude - self._series.amplitudes(i_tilt, centred=True)
        misfit = self._misfit(i_tilt, residual) if self._robust else np.full(len(residual), np.nan)
        by_pixel = self._weights(i_tilt)
        if by_pixel is not None:
            root = np.sqrt(by_pixel)
            residual, by = root * residual, root * by
        residual = scipy.fft.rfft2(residual) * weight
        every = (scipy.fft.rfft2(by) * weight).view(np.float32).reshape(len(by), -1)
        columns = every[:n_common]
        normal = (columns @ columns.T).astype(float)
        off = residual.view(np.float32).reshape(-1)
        slope = (columns @ off).astype(float)
        scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
        damped = normal * np.outer(scale, scale) + DAMPING * np.eye(n_common)
        first = 0 if angles else 1
        step = np.zeros(n_common)
        step[first:] = -scale[first:] * np.linalg.solve(damped[first:, first:], (scale * slope)[first:])
        step[:len(row)] = np.clip(step[:len(row)], -_MOST, _MOST)
        self._table[i_tilt] = row + step[:len(row)]
        if single.fits_images or single.fits_magnification:
            of_images = every.reshape(len(by), len(amplitude), -1)
            radial = of_images[-1] if single.fits_magnification else None
            left = (off + step.astype(np.float32) @ columns).reshape(len(amplitude), -1)
            self._table[i_tilt, 2:] += single.step(i_tilt, of_images[2:n_common], radial, left, _MOST[2:])
        return misfit

    def _search(self, potential_V: Any, i_tilt: int, smoothing_A: float, search: Search) -> None:
        weight = self._low_pass(smoothing_A) ** 2
        measured, by_pixel = self._series.amplitudes(i_tilt, centred=True) - 1, self._weights(i_tilt)
        if by_pixel is not None:
            measured = measured * by_pixel
        measured = scipy.fft.rfft2(measured)
        row = self._table[i_tilt]
        exit_spectrum = self._images.exit_spectrum(potential_V, i_tilt, row[0], row[1])
        reach = min(int(search.reach_A / self._series.pixel_A), (min(self._shape_xy) - 1) // 2)
        x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
        best, found = np.inf, row
        for by_A in search.defocus_A:
            tried = row + np.array([0, 0, 0, 0, by_A, 0])
            waves = image_waves(exit_spectrum * self._images.transfer_at(i_tilt, tried[2:4], tried[4]))
            seen = scipy.fft.rfft2(self._images.detect(waves) - 1)
            product = (measured * seen.conj() * weight).sum(axis=0)
            correlation = scipy.fft.irfft2(product, s=self._shape_xy)[x, y]
            square = np.abs(seen) ** 2 * weight
            if by_pixel is not None:
                # Bad pixels take their share of the power, wherever the shift puts them.
                square = square * by_pixel.mean(axis=(1, 2))[:, None, None]
            power = 0.5 * float(scipy.fft.irfft2(square.sum(axis=0), s=self._shape_xy)[0, 0])
            top = np.unravel_index(int(correlation.argmax()), correlation.shape)
            cost = _least_cost(power, float(correlation[top])) if self._contrast else power - correlation[top]
            if cost < best:
                best = cost
                found = tried + self._series.pixel_A * np.array([0, 0, x[top], y[top], 0, 0])
        self._table[i_tilt] = found

    def _place(self, i_tilt: int) -> None:
        row, own = self._table[i_tilt], self._single.own(i_tilt)
        amplitude = rotate_images(self._series.amplitudes(i_tilt), -float(row[1]))
        shift_A, defocus_A = shift_and_defocus(row, own)
        # The shift is rotated back with the image.
        turned_A = (in_plane_rotation(row[1]).T @ shift_A.T).T
        self._model.place_tilt(i_tilt, float(self._tilt_deg[i_tilt] + row[0]),
                               self._images.transfer_at(i_tilt, turned_A, defocus_A),
                               amplitude / np.sqrt(brightness_of(row, own)).astype(np.float32),
                               self._turned_weight(i_tilt, -float(row[1])))

    def _weights(self, i_tilt: int) -> np.ndarray | None:
        """Return the weights (F, X, Y) of the pixels of one tilt, with those by the misfits; None for a regular series.
        """
        by_pixel = self._series.weights_of(i_tilt)
        if by_pixel is None or not self._robust:
            return by_pixel
        return by_pixel * self._factors[i_tilt].astype(np.float32)[:, None, None]

    def _turned_weight(self, i_tilt: int, angle_deg: float) -> np.ndarray | None:
        """Return weights (F, X, Y) rotated with the image, 0 where bad pixels contribute; None without bad pixels."""
        by_pixel = self._weights(i_tilt) if self._series.pixel_weight is not None else None
        if by_pixel is None:
            return None
        share = rotate_images((by_pixel == 0).astype(np.float32), angle_deg)
        return np.where(np.abs(share) > _BAD_SHARE, np.float32(0), np.maximum(rotate_images(by_pixel, angle_deg), 0))

    def _low_pass(self, smoothing_A: float) -> np.ndarray:
        """Return the Fourier transform of w, float32 (X, Y/2 + 1)."""
        q2 = squared_frequencies(self._shape_xy, self._series.pixel_A)[:, :self._shape_xy[1] // 2 + 1]
        return np.exp(-2 * (np.pi * smoothing_A) ** 2 * q2).astype(np.float32)


def _least_cost(power: float, correlation: float) -> float:
    """Return the least c² P - c C of all contrasts c ≥ 0, for half the power P and the correlation C of the images."""
    return -max(correlation, 0.0) ** 2 / (4 * max(power, 1e-300))


def find_astray(table: np.ndarray) -> np.ndarray:
    """Return which tilts of ``table`` (T, 6) lie much farther off than the others, bool (T,)."""
    off = np.abs(table - np.median(table, axis=0))
    sigma = 1.4826 * np.median(off, axis=0)
    return (off > np.maximum(_ASTRAY * sigma, _ASTRAY_AT_LEAST)).any(axis=1)
