"""Compute the optics of a tilt series, with one set of transfer functions for each set of defoci.

Tilts with the same defoci share a set. Sets that do not fit into :data:`KEPT_BYTES` are computed when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.grid import slice_centres_A
from aetlab.core.nouns import TiltSeries
from aetlab.forward.detector import mtf_of
from aetlab.forward.imaging import transfer_function
from aetlab.forward.multislice import Optics, make_optics, propagator
from aetlab.spec import MicroscopeSpec

#: Maximum bytes of transfer functions, counted as complex128, that are kept if tilts have different defoci.
KEPT_BYTES = 512e6


class SeriesOptics:
    """The optics of each tilt of a series.

    The parameters are those of :class:`aetlab.forward.ForwardModel`.

    Attributes
    ----------
    optics : Optics
        Propagators between the slices, and transfer functions for the defoci of the first tilt. The transfer functions
        include the propagation from behind the last slice back to the centre of the volume.
    set_of : int (T,)
        Index of the set of defoci of each tilt among the ``n_sets`` different sets; 0 is that of the first tilt.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], microscope: MicroscopeSpec,
                 n_layers_per_slice: int) -> None:
        if series.images.shape[2:] != tuple(shape_zxy[1:]):
            raise ValueError(f"images of {series.images.shape[2:]} pixels do not fit a volume of {shape_zxy} voxels")
        self._microscope, self._pixel_A, self._shape_xy = microscope, series.pixel_A, (shape_zxy[1], shape_zxy[2])
        wavelength_A = physics.wavelength_A(microscope.energy_keV)
        centres_A = slice_centres_A(shape_zxy[0], n_layers_per_slice, series.pixel_A)
        self._back_to_centre = propagator(self._shape_xy, series.pixel_A, wavelength_A, -centres_A[-1])
        self._defocus_A = series.defocus_A
        self.optics = make_optics(self._transfer(0), np.diff(centres_A), pixel_A=series.pixel_A,
                                  wavelength_A=wavelength_A,
                                  phase_per_V=physics.interaction_parameter(microscope.energy_keV) * series.pixel_A,
                                  mtf=mtf_of(microscope, self._shape_xy, series.pixel_A))
        _, first, inverse = np.unique(series.defocus_A, axis=0, return_index=True, return_inverse=True)
        self.n_sets = len(first)
        self.set_of = np.argsort(np.argsort(first))[inverse.ravel()]
        self._n_kept = max(1, int(KEPT_BYTES / self.optics.transfer.nbytes))
        self._kept: dict[int, Any] = {}

    def transfer(self, i_tilt: int) -> np.ndarray:
        """Return the transfer functions (F, X, Y) of one tilt, as in :class:`aetlab.forward.multislice.Optics`."""
        if self.set_of[i_tilt] == 0:
            return self.optics.transfer
        return self._transfer(i_tilt) / (self._shape_xy[0] * self._shape_xy[1])

    def packed(self, i_tilt: int, pack: Callable[[np.ndarray], Any]) -> Any:
        """Return ``pack`` of :meth:`transfer`, cached up to :data:`KEPT_BYTES`; ``pack`` must not change."""
        i_set = int(self.set_of[i_tilt])
        if i_set in self._kept:
            return self._kept[i_set]
        packed = pack(self.transfer(i_tilt))
        if len(self._kept) < self._n_kept:
            self._kept[i_set] = packed
        return packed

    def _transfer(self, i_tilt: int) -> np.ndarray:
        return np.stack([self._back_to_centre
                         * transfer_function(self._shape_xy, self._pixel_A, self._microscope, float(defocus_A))
                         for defocus_A in self._defocus_A[i_tilt]])


def series_optics(series: TiltSeries, shape_zxy: tuple[int, int, int], microscope: MicroscopeSpec,
                  n_layers_per_slice: int) -> Optics:
    """Return the optics of the first tilt of ``series``; the parameters are those of :class:`SeriesOptics`."""
    return SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice).optics
