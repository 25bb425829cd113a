"""Search a volume for the candidates of the tracing on a GPU."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core import parabola
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.spec import TraceSpec
from aetlab.tracing.candidates import EVEN, TRUNCATE, place_candidates
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
