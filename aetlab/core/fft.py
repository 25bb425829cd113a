"""Compute complex 2D FFTs of the CPU engine with ducc0, without normalisation in either direction.

A reconstruction uses these FFTs only for planes whose sides have prime factors other than 2, 3 and 5. For all other
planes it uses the fused kernels (:mod:`aetlab.core.simd_fft`), which take half the time of the fastest library
(docs/engine.md). The library is fixed: selection by timing could change the rounding between runs with the same
settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import numpy as np
import scipy.fft

from aetlab.core.backend import n_threads

try:
    import ducc0
except ModuleNotFoundError:  # the GPU engine and its reference do not need it
    ducc0 = None


@dataclass(frozen=True)
class FftPlan:
    """FFTs over the last two axes on ``n_threads`` threads; ``out`` may be ``a``."""

    n_threads: int

    def forward(self, a: np.ndarray, out: np.ndarray) -> None:
        """Compute ``out`` = Σ a exp(-2πi …)."""
        if ducc0 is None:
            out[...] = scipy.fft.fft2(a, workers=self.n_threads)
        else:
            ducc0.fft.c2c(a, axes=_axes(a), out=out, nthreads=self.n_threads)

    def inverse(self, a: np.ndarray, out: np.ndarray) -> None:
        """Compute ``out`` = Σ a exp(+2πi …), not divided by the number of pixels."""
        if ducc0 is None:
            out[...] = scipy.fft.ifft2(a, norm="forward", workers=self.n_threads)
        else:
            ducc0.fft.c2c(a, axes=_axes(a), forward=False, out=out, nthreads=self.n_threads)


def plan_fft(n: int | None = None) -> FftPlan:
    """Return FFTs on ``n`` threads, by default on all threads of the engine."""
    return FftPlan(n or n_threads())


def describe_fft() -> str:
    """Return in one line which FFTs the CPU engine uses."""
    library = "scipy" if ducc0 is None else f"ducc0 {metadata.version('ducc0')}"
    return f"fused kernels for planes whose sides have no other primes than 2, 3, 5; else {library}"


def _axes(a: np.ndarray) -> tuple[int, int]:
    return a.ndim - 2, a.ndim - 1
