"""Combine rotation, multislice and imaging into the forward model of a tilt series with its incremental step."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from aetlab.core.backend import empty_aligned, n_threads, threads
from aetlab.core.grid import n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.forward.blur import Blur
from aetlab.forward.multislice import make_multislice
from aetlab.forward.series_optics import SeriesOptics
from aetlab.methods.rotations import ROTATIONS, make_rotation
from aetlab.spec import MicroscopeSpec

#: Maximum pixels of a plane for which one thread is faster than several.
SMALL_PLANE = 160**2


class ForwardModel:
    """Cost of a volume against each tilt of a series, ½ Σ w (|ψ| - √I)² or another, with gradient and descent step.

    Parameters
    ----------
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1, with their weights w.
    shape_zxy : tuple of int
        Shape of the volume; its (X, Y) is that of the images.
    microscope : MicroscopeSpec
        Energy, aperture, aberrations and envelopes.
    n_layers_per_slice : int
        N_B, the number of voxel layers summed into one slice.
    rotation : str
        A row of :data:`aetlab.methods.rotations.ROTATIONS`.
    dtype : type
        Precision of volume and waves: float32, or float64 for tests.
    blur_A : float
        Standard deviation of g in V = g ∗ c (:mod:`aetlab.forward.blur`); the volume of the methods is then c. If it is
        0, the volume is V itself.
    likelihood : str
        amplitude (equation 5) or another of :mod:`aetlab.methods.likelihoods`.
    support : bool (Z, X), optional
        Positions that are reconstructed; the volume must be 0 at the others, and stays so. Default: all.

    Attributes
    ----------
    n_tilts : int
        Number of tilts T.
    lipschitz : float
        Lipschitz constant of the gradient of one tilt, (σ Δz)² · Z · Σ_f w in 1/V² (method, "Reconstruction"), for the
        tilt with the greatest weight; Σ_f w = F in a regular series.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int, rotation: str = "linear", dtype: type = np.float32,
                 blur_A: float = 0.0, likelihood: str = "amplitude", support: np.ndarray | None = None) -> None:
        self._optics = SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice)
        optics = self._optics.optics
        self.n_tilts = series.n_tilts
        self.lipschitz = optics.phase_per_V**2 * shape_zxy[0] * series.greatest_tilt_weight
        self.support = support
        self._shape = tuple(shape_zxy)
        self._dtype = dtype
        self._amplitude = empty_aligned(series.images.shape, dtype)
        for i_tilt in range(self.n_tilts):
            self._amplitude[i_tilt] = series.amplitudes(i_tilt)
        #: The series that holds the weights; None for a regular series.
        self._weighted = None if series.is_regular else series
        self._turns_by_all_threads = ROTATIONS[rotation].all_threads
        self._rotation = make_rotation(rotation, shape_zxy, n_layers_per_slice, series.tilt_deg, dtype=dtype,
                                       support=support)
        self._multislice = make_multislice(optics, dtype, likelihood)
        self._placed: dict[int, np.ndarray] = {}
        self._placed_weight: dict[int, np.ndarray] = {}
        self._slices = empty_aligned((n_slices(shape_zxy[0], n_layers_per_slice), *shape_zxy[1:]), dtype)
        self._blur = Blur(blur_A / series.pixel_A, self._slices.shape, dtype) if blur_A else None

    def form_potential(self, volume: np.ndarray) -> np.ndarray:
        """Return V in volts from ``volume`` (Z, X, Y): g ∗ c, or ``volume`` itself without a blur."""
        return self._blur.blur_volume(volume) if self._blur else volume

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls.

        ``transfer`` (F, X, Y) is as in :class:`aetlab.forward.multislice.Optics`. ``amplitude`` (F, X, Y) is the
        measured √intensity. ``weight`` (F, X, Y), if given, replaces the weights of the series.
        """
        self._rotation.set_angle(i_tilt, tilt_deg)
        self._placed[i_tilt] = self._multislice.pack_transfer(transfer)
        self._amplitude[i_tilt] = amplitude
        if weight is not None:
            self._placed_weight[i_tilt] = weight.astype(self._dtype, copy=False)

    def cost(self, volume: np.ndarray, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt."""
        self._fill_slices(volume, i_tilt)
        self._choose_transfer(i_tilt)
        return self._multislice.cost(self._slices, self._amplitude[i_tilt], self._weight(i_tilt),
                                     span=self._rotation.span(i_tilt))

    def cost_and_gradient(self, volume: np.ndarray, i_tilt: int) -> tuple[float, np.ndarray]:
        """Return the cost of one tilt and its gradient (Z, X, Y) with respect to ``volume``, in 1/V."""
        self._fill_slices(volume, i_tilt)
        cost = self._gradient_of_slices(i_tilt)
        gradient: np.ndarray = np.zeros(self._shape, self._dtype)
        self._rotation.add_adjoint(self._slices, i_tilt, 1.0, gradient)
        return cost, gradient

    def descend(self, volume: np.ndarray, i_tilt: int, step: float, metric: np.ndarray | None = None) -> float:
        """Subtract ``step`` (in V²) times the gradient of one tilt from ``volume`` in place.

        ``metric`` (Z, X, Y), without a unit, multiplies the step voxel by voxel. Return the cost before the step.
        """
        with self._threads(turning=True):
            self._fill_slices(volume, i_tilt)
        with self._threads():
            cost = self._gradient_of_slices(i_tilt)
        with self._threads(turning=True):
            self._rotation.add_adjoint(self._slices, i_tilt, -step, volume, metric)
        return cost

    def _threads(self, *, turning: bool = False) -> AbstractContextManager[None]:
        """Limit small planes to one thread, except for some rotations: waking a thread takes longer than its share."""
        small = self._shape[1] * self._shape[2] <= SMALL_PLANE and not (turning and self._turns_by_all_threads)
        return threads(1 if small else n_threads())

    def _gradient_of_slices(self, i_tilt: int) -> float:
        """Return the cost of the filled slices, and replace the slices by the gradient with respect to them."""
        self._choose_transfer(i_tilt)
        cost = self._multislice.cost_and_gradient(self._slices, self._amplitude[i_tilt], self._weight(i_tilt),
                                                  span=self._rotation.span(i_tilt))
        if self._blur:
            self._blur.blur_slices(self._slices)
        return cost

    def _choose_transfer(self, i_tilt: int) -> None:
        if i_tilt in self._placed:
            self._multislice.use_transfer(self._placed[i_tilt])
        elif self._placed or self._optics.n_sets > 1:
            self._multislice.use_transfer(self._optics.packed(i_tilt, self._multislice.pack_transfer))

    def _weight(self, i_tilt: int) -> np.ndarray | None:
        """Return the weights (F, X, Y) of one tilt; None in a regular series."""
        if i_tilt in self._placed_weight:
            return self._placed_weight[i_tilt]
        weight = self._weighted.weights_of(i_tilt) if self._weighted else None
        return None if weight is None else weight.astype(self._dtype, copy=False)

    def _fill_slices(self, volume: np.ndarray, i_tilt: int) -> None:
        self._rotation.rotate_and_bin(volume, i_tilt, self._slices)
        if self._blur:
            self._blur.blur_slices(self._slices)
