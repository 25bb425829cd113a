"""Exit waves and images of a volume at given poses of the tilts: what the alignment compares and validation predicts.

The unknowns of a tilt and their place in the model are those of :mod:`aetlab.forward.alignment`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.fft

from aetlab.core import physics
from aetlab.core.grid import axial_frequencies, n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.imaging import blur_by_detector
from aetlab.forward.multislice import Multislice, Optics
from aetlab.forward.resampling import magnify_planes, rotate_images
from aetlab.forward.series_optics import SeriesOptics
from aetlab.methods.rotation import Rotation
from aetlab.methods.rotations import make_rotation
from aetlab.spec import MicroscopeSpec

#: Unknowns of a tilt that lies at its nominal angle: tilt, axis, shift along x and y, defocus, brightness.
NOMINAL = np.array([0.0, 0, 0, 0, 0, 1])
#: Lower bound of the amplitude in the denominator of derivatives.
DARK = 1e-3


class PosedOptics:
    """Transfer functions of the images of each tilt at any shift and defocus.

    The parameters are those of :class:`aetlab.forward.series_optics.SeriesOptics`; the images of ``series`` are not
    used.

    Attributes
    ----------
    series : SeriesOptics
        The nominal optics of each tilt.
    ramp_x, ramp_y, lift : complex64 (X, 1), (1, Y) and (X, Y)
        Derivatives of the phase factors of shift along x and y and of defocus, in 1/Å.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int) -> None:
        self.tilt_deg, self.pixel_A = np.asarray(series.tilt_deg, float), series.pixel_A
        self.shape_zxy, self.n_layers_per_slice = shape_zxy, n_layers_per_slice
        self.series = SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice)
        shape_xy = (shape_zxy[1], shape_zxy[2])
        q_x, q_y = (np.fft.fftfreq(n, series.pixel_A) for n in shape_xy)
        wavelength_A = physics.wavelength_A(microscope.energy_keV)
        self.ramp_x = (-2j * np.pi * q_x[:, None]).astype(np.complex64)
        self.ramp_y = (-2j * np.pi * q_y[None, :]).astype(np.complex64)
        self.lift = (2j * np.pi * axial_frequencies(shape_xy, series.pixel_A, wavelength_A)).astype(np.complex64)

    @property
    def optics(self) -> Optics:
        """Return the optics of the first tilt."""
        return self.series.optics

    @property
    def mtf(self) -> np.ndarray | None:
        """Return the MTF of the detector (X, Y); None for an ideal detector."""
        return self.optics.mtf

    def transfer_at(self, i_tilt: int, shift_A: np.ndarray, defocus_A: float | np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y) of one tilt, including a shift and a change of the defocus, complex64.

        ``shift_A`` (2,) and ``defocus_A`` are those of all images, or (F, 2) and (F,) of each.
        """
        by_x, by_y = (np.asarray(by_A, np.float32)[..., None, None] for by_A in np.moveaxis(np.asarray(shift_A), -1, 0))
        lifted = np.asarray(defocus_A, np.float32)[..., None, None]
        moved = np.exp(self.ramp_x * by_x) * np.exp(self.ramp_y * by_y)
        return self.nominal(i_tilt) * (moved * np.exp(self.lift * lifted))

    def nominal(self, i_tilt: int) -> np.ndarray:
        """Return the nominal transfer functions (F, X, Y) of one tilt, complex64."""
        transfer: np.ndarray = self.series.packed(i_tilt, lambda values: values.astype(np.complex64))
        return transfer


class PosedImages:
    """Amplitudes of the images of a volume, tilt by tilt, at poses that may change with each call, on the CPU.

    ``rotation`` turns one tilt, whose angle is set before each exit wave.
    """

    def __init__(self, optics: PosedOptics, rotation: Rotation) -> None:
        n_z, n_x, n_y = optics.shape_zxy
        self.optics, self._rotation = optics, rotation
        self._multislice = Multislice(optics.optics)
        self._slices = np.empty((n_slices(n_z, optics.n_layers_per_slice), n_x, n_y), np.float32)

    def amplitudes(self, potential_V: np.ndarray, i_tilt: int, row: np.ndarray, own: np.ndarray | None = None,
                   ) -> np.ndarray:
        """Return a_j (F, X, Y) of one tilt at its unknowns ``row`` (6,), with what images have of their ``own`` (F, 4).
        """
        waves = image_waves(self.exit_spectrum(potential_V, i_tilt, row[0], row[1])
                            * self.optics.transfer_at(i_tilt, *shift_and_defocus(row, own)))
        return np.sqrt(brightness_of(row, own)).astype(np.float32) * self.detect(waves)

    def detect(self, waves: np.ndarray) -> np.ndarray:
        """Return the amplitudes (F, X, Y) that the detector sees of image waves: √(K |ψ|²)."""
        if self.optics.mtf is None:
            return np.abs(waves)
        return np.sqrt(np.maximum(blur_by_detector(np.abs(waves) ** 2, self.optics.mtf), np.float32(DARK**2)))

    def exit_spectrum(self, potential_V: np.ndarray, i_tilt: int, offset_deg: float, axis_deg: float) -> np.ndarray:
        """Return the Fourier transform of R_φ g, complex64 (X, Y)."""
        self._rotation.set_angle(0, float(self.optics.tilt_deg[i_tilt] + offset_deg))
        self._rotation.rotate_and_bin(potential_V, 0, self._slices)
        spectrum = self._multislice.exit_spectrum(self._slices).copy()
        if axis_deg == 0:
            return spectrum
        wave = scipy.fft.ifft2(spectrum)
        real, imaginary = rotate_images(np.stack([wave.real, wave.imag]), float(axis_deg))
        return scipy.fft.fft2(real + np.complex64(1j) * imaginary)


def shift_and_defocus(row: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, Any]:
    """Return shift and defocus in Å of all images of a tilt, (2,) and a number, or of each, (F, 2) and (F,)."""
    return (row[2:4], row[4]) if own is None else (row[2:4] + own[:, :2], row[4] + own[:, 2])


def brightness_of(row: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Return the brightness of all images of a tilt, of shape (), or of each, (F, 1, 1)."""
    return np.asarray(row[5]) if own is None else (row[5] + own[:, 3])[:, None, None]


def predict_amplitudes(series: TiltSeries, potential_V: np.ndarray, poses: Poses | None, *,
                       microscope: MicroscopeSpec, n_layers_per_slice: int,
                       rotation: str) -> Iterator[np.ndarray]:
    """Yield the amplitudes (F, X, Y) of the images of ``potential_V`` (Z, X, Y) for each tilt of ``series``.

    ``poses`` are those of an alignment (:meth:`aetlab.core.poses.Poses.from_table`); None: nominal. ``rotation`` is
    linear, cubic or fourier, as in the reconstruction.
    """
    shape = (potential_V.shape[0], potential_V.shape[1], potential_V.shape[2])
    turning = make_rotation(rotation, shape, n_layers_per_slice, np.zeros(1))
    optics = PosedOptics(series, shape, microscope=microscope, n_layers_per_slice=n_layers_per_slice)
    model = PosedImages(optics, turning)
    poses = Poses.nominal(series.tilt_deg, series.n_defoci) if poses is None else poses
    own = poses.of_images if poses.of_images.any() else [None] * series.n_tilts
    for i_tilt, row in enumerate(poses.table):
        yield magnify_planes(model.amplitudes(potential_V, i_tilt, row, own[i_tilt]), poses.magnification)


def image_waves(spectrum: np.ndarray) -> np.ndarray:
    """Return the inverse transform of spectra (..., X, Y) that include the factor 1/(X·Y)."""
    return scipy.fft.ifft2(spectrum, norm="forward")
