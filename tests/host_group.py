"""Several devices on the processor, each with arrays of its own, that share volumes in slabs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from host_device import HostDevice, host_library

from aetlab.gpu.group import Group, Transfer

#: The device that allocated a piece of memory.
_owners: weakref.WeakValueDictionary[int, OwnDevice] = weakref.WeakValueDictionary()


def owner_of(array: np.ndarray) -> OwnDevice | None:
    """Return the device that allocated ``array``; None if NumPy did."""
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return _owners.get(base.ctypes.data)


class OwnDevice(HostDevice):
    """A device that refuses arrays of other devices, as a GPU does."""

    def __init__(self, library: Path | None = None) -> None:
        super().__init__(library or host_library())

    def zeros(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        array = super().zeros(shape, dtype)
        _owners[self._rooms[-1].ctypes.data] = self
        return array

    def write(self, values: np.ndarray, array: np.ndarray) -> None:
        assert owner_of(array) is self
        super().write(values, array)

    def check(self, kernel: str, arguments: tuple[Any, ...]) -> None:
        for value in arguments:
            if isinstance(value, np.ndarray):
                assert owner_of(value) in (self, None), f"{kernel}: an array of another device"
        super().check(kernel, arguments)


class HostExchange:
    """Copies between :class:`OwnDevice`; ``calls`` and ``n_bytes`` count them."""

    def __init__(self, devices: Sequence[OwnDevice]) -> None:
        self._devices = devices
        self.calls = self.n_bytes = 0

    def __call__(self, transfers: Sequence[Transfer]) -> None:
        self.calls += 1
        for each in transfers:
            assert each.source != each.target and each.values.flags.c_contiguous and each.out.flags.c_contiguous
            assert (each.values.dtype, each.values.shape) == (each.out.dtype, each.out.shape)
            assert owner_of(each.values) in (self._devices[each.source], None)
            assert owner_of(each.out) is self._devices[each.target]
            self.n_bytes += each.values.nbytes
        # All are under way at once: what is sent is what was there before.
        for values, out in [(each.values.copy(), each.out) for each in transfers]:
            out[...] = values


def host_group(n_devices: int, n_y: int, library: Path | None = None) -> Group:
    """Return ``n_devices`` devices on the processor that share volumes with ``n_y`` voxels along y."""
    devices = [OwnDevice(library) for _ in range(n_devices)]
    return Group(devices, HostExchange(devices), n_y)
