"""Residue of the gain reference: a fixed pattern that multiplies all images, from their vacuum.

A pixel counts Σ c of an expected Σ m in the images in which it shows vacuum. The ratio r = Σ c / Σ m has the error of
counting, with variance N. The variance of r over all pixels is S + N, S that of the pattern. The best linear estimate
of the gain of a pixel is 1 + (r - 1) S / (S + N) (Wiener). It is applied only where S is significant, and only to
pixels whose own S exceeds N / 2; below, the estimate would hardly differ from 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.series.prepare.bad_pixels import BadPixels
from aetlab.series.prepare.vacuum import Vacuum

#: Standard errors from which the variance of a pattern is significant.
_SIGNIFICANT = 5.0


@dataclass(frozen=True)
class GainResidue:
    """Residue of the gain reference.

    ``gain`` float32 (X, Y) divides the counts, 1 where it is not known; ``ratio`` float32 (X, Y) is that of the counts
    in vacuum to those expected, 1 where there is none; ``pattern_rms`` the relative rms of the pattern
    and ``pattern_error`` its standard error; ``part`` of the pixels that were corrected; ``added_variance`` (X, Y) the
    relative variance of the pattern that stays.
    """

    gain: np.ndarray
    ratio: np.ndarray
    pattern_rms: float
    pattern_error: float
    part: float
    added_variance: np.ndarray
    line: str


def no_gain_residue(shape_xy: tuple[int, ...], line: str = "not searched") -> GainResidue:
    """Return the gain residue of images (X, Y) in which none was searched."""
    ones = np.ones(shape_xy, np.float32)
    return GainResidue(ones, ones, 0.0, 0.0, 0.0, np.zeros(shape_xy), line)


def find_gain_residue(counts: np.ndarray, vacuum: Vacuum, pixels: BadPixels) -> GainResidue:
    """Return the fixed pattern in the ``vacuum`` of ``counts`` (T, F, X, Y), without the bad ``pixels``."""
    shape = counts.shape[2:]
    seen, meant, images = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    noise = weight = 0.0
    for place in np.ndindex(counts.shape[:2]):
        inside = vacuum.mask[place] & pixels.good(place)
        if not inside.any():
            continue
        expected = vacuum.expected(place)
        seen += np.where(inside, counts[place], 0)
        meant += np.where(inside, expected, 0)
        images += inside
        noise += float(((counts[place][inside] - expected[inside]) ** 2 / expected[inside]).sum())
        weight += float(inside.sum())
    known = images > 0
    if known.sum() < 2:
        return no_gain_residue(shape, "no vacuum: gain not examined")
    # Counts per electron: the variance of a count over its mean; the pattern adds little to it in one image.
    ratio, variance = seen[known] / meant[known], noise / weight / meant[known]
    excess = (ratio - 1) ** 2 - variance
    # Pixels with few counts know little of the pattern.
    confidence = 1 / variance**2
    pattern = float((confidence * excess).sum() / confidence.sum())
    error = float(np.sqrt(2 / confidence.sum()))
    rms = float(np.sqrt(max(pattern, 0.0)))
    rms_error = error / (2 * max(rms, np.sqrt(error)))
    shown = np.ones(shape, np.float32)
    shown[known] = ratio
    gain, added = np.ones(shape), np.full(shape, max(pattern, 0.0))
    if pattern < _SIGNIFICANT * error:
        line = f"no fixed pattern within its error: {100 * rms:.2f} % rms; not changed"
        return GainResidue(gain.astype(np.float32), shown, rms, rms_error, 0.0, added, line)
    chosen = np.flatnonzero(known)[pattern > variance / 2]
    share = pattern / (pattern + variance[pattern > variance / 2])
    gain.flat[chosen] = 1 + share * (ratio[pattern > variance / 2] - 1)
    added.flat[chosen] = -pattern * (1 - share)
    part = len(chosen) / gain.size
    line = f"fixed pattern of {100 * rms:.2f} ± {100 * rms_error:.1g} % rms; "
    line += (f"corrected in {100 * part:.0f} % of the pixels, which show enough vacuum" if part
             else "too few counts in any pixel to correct it; not changed")
    return GainResidue(gain.astype(np.float32), shown, rms, rms_error, part, added, line)
