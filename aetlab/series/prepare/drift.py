r"""Drift between the defoci of a tilt, and one image a tilt that joins them.

The images I_j of a tilt at F defoci show the same object through different contrast transfers c_j(q). Multiplied by its
transfer each becomes c_j² times the object, with one sign at all frequencies; two of them correlate where they lie on
top of each other. The correlation is divided by the modulus of the spectra, so that all frequencies count, not only
those of the strongest lattice spots, and limited by a Gaussian of 0.3 1/Å. Without the energy of the electrons there
is no transfer; then the darkness 1 - I below 0.05 1/Å is correlated, which all defoci show with the same sign.

The joined image is Σ c_j I_j / (Σ c_j² + ⟨Σ c_j²⟩), a Wiener filter that takes signal and noise as equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from aetlab.series.prepare.planes import contrast_transfer, low_pass, peak_of, ramp

#: Widths of the Gaussians in 1/Å: with and without contrast transfer.
_BAND_PER_A, _DARK_BAND_PER_A = 0.3, 0.05


@dataclass(frozen=True)
class Drift:
    """Drift of the F images of a tilt.

    ``position_px`` (F, 2) is where the sample lies in each image relative to the first good one; NaN in images that
    were not used. ``joined`` complex (X, Y) is the spectrum of the images joined at the place of the first good one.
    """

    position_px: np.ndarray
    joined: np.ndarray


def find_drift(images: np.ndarray, usable: np.ndarray, defocus_A: np.ndarray, pixel_A: float,
               energy_keV: float | None) -> Drift:
    """Return the drift between the ``usable`` (F,) images (F, X, Y) of a tilt, of vacuum 1; at least one is usable."""
    shape, chosen = (images.shape[1], images.shape[2]), np.flatnonzero(usable)
    band = low_pass(shape, pixel_A, _BAND_PER_A if energy_keV else _DARK_BAND_PER_A)
    spectra = scipy.fft.fft2(images[chosen].astype(np.float64) - 1)
    transfer = np.stack([contrast_transfer(shape, pixel_A, float(defocus_A[j]), energy_keV) if energy_keV else -band
                         for j in chosen])
    seen, size = spectra * transfer, np.maximum(np.abs(spectra), 1e-12)
    place = np.zeros((len(chosen), 2))
    for k in range(1, len(chosen)):
        place[k] = _offset(seen[k], seen[0], size[k] * size[0] if energy_keV else 1.0, band)
    for k in range(1, len(chosen) if len(chosen) > 2 else 0):
        # Once more against all others together.
        others = [m for m in range(len(chosen)) if m != k]
        mean: Any = sum(seen[m] / size[m] * ramp(shape, place[m]) for m in others) if energy_keV else sum(
            seen[m] * ramp(shape, place[m]) for m in others)
        place[k] = _offset(seen[k], mean, size[k] if energy_keV else 1.0, band)
    position = np.full((len(images), 2), np.nan)
    position[chosen] = place
    power = (transfer**2).sum(axis=0)
    return Drift(position, (seen * ramp(shape, place)).sum(axis=0) / (power + power.mean()))


def drift_rms(position_px: np.ndarray) -> float:
    """Return the rms distance along one axis of positions (T, F, 2) from the mean of their tilt, in pixels."""
    there = position_px[np.isfinite(position_px[..., 0]).any(axis=1)]
    if not len(there):
        return 0.0
    return float(np.sqrt(np.nanmean((there - np.nanmean(there, axis=1, keepdims=True)) ** 2)))


def _offset(spectrum: np.ndarray, other: np.ndarray, size: np.ndarray | float, band: np.ndarray) -> np.ndarray:
    """Return where ``spectrum`` lies relative to ``other`` (2,), in pixels."""
    product = spectrum * other.conj() / size * band
    product[0, 0] = 0
    return peak_of(scipy.fft.ifft2(product).real)
