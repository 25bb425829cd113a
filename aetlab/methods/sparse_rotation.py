"""Rotation by a local interpolation: one sparse matrix on (z, x) positions that acts alike on all y, and its kernels.

Its rows are (slice, x'), its columns (z, x). Both directions gather; neither scatters. All loops over pixels run along
y, the contiguous axis. Rows are independent of each other, so that a result does not depend on the number of threads.
The matrix acts on whole y vectors: entry ``k`` of row ``r`` adds ``weights[k] * source[columns[k], :]``.
"""

from __future__ import annotations

import copy
import math

import numba as nb
import numpy as np

from aetlab.core.grid import n_slices
from aetlab.core.kernel_cache import njit
from aetlab.core.simd import BYTES, load, prefetch, store
from aetlab.methods.rotation import Matrix

#: Bytes of matrices that are kept; matrices of further tilts are built again at each visit.
MATRIX_BUDGET_BYTES = 256e6

#: Bytes of a volume that the caches of a processor can hold.
CACHED_BYTES = 16e6
#: Reordering is allowed; NaN and infinity follow IEEE rules, so that divergence is detected.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_jit = njit(fastmath=_FAST)
_parallel = njit(fastmath=_FAST, parallel=True)


class _Matrix:
    """The sparse matrix of one tilt, by voxels (``counts, rows, weights``) and by rows (``row_start, columns, ...``).

    The entries of a voxel begin at ``voxel_start``; :func:`build_columns` leaves room behind them.
    """

    def __init__(self, n_voxels: int, n_rows: int, capacity: int, dtype: type) -> None:
        self.counts = np.zeros(n_voxels, np.uint8)
        self.voxel_start = np.arange(0, n_voxels * capacity, capacity, dtype=np.int32)
        self.rows = np.zeros(n_voxels * capacity, np.int32)
        self.weights: np.ndarray = np.zeros(n_voxels * capacity, dtype)
        self.row_start = np.zeros(n_rows + 1, np.int64)
        self.columns = np.zeros(n_voxels * capacity, np.int32)
        self.row_weights: np.ndarray = np.zeros(n_voxels * capacity, dtype)

    @property
    def n_bytes(self) -> int:
        return sum(a.nbytes for a in vars(self).values())

    def trimmed(self) -> _Matrix:
        """Return a copy without the unused part of the arrays, which is most of them."""
        short = copy.copy(self)
        n_entries = int(self.row_start[-1])
        short.counts, short.row_start = self.counts.copy(), self.row_start.copy()
        short.voxel_start = np.cumsum(self.counts, dtype=np.int32) - self.counts
        entries = np.repeat(self.voxel_start - short.voxel_start, self.counts) + np.arange(n_entries)
        short.rows, short.weights = self.rows[entries], self.weights[entries]
        short.columns, short.row_weights = self.columns[:n_entries].copy(), self.row_weights[:n_entries].copy()
        return short


class SparseRotation:
    """Rotation by linear or cubic (Keys, a = -1/2) interpolation; matrices are kept up to ``budget_bytes``.

    Positions (z, x) outside ``support`` (Z, X) count as 0, and the adjoint leaves them as they are.
    """

    def __init__(self, matrix: Matrix, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                 dtype: type = np.float32, budget_bytes: float = MATRIX_BUDGET_BYTES,
                 support: np.ndarray | None = None) -> None:
        self._cubic = matrix.cubic
        self._capacity = matrix.capacity
        self._shape = shape_zxy
        self._n_layers = n_layers
        self._tilt_rad = np.deg2rad(np.asarray(tilt_deg, np.float64))
        self._dtype = dtype
        self._cache: dict[int, _Matrix] = {}
        self._matrix = self._allocate()
        self._built = -1
        self._room_bytes = budget_bytes
        self._whole = support is None
        self._support: np.ndarray = np.ones(shape_zxy[:2], bool) if support is None else support

    def set_angle(self, i_tilt: int, tilt_deg: float) -> None:
        self._tilt_rad[i_tilt] = np.deg2rad(tilt_deg)
        kept = self._cache.pop(i_tilt, None)
        self._room_bytes += kept.n_bytes if kept else 0
        if self._built == i_tilt:
            self._built = -1

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        m = self._matrix_of(i_tilt)
        n_y = self._shape[2]
        voxels, sums = volume.reshape(-1, n_y), slices.reshape(-1, n_y)
        if volume.nbytes > CACHED_BYTES:
            gather_far_rows(m.row_start, m.columns, m.row_weights, voxels, sums, BYTES // volume.itemsize)
        else:
            gather_rows(m.row_start, m.columns, m.row_weights, voxels, sums)

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        m = self._matrix_of(i_tilt)
        source = slices.reshape(-1, self._shape[2])
        scales = np.empty((0, 0, 0), volume.dtype) if metric is None else metric
        gather_add(m.voxel_start, m.counts, m.rows, m.weights, source, self._dtype(scale), scales, volume)

    def span(self, i_tilt: int) -> tuple[int, int] | None:
        if self._whole:
            return None
        starts = self._matrix_of(i_tilt).row_start[:: self._shape[1]]
        reached = np.flatnonzero(np.diff(starts))
        return (int(reached[0]), int(reached[-1]) + 1) if len(reached) else (0, 1)

    def _allocate(self) -> _Matrix:
        n_z, n_x, _ = self._shape
        return _Matrix(n_z * n_x, n_slices(n_z, self._n_layers) * n_x, self._capacity, self._dtype)

    def _matrix_of(self, i_tilt: int) -> _Matrix:
        if i_tilt in self._cache:
            return self._cache[i_tilt]
        matrix = self._matrix
        if self._built == i_tilt:
            return matrix
        self._built = i_tilt
        build_columns(self._tilt_rad[i_tilt], self._support, self._n_layers, self._cubic, matrix.voxel_start,
                      matrix.counts, matrix.rows, matrix.weights)
        transpose_columns(matrix.voxel_start, matrix.counts, matrix.rows, matrix.weights, matrix.row_start,
                          matrix.columns, matrix.row_weights)
        if self._room_bytes > 0:
            kept = matrix.trimmed()
            self._room_bytes -= kept.n_bytes
            if self._room_bytes >= 0:
                self._cache[i_tilt] = kept
        return matrix


@_jit
def _interpolation_weight(distance, cubic):
    """Return the weight of a sample at ``distance`` in voxels: hat function, or Keys' cubic with a = -1/2."""
    d = abs(distance)
    if not cubic:
        return max(0.0, 1.0 - d)
    if d < 1.0:
        return (1.5 * d - 2.5) * d * d + 1.0
    if d < 2.0:
        return ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return 0.0


@_parallel
def build_columns(tilt_rad, support, n_layers, cubic, voxel_start, counts, rows, weights):
    """Find, for each voxel (z, x), the rows (slice, x') of the binned rotated volume that it enters, and its weights.

    Voxels outside ``support`` (Z, X) enter none. ``counts`` (Z·X,) are filled, and from ``voxel_start`` (Z·X,) on as
    many elements of ``rows`` and ``weights``. A rotated layer z' samples the volume at
    x = x' cos - z' sin, z = x' sin + z' cos about the centre; the layers of a slice are summed.
    """
    n_z, n_x = support.shape
    c, s = math.cos(tilt_rad), math.sin(tilt_rad)
    mid_z, mid_x = (n_z - 1) / 2, (n_x - 1) / 2
    reach = (2.0 if cubic else 1.0) * (abs(c) + abs(s))
    for z in nb.prange(n_z):
        for x in range(n_x):
            voxel = z * n_x + x
            counts[voxel] = 0
            if not support[z, x]:
                continue
            centre_x = (x - mid_x) * c + (z - mid_z) * s + mid_x
            centre_z = (z - mid_z) * c - (x - mid_x) * s + mid_z
            first_z, last_z = max(0, math.ceil(centre_z - reach)), min(n_z - 1, math.floor(centre_z + reach))
            first_x, last_x = max(0, math.ceil(centre_x - reach)), min(n_x - 1, math.floor(centre_x + reach))
            n = 0
            for x_rotated in range(first_x, last_x + 1):
                z_rotated = first_z
                while z_rotated <= last_z:
                    i_slice = z_rotated // n_layers
                    end = min(last_z + 1, (i_slice + 1) * n_layers)
                    weight = 0.0
                    while z_rotated < end:
                        dx = (x_rotated - mid_x) * c - (z_rotated - mid_z) * s + mid_x - x
                        dz = (x_rotated - mid_x) * s + (z_rotated - mid_z) * c + mid_z - z
                        weight += _interpolation_weight(dx, cubic) * _interpolation_weight(dz, cubic)
                        z_rotated += 1
                    if abs(weight) > 1e-12:
                        rows[voxel_start[voxel] + n] = i_slice * n_x + x_rotated
                        weights[voxel_start[voxel] + n] = weight
                        n += 1
            counts[voxel] = n


@_jit
def transpose_columns(voxel_start, counts, rows, weights, row_start, columns, row_weights):
    """Sort the entries of :func:`build_columns` by row: ``row_start`` (rows + 1,), ``columns``, ``row_weights``."""
    row_start[:] = 0
    for voxel in range(counts.shape[0]):
        for k in range(voxel_start[voxel], voxel_start[voxel] + counts[voxel]):
            row_start[rows[k] + 1] += 1
    for row in range(row_start.shape[0] - 1):
        row_start[row + 1] += row_start[row]
    for voxel in range(counts.shape[0]):
        for k in range(voxel_start[voxel], voxel_start[voxel] + counts[voxel]):
            row = rows[k]
            entry = row_start[row]
            columns[entry] = voxel
            row_weights[entry] = weights[k]
            row_start[row] = entry + 1
    for row in range(row_start.shape[0] - 1, 0, -1):
        row_start[row] = row_start[row - 1]
    row_start[0] = 0


@_parallel
def gather_rows(row_start, columns, weights, source, target):
    """``target[r, :] = Σ_k weights[k] · source[columns[k], :]`` over the entries k of row r."""
    n_y = source.shape[1]
    for row in nb.prange(target.shape[0]):
        k, end = row_start[row], row_start[row + 1]
        for y in range(n_y):
            target[row, y] = 0
        while k + 4 <= end:
            i0, i1, i2, i3 = columns[k], columns[k + 1], columns[k + 2], columns[k + 3]
            w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            for y in range(n_y):
                target[row, y] += (w0 * source[i0, y] + w1 * source[i1, y]) + (w2 * source[i2, y] + w3 * source[i3, y])
            k += 4
        while k < end:
            i0, w0 = columns[k], weights[k]
            for y in range(n_y):
                target[row, y] += w0 * source[i0, y]
            k += 1


@_parallel
def gather_far_rows(row_start, columns, weights, source, target, lanes):
    """Do as :func:`gather_rows` for a ``source`` larger than the caches; vectors have ``lanes`` elements.

    Row r + 1 has about as many entries as row r. While the entries of one row are added, those of the next are
    prefetched into the L2 cache: hardware prefetchers do not predict the rows of a turned plane.
    """
    n_y, n_entries = source.shape[1], row_start[-1]
    whole = n_y // lanes * lanes
    for row in nb.prange(target.shape[0]):
        k, end = row_start[row], row_start[row + 1]
        n, to = end - k, row * n_y
        for y in range(n_y):
            target[row, y] = 0
        while k + 4 <= end:
            i0, i1, i2, i3 = columns[k], columns[k + 1], columns[k + 2], columns[k + 3]
            w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            p0, p1, p2, p3 = i0 * n_y, i1 * n_y, i2 * n_y, i3 * n_y
            ahead = min(k + n, n_entries - 4)
            q0, q1 = columns[ahead] * n_y, columns[ahead + 1] * n_y
            q2, q3 = columns[ahead + 2] * n_y, columns[ahead + 3] * n_y
            for y in range(0, whole, lanes):
                prefetch(source, q0 + y)
                prefetch(source, q1 + y)
                prefetch(source, q2 + y)
                prefetch(source, q3 + y)
                total = (load(source, p0 + y) * w0 + load(source, p1 + y) * w1) + (
                    load(source, p2 + y) * w2 + load(source, p3 + y) * w3)
                store(target, to + y, load(target, to + y) + total)
            for y in range(whole, n_y):
                target[row, y] += (w0 * source[i0, y] + w1 * source[i1, y]) + (w2 * source[i2, y] + w3 * source[i3, y])
            k += 4
        while k < end:
            i0, w0 = columns[k], weights[k]
            for y in range(n_y):
                target[row, y] += w0 * source[i0, y]
            k += 1


#: Voxels per side of the tiles in which the adjoint visits the volume; the slices of a tile stay in L2.
_TILE = 32


@_parallel
def gather_add(voxel_start, counts, rows, weights, source, scale, metric, volume):
    """``volume[z, x, :] += scale · metric[z, x, :] · Σ_k weights[k] · source[rows[k], :]`` over voxel (z, x)'s entries.

    An empty ``metric`` is 1 everywhere.
    """
    n_z, n_x, n_y = volume.shape
    tiles_x = (n_x + _TILE - 1) // _TILE
    tiles_z = (n_z + _TILE - 1) // _TILE
    plain = metric.size == 0
    for tile in nb.prange(tiles_x * tiles_z):
        z_start, x_start = tile // tiles_x * _TILE, tile % tiles_x * _TILE
        for z in range(z_start, min(z_start + _TILE, n_z)):
            for x in range(x_start, min(x_start + _TILE, n_x)):
                voxel = z * n_x + x
                k, end = voxel_start[voxel], voxel_start[voxel] + counts[voxel]
                while k + 2 <= end:
                    i0, i1 = rows[k], rows[k + 1]
                    w0, w1 = scale * weights[k], scale * weights[k + 1]
                    if plain:
                        for y in range(n_y):
                            volume[z, x, y] += w0 * source[i0, y] + w1 * source[i1, y]
                    else:
                        for y in range(n_y):
                            volume[z, x, y] += metric[z, x, y] * (w0 * source[i0, y] + w1 * source[i1, y])
                    k += 2
                if k < end:
                    i0, w0 = rows[k], scale * weights[k]
                    if plain:
                        for y in range(n_y):
                            volume[z, x, y] += w0 * source[i0, y]
                    else:
                        for y in range(n_y):
                            volume[z, x, y] += metric[z, x, y] * w0 * source[i0, y]
