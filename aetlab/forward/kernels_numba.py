"""CPU kernels of the forward model; the public functions are in :mod:`blur` and :mod:`multislice`.

All loops over pixels run along y, the contiguous axis. Rows are independent of each other, so that a result does not
depend on the number of threads. Sums over pixels are kept per row, and the caller adds them in a fixed order.
"""

from __future__ import annotations

import math

import numba as nb

from aetlab.core.kernel_cache import njit

#: Reordering is allowed; NaN and infinity follow IEEE rules, so that divergence is detected.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_parallel = njit(fastmath=_FAST, parallel=True)


@_parallel
def blur_x(planes, kernel, out):
    """``out`` = ``planes`` (S, X, Y) convolved along x with the symmetric ``kernel``, of which half is given."""
    n_s, n_x, n_y = planes.shape
    reach = kernel.shape[0] - 1
    for row in nb.prange(n_s * n_x):
        s, x = row // n_x, row % n_x
        for y in range(n_y):
            out[s, x, y] = kernel[0] * planes[s, x, y]
        for k in range(1, reach + 1):
            factor = kernel[k]
            if x >= k and x + k < n_x:
                for y in range(n_y):
                    out[s, x, y] += factor * (planes[s, x - k, y] + planes[s, x + k, y])
            elif x >= k:
                for y in range(n_y):
                    out[s, x, y] += factor * planes[s, x - k, y]
            elif x + k < n_x:
                for y in range(n_y):
                    out[s, x, y] += factor * planes[s, x + k, y]


@_parallel
def blur_y(planes, kernel, out):
    """``out`` = ``planes`` (S, X, Y) convolved along y with the symmetric ``kernel``, of which half is given."""
    n_s, n_x, n_y = planes.shape
    reach = kernel.shape[0] - 1
    for row in nb.prange(n_s * n_x):
        s, x = row // n_x, row % n_x
        for y in range(n_y):
            out[s, x, y] = kernel[0] * planes[s, x, y]
        for k in range(1, min(reach, n_y - 1) + 1):
            factor = kernel[k]
            for y in range(k, n_y):
                out[s, x, y] += factor * planes[s, x, y - k]
            for y in range(n_y - k):
                out[s, x, y] += factor * planes[s, x, y + k]


@_parallel
def transmit(phase, slice_V, wave, out):
    """``out = wave · exp(i phase slice_V)``; planes (X, Y), ``phase`` in rad per volt of the slice's sum."""
    for x in nb.prange(slice_V.shape[0]):
        for y in range(slice_V.shape[1]):
            angle = phase * slice_V[x, y]
            c, s = math.cos(angle), math.sin(angle)
            re, im = wave[x, y].real, wave[x, y].imag
            out[x, y] = complex(c * re - s * im, c * im + s * re)


@_parallel
def multiply(plane, factor, out):
    """``out = plane · factor`` for complex planes (X, Y)."""
    for x in nb.prange(plane.shape[0]):
        for y in range(plane.shape[1]):
            a, b, c, d = plane[x, y].real, plane[x, y].imag, factor[x, y].real, factor[x, y].imag
            out[x, y] = complex(a * c - b * d, a * d + b * c)


@_parallel
def multiply_conjugate(plane, factor, out):
    """``out = plane · conj(factor)`` for complex planes (X, Y)."""
    for x in nb.prange(plane.shape[0]):
        for y in range(plane.shape[1]):
            out[x, y] = plane[x, y] * factor[x, y].conjugate()


@_parallel
def add_conjugate_products(planes, factors, out):
    """``out = Σ_f planes[f] · conj(factors[f])`` for complex (F, X, Y)."""
    for x in nb.prange(planes.shape[1]):
        for y in range(planes.shape[2]):
            out[x, y] = planes[0, x, y] * factors[0, x, y].conjugate()
        for f in range(1, planes.shape[0]):
            for y in range(planes.shape[2]):
                out[x, y] += planes[f, x, y] * factors[f, x, y].conjugate()


@_parallel
def back_transmit(phase, wave, adjoint, slice_V):
    """Compute the gradient of one slice and the adjoint wave in front of it.

    ``wave`` is the wave behind the slice. ``slice_V`` is replaced by ``phase · Im(adjoint · conj(wave))``, the gradient
    in its own units, and ``adjoint`` by ``adjoint · exp(-i phase slice_V)``.
    """
    for x in nb.prange(slice_V.shape[0]):
        for y in range(slice_V.shape[1]):
            angle = phase * slice_V[x, y]
            c, s = math.cos(angle), math.sin(angle)
            re, im = adjoint[x, y].real, adjoint[x, y].imag
            slice_V[x, y] = phase * (im * wave[x, y].real - re * wave[x, y].imag)
            adjoint[x, y] = complex(c * re + s * im, c * im - s * re)
