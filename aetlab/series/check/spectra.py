r"""Power spectra of a series: signal over noise, the information limit, and the defocus that the rings show.

An image is windowed by a disc of the sample, or by what lies outside it; P is the mean over a ring of |F|²/Σw². The
spectrum outside is that of the noise, N; the signal is P - N. **Information limit**: the highest frequency up to which
the mean over all images at a defocus exceeds N by three standard errors.

**Rings.** The intensity of a thin amorphous object has the power E(q) c(q)², with c the contrast transfer and E
smooth. The defocus is where the signal over its running mean over one period correlates best with c² over the same
running mean. The rings support a defocus where

- the object is amorphous: the power in a ring is spread evenly over its pixels, and not collected in spots. The median
  of exponentially distributed powers is ln 2 times their mean; a mean of more than twice the value that the median
  gives shows spots;
- the correlation is significant for the number of independent rings;
- even and odd sectors of the rings, fitted alone, agree;
- at least a fifth of the images at the same nominal defocus do so.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from aetlab.core.nouns import TiltSeries
from aetlab.core.parabola import vertex
from aetlab.core.physics import wavelength_A
from aetlab.series.check.nouns import Spectra
from aetlab.spec import MicroscopeSpec

#: Standard errors by which signal exceeds noise up to the information limit.
_SIGNIFICANT = 3.0
#: Radius of the disc over that of the sample, and room in Å that fringes take.
_ROOM, _FRINGES_A = 1.2, 3.0
#: Mean power of a ring over what its median gives, above which it holds spots.
_SPOTTY = 2.0
#: Least correlation over that of chance, 1/√rings, and greatest disagreement of even and odd sectors in nm.
_CORRELATED, _AGREE_NM = 4.0, 3.0
#: Search about the nominal defocus: part of it, and at least so many nm; step in nm.
_SEARCH_PART, _SEARCH_NM, _STEP_NM = 0.5, 25.0, 0.5
#: Least part of the images at a defocus whose rings support one; fewer do so by chance.
_LEAST_PART = 0.2
_AMPLITUDE_CONTRAST = 0.1
_SECTORS = 12


def measure_spectra(series: TiltSeries, radius_A: float, microscope: MicroscopeSpec) -> Spectra:
    """Return the spectra of ``series``, whose sample of radius ``radius_A`` lies in the middle."""
    shape = (series.images.shape[2], series.images.shape[3])
    rings = _Rings(shape, series.pixel_A, series.pixel_A * max(shape))
    inside, outside = _windows(shape, series.pixel_A, radius_A)
    n_defoci = series.n_defoci
    q = rings.q_per_A
    over, limits, spotty = np.zeros((n_defoci, len(q))), np.full(n_defoci, np.nan), np.full(n_defoci, np.nan)
    power, found = np.zeros((n_defoci, *shape)), np.full((series.n_tilts, n_defoci), np.nan)
    for j in range(n_defoci):
        tilts = [int(i) for i in np.flatnonzero(series.weight[:, j] > 0)]
        if not len(tilts):
            continue
        noise = np.mean([rings.mean(_power(series, i, j, outside)) for i in tilts], axis=0) if outside.any() else (
            np.full(len(q), float(np.mean(1 / series.electrons_per_pixel[tilts, j]))))
        means, medians = np.zeros(len(q)), np.zeros(len(q))
        for i in tilts:
            one = _power(series, i, j, inside)
            power[j] += scipy.fft.fftshift(one) / len(tilts)
            means += rings.mean(one) / len(tilts)
            medians += rings.median(one) / np.log(2) / len(tilts)
        over[j] = means / noise - 1
        error = (1 + over[j]) * np.sqrt(rings.independent(inside, len(tilts)))
        significant = (over[j] > _SIGNIFICANT * error) & (q > 0)
        limits[j] = _limit(q, significant)
        band = significant & (q <= 1 / limits[j]) if np.isfinite(limits[j]) else significant
        spotty[j] = float(np.median(means[band] / medians[band])) if band.any() else np.nan
        power[j] /= max(float(np.median(noise)), 1e-30)
        if not spotty[j] < _SPOTTY:
            continue
        for i in tilts:
            found[i, j] = _defocus_of(rings, _power(series, i, j, inside), noise, band,
                                      float(series.defocus_A[i, j]) / 10, microscope)
        if np.isfinite(found[tilts, j]).mean() < _LEAST_PART:
            found[:, j] = np.nan
    return Spectra(q, over, limits, power, spotty, found)


class _Rings:
    """Rings of one step of frequency, and their even and odd sectors."""

    def __init__(self, shape: tuple[int, int], pixel_A: float, width_A: float) -> None:
        q_x, q_y = scipy.fft.fftfreq(shape[0], pixel_A)[:, None], scipy.fft.fftfreq(shape[1], pixel_A)
        self._ring = np.rint(np.hypot(q_x, q_y) * width_A).astype(int)
        self.n = int(0.5 / pixel_A * width_A)
        self.q_per_A = np.arange(self.n) / width_A
        # Opposite sectors belong together: the spectrum of a real image is symmetric.
        self._odd = (np.floor(np.arctan2(q_y, q_x) / np.pi * _SECTORS).astype(int) % 2 == 1)
        self._order = np.argsort(self._ring, axis=None, kind="stable")
        self._ends = np.searchsorted(self._ring.ravel()[self._order], np.arange(self.n + 1))

    def mean(self, power: np.ndarray, odd: bool | None = None) -> np.ndarray:
        """Return the means of rings (Q,), of all sectors or of the even or odd ones."""
        chosen = np.ones(power.shape) if odd is None else (self._odd == odd).astype(float)
        total = np.bincount(self._ring.ravel(), weights=(power * chosen).ravel(), minlength=self.n)[:self.n]
        count = np.bincount(self._ring.ravel(), weights=chosen.ravel(), minlength=self.n)[:self.n]
        return np.asarray(total / np.maximum(count, 1))

    def median(self, power: np.ndarray) -> np.ndarray:
        """Return the medians of rings (Q,)."""
        values = power.ravel()[self._order]
        return np.array([np.median(values[a:b]) if b > a else 0.0 for a, b in zip(self._ends[:-1], self._ends[1:])])

    def independent(self, window: np.ndarray, n_images: int) -> np.ndarray:
        """Return one over the number of independent powers in each ring (Q,) of so many windowed images."""
        part = float((window**2).sum() ** 2 / (window**4).sum() / window.size)
        return np.asarray(1 / np.maximum(np.diff(self._ends) / 2 * part * n_images, 1))


def _windows(shape: tuple[int, int], pixel_A: float, radius_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return soft windows (X, Y) of the sample and of what lies outside; the latter is 0 where that is too small."""
    x, y = ((np.arange(n) - (n - 1) / 2) * pixel_A for n in shape)
    away = np.hypot(x[:, None], y)
    radius = min(_ROOM * radius_A + _FRINGES_A, min(shape) * pixel_A / 2)
    edge = max(0.15 * radius, pixel_A)
    inside = 0.5 + 0.5 * np.cos(np.pi * np.clip((away - radius) / edge + 1, 0, 1))
    outside = 0.5 - 0.5 * np.cos(np.pi * np.clip((away - radius) / edge - 0.5, 0, 1))
    return inside, outside if (outside > 0.5).mean() > 0.05 else np.zeros(shape)


def _power(series: TiltSeries, i_tilt: int, i_defocus: int, window: np.ndarray) -> np.ndarray:
    """Return the power spectrum (X, Y) of a windowed image, over the sum of the squared window."""
    if series.pixel_weight is not None:
        window = window * (series.pixel_weight[i_tilt, i_defocus] > 0)
    total = max(float(window.sum()), 1e-30)
    off = series.images[i_tilt, i_defocus] - 1
    off = off - float((window * off).sum()) / total
    return np.asarray(np.abs(scipy.fft.fft2(window * off)) ** 2 / max(float((window**2).sum()), 1e-30))


def _limit(q: np.ndarray, significant: np.ndarray) -> float:
    """Return the end in Å of the band in which at least three of four rings are significant."""
    highest = np.nan
    for k in range(4, len(q)):
        if significant[k] and significant[max(k - 7, 1):k + 1].mean() >= 0.75:
            highest = 1 / q[k]
    return float(highest)


def _defocus_of(rings: _Rings, power: np.ndarray, noise: np.ndarray, band: np.ndarray, nominal_nm: float,
                microscope: MicroscopeSpec) -> float:
    """Return the defocus in nm that the rings of one image show, NaN where they support none."""
    if band.sum() < 8:
        return float("nan")
    reach = max(_SEARCH_PART * abs(nominal_nm), _SEARCH_NM)
    tried = nominal_nm + np.arange(-reach, reach + _STEP_NM / 2, _STEP_NM)
    q = rings.q_per_A[band]
    period = _period(q, nominal_nm, microscope)
    models = np.stack([_detail(_transfer(q, defocus, microscope) ** 2, period) for defocus in tried])
    best = []
    for odd in (None, False, True):
        seen = _detail(np.maximum(rings.mean(power, odd) - noise, 0)[band], period)
        score = (models @ seen) / np.maximum(np.linalg.norm(models, axis=1) * np.linalg.norm(seen), 1e-30)
        best.append((_peak(tried, score), float(score.max())))
    chance = 1 / np.sqrt(band.sum())
    if best[0][1] < _CORRELATED * chance or abs(best[1][0] - best[2][0]) > _AGREE_NM or not (
            tried[1] < best[0][0] < tried[-2]):
        return float("nan")
    return best[0][0]


def _period(q: np.ndarray, defocus_nm: float, microscope: MicroscopeSpec) -> int:
    """Return the number of rings that the transfer's square takes for its first period."""
    first = 1 / np.sqrt(wavelength_A(microscope.energy_keV) * max(10 * abs(defocus_nm), 50.0))
    return max(int(first / (q[1] - q[0]) / 1.5), 5)


def _detail(values: np.ndarray, period: int) -> np.ndarray:
    """Return values over their running mean, less 1, of mean 0."""
    kernel = np.hanning(2 * period + 3)[1:-1]
    middle = slice(period, period + len(values))  # mode "same" would return the longer of the two lengths
    smooth = np.convolve(values, kernel)[middle] / np.convolve(np.ones(len(values)), kernel)[middle]
    detail = np.clip(values / np.maximum(smooth, 1e-30) - 1, -1, 2)
    return np.asarray(detail - detail.mean())


def _transfer(q: np.ndarray, defocus_nm: float, microscope: MicroscopeSpec) -> np.ndarray:
    """Return the contrast transfer sin χ - a cos χ of defocus and Cs at q (Q,) in 1/Å."""
    wave = wavelength_A(microscope.energy_keV)
    chi = -np.pi * wave * q**2 * (10 * defocus_nm + 0.5e7 * microscope.Cs_mm * wave**2 * q**2)
    return np.asarray(np.sin(chi) - _AMPLITUDE_CONTRAST * np.cos(chi))


def _peak(tried: np.ndarray, score: np.ndarray) -> float:
    k = int(np.clip(score.argmax(), 1, len(score) - 2))
    return float(tried[k] + _STEP_NM * float(vertex(*(float(value) for value in score[k - 1:k + 2])).place))
