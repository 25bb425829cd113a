"""Amplitudes: c = ½ w (√m - a)², equation 5 of the paper, halved.

The variance of a is 1/(4n) at any intensity, so that 4n times the cost is the negative log-likelihood.
"""

from __future__ import annotations

import numpy as np

from aetlab.methods.likelihood import GpuKernels, Likelihood


def _compare(waves: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None, row_cost: np.ndarray) -> None:
    from aetlab.methods import residual_kernels as kernels

    kernels.amplitude_residual(waves, amplitude, weight, row_cost)


def _compare_detected(images: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
                      row_cost: np.ndarray) -> None:
    from aetlab.methods import residual_kernels as kernels

    kernels.detected_residual(images, amplitude, weight, False, images.dtype.type(0), row_cost)


#: To first order, the mean of √(count + 1/4) is the root of the mean count.
ROW = Likelihood(meaning="amplitudes, equation 5 of the paper", compare=_compare, compare_detected=_compare_detected,
                 gpu=GpuKernels("residual", (), 0.0), fused=True, refines=True, added_counts=0.25)
