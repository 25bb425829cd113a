"""Rotate a volume about the tilt axis and sum it into slices on a GPU, and the exact adjoint."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from aetlab.core import simd_fft
from aetlab.core.errors import GpuError
from aetlab.gpu.device import Array, Device
from aetlab.gpu.fused import radices_of, twiddles_of
from aetlab.gpu.kernels import COLUMNS, LONGEST
from aetlab.methods.rotation import Matrix
from aetlab.methods.rotations import ROTATIONS

#: Rows of y that are sheared together: the work array of 480³ voxels then takes 0.1 GB.
SHEARED_ROWS = 64


class GpuRotation(Protocol):
    """Rotate-and-bin and its adjoint for the tilt that ``now`` of the model chooses on the device."""

    def place(self, i_tilt: int, tilt_deg: float) -> None:
        """Set the angle of one tilt for all following calls."""

    def prepare(self) -> None:
        """Compute what both directions need at the angle of the tilt."""

    def rotate_and_bin(self, volume: Array, slices: Array) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""

    def add_adjoint(self, slices: Array, scale: Array, volume: Array, metric: Array | None) -> None:
        """Add ``scale`` (1,) times the adjoint of ``slices`` to ``volume``; ``metric`` (Z, X, Y) scales voxels."""


def check_rotation(name: str, shape_zxy: tuple[int, int, int]) -> None:
    """Raise :class:`GpuError` if the rotation of this name has no GPU version for volumes of this shape."""
    method = ROTATIONS[name]
    if not method.gpu_kernel:
        able = ", ".join(other for other, row in ROTATIONS.items() if row.gpu_kernel)
        raise GpuError(f"engine.rotation={name} has no GPU version: choose one of {able}")
    n_z, n_x, _ = shape_zxy
    n = 2 * max(n_z, n_x)
    if method.matrix is None and (n_z % 2 or n_x % 2 or n > LONGEST or simd_fft.factors(n) is None):
        raise GpuError(f"engine.rotation={name} has a GPU version for even numbers of voxels along z and x, the larger "
                       f"of which is a product of 2, 3 and 5 up to {LONGEST // 2}, not {n_z} and {n_x}")


def make_gpu_rotation(name: str, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, device: Device,
                      now: Array) -> GpuRotation:
    """Return the rotation of this name; ``now`` (2,) on the device holds the index of the tilt."""
    check_rotation(name, shape_zxy)
    method = ROTATIONS[name]
    if method.matrix is None:
        return _Shears(shape_zxy, n_layers, tilt_deg, device, now)
    return _Interpolation(method.matrix, method.gpu_kernel, shape_zxy, n_layers, tilt_deg, device, now)


class _Interpolation:
    """Local interpolation: the sparse matrix of a tilt is computed once for all rows of y."""

    def __init__(self, matrix: Matrix, kernel: str, shape_zxy: tuple[int, int, int], n_layers: int,
                 tilt_deg: np.ndarray, device: Device, now: Array) -> None:
        self._device, self._matrix, self._kernel, self._now = device, matrix, kernel, now
        self._shape, self._n_layers = shape_zxy, n_layers
        tilt_rad = np.deg2rad(np.asarray(tilt_deg, np.float64))
        self._cos_sin = device.upload(np.stack([np.cos(tilt_rad), np.sin(tilt_rad)], axis=1))
        n_columns, zeros = shape_zxy[0] * shape_zxy[1], device.zeros
        self._corner, self._fraction = zeros((n_columns, 2), np.int32), zeros((n_columns, 2), np.float32)
        self._counts = zeros((n_columns,), np.int32)
        self._rows = zeros((n_columns, matrix.capacity), np.int32)
        self._weights = zeros((n_columns, matrix.capacity), np.float32)

    def place(self, i_tilt: int, tilt_deg: float) -> None:
        angle = math.radians(tilt_deg)
        self._device.write(np.array([math.cos(angle), math.sin(angle)]), self._cos_sin[i_tilt])

    def prepare(self) -> None:
        n_z, n_x, _ = self._shape
        self._device.launch(
            "build_rotation", (n_x, n_z, 1), self._now, self._cos_sin, np.int32(n_z), np.int32(n_x),
            np.int32(self._n_layers), np.int32(self._matrix.cubic), np.int32(self._matrix.capacity),
            self._corner, self._fraction, self._counts, self._rows, self._weights)

    def rotate_and_bin(self, volume: Array, slices: Array) -> None:
        n_z, n_x, n_y = self._shape
        self._device.launch(self._kernel, (n_y, n_x, len(slices)), volume, self._corner, self._fraction, np.int32(n_z),
                            np.int32(n_x), np.int32(n_y), np.int32(self._n_layers), slices)

    def add_adjoint(self, slices: Array, scale: Array, volume: Array, metric: Array | None) -> None:
        n_z, n_x, n_y = self._shape
        matrix = self._counts, self._rows, self._weights, np.int32(self._matrix.capacity)
        sizes = np.int32(n_x), np.int32(n_y)
        if metric is None:
            self._device.launch("add_adjoint", (n_y, n_x, n_z), slices, *matrix, scale, *sizes, volume)
        else:
            self._device.launch("add_adjoint_in_metric", (n_y, n_x, n_z), slices, *matrix, scale, metric, *sizes,
                                volume)


class _Shears:
    """Three shears in Fourier space, :data:`SHEARED_ROWS` rows of y at a time."""

    def __init__(self, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, device: Device,
                 now: Array) -> None:
        self._device, self._now = device, now
        self._shape, self._n_layers = shape_zxy, n_layers
        self._n_rows, self._n = max(shape_zxy[:2]), 2 * max(shape_zxy[:2])
        angles = [_angle(float(angle)) for angle in np.asarray(tilt_deg)]
        self._quarters = device.upload(np.array([quarters for quarters, _ in angles], np.int32))
        self._shears = device.upload(np.array([shears for _, shears in angles]))
        self._transform = (np.int32(radices_of(self._n)), device.upload(twiddles_of(self._n)),
                           device.upload(simd_fft.scrambled_order(self._n).astype(np.int32)))
        self._work = device.zeros((self._n_rows * self._n * min(SHEARED_ROWS, shape_zxy[2]),), np.float32)

    def place(self, i_tilt: int, tilt_deg: float) -> None:
        quarters, shears = _angle(tilt_deg)
        self._device.write(np.array([quarters], np.int32), self._quarters[i_tilt:i_tilt + 1])
        self._device.write(np.array(shears), self._shears[i_tilt])

    def prepare(self) -> None:
        """Do nothing: all angles are on the device."""

    def rotate_and_bin(self, volume: Array, slices: Array) -> None:
        n_z, n_x, n_y = (np.int32(n) for n in self._shape)
        n, n_layers, tilt = np.int32(self._n), np.int32(self._n_layers), (self._now, self._quarters, self._shears)
        for first_y, width, groups in self._blocks():
            self._device.launch("shear_in", (self._n_rows * groups, 1, 1), volume, slices, np.int32(0), *tilt, n_z, n_x,
                                n_y, n_layers, n, first_y, width, *self._transform, self._work)
            self._device.launch("shear_columns", (self._n * groups, 1, 1), np.int32(0), *tilt, n_z, n_x, n, width,
                                *self._transform, self._work)
            self._device.launch("shear_rows", (self._shape[0] * groups, 1, 1), self._now, self._shears, n_z, n, width,
                                *self._transform, self._work)
            self._device.launch("bin_layers", (int(width), self._shape[1], len(slices)), self._work, n_z, n_x, n_y,
                                n_layers, n, first_y, width, slices)

    def add_adjoint(self, slices: Array, scale: Array, volume: Array, metric: Array | None) -> None:
        n_z, n_x, n_y = (np.int32(n) for n in self._shape)
        n, n_layers, tilt = np.int32(self._n), np.int32(self._n_layers), (self._now, self._quarters, self._shears)
        by_voxel = (scale, np.int32(0)) if metric is None else (metric, np.int32(1))
        for first_y, width, groups in self._blocks():
            self._device.launch("shear_in", (self._n_rows * groups, 1, 1), volume, slices, np.int32(1), *tilt, n_z, n_x,
                                n_y, n_layers, n, first_y, width, *self._transform, self._work)
            self._device.launch("shear_columns", (self._n * groups, 1, 1), np.int32(1), *tilt, n_z, n_x, n, width,
                                *self._transform, self._work)
            self._device.launch("shear_out", (self._n_rows * groups, 1, 1), *tilt, scale, *by_voxel, n_z, n_x, n_y, n,
                                first_y, width, *self._transform, self._work, volume)

    def _blocks(self) -> list[tuple[np.int32, np.int32, int]]:
        """Return first row of y, number of rows and blocks of a line for each part of the volume."""
        n_y, blocks = self._shape[2], []
        for first in range(0, n_y, SHEARED_ROWS):
            width = min(SHEARED_ROWS, n_y - first)
            blocks.append((np.int32(first), np.int32(width), -(-width // (2 * COLUMNS))))
        return blocks


def _angle(tilt_deg: float) -> tuple[int, tuple[float, float]]:
    """Return quarter turns (0 to 3) and the shears -tan(θ/2), sin θ of the rest."""
    quarters = round(tilt_deg / 90)
    rest = math.radians(tilt_deg - 90 * quarters)
    return quarters % 4, (-math.tan(rest / 2), math.sin(rest))
