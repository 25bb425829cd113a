"""CPU twins of the solver's kernels; the public functions are in :mod:`prox` and :mod:`fista`.

Notation of the total variation: b the volume to be denoised, λ the threshold, D the periodic forward differences along
z, x, y, p the dual variables (3, Z, X, Y), r = p + β (p - q) their extrapolation from two iterates p and q, and
u = max(0, b - λ Dᵀ r) the primal estimate.

One dual iteration reads b, p and q once and writes the new dual variables over q. Blocks of rows x are independent: the
first row of each block is kept in ``edges`` before anything is overwritten, and within a block u is known one plane
ahead of the dual variables that follow from it.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

_FAST = {"reassoc", "contract", "arcp", "nsz"}
_jit = nb.njit(cache=True, nogil=True, fastmath=_FAST)
_parallel = nb.njit(cache=True, nogil=True, fastmath=_FAST, parallel=True)

#: Rows x of a block; its part of the planes in use should stay in L2.
BLOCK = 32


@_jit
def _primal_row(b, p, q, beta, threshold, z, x, out):
    """u of row (z, x): out (Y,) = max(0, b - λ Dᵀ r)."""
    n_z, n_x, n_y = b.shape
    z_before, x_before = (z - 1) % n_z, (x - 1) % n_x
    zero = b.dtype.type(0)
    for y in range(n_y):
        divergence = ((p[0, z_before, x, y] - p[0, z, x, y]) + (p[1, z, x_before, y] - p[1, z, x, y])
                      - p[2, z, x, y])
        divergence_q = ((q[0, z_before, x, y] - q[0, z, x, y]) + (q[1, z, x_before, y] - q[1, z, x, y])
                        - q[2, z, x, y])
        out[y] = divergence + beta * (divergence - divergence_q)
    out[0] += p[2, z, x, n_y - 1] + beta * (p[2, z, x, n_y - 1] - q[2, z, x, n_y - 1])
    for y in range(1, n_y):
        out[y] += p[2, z, x, y - 1] + beta * (p[2, z, x, y - 1] - q[2, z, x, y - 1])
    for y in range(n_y):
        out[y] = max(zero, b[z, x, y] - threshold * out[y])


@_jit
def _dual_row(u, u_next_z, u_next_x, p, q, beta, step, z, x):
    """Overwrite q at row (z, x) by the projection of r + step · D u on the unit ball."""
    n_y = u.shape[0]
    one = u.dtype.type(1)
    for y in range(n_y):
        u_next_y = u[y + 1] if y + 1 < n_y else u[0]
        a = p[0, z, x, y] + beta * (p[0, z, x, y] - q[0, z, x, y]) + step * (u_next_z[y] - u[y])
        b = p[1, z, x, y] + beta * (p[1, z, x, y] - q[1, z, x, y]) + step * (u_next_x[y] - u[y])
        c = p[2, z, x, y] + beta * (p[2, z, x, y] - q[2, z, x, y]) + step * (u_next_y - u[y])
        scale = one / max(one, math.sqrt(a * a + b * b + c * c))
        q[0, z, x, y] = scale * a
        q[1, z, x, y] = scale * b
        q[2, z, x, y] = scale * c


@_parallel
def tv_edges(b, p, q, beta, threshold, edges):
    """u of the first row of each block: ``edges`` (blocks, Z, Y)."""
    n_blocks, n_z, _ = edges.shape
    for i in nb.prange(n_blocks * n_z):
        block, z = i // n_z, i % n_z
        _primal_row(b, p, q, beta, threshold, z, block * BLOCK, edges[block, z])


@_parallel
def tv_dual_step(b, p, q, beta, threshold, step, edges):
    """One iteration of the fast dual gradient method; the new dual variables replace ``q``."""
    n_blocks, n_z, n_y = edges.shape
    n_x = b.shape[1]
    for block in nb.prange(n_blocks):
        start, end = block * BLOCK, min((block + 1) * BLOCK, n_x)
        rows = end - start
        planes = np.empty((3, BLOCK + 1, n_y), b.dtype)
        after = edges[(block + 1) % n_blocks]
        for z in range(n_z + 1):
            # Plane 0 is used twice, at the beginning and (periodic) at the end; it stays in planes[0].
            u_next = planes[0] if z % n_z == 0 else planes[1 + z % 2]
            if z < n_z:
                u_next[0] = edges[block, z]
                for x in range(1, rows):
                    _primal_row(b, p, q, beta, threshold, z, start + x, u_next[x])
                u_next[rows] = after[z]
            if z > 0:
                u = planes[0] if z == 1 else planes[1 + (z - 1) % 2]
                for x in range(rows):
                    _dual_row(u[x], u_next[x], u[x + 1], p, q, beta, step, z - 1, start + x)


@_parallel
def tv_primal(b, p, threshold):
    """Replace b by u = max(0, b - λ Dᵀ p)."""
    n_z, n_x, n_y = b.shape
    for i in nb.prange(n_z * n_x):
        row = np.empty(n_y, b.dtype)
        _primal_row(b, p, p, b.dtype.type(0), threshold, i // n_x, i % n_x, row)
        b[i // n_x, i % n_x] = row


@_parallel
def soft_threshold(volume, threshold):
    """Move every voxel of ``volume`` (rows, Y) by ``threshold`` towards 0, in place."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            v = volume[row, y]
            volume[row, y] = max(v - threshold, min(v + threshold, volume.dtype.type(0)))


@_parallel
def clip_negative(volume):
    """Replace negative voxels of ``volume`` (rows, Y) by 0, in place."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            volume[row, y] = max(volume[row, y], volume.dtype.type(0))


@_parallel
def extrapolate(volume, previous, beta):
    """``volume`` becomes ``volume + beta · (volume - previous)`` and ``previous`` what ``volume`` was; (rows, Y)."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            v = volume[row, y]
            volume[row, y] = v + beta * (v - previous[row, y])
            previous[row, y] = v
