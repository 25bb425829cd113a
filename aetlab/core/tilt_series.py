"""Define the tilt series: the recorded images of a sample with their parameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aetlab.core.errors import DataError

Array = Any  # numpy.ndarray on the CPU, cupy.ndarray on the GPU

#: Model error of one pixel's amplitude, in units of the vacuum amplitude; it limits what images without noise tell.
AMPLITUDE_FLOOR = 0.01


@dataclass(frozen=True)
class TiltSeries:
    """Images of T tilts at F defoci each, as intensities with vacuum 1.

    Parameters
    ----------
    images : float32 (T, F, X, Y)
        Intensities; float64 is kept.
    tilt_deg : (T,)
        Tilt angles in degrees, in any order and spacing.
    defocus_A : (T, F) or (F,)
        Defocus of each image in Å; (F,) holds for every tilt.
    pixel_A : float
        Pixel in Å.
    electrons_per_pixel : float or (T, F)
        Effective electrons of a vacuum pixel of each image; ``inf`` for noise-free images. The values of missing images
        do not matter: they are replaced by the mean of the others if they are not positive, or are infinite while the
        others are finite or vice versa.
    weight : (T, F), optional
        Weight of each image in every cost; 0 marks a missing image. Default: 1.
    pixel_weight : float32 (T, F, X, Y), optional
        Weight of each pixel, multiplied by that of its image; 0 marks a bad pixel. Default: 1.

    Raises
    ------
    DataError
        For wrong shapes, NaN or infinity where the weight is not 0, negative weights, no positive weight, and electrons
        that are not positive, or finite in some images and infinite in others.
    """

    images: Array
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    pixel_A: float
    electrons_per_pixel: Any = float("inf")
    weight: Any = None
    pixel_weight: Any = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        images: Array = np.array(self.images) if isinstance(self.images, (list, tuple)) else self.images
        if images.ndim != 4 or images.dtype.kind not in "fiu":
            raise DataError(f"images: {images.dtype} of shape {images.shape}, wanted numbers (tilts, defoci, X, Y)")
        put("images", images if images.dtype in (np.float32, np.float64) else images.astype(np.float32))
        shape = images.shape[:2]
        put("tilt_deg", _of_shape("tilt_deg", self.tilt_deg, shape[:1], None))
        put("defocus_A", _of_shape("defocus_A", self.defocus_A, shape, (shape[1],)))
        if not isinstance(self.pixel_A, (int, float, np.number)) or not self.pixel_A > 0:
            raise DataError(f"pixel_A: {self.pixel_A!r}, wanted a number greater than 0")
        weight = np.ones(shape) if self.weight is None else _of_shape("weight", self.weight, shape, None)
        if weight.min() < 0 or not weight.max() > 0:
            raise DataError(f"weight: {weight.min()} to {weight.max()}, wanted none below and some above 0")
        put("weight", weight)
        put("electrons_per_pixel", self._check_electrons())
        if self.pixel_weight is not None:
            if self.pixel_weight.shape != images.shape:
                raise DataError(f"pixel_weight: shape {self.pixel_weight.shape}, wanted {images.shape}")
            put("pixel_weight", self.pixel_weight.astype(np.float32, copy=False))
        self._check_pixels()

    def _check_electrons(self) -> np.ndarray:
        shape = self.images.shape[:2]
        electrons = np.array(self.electrons_per_pixel, float)
        if electrons.ndim == 0:
            electrons = np.full(shape, float(electrons))
        if electrons.shape != shape:
            raise DataError(f"electrons_per_pixel: shape {electrons.shape}, wanted {shape} or one number")
        present = electrons[self.weight > 0]
        if not (present > 0).all():
            raise DataError(f"electrons_per_pixel: {present[~(present > 0)][0]} in an image of weight greater than 0, "
                             "wanted a number greater than 0")
        infinite = np.isinf(present)
        if infinite.any() and not infinite.all():
            raise DataError(f"electrons_per_pixel: infinite in {infinite.sum()} of {len(present)} images, "
                             "wanted all or none")
        strange = (self.weight == 0) & ~((electrons > 0) & (np.isinf(electrons) == infinite[0]))
        electrons[strange] = present.mean()
        return electrons

    def _check_pixels(self) -> None:
        for i_tilt, i_image in np.argwhere(self.weight > 0):
            image = self.images[i_tilt, i_image]
            if self.pixel_weight is not None:
                by_pixel = self.pixel_weight[i_tilt, i_image]
                if not (by_pixel.min() >= 0 and np.isfinite(float(by_pixel.max()))):
                    raise DataError(f"pixel_weight: {by_pixel.min()} to {by_pixel.max()} at tilt {i_tilt}, image "
                                     f"{i_image}, wanted finite numbers of at least 0")
                image = image[by_pixel > 0]
            # A sum is much faster than a test of every pixel, and is finite if all pixels are.
            if not np.isfinite(float(image.sum(dtype=np.float64))):
                raise DataError(f"images: NaN or infinity at tilt {i_tilt}, image {i_image}, wanted finite numbers "
                                 "where the weight is not 0")

    @property
    def n_tilts(self) -> int:
        """Return the number of tilts T."""
        return int(self.images.shape[0])

    @property
    def n_defoci(self) -> int:
        """Return the number of images of a tilt, F."""
        return int(self.images.shape[1])

    @property
    def mean_electrons_per_pixel(self) -> float:
        """Return the mean of ``electrons_per_pixel`` over the images of weight > 0; exact if all are equal."""
        present = self.electrons_per_pixel[self.weight > 0]
        return float(present[0] if (present == present[0]).all() else present.mean())

    @property
    def image_weights(self) -> np.ndarray:
        """Return the weight (T, F) of each image in a cost: ``weight`` times its electrons in units of their mean.

        The likelihood weights an image by its electrons. If all images have the same, the result is ``weight``.
        """
        mean = self.mean_electrons_per_pixel
        return np.array(self.weight if np.isinf(mean) else self.weight * (self.electrons_per_pixel / mean))

    @property
    def is_regular(self) -> bool:
        """Return whether all images and pixels have a weight of exactly 1."""
        return self.pixel_weight is None and bool((self.image_weights == 1).all())

    @property
    def greatest_tilt_weight(self) -> float:
        """Return the greatest sum of the weights of the images of one tilt, including the weights of their pixels."""
        weights = self.image_weights
        if self.pixel_weight is not None:
            weights = weights * self.pixel_weight.max(axis=(2, 3))
        return float(weights.sum(axis=1).max())

    def weights_of(self, i_tilt: int) -> np.ndarray | None:
        """Return the weight of every pixel of one tilt, float32 (F, X, Y); None for a regular series."""
        if self.is_regular:
            return None
        weights = np.empty(self.images.shape[1:], np.float32)
        weights[...] = self.image_weights[i_tilt][:, None, None]
        if self.pixel_weight is not None:
            weights *= self.pixel_weight[i_tilt]
        return weights

    def sound_images(self, i_tilt: int) -> Array:
        """Return the images (F, X, Y) of one tilt, with missing images replaced by 0 and bad pixels by 1."""
        images, missing = self.images[i_tilt], self.weight[i_tilt] == 0
        if self.pixel_weight is None and not missing.any():
            return images
        images = images.copy()
        if self.pixel_weight is not None:
            images[self.pixel_weight[i_tilt] == 0] = 1
        images[missing] = 0
        return images

    def amplitudes(self, i_tilt: int, *, centred: bool = False) -> np.ndarray:
        """Return √I (F, X, Y) of :meth:`sound_images`, in their precision.

        With ``centred``, return √(I + 1/(4n)) for n electrons in a vacuum pixel of the image. Its mean is √I without
        noise up to O(n^-3/2).
        """
        intensity = np.maximum(self.sound_images(i_tilt), 0)
        if centred:
            offset = 0.25 / self.electrons_per_pixel[i_tilt]
            intensity = intensity + offset.astype(intensity.dtype)[:, None, None]
        amplitude: np.ndarray = np.sqrt(intensity)
        return amplitude

    def digest(self) -> str:
        """Return the hex SHA-256 of the series: its images and all their parameters."""
        from aetlab.core.backend import to_numpy  # loads Numba, which reading records does without

        content = hashlib.sha256()
        for value in (self.images, self.tilt_deg, self.defocus_A, self.pixel_A, self.electrons_per_pixel, self.weight,
                      self.pixel_weight):
            array = to_numpy(value) if hasattr(value, "shape") else np.array([] if value is None else value)
            content.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return content.hexdigest()

    def select(self, tilts: np.ndarray) -> TiltSeries:
        """Return the series of some ``tilts`` (indices or mask), in their order."""
        return replace(self, images=self.images[tilts], tilt_deg=self.tilt_deg[tilts], defocus_A=self.defocus_A[tilts],
                       electrons_per_pixel=self.electrons_per_pixel[tilts], weight=self.weight[tilts],
                       pixel_weight=None if self.pixel_weight is None else self.pixel_weight[tilts])

    def cut(self, rows: np.ndarray) -> TiltSeries:
        """Return some ``rows`` (indices along y) of all images, in their order."""
        return replace(self, images=np.ascontiguousarray(self.images[..., rows]),
                       pixel_weight=None if self.pixel_weight is None else self.pixel_weight[..., rows])


def _of_shape(name: str, values: Any, shape: tuple[int, ...], shared: tuple[int, ...] | None) -> np.ndarray:
    """Return ``values`` as finite float64 numbers of ``shape``; broadcast values of the shape ``shared`` to it."""
    array = np.array(values, float)
    if shared is not None and array.shape == shared:
        array = np.array(np.broadcast_to(array, shape))
    if array.shape != shape:
        raise DataError(f"{name}: shape {array.shape}, wanted {shape}" + (f" or {shared}" if shared else ""))
    if not np.isfinite(array).all():
        raise DataError(f"{name}: NaN or infinity, wanted finite numbers")
    return array
