"""Rotation by three Fourier shears as in :mod:`fourier_rotation`, in single precision, by fused kernels for the CPU.

Rows of y are lanes: ``WIDTH`` neighbouring y are the real part and the next ``WIDTH`` the imaginary part of one complex
transform, since both are shifted alike. The first shear touches the rows that hold the volume alone, of the second only
the rows that stay in the volume are kept, and the third, cut, is summed into slices or added to the volume at once: a
group of 2 ``WIDTH`` rows of y needs room for half a padded plane, no complex or padded volume ever exists.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from aetlab.core.backend import empty_aligned, n_threads
from aetlab.core.kernel_cache import njit
from aetlab.core.simd import WIDTH, load, splat, store
from aetlab.forward import simd_fft as fft
from aetlab.forward.simd_kernels import _cos_sin, _scratch

_jit = njit(fastmath=fft.FAST)
_inline = njit(fastmath=fft.FAST, forceinline=True)
_parallel = njit(fastmath=fft.FAST, parallel=True)

#: Floats of one (row, column) of a group: ``WIDTH`` real and ``WIDTH`` imaginary lanes.
_CELL = 2 * WIDTH
_ZERO, _TURN = np.float32(0), np.float32(2 * math.pi)


def fits(shape_zxy: tuple[int, int, int], dtype: np.dtype) -> bool:
    """Whether volumes of this shape and precision suit the kernels; the others are left to the library."""
    n_z, n_x, _ = shape_zxy
    return dtype == np.float32 and n_z % 2 == 0 and n_x % 2 == 0 and fft.factors(2 * max(n_z, n_x)) is not None


class SimdFourierRotation:
    """:class:`aetlab.forward.fourier_rotation.FourierRotation` for float32 volumes that :func:`fits` accepts."""

    def __init__(self, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray) -> None:
        self._shape = shape_zxy
        self._n_layers = n_layers
        self._n = n = 2 * max(shape_zxy[:2])
        quarters = np.rint(np.asarray(tilt_deg, np.float64) / 90)
        self._quarters = quarters.astype(int) % 4
        self._rest_rad = np.deg2rad(np.asarray(tilt_deg, np.float64) - 90 * quarters)
        self._plan = fft.make_plan(n)
        order = fft.scrambled_order(n)
        self._frequency = _padded(np.where(order < n // 2, order, order - n) / n)
        # A shift of real rows keeps them real only without the sine of the Nyquist frequency.
        self._keeps_sine = _padded(order != n // 2)
        self._room = empty_aligned((0,))

    def set_angle(self, i_tilt: int, tilt_deg: float) -> None:
        """From now on the tilt ``i_tilt`` turns by ``tilt_deg``."""
        self._quarters[i_tilt] = round(tilt_deg / 90) % 4
        self._rest_rad[i_tilt] = math.radians(tilt_deg - 90 * round(tilt_deg / 90))

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""
        self._run(False, volume, i_tilt, slices, 1.0, None)

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        """Add ``scale`` times the adjoint of ``slices`` to ``volume`` in place; ``metric`` (Z, X, Y) scales voxels."""
        self._run(True, volume, i_tilt, slices, scale, metric)

    def _run(self, adjoint: bool, volume: np.ndarray, i_tilt: int, slices: np.ndarray, scale: float,
             metric: np.ndarray | None) -> None:
        """All rows that fill whole vectors; copies of the others, with zeros beside them."""
        whole = self._shape[2] // WIDTH * WIDTH
        left = self._shape[2] - whole
        if whole:
            self._turn(adjoint, volume, i_tilt, slices, scale, metric, whole)
        if left:
            some, sums = _widened(volume[..., whole:]), _widened(slices[..., whole:])
            self._turn(adjoint, some, i_tilt, sums, scale, None if metric is None else _widened(metric[..., whole:]),
                       WIDTH)
            if adjoint:
                volume[..., whole:] = some[..., :left]
            else:
                slices[..., whole:] = sums[..., :left]

    def _turn(self, adjoint: bool, volume: np.ndarray, i_tilt: int, slices: np.ndarray, scale: float,
              metric: np.ndarray | None, n_rows: int) -> None:
        workers = n_threads()
        n_cells = max(self._shape[:2]) * self._n
        if self._room.shape[0] < workers:
            self._room = empty_aligned((workers, n_cells * _CELL))
        rest_rad = -float(self._rest_rad[i_tilt]) if adjoint else float(self._rest_rad[i_tilt])
        shears = np.array([-math.tan(rest_rad / 2), math.sin(rest_rad)], np.float32)
        by_voxel = np.empty(0, np.float32) if metric is None else metric.reshape(-1)
        turn(adjoint, volume.reshape(-1), slices.reshape(-1), volume.shape, n_rows, self._n_layers, self._n,
             int(self._quarters[i_tilt]), shears, self._frequency, self._keeps_sine, self._plan, np.float32(scale),
             by_voxel, self._room[:workers])


def _widened(rows: np.ndarray) -> np.ndarray:
    """A copy of ``rows`` (..., n) as wide as a vector, zeros beside them."""
    return np.pad(rows, ((0, 0), (0, 0), (0, WIDTH - rows.shape[-1])))


def _padded(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // WIDTH) * WIDTH, np.float32)
    padded[: len(values)] = values
    return padded


@_jit
def _shift(buffer, im, n, plan, frequency, keeps_sine, distance, ramp):
    """f(u) -> f(u + distance) for the lanes of ``buffer``; ``ramp`` is room for two floats a frequency."""
    by = splat(distance * _TURN)
    half = frequency.shape[0]
    for k in range(0, half, WIDTH):
        c, s = _cos_sin(load(frequency, k) * by)
        store(ramp, k, c)
        store(ramp, half + k, s * load(keeps_sine, k))
    fft.forward(buffer, np.int64(0), im, n, plan)
    norm = np.float32(1.0) / np.float32(n)
    for k in range(n):
        c, s = splat(ramp[k] * norm), splat(ramp[half + k] * norm)
        a, b = load(buffer, k * WIDTH), load(buffer, im + k * WIDTH)
        store(buffer, k * WIDTH, a * c - b * s)
        store(buffer, im + k * WIDTH, a * s + b * c)
    fft.inverse(buffer, np.int64(0), im, n, plan)


@_inline
def _voxel(i, j, n, quarters, low_z, low_x, n_x):
    """Index of the voxel column (z, x) that quarter turns bring to row i and column j of the padded square."""
    if quarters == 0:
        p, q = i, j
    elif quarters == 1:
        p, q = j, n - 1 - i
    elif quarters == 2:
        p, q = n - 1 - i, n - 1 - j
    else:
        p, q = n - 1 - j, i
    return (p - low_z) * n_x + q - low_x


@_jit
def _clear(buffer, first, end):
    for k in range(first, end):
        store(buffer, k * WIDTH, splat(_ZERO))


@_parallel
def turn(adjoint, volume, slices, shape, n_rows, n_layers, n, quarters, shears, frequency, keeps_sine, plan, scale,
         metric, room):
    """Rotate the flattened ``volume`` and sum it into ``slices``, or add ``scale`` times the adjoint to ``volume``.

    Of the Y rows along y in ``shape`` the first ``n_rows`` are turned, a multiple of ``WIDTH``.
    ``shears`` are the slopes of the shears along x and along z, ``metric`` (Z·X·Y,) scales the voxels of the adjoint
    (empty: 1), ``room`` (workers, ...) holds one group of y for each worker.
    """
    n_z, n_x, n_y = shape
    low_z, low_x = (n - n_z) // 2, (n - n_x) // 2
    odd = quarters % 2 == 1
    # Rows and columns of the square that the volume fills before its quarter turns, and the layers after.
    a, b = (n_x, n_z) if odd else (n_z, n_x)
    low_a, low_b = (n - a) // 2, (n - b) // 2
    rows_in, cols_in, rows_out, cols_out = (n_z, n_x, a, b) if adjoint else (a, b, n_z, n_x)
    first_in, left_in, first_out, left_out = ((low_z, low_x, low_a, low_b) if adjoint
                                              else (low_a, low_b, low_z, low_x))
    n_groups = (n_rows + _CELL - 1) // _CELL
    n_workers = room.shape[0]
    im = n * WIDTH
    middle = np.float32(0.5) * np.float32(n - 1)
    for worker in nb.prange(n_workers):
        cells = room[worker]
        buffer, ramp = _scratch(2 * im), _scratch(2 * frequency.shape[0])
        for group in range(worker, n_groups, n_workers):
            y = group * _CELL
            both = y + WIDTH < n_rows
            if not both:
                _clear(buffer, n, 2 * n)
            for row in range(rows_in):
                _clear(buffer, 0, left_in)
                _clear(buffer, left_in + cols_in, n)
                if both:
                    _clear(buffer, n, n + left_in)
                    _clear(buffer, n + left_in + cols_in, 2 * n)
                else:
                    _clear(buffer, n, 2 * n)
                for col in range(cols_in):
                    at = (left_in + col) * WIDTH
                    if adjoint:
                        here = (row // n_layers * n_x + col) * n_y + y
                        store(buffer, at, load(slices, here))
                        if both:
                            store(buffer, im + at, load(slices, here + WIDTH))
                    else:
                        here = _voxel(first_in + row, left_in + col, n, quarters, low_z, low_x, n_x) * n_y + y
                        store(buffer, at, load(volume, here))
                        if both:
                            store(buffer, im + at, load(volume, here + WIDTH))
                _shift(buffer, im, n, plan, frequency, keeps_sine, shears[0] * (np.float32(first_in + row) - middle),
                       ramp)
                for col in range(n):
                    store(cells, (row * n + col) * _CELL, load(buffer, col * WIDTH))
                    store(cells, (row * n + col) * _CELL + WIDTH, load(buffer, im + col * WIDTH))
            for col in range(n):
                _clear(buffer, 0, first_in)
                _clear(buffer, first_in + rows_in, n + first_in)
                _clear(buffer, n + first_in + rows_in, 2 * n)
                for row in range(rows_in):
                    at = (first_in + row) * WIDTH
                    store(buffer, at, load(cells, (row * n + col) * _CELL))
                    store(buffer, im + at, load(cells, (row * n + col) * _CELL + WIDTH))
                _shift(buffer, im, n, plan, frequency, keeps_sine, shears[1] * (np.float32(col) - middle), ramp)
                for row in range(rows_out):
                    at = (first_out + row) * WIDTH
                    store(cells, (row * n + col) * _CELL, load(buffer, at))
                    store(cells, (row * n + col) * _CELL + WIDTH, load(buffer, im + at))
            for row in range(rows_out):
                for col in range(n):
                    store(buffer, col * WIDTH, load(cells, (row * n + col) * _CELL))
                    store(buffer, im + col * WIDTH, load(cells, (row * n + col) * _CELL + WIDTH))
                _shift(buffer, im, n, plan, frequency, keeps_sine, shears[0] * (np.float32(first_out + row) - middle),
                       ramp)
                for part in range(2 if both else 1):
                    first = part * im + left_out * WIDTH
                    for col in range(cols_out):
                        value = load(buffer, first + col * WIDTH)
                        if adjoint:
                            here = _voxel(first_out + row, left_out + col, n, quarters, low_z, low_x, n_x) * n_y
                            here += y + part * WIDTH
                            value = value * scale
                            if metric.shape[0] > 0:
                                value = value * load(metric, here)
                            store(volume, here, load(volume, here) + value)
                        else:
                            here = (row // n_layers * n_x + col) * n_y + y + part * WIDTH
                            if row % n_layers > 0:
                                value = value + load(slices, here)
                            store(slices, here, value)
