"""Several devices that share volumes in slabs along the tilt axis (y), and the exchange between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aetlab.core.slabs import Slabs
from aetlab.gpu.device import Array, Device


@dataclass(frozen=True)
class Transfer:
    """A copy of ``values`` of device number ``source`` to ``out`` of device ``target``, another one.

    Both arrays are contiguous and of the same size and type.
    """

    source: int
    values: Array
    target: int
    out: Array


class Exchange(Protocol):
    """Copies arrays between devices."""

    def __call__(self, transfers: Sequence[Transfer]) -> None:
        """Put all ``transfers`` into the queues of their two devices; they take part in the order of both."""


class Group:
    """Devices that hold the slabs of volumes (..., Y); the first one also holds the waves of a tilt.

    Parameters
    ----------
    devices : sequence of Device
        The devices, in the order of the slabs.
    exchange : Exchange
        Copies between them.
    n_y : int
        Voxels along y of every array in slabs; at least one for each device.

    Attributes
    ----------
    widths : tuple of int
        The number of rows of y in each slab; they differ by 1 at most.
    first : tuple of int
        The first row of each slab.
    """

    #: Makes the transfers of :attr:`exchange`.
    transfer = Transfer

    def __init__(self, devices: Sequence[Device], exchange: Exchange, n_y: int) -> None:
        self.devices, self.exchange = tuple(devices), exchange
        self.widths = slab_widths(n_y, len(self.devices))
        self.first = tuple(sum(self.widths[:i]) for i in range(len(self.devices)))
        self._within = tuple(device.use for device in self.devices)

    @property
    def name(self) -> str:
        """Return number and name of the devices."""
        return f"{len(self.devices)} x {self.devices[0].name}"

    @property
    def graph_problem(self) -> str | None:
        """Return why the recordings of a device are replayed launch by launch; None if they are replayed as a whole."""
        return next((device.graph_problem for device in self.devices if device.graph_problem), None)

    def synchronize(self) -> None:
        """Wait until the queues of all devices are done."""
        for device in self.devices:
            device.synchronize()

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Slabs:
        """Return a new array (..., Y) of zeros in slabs."""
        return Slabs(tuple(device.zeros((*shape[:-1], width), dtype)
                           for device, width in zip(self.devices, self.widths, strict=True)), self._within)

    def place(self, values: np.ndarray) -> Slabs:
        """Return a copy of ``values`` (..., Y) in slabs."""
        parts = (values[..., first:first + width] for first, width in zip(self.first, self.widths, strict=True))
        return Slabs(tuple(device.upload(np.ascontiguousarray(part))
                           for device, part in zip(self.devices, parts, strict=True)), self._within)

    def widen(self, volume: Slabs, reach: int) -> Slabs:
        """Return the slabs of ``volume`` with ``reach`` more rows on both sides, 0 outside the volume.

        The rows are those of all slabs that are that near. The result overlaps; its shape is not that of a volume.
        """
        wide = Slabs(tuple(device.zeros((*slab.shape[:-1], slab.shape[-1] + 2 * reach), np.float32)
                           for device, slab in zip(self.devices, volume.arrays, strict=True)), self._within)
        transfers, places = [], []
        for target, into in enumerate(wide.arrays):
            start = self.first[target] - reach
            for source, slab in enumerate(volume.arrays):
                first = max(start, self.first[source])
                last = min(start + into.shape[-1], self.first[source] + self.widths[source])
                if first >= last:
                    continue
                rows = slice(first - self.first[source], last - self.first[source])
                place = slice(first - start, last - start)
                if source == target:
                    with self.devices[target].use():
                        into[..., place] = slab[..., rows]
                    continue
                with self.devices[source].use():
                    values = slab[..., rows].copy()
                transfers.append(Transfer(source, values, target, self.devices[target].zeros(values.shape, np.float32)))
                places.append(place)
        self.exchange(transfers)
        for transfer, place in zip(transfers, places, strict=True):
            with self.devices[transfer.target].use():
                wide.arrays[transfer.target][..., place] = transfer.out
        return wide


def slab_widths(n_y: int, n_devices: int) -> tuple[int, ...]:
    """Return the rows of y of each of ``n_devices`` slabs; the first ones are one row wider where they differ."""
    return tuple(n_y // n_devices + (i < n_y % n_devices) for i in range(n_devices))
