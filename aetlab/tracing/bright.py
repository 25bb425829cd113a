"""Few bright sites that give the scale of the signals away: atoms of the heaviest element among many of a lighter one.

An atom may be fainter than its class, by a partial occupancy, vibration or missing data; nothing makes it much
brighter. A naming that leaves a group of sites above its heaviest class is therefore wrong if the group lies as far
above that class as the heaviest element is expected above the next: the class is that of the next element.
"""

from __future__ import annotations

import math

import numpy as np

#: Least part of the expected step, and of the deviations of the heaviest class, by which a bright site exceeds it.
STEP_PART, DEVIATIONS = 0.6, 4.0
#: Fewest bright sites, and their least share of all sites.
LEAST, LEAST_SHARE = 3, 0.003
#: Least logarithm of the ratio of the signals of two elements, and the range (factor, constant) of a found one.
STEP_MIN, RATIO_LOW, RATIO_HIGH = 0.14, (0.8, -0.1), (1.3, 0.15)
#: Least relative standard deviation of a class.
LEAST_DEVIATION = 0.03


def classes_below_bright(signal: np.ndarray, heaviest: np.ndarray,
                         expected: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the classes of K elements, if bright sites show that the heaviest class is that of the next element.

    They are rows (K, 3) of share, mean and standard deviation, and the thresholds (K - 1,) between them; None if there
    is no such group of bright sites.

    Parameters
    ----------
    signal : (N,)
    heaviest : bool (N,)
        Sites that were named as the element of the greatest expected signal.
    expected : (K,)
        Expected signals of the elements, up to a factor.
    """
    own = heaviest & (signal > 0)
    if len(expected) < 2 or own.sum() < LEAST or (np.diff(expected) <= 0).any():
        return None
    step, logarithm = math.log(expected[-1] / expected[-2]), np.log(signal[own])
    middle = float(np.median(logarithm))
    deviation = 1.4826 * float(np.median(np.abs(logarithm - middle)))
    bright = logarithm[logarithm > middle + max(STEP_PART * step, DEVIATIONS * deviation)]
    if step < STEP_MIN or len(bright) < max(LEAST, LEAST_SHARE * len(signal)) or 2 * len(bright) > own.sum():
        return None
    found = float(np.median(bright)) - middle
    if not RATIO_LOW[0] * step + RATIO_LOW[1] <= found <= RATIO_HIGH[0] * step + RATIO_HIGH[1]:
        return None
    # The same power of the expected signals that leads from the next to the heaviest element leads to the others.
    means = middle + found + found / step * np.log(expected / expected[-1])
    thresholds = np.exp(0.5 * (means[:-1] + means[1:]))
    counts = np.bincount(np.searchsorted(thresholds, signal), minlength=len(expected))
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    deviations = np.exp(means) * max(deviation, LEAST_DEVIATION)
    return np.stack([shares, np.exp(means), deviations], axis=1), thresholds
