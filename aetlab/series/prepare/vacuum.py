r"""Vacuum of each image: where it is, its level, and the slow illumination.

The noise of a vacuum pixel is white in √counts. Detail between 1 and 4 pixels (a difference of Gaussians) therefore
has the same mean square e everywhere in vacuum, and more where the sample or its fringes are. The mean square is
averaged by a Gaussian of 4 pixels. Its relative standard deviation ε in pure noise follows from the two filters. The
level of e in vacuum is the fixed point μ = ⟨e | e < μ (1 + 2ε)⟩, reached from below; vacuum is where e < μ (1 + 3ε)
and from where the border is reached. The sample scatters at nearly the same place in all images: e/μ averaged over
the images must also stay within 1 + ε, which finds fringes too weak for one image.

The illumination is a polynomial of second order fitted to the vacuum of each image. The images of a series share most
of it. Each coefficient is therefore the mean over the images plus the deviation of the image times 1 - (variance
expected from counting)/(variance found), at least 0 (James and Stein, Proc. 4th Berkeley Symp. 1, 361, 1961). Means and
variances within three standard errors of what counting alone gives are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

from aetlab.core.errors import DataError
from aetlab.series.prepare.bad_pixels import BadPixels

#: Gaussians of the band and of the average, in pixels.
_FINE, _COARSE, AVERAGE_PX = 1.0, 4.0, 4.0
#: Standard deviations up to which e counts as that of vacuum while its level is found, and in the end.
_INNER, _OUTER = 2.0, 3.0
#: Standard errors from which a coefficient of the illumination is significant.
_SIGNIFICANT = 3.0
#: Least part of an image that must be vacuum.
_LEAST_PART = 0.02


@dataclass(frozen=True)
class Vacuum:
    """Vacuum of T tilts at F defoci.

    ``mask`` bool (T, F, X, Y), ``level`` (T, F) in counts, ``level_error`` (T, F) its relative standard error,
    ``coefficients`` (T, F, 5) those of the illumination, ``field_peak`` (T, F) its greatest deviation from 1.
    """

    mask: np.ndarray
    level: np.ndarray
    level_error: np.ndarray
    coefficients: np.ndarray
    field_peak: np.ndarray
    line: str

    def field(self, place: tuple[int, ...]) -> np.ndarray:
        """Return the illumination of one image (i_tilt, i_defocus), float32 (X, Y) with mean 1."""
        basis = _basis(self.mask.shape[2:])
        return np.asarray(1 + np.tensordot(self.coefficients[place], basis[1:], axes=1), np.float32)

    def expected(self, place: tuple[int, ...]) -> np.ndarray:
        """Return the counts of vacuum in one image (i_tilt, i_defocus), float32 (X, Y)."""
        return np.asarray(np.float32(self.level[place]) * self.field(place), np.float32)


def find_mask(counts: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return where images ``counts`` (T, F, X, Y) show vacuum, bool; False in images that are not ``usable`` (T, F).

    Raises
    ------
    DataError
        Where an image has no vacuum.
    """
    mask, mean, n = np.zeros(counts.shape, bool), np.zeros(counts.shape[2:]), 0
    spread = noise_of_detail(counts.shape[2:])
    for place in map(tuple, np.argwhere(usable)):
        energy = _energy(counts[place])
        energy = energy / lowest_level(energy, spread)
        mask[place] = energy < 1 + _OUTER * spread
        mean += energy
        n += 1
    everywhere = mean < n * (1 + spread)
    if everywhere.mean() < _LEAST_PART:
        everywhere[...] = True
    for place in map(tuple, np.argwhere(usable)):
        mask[place] = _reaching_border(mask[place] & everywhere)
    part = mask[usable].mean(axis=(1, 2))
    if (part < _LEAST_PART).any():
        raise DataError(f"vacuum: {(part < _LEAST_PART).sum()} of {len(part)} images show too little of it, the least "
                        f"{100 * part.min():.1f} % of its pixels, wanted at least {100 * _LEAST_PART:.0f} %: does the "
                        "sample or a film fill them? Give vacuum=rectangles, or vacuum=mean, which needs none")
    return mask


def mask_of_rectangles(shape: tuple[int, ...], rectangles: tuple[tuple[int, int, int, int], ...]) -> np.ndarray:
    """Return the mask (T, F, X, Y) of rectangles (x_from, x_to, y_from, y_to) in pixels, ends excluded."""
    mask = np.zeros(shape, bool)
    for x_from, x_to, y_from, y_to in rectangles:
        if not (0 <= x_from < x_to <= shape[2] and 0 <= y_from < y_to <= shape[3]):
            raise DataError(f"vacuum rectangle {(x_from, x_to, y_from, y_to)} does not lie in images of {shape[2:]}")
        mask[..., x_from:x_to, y_from:y_to] = True
    return mask


def take_mean(counts: np.ndarray, usable: np.ndarray) -> Vacuum:
    """Return the mean of each image ``counts`` (T, F, X, Y) as its level, and no vacuum."""
    level = np.where(usable, counts.mean(axis=(2, 3)), 0.0)
    return Vacuum(np.zeros(counts.shape, bool), level, np.zeros(usable.shape), np.zeros((*usable.shape, 5)),
                  np.zeros(usable.shape), "level is the mean of each image; the brightness is left to the alignment")


def measure_vacuum(counts: np.ndarray, mask: np.ndarray, pixels: BadPixels, usable: np.ndarray, *,
                   illumination: bool) -> Vacuum:
    """Return level and illumination of the vacuum ``mask`` (T, F, X, Y), without the bad ``pixels``."""
    grid, basis = counts.shape[:2], _basis(counts.shape[2:])
    n_terms = len(basis) if illumination else 1
    terms, errors = np.zeros((*grid, n_terms)), np.zeros((*grid, n_terms))
    for place in map(tuple, np.argwhere(usable)):
        inside = mask[place] & pixels.good(place)
        design = basis[:n_terms, inside].T
        seen = counts[place][inside].astype(np.float64)
        normal = np.linalg.inv(design.T @ design)
        found = normal @ (design.T @ seen)
        noise = seen - design @ found
        terms[place] = found / found[0]
        terms[place][0] = found[0]
        errors[place] = np.sqrt(np.diag(normal) * noise.var()) / found[0]
    coefficients, peak, kept = _illumination(terms, errors, usable, basis)
    level = np.where(usable, terms[..., 0], 0.0)
    line = f"vacuum fills {100 * mask[usable].mean():.0f} % of the images; level {np.median(level[usable]):.5g} counts"
    line += f", {100 * _relative_spread(level[usable]):.1f} % rms between images"
    if illumination:
        line += f"; illumination varies by up to {100 * peak[usable].max():.1f} %" if kept else (
            "; illumination flat within its error, not changed")
    return Vacuum(mask, level, np.where(usable, errors[..., 0], 0.0), coefficients, peak, line)


def _illumination(terms: np.ndarray, errors: np.ndarray, usable: np.ndarray,
                  basis: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return coefficients (T, F, 5) of the illumination, its peak (T, F) and whether any of it is significant."""
    coefficients, peak = np.zeros((*usable.shape, len(basis) - 1)), np.zeros(usable.shape)
    if terms.shape[2] == 1:
        return coefficients, peak, False
    own, expected = terms[usable][:, 1:], errors[usable][:, 1:] ** 2
    common = own.mean(axis=0)
    chance = expected.mean(axis=0)
    found = own.var(axis=0, ddof=1) if len(own) > 1 else np.zeros_like(common)
    significant = found > chance * (1 + _SIGNIFICANT * np.sqrt(2 / max(len(own) - 1, 1)))
    share = np.where(significant, 1 - chance / np.maximum(found, 1e-300), 0)
    error = np.sqrt(np.where(significant, found, chance) / len(own))
    coefficients[usable] = np.where(np.abs(common) > _SIGNIFICANT * error, common, 0) + share * (own - common)
    for place in map(tuple, np.argwhere(usable)):
        peak[place] = np.abs(np.tensordot(coefficients[place], basis[1:], axes=1)).max()
    return coefficients, peak, bool((coefficients != 0).any())


def _basis(shape: tuple[int, ...]) -> np.ndarray:
    """Return 1, x, y, xy, x² - ⟨x²⟩, y² - ⟨y²⟩ (6, X, Y), each but the first of mean 0, x and y from -1 to 1."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.stack([np.ones(shape), x, y, x * y, x**2 - (x**2).mean(), y**2 - (y**2).mean()])


def _energy(counts: np.ndarray) -> np.ndarray:
    """Return the local mean square e of the detail of an image (X, Y) in √counts."""
    root = np.sqrt(np.maximum(counts, 0)).astype(np.float64)
    band = ndimage.gaussian_filter(root, _FINE, mode="mirror") - ndimage.gaussian_filter(root, _COARSE, mode="mirror")
    energy: np.ndarray = ndimage.gaussian_filter(band**2, AVERAGE_PX, mode="mirror")
    return energy


def noise_of_detail(shape: tuple[int, ...]) -> float:
    """Return the relative standard deviation ε of e in white noise.

    For a Gaussian field of autocorrelation ρ, averaged with weights w: ε² = 2 Σ_d ρ(d)² (w ⋆ w)(d).
    """
    q = np.hypot(scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.fftfreq(shape[1]))

    def gaussian(sigma: float) -> np.ndarray:
        return np.exp(-2 * (np.pi * sigma * q) ** 2)

    correlation = scipy.fft.ifft2((gaussian(_FINE) - gaussian(_COARSE)) ** 2).real
    weights = scipy.fft.ifft2(gaussian(AVERAGE_PX) ** 2).real
    return float(np.sqrt(2 * ((correlation / correlation[0, 0]) ** 2 * weights).sum()))


def detail_over_vacuum(image: np.ndarray) -> np.ndarray:
    """Return the local mean square e of the detail of an image (X, Y), in units of that of its vacuum."""
    energy = _energy(image)
    level = lowest_level(energy, noise_of_detail(image.shape))
    return np.asarray(energy / max(level, 1e-300))


def lowest_level(energy: np.ndarray, spread: float) -> float:
    """Return the level μ of e in vacuum, the fixed point of μ = ⟨e | e < μ (1 + 2ε)⟩ from below."""
    values = np.sort(energy, axis=None)
    sums = np.cumsum(values)
    level = float(values[: max(len(values) // 50, 1)].mean())
    for _ in range(200):
        n = max(int(np.searchsorted(values, level * (1 + _INNER * spread))), 1)
        new = float(sums[n - 1] / n)
        if new <= level * (1 + 1e-6):
            break
        level = new
    return level


def _reaching_border(mask: np.ndarray) -> np.ndarray:
    """Return the parts of ``mask`` that reach the border of the image."""
    labels, _ = ndimage.label(mask)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, edge[edge > 0])


def _relative_spread(values: np.ndarray) -> float:
    return float(values.std() / values.mean()) if len(values) else 0.0
