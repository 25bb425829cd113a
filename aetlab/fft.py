"""Complex 2D FFTs of the CPU engine, by ducc0: without any factor in either direction, as many planes as are given.

One library for everybody: it was the fastest of scipy, mkl_fft, ducc0 and (without planning) pyfftw on planes of 96² to
480², and choosing by a trial would let the same settings give another rounding on another day.
"""

from __future__ import annotations

from dataclasses import dataclass

import ducc0
import numpy as np

from aetlab.backend import n_threads


@dataclass(frozen=True)
class FftPlan:
    """FFTs over the last two axes on ``n_threads`` threads; ``out`` may be ``a``."""

    n_threads: int

    def forward(self, a: np.ndarray, out: np.ndarray) -> None:
        """``out`` = Σ a exp(-2πi …)."""
        ducc0.fft.c2c(a, axes=_axes(a), out=out, nthreads=self.n_threads)

    def inverse(self, a: np.ndarray, out: np.ndarray) -> None:
        """``out`` = Σ a exp(+2πi …), not divided by the number of pixels."""
        ducc0.fft.c2c(a, axes=_axes(a), forward=False, out=out, nthreads=self.n_threads)


def plan_fft(n: int | None = None) -> FftPlan:
    """Transforms on ``n`` threads, or on all that the engine uses."""
    return FftPlan(n or n_threads())


def _axes(a: np.ndarray) -> tuple[int, int]:
    return a.ndim - 2, a.ndim - 1
