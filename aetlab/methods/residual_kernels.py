"""CPU kernels of the likelihoods: cost and residual of image waves, or of intensities that a detector has blurred.

Rows are independent of each other, so that a result does not depend on the number of threads. Sums over pixels are kept
per row, and the caller adds them in a fixed order.
"""

from __future__ import annotations

import math

import numba as nb

from aetlab.core.kernel_cache import njit
from aetlab.methods.likelihood import DARKEST

_parallel = njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, parallel=True)


@_parallel
def amplitude_residual(wave, amplitude, weight, row_cost):
    """Replace ``wave`` (F, X, Y) by ``weight · (wave - amplitude · wave/|wave|)``.

    ``row_cost`` (F, X) gets ½ Σ_y weight · |residual|². ``weight`` is (F, X, Y); None: 1, compiled of its own.
    """
    n_f, n_x, n_y = wave.shape
    for row in nb.prange(n_f * n_x):
        f, x = row // n_x, row % n_x
        total = 0.0
        for y in range(n_y):
            re, im = wave[f, x, y].real, wave[f, x, y].imag
            modulus = math.sqrt(re * re + im * im)
            difference = modulus - amplitude[f, x, y]
            residual = difference if weight is None else weight[f, x, y] * difference
            total += residual * difference
            factor = residual / modulus if modulus > 0 else 0.0
            wave[f, x, y] = complex(factor * re, factor * im)
        row_cost[f, x] = 0.5 * total


@_parallel
def poisson_residual(wave, amplitude, weight, background, row_cost):
    """Replace ``wave`` (F, X, Y) by the gradient of ``Σ weight · (m - I + I log(I/m)) / 4`` with respect to it.

    m is |wave|² + ``background`` and I the square of ``amplitude``; ``row_cost`` (F, X) gets the sums over y.
    ``weight`` is (F, X, Y); None: 1, compiled of its own.
    """
    n_f, n_x, n_y = wave.shape
    for row in nb.prange(n_f * n_x):
        f, x = row // n_x, row % n_x
        total = 0.0
        for y in range(n_y):
            re, im = wave[f, x, y].real, wave[f, x, y].imag
            w = amplitude.dtype.type(1) if weight is None else weight[f, x, y]
            model = re * re + im * im + background
            measured = amplitude[f, x, y] * amplitude[f, x, y]
            total += w * (model - measured)
            if measured > 0:
                total += w * (measured * math.log(measured / model))
            factor = w * (model - measured) / (2 * model)
            wave[f, x, y] = complex(factor * re, factor * im)
        row_cost[f, x] = 0.25 * total


@_parallel
def detected_residual(image, amplitude, weight, poisson, background, row_cost):
    """Replace detected intensities m (F, X, Y) by f = 2 ∂c/∂m of their cost c (:mod:`aetlab.forward.detector`).

    ``row_cost`` (F, X) gets Σ_y c: ½ w (√m - a)², or that of :func:`poisson_residual`. Below ``DARKEST`` m counts as
    ``DARKEST``: a ripple of the blur may undershoot 0.
    """
    n_f, n_x, n_y = image.shape
    one = amplitude.dtype.type(1)
    for row in nb.prange(n_f * n_x):
        f, x = row // n_x, row % n_x
        total = 0.0
        for y in range(n_y):
            w = one if weight is None else weight[f, x, y]
            a = amplitude[f, x, y]
            m = image[f, x, y]
            dark = m < DARKEST
            m = max(m, amplitude.dtype.type(DARKEST))
            if poisson:
                model = m + background
                total += 0.5 * w * (model - a * a)
                if a > 0:
                    total += w * (a * a * math.log(a / math.sqrt(model)))
                factor = w * (model - a * a) / (2 * model)
            else:
                modulus = math.sqrt(m)
                total += w * (modulus - a) * (modulus - a)
                factor = w * (one - a / modulus)
            image[f, x, y] = 0.0 if dark else factor
        row_cost[f, x] = 0.5 * total
