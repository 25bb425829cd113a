r"""Drift between the defoci of a tilt, and one image a tilt that joins them.

The images I_j of a tilt at F defoci are the spectra c_j O + n_j: one object O of power P(q), seen through the contrast
transfer c_j(q), and white noise of power σ². The likelihood of the positions d_j of the object has for each pair the
term (P is a mean over rings, the same for all tilts)

    L_jk(d_j - d_k) = Re Σ_q w_jk F_j F_k* exp(2πi q·(d_j - d_k)),    w_jk = P c_j c_k / (σ² + P Σ_m c_m²) / σ²,

summed over half of the frequencies times 2. Strong lattice spots are not noise of a smooth power: the object is thick,
and c_j is not exact. The last factor 1/σ² is therefore 1/(σ² + |F_j F_k|), so that no frequency counts more than
1/2, and noise counts somewhat less than it could. A Gaussian of 0.3 1/Å leaves out frequencies at which the defocus is
not known well enough. All positions of a tilt are sought together where the sum over the pairs is largest.

The probability that an image lies where it was found is that of exp(Σ_k L_jk) within 1 Å, in units of the sum over all
places (6 Å without transfer). It is small where noise, or the next row of the lattice, does as well. On a series of 122
images with 21 electrons a pixel, 3 were off, and the probabilities let expect 12.

Without the energy of the electrons there is no transfer; then the darkness 1 - I below 0.05 1/Å is compared, which all
defoci show with the same sign.

Where the other tilts predict the object as E(q), up to a difference of power V, V stands for P, and each image has one
more term, with E.

The joined image is Σ c_j I_j / (Σ c_j² + ⟨Σ c_j²⟩), a Wiener filter that takes signal and noise as equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

from aetlab.core.grid import squared_frequencies
from aetlab.series.prepare.planes import contrast_transfer, low_pass, peak_of, ramp

#: Widths of the Gaussians in 1/Å: with and without contrast transfer.
_BAND_PER_A, _DARK_BAND_PER_A = 0.3, 0.05
#: Distance within which a position counts as found, over the inverse width of the Gaussian: 1 Å with transfer.
_NEAR = 0.3
#: Probability from which an image counts as placed.
LIKELY = 0.5
#: Peaks of a pair that the search for all positions starts from, and its most rounds.
_STARTS, _ROUNDS = 3, 10


@dataclass(frozen=True)
class Transfer:
    """Transfer of the images of a series to their detector, and power of the object.

    ``by_defocus`` has c(q) (X, Y) by defocus in Å, ``power`` P (X, Y), ``band`` the Gaussian (X, Y), ``near_px`` the
    distance within which a position counts as found.
    """

    by_defocus: dict[float, np.ndarray]
    power: np.ndarray
    band: np.ndarray
    pixel_A: float
    near_px: float


@dataclass(frozen=True)
class Expected:
    """Object that the other tilts predict: its ``spectrum`` complex (X, Y), and the power (X, Y) of what differs."""

    spectrum: np.ndarray
    power: np.ndarray


@dataclass(frozen=True)
class Drift:
    """Places of the F images of a tilt.

    ``position_px`` (F, 2) is where the sample lies in each image, relative to the reference, or to the middle of what
    was expected; NaN in images that were not used. ``probability`` (F,) is that of the position of each image; 1 for a
    single one. ``reference`` is the image that the others are compared with. ``joined`` complex (X, Y) is the spectrum
    of the images that are placed, see :data:`LIKELY`, and of the reference, joined at the position 0.
    """

    position_px: np.ndarray
    probability: np.ndarray
    reference: int
    joined: np.ndarray

    @property
    def placed(self) -> np.ndarray:
        """Images (F,) whose position is rather right than wrong."""
        return np.isfinite(self.position_px[:, 0]) & (self.probability >= LIKELY)


def find_transfer(images: np.ndarray, usable: np.ndarray, defocus_A: np.ndarray, pixel_A: float,
                  energy_keV: float | None) -> Transfer:
    """Return transfer and power for the ``usable`` (T, F) of ``images`` (T, F, X, Y) of vacuum 1."""
    shape = (images.shape[2], images.shape[3])
    width_per_A = _BAND_PER_A if energy_keV else _DARK_BAND_PER_A
    band = low_pass(shape, pixel_A, width_per_A)
    by_defocus = {float(value): contrast_transfer(shape, pixel_A, float(value), energy_keV) if energy_keV else -band
                  for value in np.unique(defocus_A[usable])}
    ring = rings(shape, pixel_A)
    count = np.bincount(ring.ravel())
    signal, weight = np.zeros(len(count)), np.zeros(len(count))
    for place in map(tuple, np.argwhere(usable)):
        square = np.abs(scipy.fft.fft2(images[place].astype(np.float64) - 1)) ** 2
        gain = by_defocus[float(defocus_A[place])] ** 2
        signal += np.bincount(ring.ravel(), (gain * (square - noise_power(square))).ravel())
        weight += np.bincount(ring.ravel(), (gain**2).ravel())
    power = np.clip(signal / np.maximum(weight, 1e-30), 0, None)[ring]
    power[0, 0] = 0
    return Transfer(by_defocus, power, band, pixel_A, _NEAR / width_per_A / pixel_A)


def rings(shape_xy: tuple[int, int], pixel_A: float) -> np.ndarray:
    """Return the ring, an integer, that each frequency (X, Y) lies in; rings are a few frequencies wide."""
    q = np.sqrt(squared_frequencies(shape_xy, pixel_A))
    return np.asarray(np.rint(q / q.max() * max(shape_xy) / 4).astype(int))


def noise_power(square: np.ndarray) -> float:
    """Return the power of white noise in a ``square`` spectrum (X, Y): the median at the highest frequencies."""
    q = np.hypot(scipy.fft.fftfreq(square.shape[0])[:, None], scipy.fft.fftfreq(square.shape[1]))
    # The square of a complex normal number has the median log 2.
    return max(float(np.median(square[q > np.quantile(q, 0.75)])) / np.log(2), 1e-30)


def find_drift(images: np.ndarray, usable: np.ndarray, defocus_A: np.ndarray, transfer: Transfer,
               expected: Expected | None = None) -> Drift:
    """Return where the ``usable`` (F,) images (F, X, Y) of a tilt, of vacuum 1, lie; at least one is usable."""
    shape, chosen = (images.shape[1], images.shape[2]), np.flatnonzero(usable)
    spectra = scipy.fft.fft2(images[chosen].astype(np.float64) - 1)
    gains = np.stack([transfer.by_defocus[float(defocus_A[j])] for j in chosen])
    products = _pair_products(spectra, gains, transfer, expected)
    place, sure = _best_places(products), np.ones(len(products))
    for k in range(len(products) if len(products) > 1 else 0):
        others = [m for m in range(len(products)) if m != k]
        likelihood = scipy.fft.ifft2((products[k, others] * ramp(shape, -place[others])).sum(axis=0)).real
        place[k] = peak_of(likelihood, around=place[k])
        sure[k] = _probability(likelihood, place[k], transfer.near_px)
    n = len(chosen)
    # The surest image; of equal ones that which shows most of the object.
    strength = (gains**2 * transfer.power * transfer.band).sum(axis=(1, 2))
    reference = max(range(n), key=lambda k: (round(float(sure[k]), 3), strength[k]))
    place = place[:n] - (place[reference] if expected is None else place[n])
    joined_ones = [k for k in range(n) if sure[k] >= LIKELY or k == reference]
    position, probability = np.full((len(images), 2), np.nan), np.ones(len(images))
    position[chosen], probability[chosen] = place, sure[:n]
    power = (gains[joined_ones] ** 2).sum(axis=0)
    joined = (spectra * gains * ramp(shape, place))[joined_ones].sum(axis=0) / (power + power.mean())
    return Drift(position, probability, int(chosen[reference]), joined)


def drift_rms(position_px: np.ndarray) -> float:
    """Return the rms distance along one axis of positions (T, F, 2) from the mean of their tilt, in pixels."""
    there = position_px[np.isfinite(position_px[..., 0]).any(axis=1)]
    if not len(there):
        return 0.0
    return float(np.sqrt(np.nanmean((there - np.nanmean(there, axis=1, keepdims=True)) ** 2)))


def _pair_products(spectra: np.ndarray, gains: np.ndarray, transfer: Transfer,
                   expected: Expected | None) -> np.ndarray:
    """Return the spectra (F, F, X, Y) of the likelihoods of all pairs: their transform is L_jk at the lag d_j - d_k.

    What is ``expected`` is one more image, the last.
    """
    noise = np.mean([noise_power(np.abs(one) ** 2) for one in spectra])
    power = transfer.power if expected is None else expected.power
    weight = transfer.band / (noise + power * (gains**2).sum(axis=0)) * spectra[0].size
    n = len(spectra)
    products = np.zeros((n + (expected is not None), n + (expected is not None), *spectra.shape[1:]), complex)
    for j in range(n):
        for k in range(j):
            pair = spectra[j] * spectra[k].conj()
            products[j, k] = pair * weight * power * gains[j] * gains[k] / (noise + np.abs(pair))
        if expected is not None:
            pair = spectra[j] * gains[j] * expected.spectrum.conj()
            products[j, n] = pair * weight * noise / (noise + np.abs(pair))
    return np.asarray(products + products.conj().transpose(1, 0, 2, 3))


def _best_places(products: np.ndarray) -> np.ndarray:
    """Return the whole-pixel positions (F, 2) whose likelihood, the sum over pairs, is the largest that was reached.

    The search starts from the highest peaks of each pair and moves one image at a time.
    """
    n, shape = len(products), products.shape[2:]
    if n < 2:
        return np.zeros((n, 2))
    maps = scipy.fft.ifft2(products).real
    best, most = np.zeros((n, 2), int), -np.inf
    for j in range(n):
        for k in range(j):
            others = [m for m in range(n) if m not in (j, k)]
            for peak in _peaks(maps[j, k], _STARTS):
                place, placed = np.zeros((n, 2), int), [k, j]
                place[j] = peak
                for m in others:
                    place[m] = _top(maps, m, placed, place)
                    placed.append(m)
                for _ in range(_ROUNDS if others else 0):
                    before = place.copy()
                    for m in range(n):
                        place[m] = _top(maps, m, [i for i in range(n) if i != m], place)
                    if (place == before).all():
                        break
                total = sum(maps[a, b][tuple((place[a] - place[b]) % shape)] for a in range(n) for b in range(a))
                if total > most:
                    best, most = place, total
    # Lags are known modulo the size of the image.
    size = np.array(shape)
    return np.asarray((best - best[0] + size // 2) % size - size // 2, float)


def _top(maps: np.ndarray, m: int, others: list[int], place: np.ndarray) -> np.ndarray:
    """Return the place (2,) of image ``m`` that the ``others`` at ``place`` (F, 2) make the likeliest."""
    total = np.sum([np.roll(maps[m, k], tuple(place[k]), (0, 1)) for k in others], axis=0)
    return np.array(np.unravel_index(int(total.argmax()), total.shape))


def _peaks(likelihood: np.ndarray, n: int) -> np.ndarray:
    """Return the places (n, 2) of the highest local maxima of a periodic map (X, Y)."""
    local = np.where(ndimage.maximum_filter(likelihood, 3, mode="wrap") == likelihood, likelihood, -np.inf)
    top = np.argsort(local, axis=None)[::-1][:n]
    return np.column_stack(np.unravel_index(top, likelihood.shape))


def _probability(likelihood: np.ndarray, place: np.ndarray, near_px: float) -> float:
    """Return the probability of a position within ``near_px`` of ``place`` by a logarithmic likelihood (X, Y)."""
    away = [(scipy.fft.fftfreq(n, 1 / n) - at + n / 2) % n - n / 2 for n, at in zip(likelihood.shape, place)]
    chance = np.exp(likelihood - likelihood.max())
    return float(chance[np.hypot(away[0][:, None], away[1]) <= near_px].sum() / chance.sum())
