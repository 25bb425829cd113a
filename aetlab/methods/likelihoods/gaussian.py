"""Intensities with Gaussian noise of equal variance: c = ⅛ w (m - I)².

The variance is that of a vacuum pixel, 1/n for n electrons. The cost equals that of amplitudes to second order in m - I
at vacuum. Pixels darker than vacuum have too little weight and brighter ones too much, so that errors are larger than
with the likelihoods of counts.
"""

from __future__ import annotations

import numpy as np

from aetlab.methods.likelihood import DARKEST, Likelihood


def _compare(waves: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None, row_cost: np.ndarray) -> None:
    factor = _factor(waves.real**2 + waves.imag**2, amplitude, weight, row_cost)
    waves *= factor


def _compare_detected(images: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
                      row_cost: np.ndarray) -> None:
    dark = images < DARKEST
    images[...] = _factor(np.maximum(images, images.dtype.type(DARKEST)), amplitude, weight, row_cost)
    images[dark] = 0


def _factor(intensity: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
            row_cost: np.ndarray) -> np.ndarray:
    """Return f = ½ w (m - I) of the ``intensity`` m (F, X, Y), and fill ``row_cost`` (F, X)."""
    difference = intensity - amplitude**2
    factor = difference / 2 if weight is None else weight * difference / 2
    (factor * difference).sum(axis=2, dtype=np.float64, out=row_cost)
    row_cost /= 4
    return factor


ROW = Likelihood(meaning="intensities with Gaussian noise of equal variance", compare=_compare,
                 compare_detected=_compare_detected)
