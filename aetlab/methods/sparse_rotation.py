"""Rotation by a local interpolation: one sparse matrix on (z, x) positions that acts alike on all y.

Its rows are (slice, x'), its columns (z, x). Both directions gather; neither scatters.
"""

from __future__ import annotations

import copy

import numpy as np

from aetlab.core.grid import n_slices
from aetlab.core.simd import BYTES
from aetlab.methods import rotation_kernels as kernels
from aetlab.methods.rotation import Matrix

#: Bytes of matrices that are kept; matrices of further tilts are built again at each visit.
MATRIX_BUDGET_BYTES = 256e6

#: Bytes of a volume that the caches of a processor can hold.
CACHED_BYTES = 16e6


class _Matrix:
    """The sparse matrix of one tilt, by voxels (``counts, rows, weights``) and by rows (``start, columns, ...``)."""

    def __init__(self, n_voxels: int, n_rows: int, capacity: int, dtype: type) -> None:
        self.counts = np.zeros(n_voxels, np.int32)
        self.rows = np.zeros((n_voxels, capacity), np.int32)
        self.weights: np.ndarray = np.zeros((n_voxels, capacity), dtype)
        self.row_start = np.zeros(n_rows + 1, np.int64)
        self.columns = np.zeros(n_voxels * capacity, np.int32)
        self.row_weights: np.ndarray = np.zeros(n_voxels * capacity, dtype)

    @property
    def n_bytes(self) -> int:
        return sum(a.nbytes for a in vars(self).values())

    def trimmed(self) -> _Matrix:
        """Return a copy without the unused part of the arrays, which is most of them."""
        short = copy.copy(self)
        most, n_entries = int(self.counts.max()), int(self.row_start[-1])
        short.counts, short.row_start = self.counts.copy(), self.row_start.copy()
        short.rows, short.weights = self.rows[:, :most].copy(), self.weights[:, :most].copy()
        short.columns, short.row_weights = self.columns[:n_entries].copy(), self.row_weights[:n_entries].copy()
        return short


class SparseRotation:
    """Rotation by linear or cubic (Keys, a = -1/2) interpolation; matrices are kept up to ``budget_bytes``."""

    def __init__(self, matrix: Matrix, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                 dtype: type = np.float32, budget_bytes: float = MATRIX_BUDGET_BYTES) -> None:
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
            kernels.gather_far_rows(m.row_start, m.columns, m.row_weights, voxels, sums, BYTES // volume.itemsize)
        else:
            kernels.gather_rows(m.row_start, m.columns, m.row_weights, voxels, sums)

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        m = self._matrix_of(i_tilt)
        source = slices.reshape(-1, self._shape[2])
        scales = np.empty((0, 0, 0), volume.dtype) if metric is None else metric
        kernels.gather_add(m.counts, m.rows, m.weights, source, self._dtype(scale), scales, volume)

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
        n_z, n_x, _ = self._shape
        kernels.build_columns(self._tilt_rad[i_tilt], n_z, n_x, self._n_layers, self._cubic, matrix.counts, matrix.rows,
                              matrix.weights)
        kernels.transpose_columns(matrix.counts, matrix.rows, matrix.weights, matrix.row_start, matrix.columns,
                                  matrix.row_weights)
        if self._room_bytes > 0:
            kept = matrix.trimmed()
            self._room_bytes -= kept.n_bytes
            if self._room_bytes >= 0:
                self._cache[i_tilt] = kept
        return matrix
