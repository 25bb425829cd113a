"""Bad pixels: those that do not follow the scene, by their statistics over all images.

A pixel is compared with the median of its eight neighbours, in √counts, whose Poisson noise has the same variance at
every level. Over the images i of a series:

- **hot, dead**: the mean difference d of the pixel, in units of its own standard error, lies outside what the other
  pixels do. Its standard error contains the scene, which moves, so that a lattice does not make a pixel bad.
- **stuck, noisy**: the variance of the pixel over the images lies outside that of its surroundings.
- **hits**: one pixel of one image stands out above its surroundings, as an X-ray leaves it. It is bad in that image
  alone, and enters no mean; a pixel that stands out in most images is hot.

Thresholds are those of a normal distribution with the wanted number of false alarms in all pixels; the scale of each
statistic is measured by its median absolute deviation, so that few bad pixels do not change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import gammaincinv, ndtr, ndtri

#: Eight neighbours of a pixel.
_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
#: Side in pixels of the surroundings of a pixel.
_SURROUNDINGS = 11
#: Standard deviations per median absolute deviation, and per mean absolute deviation, of a normal distribution.
_PER_MAD, _PER_MEAN_DEVIATION = 1.4826, 1.2533
#: Images from which the variance of one pixel is known well enough to judge it.
_ENOUGH_IMAGES = 8


@dataclass(frozen=True)
class BadPixels:
    """Bad pixels of a series.

    ``mask`` (X, Y) marks those that are bad in all images, ``hits`` (K, 4) are indices (tilt, defocus, x, y) of those
    bad in one. ``n_hot``, ``n_dead``, ``n_stuck`` count the former by kind.
    """

    mask: np.ndarray
    hits: np.ndarray
    n_hot: int
    n_dead: int
    n_stuck: int
    line: str

    def good(self, place: tuple[int, ...]) -> np.ndarray:
        """Return the good pixels of one image (i_tilt, i_defocus), bool (X, Y)."""
        good = ~self.mask
        own = self.hits[(self.hits[:, :2] == place).all(axis=1)] if len(self.hits) else self.hits
        good[own[:, 2], own[:, 3]] = False
        return good


def no_bad_pixels(shape_xy: tuple[int, ...]) -> BadPixels:
    """Return the bad pixels of images (X, Y) in which none was searched."""
    return BadPixels(np.zeros(shape_xy, bool), np.zeros((0, 4), int), 0, 0, 0, "not searched")


def find_bad_pixels(counts: np.ndarray, usable: np.ndarray, false_alarms: float) -> BadPixels:
    """Return the bad pixels of ``counts`` (T, F, X, Y), judged by the images ``usable`` (T, F)."""
    shape, chosen = counts.shape[2:], np.argwhere(usable)
    if not len(chosen):
        return BadPixels(np.zeros(shape, bool), np.zeros((0, 4), int), 0, 0, 0, "no image to judge the pixels by")
    limit = -float(ndtri(false_alarms / (2 * np.prod(shape))))
    n, often, hits = len(chosen), np.zeros(shape, int), []
    total, squares, means, power = (np.zeros(shape) for _ in range(4))
    for i_tilt, i_image in chosen:
        root = np.sqrt(np.maximum(counts[i_tilt, i_image], 0).astype(np.float64))
        root /= np.median(root)
        off = root - ndimage.median_filter(root, footprint=_NEIGHBOURS, mode="mirror")
        hit = _outliers(off, -float(ndtri(false_alarms / (n * off.size))))
        hits += [(i_tilt, i_image, x, y) for x, y in np.argwhere(hit)]
        often += hit
        for sums, values in ((total, off), (squares, off**2), (means, root), (power, root**2)):
            sums += np.where(hit, 0, values)
    left = np.maximum(n - often, 1)
    mean = total / left
    error = np.sqrt(np.maximum(squares / left - mean**2, 0) / np.maximum(left - 1, 1)) if n > 1 else np.ones(shape)
    # The floor keeps a pixel that never changes from having no error at all.
    error = np.maximum(error, 0.1 * np.median(error))
    odd = _standard((mean - ndimage.median_filter(mean, _SURROUNDINGS, mode="mirror")) / error)
    hot, dead = (odd > limit) | (often > n / 2), odd < -limit
    mask = hot | dead
    stuck = np.zeros(shape, bool)
    if n >= _ENOUGH_IMAGES:
        spread = np.log(np.maximum(power / left - (means / left) ** 2, 1e-12))
        odd = _standard(spread - ndimage.median_filter(spread, _SURROUNDINGS, mode="mirror"))
        # The logarithm of a variance of n normal numbers falls off more slowly below than a normal distribution does.
        stuck = ~mask & ((odd > limit) | (odd < float(_log_variance_limit(n, limit))))
        mask = mask | stuck
    found = np.array([hit for hit in hits if not mask[hit[2:]]], int).reshape(-1, 4)
    line = (f"{mask.sum()} bad pixels in all images ({hot.sum()} hot, {dead.sum()} dead, {stuck.sum()} stuck or noisy)"
            f" and {len(found)} hits in single images; their weight is 0")
    return BadPixels(mask, found, int(hot.sum()), int(dead.sum()), int(stuck.sum()), line)


def fill_bad_pixels(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return images (..., X, Y) with pixels of weight 0 replaced by the mean of good ones nearby.

    The mean is Gaussian with a standard deviation of 1 pixel. It keeps resampling from spreading the bad values, and is
    for display; the weights decide what enters a cost.
    """
    good = (weights > 0).astype(np.float32)
    if good.all():
        return images
    sigma = (0.0,) * (images.ndim - 2) + (1.0, 1.0)
    share = ndimage.gaussian_filter(good, sigma, mode="nearest")
    mean = ndimage.gaussian_filter(np.where(good > 0, images, 0), sigma, mode="nearest")
    return np.where(good > 0, images, mean / np.maximum(share, 1e-6)).astype(images.dtype)


def _outliers(off: np.ndarray, limit: float) -> np.ndarray:
    """Return the pixels, bool (X, Y), whose difference to their neighbours stands out in their surroundings."""
    size = np.abs(off)
    # The pixel itself does not count in its own surroundings.
    near = (ndimage.uniform_filter(size, _SURROUNDINGS, mode="mirror") * _SURROUNDINGS**2 - size)
    scale = _PER_MEAN_DEVIATION * np.maximum(near / (_SURROUNDINGS**2 - 1), 0.5 * size.mean())
    return np.asarray(off > limit * scale)


def _standard(values: np.ndarray) -> np.ndarray:
    """Return values (X, Y) about their median in units of their robust standard deviation.

    The standard deviation is that of all pixels or of the surroundings, whichever is larger: where the scene is strong,
    the values of sound pixels scatter more.
    """
    centred = values - np.median(values)
    sigma = max(_PER_MAD * float(np.median(np.abs(centred))), 1e-12)
    near = ndimage.uniform_filter(np.minimum(np.abs(centred), 3 * sigma), _SURROUNDINGS, mode="mirror")
    return centred / np.maximum(_PER_MEAN_DEVIATION * near, sigma)


def _log_variance_limit(n: int, limit: float) -> float:
    """Return the lower limit of log χ²ₙ₋₁ in robust standard deviations about its median, for a normal ``limit``."""
    def log_quantile(probability: np.ndarray | float) -> np.ndarray:
        return np.log(2 * gammaincinv((n - 1) / 2, probability))

    middle = log_quantile(0.5)
    sigma = _PER_MAD * np.median(np.abs(log_quantile(np.linspace(0.001, 0.999, 999)) - middle))
    return float((log_quantile(ndtr(-limit)) - middle) / sigma)
