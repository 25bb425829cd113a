"""CPU kernels of the solver; the public functions are in :mod:`fista`."""

from __future__ import annotations

import numba as nb

from aetlab.core.kernel_cache import njit


@njit(fastmath={"contract", "arcp", "nsz"}, parallel=True)
def extrapolate(volume, previous, beta):
    """Add ``beta · (volume - previous)`` to ``volume`` (rows, Y), and replace ``previous`` by the old ``volume``."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            v = volume[row, y]
            volume[row, y] = v + beta * (v - previous[row, y])
            previous[row, y] = v
