"""Rotation by three Fourier shears as in :mod:`fourier_rotation`, in single precision, by fused kernels for the CPU.

Rows of y are lanes: ``WIDTH`` neighbouring y are the real part and the next ``WIDTH`` the imaginary part of one complex
transform, since both are shifted alike. The first shear visits only the rows that hold the volume. The second keeps
only the rows that stay in the volume. The third is cut, then summed into slices or added to the volume at once. A group
of 2 ``WIDTH`` rows of y needs memory for half a padded plane; no complex or padded volume is ever stored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from aetlab.core import simd_fft as fft
from aetlab.core.backend import empty_aligned, n_threads
from aetlab.core.kernel_cache import njit
from aetlab.core.simd import WIDTH, load, splat, store
from aetlab.core.simd_fft import cos_sin, scratch

_jit = njit(fastmath=fft.FAST)
_inline = njit(fastmath=fft.FAST, forceinline=True)
_parallel = njit(fastmath=fft.FAST, parallel=True)

#: Floats of one (row, column) of a group: ``WIDTH`` real and ``WIDTH`` imaginary lanes.
_CELL = 2 * WIDTH
_ZERO, _TURN = np.float32(0), np.float32(2 * math.pi)


def fits(shape_zxy: tuple[int, int, int], dtype: np.dtype) -> bool:
    """Return whether the kernels take volumes of this shape and precision."""
    n_z, n_x, _ = shape_zxy
    return dtype == np.float32 and n_z % 2 == 0 and n_x % 2 == 0 and fft.factors(2 * max(n_z, n_x)) is not None


class SimdFourierRotation:
    """:class:`aetlab.methods.fourier_rotation.FourierRotation` for float32 volumes that :func:`fits` accepts."""

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
        """Set the angle of tilt ``i_tilt``."""
        self._quarters[i_tilt] = round(tilt_deg / 90) % 4
        self._rest_rad[i_tilt] = math.radians(tilt_deg - 90 * round(tilt_deg / 90))

    def span(self, i_tilt: int) -> None:
        """Return None: there is no support."""

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""
        self._run(False, volume, i_tilt, slices, 1.0, None)

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        """Add ``scale`` times the adjoint of ``slices`` to ``volume`` in place; ``metric`` (Z, X, Y) scales voxels."""
        self._run(True, volume, i_tilt, slices, scale, metric)

    def _run(self, adjoint: bool, volume: np.ndarray, i_tilt: int, slices: np.ndarray, scale: float,
             metric: np.ndarray | None) -> None:
        """Turn all rows that fill whole vectors in place, and zero-padded copies of the others."""
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
        frame = _frame(volume.shape, self._n, int(self._quarters[i_tilt]), self._n_layers, adjoint)
        turn(adjoint, volume.reshape(-1), slices.reshape(-1), frame, n_rows, shears, self._frequency,
             self._keeps_sine, self._plan, np.float32(scale), by_voxel, self._room[:workers])


class Frame(NamedTuple):
    """Place of a volume (Z, X, Y) in the padded square of ``n`` rows along z and ``n`` columns along x.

    ``low_z`` and ``low_x`` are the first row and column of the volume. The shears read ``rows_in`` rows from
    ``first_in`` on and ``cols_in`` columns from ``left_in`` on, and write the same of ``..._out``: the volume before
    and after its quarter turns, the other way round for the adjoint.
    """

    n: int
    n_x: int
    n_y: int
    n_layers: int
    quarters: int
    low_z: int
    low_x: int
    first_in: int
    left_in: int
    rows_in: int
    cols_in: int
    first_out: int
    left_out: int
    rows_out: int
    cols_out: int


def _frame(shape_zxy: tuple[int, ...], n: int, quarters: int, n_layers: int, adjoint: bool) -> Frame:
    n_z, n_x, n_y = shape_zxy
    low_z, low_x = (n - n_z) // 2, (n - n_x) // 2
    after = low_z, low_x, n_z, n_x
    before = (low_x, low_z, n_x, n_z) if quarters % 2 == 1 else after
    source, target = (after, before) if adjoint else (before, after)
    return Frame(n, n_x, n_y, n_layers, quarters, low_z, low_x, *source, *target)


def _widened(rows: np.ndarray) -> np.ndarray:
    """Return a copy of ``rows`` (..., n) as wide as a vector, padded with zeros."""
    return np.pad(rows, ((0, 0), (0, 0), (0, WIDTH - rows.shape[-1])))


def _padded(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(values) // WIDTH) * WIDTH, np.float32)
    padded[: len(values)] = values
    return padded


@_jit
def _shift(buffer, im, n, plan, frequency, keeps_sine, distance, ramp):
    """Replace f(u) by f(u + distance) in the lanes of ``buffer``; ``ramp`` has room for two floats a frequency."""
    by = splat(distance * _TURN)
    half = frequency.shape[0]
    for k in range(0, half, WIDTH):
        c, s = cos_sin(load(frequency, k) * by)
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
def _voxel(frame, i, j):
    """Return the index of the voxels (z, x) that quarter turns bring to row i and column j of the square."""
    last = frame.n - 1
    if frame.quarters == 0:
        p, q = i, j
    elif frame.quarters == 1:
        p, q = j, last - i
    elif frame.quarters == 2:
        p, q = last - i, last - j
    else:
        p, q = last - j, i
    return ((p - frame.low_z) * frame.n_x + q - frame.low_x) * frame.n_y


@_inline
def _pixel(frame, row, col):
    """Return the index of the pixels of column ``col`` in the slice that holds layer ``row``."""
    return (row // frame.n_layers * frame.n_x + col) * frame.n_y


@_inline
def _clear(buffer, first, end):
    for k in range(first, end):
        store(buffer, k * WIDTH, splat(_ZERO))


@_inline
def _read_row(adjoint, volume, slices, frame, row, y, both, buffer):
    """Fill ``buffer`` with one row of the square: voxels, or slices for the adjoint, and zeros around them.

    The real lanes start at ``y``; the imaginary lanes follow them if ``both``, else they are 0.
    """
    n, left, end = frame.n, frame.left_in, frame.left_in + frame.cols_in
    im = n * WIDTH
    _clear(buffer, 0, left)
    _clear(buffer, end, n)
    if both:
        _clear(buffer, n, n + left)
        _clear(buffer, n + end, 2 * n)
    else:
        _clear(buffer, n, 2 * n)
    for col in range(frame.cols_in):
        at = (left + col) * WIDTH
        if adjoint:
            here = _pixel(frame, row, col) + y
            store(buffer, at, load(slices, here))
            if both:
                store(buffer, im + at, load(slices, here + WIDTH))
        else:
            here = _voxel(frame, frame.first_in + row, left + col) + y
            store(buffer, at, load(volume, here))
            if both:
                store(buffer, im + at, load(volume, here + WIDTH))


@_inline
def _copy_row(cells, row, n, buffer, keep):
    """Copy a whole row of the square from ``buffer`` to ``cells``, or back if not ``keep``."""
    im = n * WIDTH
    for col in range(n):
        at = (row * n + col) * _CELL
        if keep:
            store(cells, at, load(buffer, col * WIDTH))
            store(cells, at + WIDTH, load(buffer, im + col * WIDTH))
        else:
            store(buffer, col * WIDTH, load(cells, at))
            store(buffer, im + col * WIDTH, load(cells, at + WIDTH))


@_inline
def _read_column(cells, col, frame, buffer):
    """Fill ``buffer`` with one column of the square: the rows that the first shear has left, zeros around them."""
    n, first = frame.n, frame.first_in
    im = n * WIDTH
    _clear(buffer, 0, first)
    _clear(buffer, first + frame.rows_in, n + first)
    _clear(buffer, n + first + frame.rows_in, 2 * n)
    for row in range(frame.rows_in):
        at = (row * n + col) * _CELL
        store(buffer, (first + row) * WIDTH, load(cells, at))
        store(buffer, im + (first + row) * WIDTH, load(cells, at + WIDTH))


@_inline
def _keep_column(cells, col, frame, buffer):
    """Copy from ``buffer`` those rows of one column that stay in the volume."""
    n = frame.n
    im = n * WIDTH
    for row in range(frame.rows_out):
        at = (row * n + col) * _CELL
        store(cells, at, load(buffer, (frame.first_out + row) * WIDTH))
        store(cells, at + WIDTH, load(buffer, im + (frame.first_out + row) * WIDTH))


@_inline
def _write_row(adjoint, volume, slices, frame, row, y, part, scale, metric, buffer):
    """Sum one turned row into its slice, or add it, scaled, to the volume; ``part`` 0 holds real, 1 imaginary lanes."""
    first = (part * frame.n + frame.left_out) * WIDTH
    for col in range(frame.cols_out):
        value = load(buffer, first + col * WIDTH)
        if adjoint:
            here = _voxel(frame, frame.first_out + row, frame.left_out + col) + y + part * WIDTH
            value = value * scale
            if metric.shape[0] > 0:
                value = value * load(metric, here)
            store(volume, here, load(volume, here) + value)
        else:
            here = _pixel(frame, row, col) + y + part * WIDTH
            if row % frame.n_layers > 0:
                value = value + load(slices, here)
            store(slices, here, value)


@_parallel
def turn(adjoint, volume, slices, frame, n_rows, shears, frequency, keeps_sine, plan, scale, metric, room):
    """Rotate the flattened ``volume`` and sum it into ``slices``, or add ``scale`` times the adjoint to ``volume``.

    Of the y rows the first ``n_rows`` are turned, a multiple of ``WIDTH``. ``shears`` are the slopes of the shears
    along x and along z, ``metric`` (Z·X·Y,) scales the voxels of the adjoint (empty: 1), ``room`` (workers, ...) holds
    one group of y for each worker.
    """
    n, n_workers = frame.n, room.shape[0]
    n_groups = (n_rows + _CELL - 1) // _CELL
    im = n * WIDTH
    middle = np.float32(0.5) * np.float32(n - 1)
    for worker in nb.prange(n_workers):
        cells = room[worker]
        buffer, ramp = scratch(2 * im), scratch(2 * frequency.shape[0])
        for group in range(np.int64(worker), n_groups, n_workers):
            y = group * _CELL
            both = y + WIDTH < n_rows
            for row in range(frame.rows_in):
                _read_row(adjoint, volume, slices, frame, row, y, both, buffer)
                _shift(buffer, im, n, plan, frequency, keeps_sine,
                       shears[0] * (np.float32(frame.first_in + row) - middle), ramp)
                _copy_row(cells, row, n, buffer, True)
            for col in range(n):
                _read_column(cells, col, frame, buffer)
                _shift(buffer, im, n, plan, frequency, keeps_sine, shears[1] * (np.float32(col) - middle), ramp)
                _keep_column(cells, col, frame, buffer)
            for row in range(frame.rows_out):
                _copy_row(cells, row, n, buffer, False)
                _shift(buffer, im, n, plan, frequency, keeps_sine,
                       shears[0] * (np.float32(frame.first_out + row) - middle), ramp)
                for part in range(2 if both else 1):
                    _write_row(adjoint, volume, slices, frame, row, y, part, scale, metric, buffer)
