"""CPU kernels of the proximal operators of :mod:`aetlab.methods.regularisers`.

Notation of the total variation: b the volume to be denoised, λ the threshold, D the periodic forward differences along
z, x, y, p the dual variables (3, Z, X, Y), r = γ p - β q their extrapolation from two iterates p and q, and
u = max(0, b - λ Dᵀ r) the primal estimate. Without a scale of r, γ = 1 + β (:mod:`aetlab.methods.dual_solver`).

One dual iteration reads b, p and q once and overwrites q by the new dual variables. Blocks of rows x are independent:
the first row of each block is stored in ``edges`` before q is overwritten. Within a block u is computed one plane ahead
of the dual variables that depend on it.

Rows (z, x) outside ``support`` (Z, X) are 0 in b, p and q, and stay so.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from aetlab.core.kernel_cache import njit
from aetlab.core.simd import BYTES, load, maximum, splat, square_root, store

_FAST = {"contract", "arcp", "nsz"}
_jit = njit(fastmath=_FAST)
_inline = njit(fastmath=_FAST, forceinline=True)
_parallel = njit(fastmath=_FAST, parallel=True)

#: Rows x of a block; the planes of a block should fit in L2.
BLOCK = 32


# Indices of parallel loops are unsigned, and a literal 0 has its own type: as int64, inner functions compile once.
# Volumes are flattened, ``b`` (Z·X·Y,), ``p`` and ``q`` (3·Z·X·Y,), with their ``shape`` (Z, X, Y).


@_inline
def _difference(p_before, p, q_before, q, gain, beta):
    """Return one component of Dᵀ r, with r = γ p - β q; ``gain`` is γ."""
    return (p_before - p) * gain - (q_before - q) * beta


@_inline
def _ascend(p, q, u_next, u, gain, beta, step):
    """Return one component of r + step · D u."""
    return p * gain - q * beta + (u_next - u) * step


@_inline
def _shrink(a, b, c, one):
    """Return the factor that projects (a, b, c) on the unit ball."""
    return one / maximum(square_root(a * a + b * b + c * c), one)


@_jit
def _primal_row(b, p, q, shape, support, gain, beta, threshold, z, x, rows, at, scratch):
    """Write u = max(0, b - λ Dᵀ r) of row (z, x) to ``rows`` from element ``at`` on: Y values, then the first again.

    ``scratch`` is the index of another Y + 1 elements of ``rows``.
    """
    n_z, n_x, n_y = shape
    if not support[z, x]:
        for y in range(n_y + 1):
            rows[at + y] = 0
        return
    width = BYTES // b.itemsize
    whole = n_y // width * width
    zero = b.dtype.type(0)
    plane = n_x * n_y
    here = (z * n_x + x) * n_y
    before_z = here - plane if z > 0 else here + (n_z - 1) * plane
    along_x = n_z * plane + here
    before_x = along_x - n_y if x > 0 else along_x + plane - n_y
    along_y = 2 * n_z * plane + here
    # r of the y component, preceded by its last value, so that its difference can be loaded.
    rows[scratch] = p[along_y + n_y - 1] * gain - q[along_y + n_y - 1] * beta
    for y in range(0, whole, width):
        store(rows, scratch + y + 1, load(p, along_y + y) * gain - load(q, along_y + y) * beta)
    for y in range(whole, n_y):
        rows[scratch + y + 1] = p[along_y + y] * gain - q[along_y + y] * beta
    for y in range(0, whole, width):
        total = _difference(load(p, before_z + y), load(p, here + y), load(q, before_z + y), load(q, here + y),
                            gain, beta)
        total = total + _difference(load(p, before_x + y), load(p, along_x + y), load(q, before_x + y),
                                    load(q, along_x + y), gain, beta)
        total = total + (load(rows, scratch + y) - load(rows, scratch + y + 1))
        store(rows, at + y, maximum(load(b, here + y) - total * threshold, splat(zero)))
    for y in range(whole, n_y):
        rest = _difference(p[before_z + y], p[here + y], q[before_z + y], q[here + y], gain, beta)
        rest += _difference(p[before_x + y], p[along_x + y], q[before_x + y], q[along_x + y], gain, beta)
        rest += rows[scratch + y] - rows[scratch + y + 1]
        rows[at + y] = maximum(b[here + y] - rest * threshold, zero)
    rows[at + n_y] = rows[at]


@_jit
def _dual_row(rows, at, next_z, next_x, p, q, shape, gain, beta, step, z, x):
    """Overwrite q at row (z, x) by the projection of r + step · D u on the unit ball.

    ``at``, ``next_z`` and ``next_x`` are the indices in ``rows`` of u at (z, x), (z + 1, x) and (z, x + 1).
    """
    n_z, n_x, n_y = shape
    width = BYTES // p.itemsize
    whole = n_y // width * width
    one = p.dtype.type(1)
    component, here = n_z * n_x * n_y, (z * n_x + x) * n_y
    for y in range(0, whole, width):
        i, j, k = here + y, component + here + y, 2 * component + here + y
        u = load(rows, at + y)
        a = _ascend(load(p, i), load(q, i), load(rows, next_z + y), u, gain, beta, step)
        b = _ascend(load(p, j), load(q, j), load(rows, next_x + y), u, gain, beta, step)
        c = _ascend(load(p, k), load(q, k), load(rows, at + y + 1), u, gain, beta, step)
        scale = _shrink(a, b, c, splat(one))
        store(q, i, a * scale)
        store(q, j, b * scale)
        store(q, k, c * scale)
    for y in range(whole, n_y):
        i, j, k = here + y, component + here + y, 2 * component + here + y
        v = rows[at + y]
        d = _ascend(p[i], q[i], rows[next_z + y], v, gain, beta, step)
        e = _ascend(p[j], q[j], rows[next_x + y], v, gain, beta, step)
        f = _ascend(p[k], q[k], rows[at + y + 1], v, gain, beta, step)
        factor = _shrink(d, e, f, one)
        q[i] = d * factor
        q[j] = e * factor
        q[k] = f * factor


@_parallel
def tv_edges(b, p, q, shape, support, gain, beta, threshold, edges):
    """Compute u of the first row of each block; ``edges`` (blocks · Z · 2 · (Y + 1),) rows of u and scratch."""
    n_z, n_x, n_y = shape
    row = n_y + 1
    for index in nb.prange((n_x + BLOCK - 1) // BLOCK * n_z):
        i = np.int64(index)
        _primal_row(b, p, q, shape, support, gain, beta, threshold, i % n_z, i // n_z * BLOCK, edges, 2 * i * row,
                    (2 * i + 1) * row)


@_parallel
def tv_dual_step(b, p, q, shape, support, gain, beta, threshold, step, edges):
    """Do one iteration of the fast dual gradient method; the new dual variables replace ``q``."""
    n_z, n_x, n_y = shape
    row = n_y + 1
    n_blocks = (n_x + BLOCK - 1) // BLOCK
    for index in nb.prange(n_blocks):
        block = np.int64(index)
        start, n_rows = block * BLOCK, min(BLOCK, n_x - block * BLOCK)
        # Three planes of u, each with the first row of the next block at its end, and a row of scratch.
        planes = np.empty((3 * (BLOCK + 1) + 1) * row, b.dtype)
        scratch = 3 * (BLOCK + 1) * row
        here = 0
        for z in range(n_z + 1):
            # Plane 0 is used at the beginning and, by periodicity, at the end; it is not overwritten.
            following = (0 if z % n_z == 0 else 1 + z % 2) * (BLOCK + 1) * row
            if z < n_z:
                own, after = 2 * (block * n_z + z) * row, 2 * ((block + 1) % n_blocks * n_z + z) * row
                for y in range(row):
                    planes[following + y] = edges[own + y]
                    planes[following + n_rows * row + y] = edges[after + y]
                for x in range(1, n_rows):
                    _primal_row(b, p, q, shape, support, gain, beta, threshold, z, start + x, planes,
                                following + x * row, scratch)
            if z > 0:
                for x in range(n_rows):
                    at = here + x * row
                    if support[z - 1, start + x]:
                        _dual_row(planes, at, following + x * row, at + row, p, q, shape, gain, beta, step, z - 1,
                                  start + x)
            here = following


@_parallel
def tv_primal(b, p, shape, support, threshold):
    """Replace b by u = max(0, b - λ Dᵀ p)."""
    n_z, n_x, n_y = shape
    for index in nb.prange(n_z):
        z, first = np.int64(index), np.int64(0)
        rows = np.empty(2 * (n_y + 1), b.dtype)
        for x in range(n_x):
            if not support[z, x]:
                continue
            _primal_row(b, p, p, shape, support, b.dtype.type(1), b.dtype.type(0), threshold, z, x, rows, first,
                        n_y + 1)
            for y in range(n_y):
                b[(z * n_x + x) * n_y + y] = rows[y]


@_parallel
def soft_threshold(volume, threshold):
    """Move every voxel of ``volume`` (rows, Y) by ``threshold`` towards 0, in place."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            v = volume[row, y]
            volume[row, y] = max(v - threshold, min(v + threshold, volume.dtype.type(0)))


@_parallel
def sparsify(volume, threshold, metric, weights):
    """Replace every voxel v of ``volume`` (n,) by max(0, v - threshold · metric · weights).

    A ``metric`` or ``weights`` of one element applies to all voxels.
    """
    per_metric, per_weights = int(metric.shape[0] > 1), int(weights.shape[0] > 1)
    for i in nb.prange(volume.shape[0]):
        by = threshold * metric[i * per_metric] * weights[i * per_weights]
        volume[i] = max(volume[i] - by, volume.dtype.type(0))


@_parallel
def clip_negative(volume):
    """Replace negative voxels of ``volume`` (rows, Y) by 0, in place."""
    for row in nb.prange(volume.shape[0]):
        for y in range(volume.shape[1]):
            volume[row, y] = max(volume[row, y], volume.dtype.type(0))
