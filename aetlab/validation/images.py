r"""Compare the images of a model with the measured ones: R factor, reduced chi-square and residuals of each image.

With a = √(I + 1/(4n)) measured and m modelled, both amplitudes with vacuum √(brightness), and p the weight of a pixel,

    R = Σ p |a - m| / Σ p a,        χ² = Σ p 4n (a - m)² / Σ p,

for n electrons in a vacuum pixel. The variance of √(count) is ¼ to first order, so that χ² is 1 where counting noise
alone separates the images from the model, and R is then √(2/π) / (2√n) Σ p / Σ p a (Gaussian noise). Images that were
interpolated have less noise than their counts, so that χ² can lie below 1.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TiltSeries
from aetlab.core.outlying import find_outlying


@dataclass(frozen=True)
class ImageFit:
    """Agreement of a model with each image of a series; missing images are NaN.

    Attributes
    ----------
    r_factor, expected_r_factor, chi_square : (T, F)
        R, the R of counting noise alone, and χ² per value (NaN for images without noise).
    sums : (T, F, 4)
        Σ p, Σ p a, Σ p |a - m| and Σ p 4n (a - m)²; 0 for missing images.
    worst : int (K, 2)
        Tilt and image of the images with the greatest χ², or R without noise, the worst first.
    measured : float32 (K, X, Y)
        Their measured amplitudes.
    residual : float32 (K, X, Y)
        Their a - m, in standard deviations of the counting noise, or as amplitudes without noise; NaN in bad pixels.
    """

    r_factor: np.ndarray
    expected_r_factor: np.ndarray
    chi_square: np.ndarray
    sums: np.ndarray
    worst: np.ndarray
    measured: np.ndarray
    residual: np.ndarray

    def overall(self, chosen: np.ndarray) -> tuple[float, float, float]:
        """Return R, the R of counting noise alone, and χ² per value over the images ``chosen``, bool (T, F)."""
        weight, measured, off, chi = self.sums[chosen].sum(axis=0)
        expected = self.expected_r_factor[chosen] * self.sums[chosen][:, 1]
        if not weight > 0:
            return math.nan, math.nan, math.nan
        chi_square = math.nan if np.isnan(self.chi_square[chosen]).all() else float(chi / weight)
        return float(off / measured), float(np.nansum(expected) / measured), chi_square


    @property
    def misfit(self) -> np.ndarray:
        """χ² per value (T, F), or R for images without noise; NaN for missing images."""
        return self.r_factor if np.isnan(self.chi_square).all() else self.chi_square

    def outlying(self, among: np.ndarray | bool = True) -> np.ndarray:
        """Return which of the images ``among``, bool (T, F), fit much worse than the others of these, bool (T, F)."""
        return find_outlying(self.misfit, among)[0]


def compare_images(series: TiltSeries, modelled: Iterable[np.ndarray], n_worst: int) -> ImageFit:
    """Compare the amplitudes (F, X, Y) that ``modelled`` yields for each tilt with the images of ``series``.

    The ``n_worst`` images that fit worst are kept with their residuals.
    """
    shape = series.images.shape[:2]
    sums, r_factor, chi_square, expected = np.zeros((*shape, 4)), *(np.full(shape, np.nan) for _ in range(3))
    kept: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    for i_tilt, model in enumerate(modelled):
        measured = to_numpy(series.amplitudes(i_tilt, centred=True))
        for j in np.flatnonzero(series.weight[i_tilt] > 0).tolist():
            n = float(series.electrons_per_pixel[i_tilt, j])
            pixels = 1.0 if series.pixel_weight is None else series.pixel_weight[i_tilt, j].astype(np.float64)
            off = measured[j].astype(np.float64) - model[j]
            weight = float(np.sum(np.broadcast_to(pixels, off.shape)))
            by_measured, by_off = float((pixels * measured[j]).sum()), float((pixels * np.abs(off)).sum())
            chi = 4 * n * float((pixels * off**2).sum()) if math.isfinite(n) else 0.0
            if not (weight > 0 and by_measured > 0):
                continue
            sums[i_tilt, j] = weight, by_measured, by_off, chi
            r_factor[i_tilt, j] = by_off / by_measured
            expected[i_tilt, j] = math.sqrt(2 / math.pi) / (2 * math.sqrt(n)) * weight / by_measured
            chi_square[i_tilt, j] = chi / weight if math.isfinite(n) else np.nan
            badness = r_factor[i_tilt, j] if math.isinf(n) else chi_square[i_tilt, j]
            if n_worst and (len(kept) < n_worst or badness > kept[0][0]):
                scaled = np.where(np.broadcast_to(pixels, off.shape) > 0, off, np.nan)
                scaled = (scaled * (2 * math.sqrt(n) if math.isfinite(n) else 1.0)).astype(np.float32)
                push = heapq.heappush if len(kept) < n_worst else heapq.heapreplace
                push(kept, (float(badness), i_tilt * shape[1] + j, measured[j].astype(np.float32), scaled))
    kept.sort(key=lambda entry: (-entry[0], entry[1]))
    images = np.zeros((0, *series.images.shape[2:]), np.float32)
    return ImageFit(
        r_factor, expected, chi_square, sums, np.array([divmod(entry[1], shape[1]) for entry in kept]).reshape(-1, 2),
        np.stack([entry[2] for entry in kept]) if kept else images,
        np.stack([entry[3] for entry in kept]) if kept else images)
