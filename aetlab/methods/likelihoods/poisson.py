"""Poisson counts: c = ¼ w (m' - I + I log(I/m')) with m' = m + :data:`DARK`.

This is a quarter of the negative log-likelihood per electron of a vacuum pixel. To second order in m - I it equals the
cost of amplitudes.
"""

from __future__ import annotations

import numpy as np

from aetlab.methods.likelihood import GpuKernels, Likelihood

#: Added to the intensity (vacuum 1) of the model, so that the cost of dark pixels is finite.
DARK = 1e-3


def _compare(waves: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None, row_cost: np.ndarray) -> None:
    from aetlab.methods import residual_kernels as kernels

    kernels.poisson_residual(waves, amplitude, weight, amplitude.dtype.type(DARK), row_cost)


def _compare_detected(images: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
                      row_cost: np.ndarray) -> None:
    from aetlab.methods import residual_kernels as kernels

    kernels.detected_residual(images, amplitude, weight, True, images.dtype.type(DARK), row_cost)


ROW = Likelihood(meaning="Poisson counts", compare=_compare, compare_detected=_compare_detected,
                 gpu=GpuKernels("poisson_residual", (DARK,), DARK))
