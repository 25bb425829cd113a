"""Rotation of the volume about the tilt axis, summed into slices, with the exact adjoint.

Convention (docs/conventions.md): a tilt takes the point p to p' = R p with x' = x cos + z sin, z' = -x sin + z cos,
about the volume's centre. The rotated volume at p' is therefore the volume at R⁻¹ p'. Voxels that leave the volume are
dropped, and zeros enter. ``n_layers`` rotated layers are added into one slice (equation 6 of the paper); the
adjoint copies a slice's value to each of its layers (equation 7) and turns them back.

A rotation about y with a local interpolation is one sparse matrix on (z, x) positions that acts alike on all y: rows
(slice, x'), columns (z, x). Both directions gather; neither scatters.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np

from aetlab.core.grid import n_slices
from aetlab.core.simd import BYTES
from aetlab.forward import kernels_numba as kernels
from aetlab.forward import simd_shear
from aetlab.forward.fourier_rotation import FourierRotation

#: Bytes of matrices that are kept; matrices of further tilts are built again at each visit.
MATRIX_BUDGET_BYTES = 256e6

#: Bytes of a volume that the caches of a processor can hold.
CACHED_BYTES = 16e6

#: The most rows that one voxel can enter: lattice points of a turned unit grid in the footprint of the interpolation.
_CAPACITY = {"linear": 8, "cubic": 32}


class Rotation(Protocol):
    """Rotate-and-bin and its adjoint for a set of tilts."""

    def set_angle(self, i_tilt: int, tilt_deg: float) -> None:
        """Set the angle of tilt ``i_tilt``."""

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        """Add ``scale`` times the adjoint of ``slices`` to ``volume`` in place; ``metric`` (Z, X, Y) scales voxels."""


def make_rotation(kind: str, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                  dtype: type = np.float32) -> Rotation:
    """Return the rotation ``kind`` (linear, cubic or fourier) of volumes of ``shape_zxy`` by ``tilt_deg``."""
    if kind in _CAPACITY:
        return SparseRotation(kind, shape_zxy, n_layers, tilt_deg, dtype=dtype)
    if kind == "fourier" and simd_shear.fits(shape_zxy, np.dtype(dtype)):
        return simd_shear.SimdFourierRotation(shape_zxy, n_layers, tilt_deg)
    if kind == "fourier":
        return FourierRotation(shape_zxy, n_layers, tilt_deg, dtype=dtype)
    raise ValueError(f"rotation={kind!r} is unknown: choose one of linear, cubic, fourier")


def rotate_and_bin(volume: np.ndarray, tilt_deg: float, n_layers: int = 1, *, kind: str = "linear") -> np.ndarray:
    """Return slices (S, X, Y) of ``volume`` (Z, X, Y) turned by ``tilt_deg``: sums over ``n_layers`` layers."""
    rotation = make_rotation(kind, volume.shape, n_layers, np.array([tilt_deg]), dtype=volume.dtype.type)
    slices = np.empty((n_slices(volume.shape[0], n_layers), *volume.shape[1:]), volume.dtype)
    rotation.rotate_and_bin(volume, 0, slices)
    return slices


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

    def __init__(self, kind: str, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                 dtype: type = np.float32, budget_bytes: float = MATRIX_BUDGET_BYTES) -> None:
        self._cubic = kind == "cubic"
        self._capacity = _CAPACITY[kind]
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
