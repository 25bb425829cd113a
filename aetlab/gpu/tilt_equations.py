"""Equations of the tilts of an alignment on a GPU: of all that follows from an exit wave, a few sums are read back.

The kernels are in ``alignment.cu``. Notation: :mod:`aetlab.forward.alignment`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aetlab.core.grid import squared_frequencies
from aetlab.core.nouns import TiltSeries
from aetlab.forward.posed_images import DARK, PosedOptics, brightness_of, shift_and_defocus
from aetlab.forward.resampling import rotate_images
from aetlab.forward.tilt_equations import (
    ANGLE_STEP_DEG,
    BAD_SHARE,
    AddedColumns,
    Fit,
    PosedTilt,
    low_pass,
    misfit_of_sums,
    turned_back,
)
from aetlab.gpu.device import Array
from aetlab.gpu.kernels import COLUMN_PAIRS, DIRECTIONS, N_COLUMNS, N_PRODUCTS, PAIRS
from aetlab.gpu.model import GpuModel
from aetlab.gpu.series_waves import GpuExitWaves, check_room_for_differences, weights_on_device

#: Columns of ``alignment.cu`` after the six unknowns of a tilt.
_CONTRAST, _RADIAL, _RESIDUAL = 6, 7, 8


class GpuTiltEquations:
    """Implement :class:`aetlab.forward.tilt_equations.TiltEquations` on the device of ``model``, in float32.

    The measured amplitudes stay there. For a step of a tilt and its place in the model, 48 bytes and 68 an image are
    sent, and 376 an image returned; for a search 32 bytes an image and defocus are sent, and 24 a defocus returned.

    Raises
    ------
    GpuError
        If the weights of pixels and the transfer functions of tilts with different defoci need more memory than is
        free.
    """

    def __init__(self, optics: PosedOptics, series: TiltSeries, added: AddedColumns, *, model: GpuModel) -> None:
        device = model.device
        self._optics, self._added, self._device, self._model = optics, added, device, model
        n_x, n_y = self._shape_xy = optics.shape_zxy[1:]
        n, n_images = n_x * n_y, series.n_defoci
        check_room_for_differences(device, series)
        self._exit_waves = GpuExitWaves(optics.optics, optics.shape_zxy, optics.n_layers_per_slice, "cubic", device)
        zeros, upload = device.zeros, device.upload
        first = [int(np.flatnonzero(optics.series.set_of == k)[0]) for k in range(optics.series.n_sets)]
        self._transfer = upload(np.stack([optics.nominal(i_tilt) for i_tilt in first]))
        self._ramps = tuple(upload(np.ascontiguousarray(ramp.imag.ravel()))
                            for ramp in (optics.ramp_x, optics.ramp_y, optics.lift))
        self._mtf = None if optics.mtf is None else upload((optics.mtf / n).astype(np.float32))
        self._darkest = np.float32(0 if optics.mtf is None else DARK**2)
        self._low_pass, self._smoothing_A = zeros(self._shape_xy, np.float32), math.nan
        #: Transforms of the exit wave, of its derivative by a turn, and of the wave at the next angle.
        self._exits = zeros((3, n_x, n_y), np.complex64)
        self._buffer = zeros(((PAIRS + COLUMN_PAIRS) * n_images, n_x, n_y), np.complex64)
        self._lines = zeros((2, 2 * n), np.complex64)
        self._pose = zeros((n_images, 4), np.float64)
        self._image_factors, self._shares = zeros((n_images,), np.float32), zeros((n_images,), np.float32)
        self._rows = zeros((n_images * n_x * N_PRODUCTS,), np.float64)
        self._row_sums, self._totals = zeros((n_images * n_x * 2,), np.float64), zeros((n_images,), np.float64)
        self._sums = zeros((n_images * (N_PRODUCTS + 2),), np.float64)
        #: Unknowns that a search tries, and what it finds at each.
        self._poses, self._found = zeros((0, n_images, 4), np.float64), zeros((0, 3), np.float64)
        self._orders = tuple(upload(order.astype(np.int32)) for order in model.orders)
        self._offsets = upload((0.25 / series.electrons_per_pixel).astype(np.float32))
        self._measured = zeros(series.images.shape, np.float32)
        weights = weights_on_device(series)
        self._weights = None if weights is None else zeros(weights.shape, np.float32)
        self._share_of = np.ones(series.weight.shape)
        self._series: TiltSeries | None = None
        self.use(series)

    def use(self, series: TiltSeries) -> None:
        if series is self._series:
            return
        self._series, weights = series, weights_on_device(series)
        for i_tilt in range(series.n_tilts):
            self._device.write(series.amplitudes(i_tilt).astype(np.float32), self._measured[i_tilt])
            if weights is not None and self._weights is not None:
                self._device.write(weights[i_tilt], self._weights[i_tilt])
                self._share_of[i_tilt] = weights[i_tilt].mean(axis=(1, 2), dtype=np.float64)

    def take(self, potential_V: Array) -> Array:
        """Return ``potential_V`` (Z, X, Y) itself, which is on the device."""
        return potential_V

    def compare(self, potential_V: Array, tilt: PosedTilt, smoothing_A: float) -> GramEquations:
        device, (n_x, n_y) = self._device, self._shape_xy
        n_images, sizes = len(self._pose), (np.int32(n_x), np.int32(n_y))
        n_rows = n_images * n_x
        self._smooth(smoothing_A)
        device.write(_pose(tilt, n_images), self._pose)
        device.write(self._factors(tilt), self._image_factors)
        self._place_exits(potential_V, tilt.i_tilt, tilt.row)
        images = self._buffer[:DIRECTIONS * n_images]
        pairs, columns = images[:PAIRS * n_images], self._buffer[PAIRS * n_images:]
        self._show_images(tilt.i_tilt, self._pose, images, pairs, DIRECTIONS)
        device.launch("sum_amplitudes", (n_rows, 1, 1), pairs, self._pose, self._darkest, *sizes, self._row_sums)
        self._sum(self._row_sums, 1, self._totals)
        device.launch("form_columns", (n_rows, 1, 1), pairs, self._measured[tilt.i_tilt], self._offsets[tilt.i_tilt],
                      *self._weights_of(tilt.i_tilt),
                      self._image_factors, self._totals, self._pose, np.float32(DARK), self._darkest,
                      np.float32(ANGLE_STEP_DEG), np.float32(self._optics.pixel_A), np.int32(n_images), *sizes, columns,
                      self._row_sums)
        self._filter(self._low_pass, columns)
        device.launch("sum_products", (n_rows, 1, 1), columns, np.int32(n_images), *sizes, self._rows)
        n_products = n_images * N_PRODUCTS
        self._sum(self._rows, N_PRODUCTS, self._sums[:n_products])
        self._sum(self._row_sums, 2, self._sums[n_products:])
        sums = np.zeros(self._sums.shape)
        device.read(self._sums, sums)
        squares, totals = sums[n_products:].reshape(n_images, 2).T
        assert self._series is not None
        return GramEquations(_symmetric(sums[:n_products].reshape(n_images, N_PRODUCTS)), self._added,
                             misfit_of_sums(self._series, tilt.i_tilt, squares, totals))

    def misfits(self, potential_V: Array, tilt: PosedTilt) -> np.ndarray:
        return self.compare(potential_V, tilt, 0.0).misfit

    def search(self, potential_V: Array, tilt: PosedTilt, smoothing_A: float, defocus_A: np.ndarray, reach_px: int,
               ) -> list[Fit]:
        device, n_images, i_tilt = self._device, len(self._pose), tilt.i_tilt
        n_x, n_y = self._shape_xy
        sizes, n_all = (np.int32(n_x), np.int32(n_y)), n_images * n_x * n_y
        seen, measured = self._buffer[:n_images], self._buffer[n_images:2 * n_images]
        correlation = self._buffer[2 * n_images]
        self._smooth(smoothing_A)
        factors = self._factors(tilt)
        device.write(factors, self._image_factors)
        device.write((self._share_of[i_tilt] * factors).astype(np.float32), self._shares)
        device.launch("weigh_measured", (n_all, 1, 1), self._measured[i_tilt], self._offsets[i_tilt],
                      *self._weights_of(i_tilt), self._image_factors, np.int32(n_images), *sizes, measured)
        device.fft(measured, measured)
        self._place_exit(potential_V, i_tilt, tilt.row[0], tilt.row[1], self._exits[0])
        tried = np.stack([_pose(PosedTilt(i_tilt, tilt.row + [0, 0, 0, 0, by_A, 0]), n_images) for by_A in defocus_A])
        if len(self._found) != len(tried):
            self._poses, self._found = device.zeros(tried.shape, np.float64), device.zeros((len(tried), 3), np.float64)
        device.write(tried, self._poses)
        for pose, best in zip(self._poses, self._found, strict=True):
            self._show_images(i_tilt, pose, seen, seen, 1)
            device.launch("show_modulation", (n_all, 1, 1), self._darkest, np.int64(n_all), seen)
            device.fft(seen, seen)
            device.launch("correlate", (n_x, 1, 1), seen, measured, self._low_pass, self._shares, np.int32(n_images),
                          *sizes, correlation, self._row_sums)
            device.fft(correlation, correlation, inverse=True)
            device.launch("find_best_shift", (1, 1, 1), correlation, self._row_sums, np.int32(reach_px), *sizes, best)
        numbers = np.zeros(self._found.shape)
        device.read(self._found, numbers)
        side = 2 * reach_px + 1
        return [Fit(power, top, np.array(divmod(int(place), side)) - reach_px)
                for power, top, place in numbers.tolist()]

    def place(self, tilt: PosedTilt) -> None:
        device, (n_x, n_y), i_tilt = self._device, self._shape_xy, tilt.i_tilt
        n_images, n, angle_deg = len(self._pose), n_x * n_y, -float(tilt.row[1])
        n_all, sizes = n_images * n, (np.int32(n_images), np.int32(n_x), np.int32(n_y))
        of_model = self._model.tilt_arrays(i_tilt, float(self._optics.tilt_deg[i_tilt] + tilt.row[0]))
        pose = _pose(tilt, n_images)
        pose[:, :2] = turned_back(tilt)[0]
        device.write(pose, self._pose)
        i_set = int(self._optics.series.set_of[i_tilt])
        device.launch("pose_transfer", (n_all, 1, 1), self._transfer[i_set], *self._ramps, self._pose, *self._orders,
                      *sizes, of_model.transfer)
        planes = self._buffer[:(n_images + 1) // 2]
        device.launch("pack_amplitudes", (planes.size, 1, 1), self._measured[i_tilt], np.int32(n_images), np.int32(n),
                      planes)
        self._turn(planes, angle_deg)
        device.launch("place_amplitudes", (n_all, 1, 1), planes, self._pose, np.int32(n_images), np.int32(n),
                      of_model.amplitude)
        if self._weights is None or self._weights.shape[3] == 1:
            return
        device.write(self._factors(tilt), self._image_factors)
        planes = self._buffer[:n_images]
        device.launch("pack_weights", (n_all, 1, 1), *self._weights_of(i_tilt), self._image_factors, *sizes, planes)
        self._turn(planes, angle_deg)
        device.launch("place_weights", (n_all, 1, 1), planes, np.float32(BAD_SHARE), np.int64(n_all), of_model.weight)

    def _place_exits(self, potential_V: Array, i_tilt: int, row: np.ndarray) -> None:
        """Write the transforms of the exit wave, of its derivative by a turn and of the wave at the next angle."""
        device, (n_x, n_y) = self._device, self._shape_xy
        extent, sizes = (n_x * n_y, 1, 1), (np.int32(n_x), np.int32(n_y))
        self._place_exit(potential_V, i_tilt, row[0] + ANGLE_STEP_DEG, row[1], self._exits[2])
        self._place_exit(potential_V, i_tilt, row[0], row[1], self._exits[0])
        slopes = self._buffer[:2]
        device.launch("differentiate", extent, self._exits[0], self._ramps[0], self._ramps[1], *sizes, slopes)
        device.fft(slopes, slopes, inverse=True)
        lever = np.float32(math.radians(self._optics.pixel_A) / (n_x * n_y))
        device.launch("turn_slopes", extent, slopes, lever, *sizes, self._exits[1])
        device.fft(self._exits[1], self._exits[1])

    def _place_exit(self, potential_V: Array, i_tilt: int, offset_deg: float, axis_deg: float, out: Array) -> None:
        """Write the transform of the exit wave turned by ``axis_deg`` to ``out``."""
        wave = self._exit_waves.wave(potential_V, float(self._optics.tilt_deg[i_tilt] + offset_deg))
        self._turn(wave[None], float(axis_deg))
        self._device.fft(wave, out)

    def _turn(self, planes: Array, angle_deg: float) -> None:
        """Turn ``planes`` (N, X, Y) in place, by the shears of :func:`aetlab.forward.resampling.rotate_images`."""
        if angle_deg == 0:
            return
        device, (n_x, n_y) = self._device, self._shape_xy
        if abs(angle_deg) > 45:  # quarter turns, which an alignment does not come to
            turned: np.ndarray = np.empty(planes.shape, np.complex64)
            device.read(planes, turned)
            real, imaginary = rotate_images(np.stack([turned.real, turned.imag]), angle_deg)
            device.write(real + np.complex64(1j) * imaginary, planes)
            return
        angle = math.radians(angle_deg)
        along_x, along_y = (n_y, n_x), (n_x, n_y)
        for plane in planes:
            # Source and the distances of its lines and values, lines and values, and the shear.
            self._shear(plane, (1, n_y), along_x, math.tan(angle / 2), self._lines[0])
            self._shear(self._lines[0], (1, 2 * n_x), along_y, -math.sin(angle), self._lines[1])
            self._shear(self._lines[1], (1, 2 * n_y), along_x, math.tan(angle / 2), self._lines[0])
            device.launch("take_lines", (n_x * n_y, 1, 1), self._lines[0], np.int32(n_x), np.int32(n_y), plane)

    def _shear(self, source: Array, apart: tuple[int, int], shape: tuple[int, int], tangent: float, out: Array) -> None:
        """Write lines of ``shape`` of ``source``, sheared, to ``out``, each of twice its length."""
        device, (n_lines, n) = self._device, shape
        extent, sizes = (2 * n_lines * n, 1, 1), (np.int32(n_lines), np.int32(n))
        lines = out.reshape(n_lines, 1, 2 * n)
        device.launch("mirror_lines", extent, source, np.int32(apart[0]), np.int32(apart[1]), *sizes, lines)
        device.fft(lines, lines)
        device.launch("shift_lines", extent, np.float64(tangent), *sizes, lines)
        device.fft(lines, lines, inverse=True)

    def _show_images(self, i_tilt: int, pose: Array, images: Array, pairs: Array, n_directions: int) -> None:
        """Write what the detector sees of the images at ``pose`` and of their derivatives to ``pairs``."""
        device, (n_x, n_y) = self._device, self._shape_xy
        n_images, i_set = len(pose), int(self._optics.series.set_of[i_tilt])
        n_all = n_images * n_x * n_y
        device.launch("pose_images", (n_all, 1, 1), self._exits, self._transfer[i_set], *self._ramps, pose,
                      np.int32(n_images), np.int32(n_directions), np.int32(n_x), np.int32(n_y), images)
        device.fft(images, images, inverse=True)
        device.launch("pair_products", (n_all, 1, 1), np.int32(n_directions), np.int64(n_all), images)
        if self._mtf is not None:
            self._filter(self._mtf, pairs)

    def _filter(self, factor: Array, planes: Array) -> None:
        """Multiply the transforms of ``planes`` by ``factor`` (X, Y), in place."""
        device, n_all = self._device, int(planes.size)
        device.fft(planes, planes)
        device.launch("multiply_real", (n_all, 1, 1), factor, np.int32(factor.size), np.int64(n_all), planes)
        device.fft(planes, planes, inverse=True)

    def _sum(self, rows: Array, n_values: int, out: Array) -> None:
        """Write the sums of ``n_values`` numbers of each row of an image to ``out`` (F · n_values,)."""
        self._device.launch("sum_groups", (len(out), 1, 1), rows, np.int32(self._shape_xy[0]), np.int32(n_values), out)

    def _smooth(self, smoothing_A: float) -> None:
        """Place the low-pass filter w, over the root of the number of pixels."""
        if smoothing_A != self._smoothing_A:
            w = low_pass(squared_frequencies(self._shape_xy, self._optics.pixel_A), smoothing_A)
            self._device.write((w / math.sqrt(w.size)).astype(np.float32), self._low_pass)
            self._smoothing_A = smoothing_A

    def _factors(self, tilt: PosedTilt) -> np.ndarray:
        """Return the factors (F,) of the weights; a regular series has no weights."""
        if tilt.factors is None or self._weights is None:
            return np.ones(len(self._pose), np.float32)
        return tilt.factors.astype(np.float32)

    def _weights_of(self, i_tilt: int) -> tuple[Array, np.int32]:
        if self._weights is None:
            return self._measured[i_tilt], np.int32(0)
        return self._weights[i_tilt], np.int32(self._weights.shape[3])


@dataclass(frozen=True)
class GramEquations:
    """Implement :class:`aetlab.forward.tilt_equations.Equations` by the products (F, 9, 9) of the columns of images."""

    products: np.ndarray
    added: AddedColumns
    misfit: np.ndarray

    @property
    def unknowns(self) -> list[int]:
        """Return the columns of the unknowns of the tilt."""
        return list(range(_CONTRAST + self.added.contrast))

    @property
    def normal(self) -> np.ndarray:
        found: np.ndarray = self.products.sum(axis=0)[np.ix_(self.unknowns, self.unknowns)]
        return found

    @property
    def slope(self) -> np.ndarray:
        found: np.ndarray = self.products.sum(axis=0)[self.unknowns, _RESIDUAL]
        return found

    def of_images(self, step: np.ndarray) -> Sequence[GramOfImage]:
        left = np.eye(N_COLUMNS)[_RESIDUAL]
        left[self.unknowns] = step
        return [GramOfImage(products, left, self.unknowns[2:], self.added.magnification) for products in self.products]


@dataclass(frozen=True)
class GramOfImage:
    """Implement :class:`aetlab.forward.tilt_equations.ImageEquations` by the products (9, 9) of an image's columns.

    ``left`` (9,) is what the tilt leaves of the residual, as a combination of the columns; ``own`` are those of what
    the image has of its own.
    """

    products: np.ndarray
    left: np.ndarray
    own: list[int]
    magnified: bool

    @property
    def normal(self) -> np.ndarray:
        found: np.ndarray = self.products[np.ix_(self.own, self.own)]
        return found

    @property
    def slope(self) -> np.ndarray:
        found: np.ndarray = self.products[self.own] @ self.left
        return found

    @property
    def radial_slope(self) -> np.ndarray | None:
        return self.products[self.own, _RADIAL] if self.magnified else None

    def of_magnification(self, along: np.ndarray, step: np.ndarray) -> tuple[float, float]:
        moving, left = np.eye(N_COLUMNS)[_RADIAL], self.left.copy()
        moving[self.own] = along
        left[self.own] += step
        return float(moving @ self.products @ left), float(moving @ self.products @ moving)


def _pose(tilt: PosedTilt, n_images: int) -> np.ndarray:
    """Return shift along x and y, defocus and brightness (F, 4) of the images of a tilt."""
    shift_A, defocus_A = shift_and_defocus(tilt.row, tilt.own)
    pose: np.ndarray = np.empty((n_images, 4))
    pose[:, :2], pose[:, 2], pose[:, 3] = shift_A, defocus_A, np.ravel(brightness_of(tilt.row, tilt.own))
    return pose


def _symmetric(triangles: np.ndarray) -> np.ndarray:
    """Return symmetric matrices (F, 9, 9) of their upper triangles (F, 45), row by row."""
    full, (row, column) = np.empty((len(triangles), N_COLUMNS, N_COLUMNS)), np.triu_indices(N_COLUMNS)
    full[:, row, column] = full[:, column, row] = triangles
    return full
