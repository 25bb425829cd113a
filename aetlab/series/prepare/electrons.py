r"""Electrons per pixel of each image, from three sources that are compared.

- **table**: dose · pixel area · DQE(0).
- **gain**: level in counts over the given counts per electron.
- **variance**: for counting noise the variance of a count is gain · mean, so that the relative variance of vacuum is
  1/n, n the effective electrons of a pixel. It is taken from differences of neighbouring pixels, ½⟨(z - z')²⟩, which a
  slow illumination does not change.

The variance of one pixel is that of counting only while the noise is white. A detector that spreads an electron over
several pixels correlates the noise: its power is W MTF(q)², and W = 1/n is that at q = 0. Differences of neighbours
then see ∫ W MTF² (1 - cos 2πq) d²q. The correlation ρ of neighbours decides. Within its error of 0, or below 0 by no
more than the fits of illumination and pattern leave, the noise is white. Where ρ is what the MTF gives, the difference
is divided by ∫ MTF² (1 - cos 2πq) d²q. Where ρ is clearly negative, fringes of the sample are in the vacuum: they add
power at high q, and the fit of the illumination removes some at the lowest q. W is then the mean power of
1/6 < q < 1/4, between both (Blackman and Tukey, Bell Syst. Tech. J. 37, 185, 1958, with a Hann window of the lags).
Half of what differences of neighbours have in excess of it is its error, since strong fringes reach into that ring.
Otherwise W is the sum of the autocovariance over all lags up to 3 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.special

from aetlab.core.errors import DataError
from aetlab.series.prepare.bad_pixels import BadPixels

#: Lags in pixels at which the autocovariance is taken, and over which it is summed.
_LAGS, _SUMMED = 6, 3
#: Standard errors from which a correlation or a disagreement is significant.
_SIGNIFICANT = 4.0
#: Frequencies in 1/pixel between what a fit of the illumination removes and what fringes of the sample add.
_BETWEEN = (1 / 6, 1 / 4)
#: Correlation of neighbours, negative, that fits of illumination and pattern leave in white noise. Differences of
#: neighbours are right to 2 % down to it, the power of the ring as well.
_FITTED = 0.0075
#: Relative disagreement of two sources that is worth a look: doses are seldom known better.
_DISAGREE = 0.1


@dataclass(frozen=True)
class Electrons:
    """Electrons per pixel of T tilts at F defoci.

    ``per_pixel`` (T, F) are those used, from ``source``; ``by_table``, ``by_gain`` and ``by_variance`` the means over
    the usable images by each source, NaN where it is not known, ``variance_error`` the relative standard error of the
    last. ``counts_per_electron`` is measured; ``correlation`` that of the noise of neighbouring pixels.
    """

    per_pixel: np.ndarray
    source: str
    by_table: float
    by_gain: float
    by_variance: float
    variance_error: float
    counts_per_electron: float
    correlation: float
    noise: str
    verdict: str
    line: str


@dataclass(frozen=True)
class VacuumNoise:
    """Relative noise of vacuum pixels: sums over pairs of pixels at each lag.

    ``covariance`` (2L + 1, L + 1) at lags (dx, dy) of -L … L and 0 … L; ``pairs`` their number.
    """

    covariance: np.ndarray
    pairs: np.ndarray

    @property
    def variance(self) -> float:
        """Variance of a pixel."""
        return float(self.covariance[_LAGS, 0])

    @property
    def neighbours(self) -> float:
        """Correlation of neighbouring pixels, mean of both directions."""
        if self.variance <= 0:
            return 0.0
        return float(self.covariance[_LAGS + 1, 0] + self.covariance[_LAGS, 1]) / (2 * self.variance)

    @property
    def at_zero(self) -> float:
        """Power at q = 0: the sum of the covariance over all lags."""
        return _over_all_lags(self.covariance[_LAGS - _SUMMED:_LAGS + _SUMMED + 1, :_SUMMED + 1])

    @property
    def between(self) -> tuple[float, float]:
        """Mean power of the frequencies ``_BETWEEN``, and its relative standard error by counting in white noise."""
        weight = _ring_weights()
        power = _over_all_lags(weight * self.covariance)
        chance = np.sqrt(2 * _over_all_lags(weight**2) / max(self.pairs[_LAGS, 0], 1))
        return power, float(chance * self.variance / max(power, 1e-300))


def measure_noise(images: np.ndarray, vacuum: np.ndarray, pixels: BadPixels, relative_level: np.ndarray,
                  usable: np.ndarray, pattern_variance: np.ndarray) -> VacuumNoise:
    """Return the noise of ``images`` (T, F, X, Y) with vacuum 1 in the pixels ``vacuum`` that are good.

    Images are brought to the noise of the level 1 by the root of their ``relative_level`` (T, F). ``pattern_variance``
    (X, Y) is what a fixed pattern adds to the variance of a pixel.
    """
    covariance, pairs = np.zeros((2, 2 * _LAGS + 1, _LAGS + 1))
    for place in map(tuple, np.argwhere(usable)):
        inside = vacuum[place] & pixels.good(place)
        if not inside.any():
            continue
        z = np.where(inside, images[place] - 1, 0) * np.sqrt(relative_level[place])
        z = np.where(inside, z - z[inside].mean(), 0)
        covariance += _at_lags(z)
        pairs += _at_lags(inside)
        covariance[_LAGS, 0] -= pattern_variance[inside].sum()
    pairs = np.rint(pairs)
    return VacuumNoise(covariance / np.maximum(pairs, 1), pairs)


def find_electrons(normalised: np.ndarray, vacuum: np.ndarray, pixels: BadPixels, level: np.ndarray,
                   usable: np.ndarray, *, pattern_variance: np.ndarray, dose_e_A2: np.ndarray | None,
                   pixel_A: float, dqe: float, counts_per_electron: float | None,
                   mtf: tuple[np.ndarray, np.ndarray] | None, source: str) -> Electrons:
    """Return electrons per pixel of images ``normalised`` (T, F, X, Y) to vacuum 1, of ``level`` (T, F) in counts.

    ``vacuum`` (T, F, X, Y) marks vacuum, ``pixels`` are the bad ones; ``source`` is that of :class:`PrepareSpec`.

    Raises
    ------
    DataError
        Where the source that was asked for is not there.
    """
    levels = level[usable]
    relative_level = level / levels.mean() if len(levels) else level
    noise = measure_noise(normalised, vacuum, pixels, relative_level, usable, pattern_variance)
    measured = noise.variance > 0 and noise.pairs[_LAGS, 0] > 100
    unknown = (np.nan, "no vacuum to measure the noise", np.inf)
    relative, kind, error = _power_at_zero(noise, mtf) if measured else unknown
    by_variance = 1 / relative
    by_table = float((dose_e_A2[usable] * pixel_A**2 * dqe).mean()) if dose_e_A2 is not None else np.nan
    by_gain = float(levels.mean() / counts_per_electron) if counts_per_electron else np.nan
    means = {"variance": by_variance, "table": by_table, "gain": by_gain}
    known = [name for name, value in means.items() if np.isfinite(value) and value > 0]
    chosen = (known[0] if known else "") if source == "find" else source
    if source == "find" and error > _DISAGREE and "table" in known:
        chosen = "table"
    if chosen not in known:
        raise DataError(f"electrons per pixel: {chosen or 'no source'} is not known (known: "
                        f"{', '.join(known) or 'none'}); give the dose of the images, or the counts per electron")
    if chosen == "table":
        assert dose_e_A2 is not None
        per_pixel = dose_e_A2 * pixel_A**2 * dqe
    else:
        per_pixel = level * means[chosen] / levels.mean()
    apart = [name for name in known if name != chosen and abs(means[name] / means[chosen] - 1) > max(
        _DISAGREE, _SIGNIFICANT * error if "variance" in (name, chosen) else 0)]
    others = ", ".join(f"{name} {means[name]:.4g}" for name in known if name != chosen)
    line = f"{means[chosen]:.4g} electrons per pixel by {chosen}; " + (f"{others}; " if others else "")
    line += f"{levels.mean() / means[chosen]:.4g} counts per electron; {kind}"
    alone = chosen == "variance" and len(known) == 1 and error > _DISAGREE
    if alone:
        line += f"; known to {100 * error:.0f} % only, and no dose to compare it with"
    if apart:
        line += "; " + ", ".join(f"the {name} says {100 * (means[name] / means[chosen] - 1):+.0f} %" for name in apart)
    verdict = "look" if apart or alone else "ok"
    return Electrons(np.where(usable, per_pixel, 0), chosen, by_table, by_gain, by_variance, error,
                     float(levels.mean() / by_variance), noise.neighbours, kind, verdict, line)


def _power_at_zero(noise: VacuumNoise, mtf: tuple[np.ndarray, np.ndarray] | None) -> tuple[float, str, float]:
    """Return the power of the noise at q = 0, how it was found, and its relative standard error."""
    n, rho = noise.pairs[_LAGS, 0], noise.neighbours
    error = float(np.sqrt(3 / n))
    difference = noise.variance * (1 - rho)
    share, expected = _through_mtf(mtf) if mtf is not None else (1.0, 0.0)
    chance = _SIGNIFICANT / np.sqrt(2 * n)
    if -max(chance / 2, _FITTED) < rho < max(chance, 0.005):
        return difference, "the noise is white", error
    if rho < 0:
        power, chance = noise.between
        error = float(np.hypot(chance, (difference / power - 1) / 2)) if power > 0 else np.inf
        return power, (f"neighbours correlate by {rho:.2g}: noise between the frequencies of illumination and fringes, "
                       f"± {100 * error:.1f} %"), error
    if mtf is not None and abs(rho - expected) < max(chance, 0.2 * expected):
        return difference / share, f"neighbours correlate by {rho:.2f}, as the MTF says", error
    sum_error = float(np.sqrt(2 * (2 * _SUMMED + 1) ** 2 / n)) * noise.variance / max(noise.at_zero, 1e-300)
    return noise.at_zero, f"neighbours correlate by {rho:.2f}: noise summed over {_SUMMED} pixels", sum_error


def _ring_weights() -> np.ndarray:
    """Return the weight of each lag in the mean power of the frequencies ``_BETWEEN``: a Hann window times the mean of
    cos 2πq·d over the ring, [q J₁(2πqd)/d] between its ends over its area."""
    dx, dy = np.meshgrid(np.arange(-_LAGS, _LAGS + 1), np.arange(_LAGS + 1), indexing="ij")
    window = np.cos(np.pi / 2 * dx / (_LAGS + 1)) ** 2 * np.cos(np.pi / 2 * dy / (_LAGS + 1)) ** 2
    d = np.maximum(np.hypot(dx, dy), 1e-9)
    inner, outer = (q * scipy.special.j1(2 * np.pi * q * d) / d for q in _BETWEEN)
    return np.asarray(window * (outer - inner) / (np.pi * (_BETWEEN[1] ** 2 - _BETWEEN[0] ** 2)))


def _over_all_lags(values: np.ndarray) -> float:
    """Return the sum of ``values`` (2L + 1, L + 1) over all lags; each but those of dy = 0 stands for two."""
    return float(values[:, 0].sum() + 2 * values[:, 1:].sum())


def _through_mtf(mtf: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return ∫ MTF² (1 - cos 2πq_x) d²q and the correlation of neighbours in noise that the MTF filtered."""
    q = (np.arange(128) - 63.5) / 128
    power = np.interp(np.hypot(q[:, None], q), *mtf) ** 2
    cosine = np.cos(2 * np.pi * q)[:, None]
    return float((power * (1 - cosine)).mean()), float((power * cosine).mean() / power.mean())


def _at_lags(values: np.ndarray) -> np.ndarray:
    """Return Σ v(r) v(r + d) of an image (X, Y) at the lags d of :class:`VacuumNoise`, by FFT without wrap-around."""
    padded = tuple(scipy.fft.next_fast_len(n + _LAGS, real=True) for n in values.shape)
    spectrum = scipy.fft.rfft2(values.astype(np.float64), padded)
    sums = scipy.fft.irfft2(spectrum.real**2 + spectrum.imag**2, padded)
    return np.asarray(sums[np.arange(-_LAGS, _LAGS + 1), : _LAGS + 1])
