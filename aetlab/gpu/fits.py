"""Fit Gaussians to many sites of a volume at once on a GPU: the fits of the tracing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab.core.errors import GpuError
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.gpu.kernels import MOST_BOX
from aetlab.tracing.kernels_numba import FitInput, FitLimits


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
