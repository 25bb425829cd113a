r"""Images that show no sample, two samples, or a sample that moved while it was recorded.

- **dark, bright**: the level over the dose of the table lies below half, or above one and a half times, that of the
  tilts around it, or that of the other images of its tilt while it is off the tilts around it to the same side. Beams
  and thickness change it less, a missed or a second exposure more.
- **blank**: the mean square contrast where the sample is does not exceed that of the vacuum significantly, while that
  of other images at the same defocus does.
- **doubled**: an image plus itself moved by d multiplies the power spectrum by |1 + exp(2πi q·d)|². The logarithm of
  the power over its median in the other tilts at the same defocus then has a peak of its Fourier transform (the
  cepstrum) at d.
- **drifted**: a motion by L along u multiplies the power by sinc²(q·u L), log sinc² ≈ -(π²/3)(q·u L)². Its anisotropic
  part is fitted to the same logarithm. Astigmatism is common to all tilts and falls out. L comes out too small where
  noise covers the signal.

The logarithm is limited to ±0.5: the spots of a lattice, which come and go with the tilt, then count no more than the
fringes or the fall-off across the whole spectrum. An image is bad only if its peak or its anisotropy lies five robust
standard deviations from those of the other images at its defocus. Near a zone axis a small crystal has few spots, whose
anisotropy is strong without any motion. Two properties distinguish a motion. It attenuates all parts of the spectrum
alike: its anisotropy also lies three of its own standard errors from 0, by a jackknife over sectors of the spectrum.
And the other images of the tilt show the same spots, but not the motion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

_PER_MAD = 1.4826
#: Number in a reason; reasons that differ in numbers alone are of one kind.
_NUMBER = re.compile(r"-?\d[\d.e+-]*")
#: Level over the usual one below and above which an image was not exposed once, and for as long as the others.
_DARK, _BRIGHT = 0.5, 1.5
#: The same against the tilts around, where an image is odd among those of its own tilt.
_DARKER, _BRIGHTER = 0.8, 1.25
#: Tilts to each side whose levels are the usual ones: the exposure may follow the tilt.
_AROUND = 3
#: Standard errors of a significant contrast, and least number of tilts that others are compared with.
_SIGNIFICANT, _ENOUGH_TILTS = 5.0, 5
#: The others must have so many times the contrast that a blank image may have; noise and tilt make up the rest.
_USUAL_CONTRAST = 4.0
#: Limit of the logarithm of the power over its median.
_LIMIT = 0.5
#: Own standard errors of a motion that is not that of a few spots.
_CLEAR = 3.0
#: Sectors of half a turn and rings of the spectrum whose anisotropies are compared.
_ANGLES, _RINGS = 12, 4
#: Most pixels along a side of the part about the middle whose spectra are compared.
_MOST_PX = 256
#: Least peak of a double: a third of the 0.3 that the limited logarithm of |1 + exp(ix)|² has without noise.
_LEAST_PEAK = 0.1
#: Lags in pixels from which a copy differs from the envelope of the spectrum.
_LEAST_LAG = 3.0


@dataclass(frozen=True)
class BadFrames:
    """Images left out: ``reasons`` by (i_tilt, i_defocus).

    Of each image (T, F): ``double_peak``, the peak of its cepstrum; ``drift_px``, a motion while it was recorded,
    beyond that of most images at its defocus; ``sharpness``, the root mean square frequency of its signal, noise
    subtracted, in cycles per pixel. They are 0 where fewer than five tilts could be compared.
    """

    reasons: dict[tuple[int, int], str]
    double_peak: np.ndarray
    drift_px: np.ndarray
    sharpness: np.ndarray
    line: str

    @property
    def keep(self) -> np.ndarray:
        """Images that are sound, bool (T, F)."""
        keep = np.ones(self.double_peak.shape, bool)
        for place in self.reasons:
            keep[place] = False
        return keep


def no_bad_frames(shape: tuple[int, ...]) -> BadFrames:
    """Return the bad frames of a series (T, F) in which none was searched."""
    zero = np.zeros(shape)
    return BadFrames({}, zero, zero, zero, "not searched")


def find_odd_levels(counts: np.ndarray, present: np.ndarray,
                    dose_e_A2: np.ndarray | None) -> dict[tuple[int, int], str]:
    """Return the reason for images of ``counts`` (T, F, X, Y) that are much darker or brighter than those around them.

    Only the ``present`` (T, F) are judged. Levels are medians, over the doses (T, F) where they are known.
    """
    level = np.array([[np.median(image) for image in images] for images in counts], float)
    share = np.ones_like(level)
    if dose_e_A2 is not None and present.any():
        share = np.where(present, dose_e_A2, 1) / np.median(dose_e_A2[present])
    usual = np.ones_like(level)
    for t in np.flatnonzero(present.any(axis=1)):
        near = np.s_[max(t - _AROUND, 0):t + _AROUND + 1]
        usual[t] = share[t] * max(float(np.median((level[near] / share[near])[present[near]])), 1e-300)
    with np.errstate(over="ignore"):
        around = level / usual
    reasons = {}
    for t, f in np.argwhere(present):
        others = present[t] & (np.arange(len(present[t])) != f)
        if not level[t, f] > 0:
            reasons[int(t), int(f)] = f"dark: the median is {level[t, f]:.4g} counts"
            continue
        with np.errstate(over="ignore"):  # the others may have no counts
            within = around[t, f] / max(float(np.median(around[t, others])), 1e-300) if others.any() else 1.0
        # Of two images that disagree, the one that is further off the tilts around is odd.
        further = _off(around[t, f]) >= max((_off(value) for value in around[t, others]), default=0.0)
        if not _DARK <= around[t, f] <= _BRIGHT or further and (
                (within < _DARK and around[t, f] < _DARKER) or (within > _BRIGHT and around[t, f] > _BRIGHTER)):
            word = "dark" if around[t, f] < 1 else "exposed twice or longer"
            reasons[int(t), int(f)] = f"{word}: {level[t, f]:.4g} counts, {usual[t, f]:.4g} expected"
    return reasons


def _off(ratio: float) -> float:
    """Return how far a ratio is from 1, the same for its inverse."""
    return abs(float(np.log(max(ratio, 1e-300))))


def find_bad_frames(images: np.ndarray, vacuum: np.ndarray, usable: np.ndarray) -> BadFrames:
    """Return the bad ones of ``images`` (T, F, X, Y) with vacuum 1, in the pixels ``vacuum``, among the ``usable``."""
    reasons = _find_blank(images, vacuum, usable)
    sound = usable.copy()
    for place in reasons:
        sound[place] = False
    peak, far, sharpness = (np.zeros(usable.shape) for _ in range(3))
    where, motion = np.zeros((*usable.shape, 2)), np.zeros((*usable.shape, 2))
    own_error, clear = np.full(usable.shape, np.inf), np.zeros(usable.shape, bool)
    starts = [max(n - _MOST_PX, 0) // 2 for n in images.shape[2:]]
    part = tuple(slice(start, start + _MOST_PX) for start in starts)
    for i_image in range(usable.shape[1]):
        tilts = np.flatnonzero(sound[:, i_image])
        if len(tilts) < _ENOUGH_TILTS:
            continue
        power = np.stack([np.abs(scipy.fft.fft2(images[t, i_image][part] - 1)) ** 2 for t in tilts]).astype(np.float32)
        noise = _noise_power(power)
        sharpness[tilts, i_image] = _sharpness(power, noise)
        logarithm = np.log(ndimage.uniform_filter(power, (0, 3, 3), mode="wrap") + noise)
        middle = np.median(logarithm, axis=0)
        signal = np.clip(1 - 2 * noise / np.exp(middle), 0, None)
        if not signal.any():
            continue
        sectors = _sectors(signal)
        for i_tilt, ratio in zip(tilts, logarithm - middle):
            ratio = np.clip(ratio - np.median(ratio), -_LIMIT, _LIMIT)
            flat = signal * (ratio - _radial_mean(ratio, signal))
            peak[i_tilt, i_image], where[i_tilt, i_image] = _cepstral_peak(flat, signal)
            motion[i_tilt, i_image], own_error[i_tilt, i_image] = _motion(ratio, signal, sectors)
        off = motion[tilts, i_image] - np.median(motion[tilts, i_image], axis=0)
        motion[tilts, i_image] = off
        usual = _PER_MAD * float(np.median(np.abs(off)))
        far[tilts, i_image] = np.hypot(*off.T) / max(usual, 1e-12)
        clear[tilts, i_image] = np.hypot(*off.T) > _CLEAR * own_error[tilts, i_image]
    for t, f in _outliers(peak, sound & (peak > 0)):
        if peak[t, f] > _LEAST_PEAK:
            reasons[t, f] = f"doubled or moved, by {where[t, f, 0]:.0f}, {where[t, f, 1]:.0f} px or the opposite"
    drift = np.sqrt(np.hypot(motion[..., 0], motion[..., 1]))
    for t, f in np.argwhere(sound & clear & (np.minimum(far, _beyond_the_tilt(motion, sound)) > _SIGNIFICANT)):
        reasons.setdefault((int(t), int(f)), f"drifted by {drift[t, f]:.1f} px or more while recorded")
    return BadFrames(reasons, peak, drift, sharpness, describe(reasons, usable))


def describe(reasons: dict[tuple[int, int], str], present: np.ndarray) -> str:
    """Return in one line how many of the ``present`` images (T, F) are bad, and why; each kind of reason once."""
    if not reasons:
        return f"none of {present.sum()} images is blank, doubled, drifted or lost"
    kinds: dict[str, list[str]] = {}
    for _, reason in sorted(reasons.items()):
        kinds.setdefault(_NUMBER.sub("", reason), []).append(reason)
    named = "; ".join(same[0] + (f" (and {len(same) - 1} more of the kind)" if len(same) > 1 else "")
                      for same in kinds.values())
    return f"{len(reasons)} of {present.sum()} images left out: {named}"


def _find_blank(images: np.ndarray, vacuum: np.ndarray, usable: np.ndarray) -> dict[tuple[int, int], str]:
    contrast, error = np.zeros(usable.shape), np.zeros(usable.shape)
    n = np.zeros(images.shape[2:], int)
    for place in map(tuple, np.argwhere(usable)):
        n += vacuum[place]
    sample = n < usable.sum() / 2
    if not sample.any() or sample.all():
        return {}
    for place in map(tuple, np.argwhere(usable)):
        square = (ndimage.gaussian_filter(images[place], 1.0, mode="nearest") - 1) ** 2
        outside = square[vacuum[place]].mean() if vacuum[place].any() else 0.0
        contrast[place] = square[sample].mean() - outside
        # A Gaussian of one pixel leaves one independent number in 4π pixels.
        error[place] = outside * np.sqrt(2 * 4 * np.pi / sample.sum())
    reasons = {}
    for t, f in np.argwhere(usable):
        others = float(np.median(contrast[usable[:, f], f]))
        if contrast[t, f] < _SIGNIFICANT * error[t, f] and others > _USUAL_CONTRAST * _SIGNIFICANT * error[t, f]:
            reasons[int(t), int(f)] = f"blank: no contrast, others {100 * np.sqrt(others):.1f} % rms"
    return reasons


def _outliers(values: np.ndarray, sound: np.ndarray) -> list[tuple[int, int]]:
    """Return the ``sound`` images (T, F) whose value lies far above those of the others at the same defocus."""
    found = []
    for f in range(values.shape[1]):
        tilts = np.flatnonzero(sound[:, f])
        if len(tilts) < _ENOUGH_TILTS:
            continue
        centred = values[tilts, f] - np.median(values[tilts, f])
        limit = _SIGNIFICANT * _PER_MAD * float(np.median(np.abs(centred)))
        found += [(int(t), f) for t in tilts[(centred > limit) & (limit > 0)]]
    return found


def _noise_power(power: np.ndarray) -> float:
    """Return the power of the noise: the median at the highest quarter of the frequencies, of all images."""
    q = _frequency(power.shape[1:])
    return float(np.median(power[:, q > np.quantile(q, 0.75)]) / np.log(2))


def _sharpness(power: np.ndarray, noise: float) -> np.ndarray:
    """Return the root mean square frequency (T,) of signals from the ``power`` (T, X, Y) of their images."""
    q = _frequency(power.shape[1:])
    ring = np.rint(q * max(q.shape)).astype(int)
    mean_q = np.bincount(ring.ravel(), weights=q.ravel()) / np.bincount(ring.ravel())
    inside = (mean_q > 0) & (mean_q < 0.5)
    total = np.stack([np.bincount(ring.ravel(), weights=(one - noise).ravel()) for one in power])[:, inside]
    total = np.maximum(total, 0)
    return np.asarray(np.sqrt((total * mean_q[inside] ** 2).sum(axis=1) / np.maximum(total.sum(axis=1), 1e-300)))


def _frequency(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.hypot(scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.fftfreq(shape[1])))


def _radial_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted mean of values (X, Y) over rings one frequency step wide, at each pixel."""
    ring = np.rint(_frequency(values.shape) * max(values.shape)).astype(int)
    total = np.bincount(ring.ravel(), weights=weight.ravel())
    mean = np.bincount(ring.ravel(), weights=(weight * values).ravel()) / np.maximum(total, 1e-12)
    return np.asarray(mean[ring])


def _cepstral_peak(flat: np.ndarray, signal: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the highest value of the cepstrum away from 0, with weights ``signal`` of sum 1, and its lag (2,)."""
    cepstrum = scipy.fft.fft2(flat).real / signal.sum()
    lags = [scipy.fft.fftfreq(n, 1 / n) for n in flat.shape]
    far = np.hypot(lags[0][:, None], lags[1]) > _LEAST_LAG
    top = np.unravel_index(int(np.where(far, cepstrum, -np.inf).argmax()), flat.shape)
    return float(cepstrum[top]), np.array([lags[0][top[0]], lags[1][top[1]]])


def _sectors(signal: np.ndarray) -> np.ndarray:
    """Return the sector of each frequency (X, Y): :data:`_ANGLES` of half a turn in :data:`_RINGS` of equal signal.

    A frequency and its opposite, whose powers are equal, lie in the same sector.
    """
    q_x, q_y = scipy.fft.fftfreq(signal.shape[0])[:, None], scipy.fft.fftfreq(signal.shape[1])
    angle = np.floor((np.arctan2(q_y, q_x) % np.pi) / np.pi * _ANGLES).astype(int) % _ANGLES
    q = _frequency(signal.shape)
    order = np.argsort(q, axis=None, kind="stable")
    within = np.cumsum(signal.ravel()[order])
    ends = q.ravel()[order][np.searchsorted(within, within[-1] * np.arange(1, _RINGS) / _RINGS)]
    return np.asarray(np.searchsorted(ends, q) * _ANGLES + angle)


def _motion(ratio: np.ndarray, signal: np.ndarray, sectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return L² (cos 2φ, sin 2φ) in pixels² of a motion by L along φ, from the anisotropy of the log power (X, Y).

    The second value is its standard error along each component, by a jackknife over the ``sectors``.
    """
    q_x, q_y = scipy.fft.fftfreq(ratio.shape[0])[:, None], scipy.fft.fftfreq(ratio.shape[1])
    terms = np.stack(np.broadcast_arrays(1.0, q_x**2 + q_y**2, q_x**2 - q_y**2, 2 * q_x * q_y)).reshape(4, -1)
    weighted, sector, n = terms * signal.ravel(), sectors.ravel(), _ANGLES * _RINGS
    normal = np.array([[np.bincount(sector, a * b, n) for b in terms] for a in weighted]).transpose(2, 0, 1)
    right = np.array([np.bincount(sector, a * ratio.ravel(), n) for a in weighted]).T
    left_out = normal.sum(axis=0) - normal
    if np.linalg.matrix_rank(left_out).min() < 4:
        return np.zeros(2), np.inf
    found = np.linalg.solve(normal.sum(axis=0), right.sum(axis=0))
    others = np.linalg.solve(left_out, (right.sum(axis=0) - right)[..., None])[:, 2:, 0]
    variance = (n - 1) / n * ((others - others.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(-found[2:] * 6 / np.pi**2), float(np.sqrt(variance.mean())) * 6 / np.pi**2


def _beyond_the_tilt(motion: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Return how far each motion (T, F, 2) lies beyond that of the other sound images of its tilt, (T, F).

    The difference counts along the motion, in robust standard deviations of the differences at its defocus. It is
    infinite where a tilt has no other image.
    """
    beyond = np.full(sound.shape, np.inf)
    for f in range(sound.shape[1]):
        others = np.flatnonzero(np.arange(sound.shape[1]) != f)
        n_others = sound[:, others].sum(axis=1)
        tilts = np.flatnonzero(sound[:, f] & (n_others > 0))
        if len(tilts) < _ENOUGH_TILTS:
            continue
        around = np.where(sound[:, others, None], motion[:, others], 0)[tilts].sum(axis=1) / n_others[tilts, None]
        own, apart = motion[tilts, f], motion[tilts, f] - around
        along = (apart * own).sum(axis=1) / np.maximum(np.hypot(*own.T), 1e-12)
        beyond[tilts, f] = along / max(_PER_MAD * float(np.median(np.abs(apart))), 1e-12)
    return beyond
