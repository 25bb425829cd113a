"""Fourier transforms of small real images: contrast transfer, correlation peaks, shifts, cropping."""

from __future__ import annotations

import numpy as np
import scipy.fft

from aetlab.core import parabola, physics
from aetlab.core.grid import axial_frequencies, squared_frequencies

#: Amplitude contrast over phase contrast of a thin object: absorption by the aperture, a few per cent to a fifth.
_AMPLITUDE_CONTRAST = 0.1


def contrast_transfer(shape_xy: tuple[int, int], pixel_A: float, defocus_A: float, energy_keV: float) -> np.ndarray:
    """Return sin χ - a cos χ (X, Y) of a defocus, χ = -2π Δf κ(q): the transfer of a thin object's phase to intensity.

    The object is a phase with the absorption a = 0.1 times it. The lens has no other aberration than defocus.
    """
    chi = -2 * np.pi * defocus_A * axial_frequencies(shape_xy, pixel_A, physics.wavelength_A(energy_keV))
    transfer: np.ndarray = np.sin(chi) - _AMPLITUDE_CONTRAST * np.cos(chi)
    return transfer


def low_pass(shape_xy: tuple[int, int], pixel_A: float, q_per_A: float) -> np.ndarray:
    """Return the Gaussian exp(-q²/2q₀²) (X, Y)."""
    gaussian: np.ndarray = np.exp(-squared_frequencies(shape_xy, pixel_A) / (2 * q_per_A**2))
    return gaussian


def ramp(shape_xy: tuple[int, int], shift_px: np.ndarray) -> np.ndarray:
    """Return exp(2πi q·d) (..., X, Y), which moves an image by -d; ``shift_px`` (..., 2)."""
    shift = np.asarray(shift_px, float)
    along = [np.exp(2j * np.pi * shift[..., axis, None] * scipy.fft.fftfreq(n)) for axis, n in enumerate(shape_xy)]
    return np.asarray(along[0][..., :, None] * along[1][..., None, :])


def peaks_near(correlations: np.ndarray, reach_px: int) -> np.ndarray:
    """Return the place (T, 2) of the maximum of each correlation (T, X, Y), as :func:`peak_of` with ``reach_px``."""
    lags = np.arange(-reach_px - 1, reach_px + 2)
    part = correlations[:, lags[:, None], lags]
    size, every = 2 * reach_px + 1, np.arange(len(part))
    top = part[:, 1:-1, 1:-1].reshape(len(part), -1).argmax(axis=1)
    i, j = top // size + 1, top % size + 1
    here = part[every, i, j]
    along_x = parabola.vertex(part[every, i - 1, j], here, part[every, i + 1, j]).place
    along_y = parabola.vertex(part[every, i, j - 1], here, part[every, i, j + 1]).place
    return np.column_stack([lags[i] + along_x, lags[j] + along_y])


def peak_of(correlation: np.ndarray, reach_px: float = np.inf, around: np.ndarray | None = None) -> np.ndarray:
    """Return the place (2,) of the maximum of a correlation (X, Y) with lag 0 at [0, 0], in pixels.

    It lies within ``reach_px`` of 0 along both axes, or within a pixel of a place ``around`` (2,), and is refined by a
    parabola along each.
    """
    lags = [scipy.fft.fftfreq(n, 1 / n) for n in correlation.shape]
    if around is not None:
        lags = [(lag - at + n / 2) % n - n / 2 + at for lag, at, n in zip(lags, around, correlation.shape)]
    middle, reach = (np.zeros(2), reach_px) if around is None else (around, 1.5)
    near = np.outer(np.abs(lags[0] - middle[0]) <= reach, np.abs(lags[1] - middle[1]) <= reach)
    top = np.unravel_index(int(np.where(near, correlation, -np.inf).argmax()), correlation.shape)
    place = np.zeros(2)
    for axis in range(2):
        n = correlation.shape[axis]
        line = np.moveaxis(correlation, axis, 0)[:, top[1 - axis]]
        values = [float(line[(top[axis] + k) % n]) for k in (-1, 0, 1)]
        place[axis] = lags[axis][top[axis]] + float(parabola.vertex(*values).place)
    return place


def crop_spectrum(spectra: np.ndarray, shape_xy: tuple[int, int]) -> np.ndarray:
    """Return real images (..., x, y) on a coarser grid from spectra (..., X, Y), with the same centre.

    Frequencies from half the coarser sampling frequency on are left out.
    """
    whole = spectra.shape[-2:]
    kept, phase = [], []
    for n, m in zip(whole, shape_xy):
        k = np.arange(-((m - 1) // 2), (m - 1) // 2 + 1)
        kept.append(k)
        phase.append(np.exp(2j * np.pi * k / n * (n / m - 1) / 2))
    small = np.zeros((*spectra.shape[:-2], *shape_xy), complex)
    small[..., kept[0][:, None], kept[1]] = (spectra[..., kept[0][:, None], kept[1]] * phase[0][:, None] * phase[1])
    return np.asarray(scipy.fft.ifft2(small).real * (np.prod(shape_xy) / np.prod(whole)))


def pad_spectrum(images: np.ndarray, shape_xy: tuple[int, int]) -> np.ndarray:
    """Return spectra (..., X, Y) on a finer grid of real images (..., x, y), with the same centre.

    It is the opposite of :func:`crop_spectrum`.
    """
    small = images.shape[-2:]
    kept, phase = [], []
    for n, m in zip(shape_xy, small):
        k = np.arange(-((m - 1) // 2), (m - 1) // 2 + 1)
        kept.append(k)
        phase.append(np.exp(-2j * np.pi * k / n * (n / m - 1) / 2))
    spectra = np.zeros((*images.shape[:-2], *shape_xy), complex)
    spectra[..., kept[0][:, None], kept[1]] = (scipy.fft.fft2(images)[..., kept[0][:, None], kept[1]]
                                               * phase[0][:, None] * phase[1])
    return np.asarray(spectra * (np.prod(shape_xy) / np.prod(small)))
