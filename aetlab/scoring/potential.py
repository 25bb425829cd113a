"""The reconstructed potential against the true one."""

from __future__ import annotations

import numpy as np


def potential_error(potential_V: np.ndarray, true_V: np.ndarray, rows: np.ndarray) -> float:
    """Return |V - V_true| / |V_true| in the Euclidean norm, NaN where the true potential is 0.

    ``potential_V`` and ``true_V`` are (Z, X, Y) in V; only the y rows that ``rows`` (Y,) bool marks count.
    """
    difference2 = norm2 = 0.0
    for layer, true_layer in zip(potential_V, true_V, strict=True):
        true = true_layer[:, rows].astype(np.float64)
        difference2 += float(((layer[:, rows] - true) ** 2).sum())
        norm2 += float((true**2).sum())
    return (difference2 / norm2) ** 0.5 if norm2 else float("nan")
