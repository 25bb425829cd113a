"""Measured amplitudes of a series with their weights, as the model of the atoms compares them.

They are the images of the series at the magnifications of their planes, divided by their brightness, less what the
sampling of the model changes (:mod:`aetlab.refinement.sampling`). Objects are not changed; each ``with_`` method
returns another one.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.resampling import reduce_series


class MeasuredImages:
    """Amplitudes and weights of ``series``, in the precision ``dtype``.

    Attributes
    ----------
    series : TiltSeries
        The images at their magnifications.
    present : bool (T, F)
        True for images that are not missing.
    electrons_per_pixel : float
        Mean electrons of a vacuum pixel in an image.
    electrons_of_images : (T, F)
        Electrons of a vacuum pixel of each image; 1 without noise.
    factors : (T, F)
        Robust weight of each image.
    recorded : (T, F, X, Y)
        Measured amplitudes as recorded: vacuum is the root of the brightness.
    """

    def __init__(self, series: TiltSeries, dtype: type) -> None:
        self._dtype = dtype
        self._as_stated = self.series = series
        self.magnification = np.ones(series.n_defoci)
        self.present = series.weight > 0
        self.electrons_per_pixel = series.mean_electrons_per_pixel
        self.electrons_of_images = np.where(np.isfinite(series.electrons_per_pixel), series.electrons_per_pixel, 1.0)
        self.factors = np.ones(self.present.shape)
        self.recorded = _amplitudes(series, dtype)
        self._difference: np.ndarray | None = None
        self._weigh(series)

    def _weigh(self, series: TiltSeries) -> None:
        """Take the weights of ``series``."""
        self._weighted = None if series.is_regular else series
        self._image_weights = series.image_weights

    def amplitude(self, poses: Poses, i_tilt: int) -> np.ndarray:
        """Return the measured amplitudes (F, X, Y) of one tilt, with vacuum 1, less what the sampling changes."""
        if (poses.magnification != self.magnification).any():
            raise ValueError(f"images at magnifications {self.magnification} are compared at {poses.magnification}")
        root = np.sqrt(poses.brightness[i_tilt])[:, None, None]
        amplitude: np.ndarray = np.asarray(self.recorded[i_tilt] / root, self._dtype)
        return amplitude if self._difference is None else amplitude - self._difference[i_tilt]

    def mean_electrons(self, poses: Poses) -> float:
        """Return the mean count of a vacuum pixel, brightness included; images count by their weights."""
        weights = None if self._weighted is None else self._image_weights
        return self.electrons_per_pixel * float(np.average(poses.brightness, weights=weights))

    def weights_of(self, i_tilt: int) -> np.ndarray | None:
        """Return the weight (F, X, Y) of each pixel of one tilt; None in a regular series."""
        weights = self._weighted.weights_of(i_tilt) if self._weighted else None
        return None if weights is None else weights.astype(self._dtype, copy=False)

    @property
    def n_values(self) -> float:
        """Sum of the weights of all pixels; in a regular series the number of pixels."""
        if self._weighted is None:
            return self.series.images.size
        weights = (self.weights_of(i_tilt) for i_tilt in range(self.series.n_tilts))
        return float(sum(each.sum(dtype=np.float64) for each in weights if each is not None))

    @property
    def values_of_images(self) -> np.ndarray:
        """Sum of the weights of the pixels of each image (T, F), without the robust weights."""
        if self._weighted is None:
            return np.full(self.present.shape, float(np.prod(self.series.images.shape[2:])))
        weights = (self.weights_of(i_tilt) for i_tilt in range(self.series.n_tilts))
        by_image = np.stack([each.sum(axis=(1, 2), dtype=np.float64) for each in weights if each is not None])
        return np.asarray(by_image / self.factors)

    @property
    def corrects_sampling(self) -> bool:
        """Return whether the difference of a finer model is subtracted from the measured amplitudes."""
        return self._difference is not None

    def with_images(self, images: np.ndarray) -> MeasuredImages:
        """Return noise-free ``images`` (T, F, X, Y) in place of the measured ones, with the same weights."""
        other = copy.copy(self)
        other.recorded, other._difference = np.sqrt(images).astype(self._dtype), None
        return other

    def with_sampling(self, difference: np.ndarray) -> MeasuredImages:
        """Return the measured amplitudes less ``difference`` (T, F, X, Y), in units of vacuum."""
        other = copy.copy(self)
        other._difference = difference
        return other

    def with_factors(self, factors: np.ndarray) -> MeasuredImages:
        """Return images with the weights of the series times ``factors`` (T, F), above 0."""
        other = copy.copy(self)
        other.factors = factors
        other._weigh(replace(self.series, weight=self.series.weight * factors))
        return other

    def at_magnification(self, magnification: np.ndarray) -> MeasuredImages:
        """Return the images of the series reduced by the ``magnification`` (F,) of their planes, 1 as stated."""
        if (magnification == self.magnification).all():
            return self
        other = copy.copy(self)
        other.magnification = magnification.copy()
        other.series = reduce_series(self._as_stated, magnification)
        other.recorded = _amplitudes(other.series, self._dtype)
        other._weigh(replace(other.series, weight=other.series.weight * self.factors))
        return other


def _amplitudes(series: TiltSeries, dtype: type) -> np.ndarray:
    """Return the amplitudes (T, F, X, Y) of the images."""
    amplitudes: np.ndarray = np.empty(series.images.shape, dtype)
    for i_tilt in range(series.n_tilts):
        amplitudes[i_tilt] = series.amplitudes(i_tilt, centred=True)
    return amplitudes
