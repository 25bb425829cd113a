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

import numpy as np
import scipy.fft

from aetlab.series.prepare.planes import contrast_transfer, low_pass, peak_of, ramp

#: Widths of the Gaussians in 1/Å: with and without contrast transfer.
_BAND_PER_A, _DARK_BAND_PER_A = 0.3, 0.05


@dataclass(frozen=True)
class Drift:
    """Drift of T tilts at F defoci.

    ``position_px`` (T, F, 2) is where the sample lies in each image relative to the first good one of the tilt; NaN in
    images that were not used. ``joined`` complex (T, X, Y) are spectra of the images joined at the place of the first
    good one, 0 where a tilt has none.
    """

    position_px: np.ndarray
    joined: np.ndarray
    line: str


def find_drift(images: np.ndarray, usable: np.ndarray, defocus_A: np.ndarray, pixel_A: float,
               energy_keV: float | None) -> Drift:
    """Return the drift between the images (T, F, X, Y) of each tilt, of vacuum 1, among the ``usable`` (T, F)."""
    shape = (images.shape[2], images.shape[3])
    band = low_pass(shape, pixel_A, _BAND_PER_A if energy_keV else _DARK_BAND_PER_A)
    position = np.full((*images.shape[:2], 2), np.nan)
    joined = np.zeros((images.shape[0], *shape), complex)
    for i_tilt, sound in enumerate(usable):
        chosen = np.flatnonzero(sound)
        if not len(chosen):
            continue
        spectra = scipy.fft.fft2(images[i_tilt, chosen].astype(np.float64) - 1)
        transfer = np.stack([contrast_transfer(shape, pixel_A, float(defocus_A[i_tilt, j]), energy_keV)
                             if energy_keV else -band for j in chosen])
        seen, size = spectra * transfer, np.maximum(np.abs(spectra), 1e-12)
        place = np.zeros((len(chosen), 2))
        for k in range(1, len(chosen)):
            place[k] = _offset(seen[k], seen[0], size[k] * size[0] if energy_keV else 1.0, band)
        for k in range(1, len(chosen) if len(chosen) > 2 else 0):
            # Once more against all others together.
            others = [m for m in range(len(chosen)) if m != k]
            mean = sum(seen[m] / size[m] * ramp(shape, place[m]) for m in others) if energy_keV else sum(
                seen[m] * ramp(shape, place[m]) for m in others)
            place[k] = _offset(seen[k], mean, size[k] if energy_keV else 1.0, band)
        position[i_tilt, chosen] = place
        power = (transfer**2).sum(axis=0)
        joined[i_tilt] = (seen * ramp(shape, place)).sum(axis=0) / (power + power.mean())
    there = position[usable.any(axis=1)]
    rms = float(np.sqrt(np.nanmean((there - np.nanmean(there, axis=1, keepdims=True)) ** 2))) if len(there) else 0.0
    line = f"images of a tilt lie {rms:.2f} px rms along each axis from their mean, found by "
    return Drift(position, joined, line + ("their contrast transfer" if energy_keV else "their darkness"))


def _offset(spectrum: np.ndarray, other: np.ndarray, size: np.ndarray | float, band: np.ndarray) -> np.ndarray:
    """Return where ``spectrum`` lies relative to ``other`` (2,), in pixels."""
    product = spectrum * other.conj() / size * band
    product[0, 0] = 0
    return peak_of(scipy.fft.ifft2(product).real)
