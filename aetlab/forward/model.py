"""The forward model of a tilt series: rotation, multislice and imaging joined, with the incremental gradient step."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from aetlab.core import physics
from aetlab.core.backend import empty_aligned, n_threads, threads
from aetlab.core.grid import n_slices, slice_centres_A
from aetlab.core.nouns import TiltSeries
from aetlab.forward.blur import Blur
from aetlab.forward.imaging import transfer_function
from aetlab.forward.multislice import Optics, make_multislice, make_optics, propagator
from aetlab.forward.rotation import make_rotation
from aetlab.spec import MicroscopeSpec

#: Pixels of a plane up to which one thread is faster than several.
SMALL_PLANE = 160**2


def series_optics(series: TiltSeries, shape_zxy: tuple[int, int, int], microscope: MicroscopeSpec,
                  n_layers_per_slice: int) -> Optics:
    """What the waves of ``series`` meet: propagators between the slices, and the way back to the volume's centre with
    the transfer function of each defocus behind the last; the parameters are those of :class:`ForwardModel`.
    """
    if series.images.shape[2:] != tuple(shape_zxy[1:]):
        raise ValueError(f"images of {series.images.shape[2:]} pixels do not fit a volume of {shape_zxy} voxels")
    voxel_A, shape_xy = series.pixel_A, (shape_zxy[1], shape_zxy[2])
    wavelength_A = physics.wavelength_A(microscope.energy_keV)
    centres_A = slice_centres_A(shape_zxy[0], n_layers_per_slice, voxel_A)
    back_to_centre = propagator(shape_xy, voxel_A, wavelength_A, -centres_A[-1])
    transfer = np.stack([back_to_centre * transfer_function(shape_xy, voxel_A, microscope, float(defocus_A))
                         for defocus_A in series.defocus_A])
    return make_optics(transfer, np.diff(centres_A), pixel_A=voxel_A, wavelength_A=wavelength_A,
                       phase_per_V=physics.interaction_parameter(microscope.energy_keV) * voxel_A)


class ForwardModel:
    """Cost of a volume against each tilt of a series, ½ Σ (|ψ| - √I)² or Poisson's, its gradient and its step.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1.
    shape_zxy : tuple of int
        Shape of the volume; its (X, Y) is that of the images.
    microscope : MicroscopeSpec
        Energy, aperture, aberrations and envelopes.
    n_layers_per_slice : int
        N_B, the voxel layers summed into one slice.
    rotation : str
        linear, cubic or fourier.
    dtype : type
        Precision of volume and waves: float32, or float64 for tests.
    blur_A : float
        Standard deviation of g where what is called the volume below is c of V = g ∗ c (:mod:`aetlab.forward.blur`);
        0: the volume is V itself.
    likelihood : str
        amplitude (equation 5) or poisson (:mod:`aetlab.forward.multislice`).

    Attributes
    ----------
    n_tilts : int
        Number of tilts T.
    lipschitz : float
        Lipschitz constant of the gradient of one tilt, (σ Δz)² · Z · F in 1/V² (method, "Reconstruction").
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int, rotation: str = "linear", dtype: type = np.float32,
                 blur_A: float = 0.0, likelihood: str = "amplitude") -> None:
        optics = series_optics(series, shape_zxy, microscope, n_layers_per_slice)
        self.n_tilts = len(series.tilt_deg)
        self.lipschitz = optics.phase_per_V**2 * shape_zxy[0] * len(series.defocus_A)
        self._shape = tuple(shape_zxy)
        self._dtype = dtype
        self._amplitude = empty_aligned(series.images.shape, dtype)
        np.sqrt(np.maximum(series.images, 0), out=self._amplitude)
        self._by_shears = rotation == "fourier"
        self._rotation = make_rotation(rotation, shape_zxy, n_layers_per_slice, series.tilt_deg, dtype=dtype)
        self._multislice = make_multislice(optics, dtype, likelihood)
        self._nominal = self._multislice.pack_transfer(optics.transfer)
        self._placed: dict[int, np.ndarray] = {}
        self._slices = empty_aligned((n_slices(shape_zxy[0], n_layers_per_slice), *shape_zxy[1:]), dtype)
        self._blur = Blur(blur_A / series.pixel_A, self._slices.shape, dtype) if blur_A else None

    def form_potential(self, volume: np.ndarray) -> np.ndarray:
        """V in volts of ``volume`` (Z, X, Y): g ∗ c, or ``volume`` itself where there is no blur."""
        return self._blur.blur_volume(volume) if self._blur else volume

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray) -> None:
        """From now on a tilt turns by ``tilt_deg`` and compares ``amplitude`` (F, X, Y), √intensity, with images by
        ``transfer`` (F, X, Y), as that of :class:`aetlab.forward.multislice.Optics`.
        """
        self._rotation.set_angle(i_tilt, tilt_deg)
        self._placed[i_tilt] = self._multislice.pack_transfer(transfer)
        self._amplitude[i_tilt] = amplitude

    def cost(self, volume: np.ndarray, i_tilt: int) -> float:
        """Cost of ``volume`` (Z, X, Y) against the images of one tilt."""
        self._fill_slices(volume, i_tilt)
        self._choose_transfer(i_tilt)
        return self._multislice.cost(self._slices, self._amplitude[i_tilt])

    def cost_and_gradient(self, volume: np.ndarray, i_tilt: int) -> tuple[float, np.ndarray]:
        """Cost of one tilt and its gradient (Z, X, Y) with respect to ``volume``, in 1/V."""
        self._fill_slices(volume, i_tilt)
        cost = self._gradient_of_slices(i_tilt)
        gradient: np.ndarray = np.zeros(self._shape, self._dtype)
        self._rotation.add_adjoint(self._slices, i_tilt, 1.0, gradient)
        return cost, gradient

    def descend(self, volume: np.ndarray, i_tilt: int, step: float, metric: np.ndarray | None = None) -> float:
        """Take ``step`` (in V²) times the gradient of one tilt off ``volume`` in place; the cost before the step.

        ``metric`` (Z, X, Y), without a unit, multiplies the step voxel by voxel.
        """
        with self._threads(turning=True):
            self._fill_slices(volume, i_tilt)
        with self._threads():
            cost = self._gradient_of_slices(i_tilt)
        with self._threads(turning=True):
            self._rotation.add_adjoint(self._slices, i_tilt, -step, volume, metric)
        return cost

    def _threads(self, *, turning: bool = False) -> AbstractContextManager[None]:
        """One thread for small planes: waking another takes longer than its share of any kernel but Fourier shears."""
        small = self._shape[1] * self._shape[2] <= SMALL_PLANE and not (turning and self._by_shears)
        return threads(1 if small else n_threads())

    def _gradient_of_slices(self, i_tilt: int) -> float:
        """Cost of the slices as they have been filled, which the gradient with respect to them replaces."""
        self._choose_transfer(i_tilt)
        cost = self._multislice.cost_and_gradient(self._slices, self._amplitude[i_tilt])
        if self._blur:
            self._blur.blur_slices(self._slices)
        return cost

    def _choose_transfer(self, i_tilt: int) -> None:
        if self._placed:
            self._multislice.use_transfer(self._placed.get(i_tilt, self._nominal))

    def _fill_slices(self, volume: np.ndarray, i_tilt: int) -> None:
        self._rotation.rotate_and_bin(volume, i_tilt, self._slices)
        if self._blur:
            self._blur.blur_slices(self._slices)
