"""Trace on a GPU: search a volume for candidates, and fit Gaussians to many sites at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab.core import parabola
from aetlab.core.errors import GpuError
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.gpu.kernels import MOST_BOX
from aetlab.spec import TraceSpec
from aetlab.tracing.candidates import EVEN, TRUNCATE, place_candidates
from aetlab.tracing.kernels_numba import FitInput, FitLimits
from aetlab.tracing.noise import residual_block


class GpuSearch:
    """Implement :class:`aetlab.tracing.candidates.Search` on ``device``.

    The volume less the sites is made on the CPU and sent, at each search; per candidate 40 bytes return. Candidates are
    those of :func:`aetlab.tracing.candidates.find_candidates` but for the rounding of the filter.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, potential_V: np.ndarray, spec: TraceSpec, *, subtract: np.ndarray | None = None) -> np.ndarray:
        device, shape = self._device, potential_V.shape
        check_room(device, search_bytes(shape))
        sites = np.empty((0, 5)) if subtract is None else subtract
        block = device.upload(np.ascontiguousarray(residual_block(potential_V, 0, shape[0], sites,
                                                                  spec.neighbour_radius)))
        room, filtered, wide = (device.zeros(shape, np.float32) for _ in range(3))
        self._smooth(block, spec.filter_sigma_narrow, room, filtered)
        self._smooth(block, spec.filter_sigma_wide, room, wide)
        device.launch("subtract", (filtered.size, 1, 1), wide, np.int64(filtered.size), filtered)
        least_peak = spec.candidate_fraction * spec.min_intensity_V
        least_value = least_peak * math.exp(-0.375 / spec.width_start**2)
        volume = (filtered, block, np.float32(EVEN * least_peak), np.float32(least_value), np.float32(-np.inf),
                  *(np.int32(n) for n in shape))
        n_rows = shape[0] * shape[1]
        counts = device.zeros((n_rows,), np.int32)
        device.launch("count_maxima", (n_rows, 1, 1), *volume, counts)
        counted: np.ndarray = np.zeros(n_rows, np.int32)
        device.read(counts, counted)
        n_found = int(counted.sum(dtype=np.int64))
        index, around = np.zeros(n_found, np.int64), np.zeros((n_found, 8), np.float32)
        if n_found:
            starts = device.upload((np.cumsum(counted) - counted).astype(np.int32))
            index_there, around_there = device.zeros(index.shape, np.int64), device.zeros(around.shape, np.float32)
            device.launch("write_maxima", (n_rows, 1, 1), *volume, starts, counts, index_there, around_there)
            device.read(index_there, index)
            device.read(around_there, around)
        values = around.astype(np.float64)
        shift = np.stack([parabola.vertex(values[:, 1 + 2 * axis], values[:, 0], values[:, 2 + 2 * axis]).place
                          for axis in range(3)], axis=1)
        return place_candidates(np.stack(np.unravel_index(index, shape), axis=1), shift, values[:, 7], spec)

    def _smooth(self, block: Array, sigma: float, room: Array, out: Array) -> None:
        """Write ``block`` convolved with a Gaussian to ``out``; ``room`` is overwritten."""
        n_z, n_x, n_y = block.shape
        offset = np.arange(int(TRUNCATE * sigma + 0.5) + 1)
        half = np.exp(-0.5 * (offset / sigma) ** 2)
        kernel = self._device.upload((half / (2 * half.sum() - half[0])).astype(np.float32))
        steps = ((block, n_z, n_x * n_y, out), (out, n_x, n_y, room), (room, n_y, 1, out))
        for source, n_axis, stride, target in steps:
            self._device.launch("blur_axis_nearest", (source.size, 1, 1), source, kernel, np.int32(len(kernel) - 1),
                                np.int32(n_axis), np.int64(stride), np.int64(source.size), target)


def search_bytes(shape_zxy: tuple[int, ...]) -> int:
    """Return the bytes that a search holds: four volumes, and the counts of its rows."""
    return 4 * (4 * math.prod(shape_zxy) + 2 * shape_zxy[0] * shape_zxy[1])


class GpuFits:
    """Implement :class:`aetlab.tracing.sites.Fitter` on ``device``.

    The volume is sent once; sites and neighbours are sent for each call, 140 bytes and more a site, and 44 return. The
    fits are those of the CPU but for the order in which the squares of a site are added.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._source: np.ndarray | None = None
        self._volume: Array = None

    def __call__(self, data: FitInput, movable: np.ndarray, limits: FitLimits) -> tuple[np.ndarray, np.ndarray]:
        device, fitted = self._device, data.sites.copy()
        status: np.ndarray = np.zeros(len(fitted), np.int32)
        if len(fitted) == 0:
            return fitted, status.astype(np.uint8)
        if self._source is not data.volume:
            self._source = self._volume = None  # memory that is free before the next
            check_room(device, fits_bytes(data.volume.shape, len(fitted)))
            self._source, self._volume = data.volume, device.upload(data.volume)
        upload: Callable[[np.ndarray], Array] = device.upload
        sites, results, found = upload(data.sites), upload(fitted), upload(status)
        neighbours = data.neighbours if len(data.neighbours) else np.zeros(1)
        device.launch(
            "fit_gaussians", (len(fitted), 1, 1), self._volume, sites, upload(data.first_neighbour.astype(np.int32)),
            upload(neighbours.astype(np.int32)), upload(movable.astype(np.int32)), np.float64(data.radius),
            np.int32(data.clip), upload(limits.bounds.astype(np.float64)), np.float64(limits.tolerance),
            np.int32(limits.n_steps_max), *(np.int32(n) for n in data.volume.shape), results, found)
        device.read(results, fitted)
        device.read(found, status)
        return fitted, status.astype(np.uint8)


def check_radius(radius: float) -> None:
    """Raise :class:`GpuError` if the fits of this radius in voxels take too many of them."""
    side = math.floor(2 * radius) + 1
    if side**3 > MOST_BOX:
        raise GpuError(f"trace.fit_radius={radius:g} takes up to {side**3} voxels about a site, of which a GPU takes "
                       f"{MOST_BOX} at most")


def fits_bytes(shape_zxy: tuple[int, ...], n_sites: int) -> int:
    """Return the bytes that the fits of ``n_sites`` hold, with up to 20 neighbours each."""
    return 4 * math.prod(shape_zxy) + n_sites * (2 * 40 + 3 * 4 + 20 * 4)
