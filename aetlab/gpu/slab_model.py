"""Compute the forward model of a tilt series on several GPUs that share the volume in slabs along the tilt axis.

Rotation, binning and their adjoint act on whole rows of y, so that each device rotates its own slab. The first device
collects the slices of the tilt, (S, X, Y_k) from each of the others, propagates the waves, and returns the gradient. At
480³ voxels and N_B = 10 these are 88 MB a tilt, less the share of the first device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.slabs import Slabs
from aetlab.gpu.device import Array, Device
from aetlab.gpu.group import Group, Transfer
from aetlab.gpu.rotation import GpuRotation, check_rotation, make_gpu_rotation
from aetlab.gpu.series_waves import SeriesWaves, blur_volume, set_tilt
from aetlab.spec import MicroscopeSpec


class SlabModel:
    """Do what :class:`~aetlab.gpu.model.GpuModel` does, with volumes in slabs of the devices of ``group``.

    On the first device the work from the collected slices to the gradient is recorded at its second use. The other
    launches, four a tilt on each device, are not.

    Attributes
    ----------
    n_tilts, lipschitz
        As of :class:`~aetlab.gpu.model.GpuModel`.
    group : Group
        The devices.
    shape_zxy : tuple of int
        The shape of the volumes.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int, group: Group, rotation: str = "linear", blur_A: float = 0.0,
                 likelihood: str = "amplitude") -> None:
        check_rotation(rotation, shape_zxy)
        n_z, n_x, _ = shape_zxy
        self.group, self.shape_zxy, first = group, shape_zxy, group.devices[0]
        self._waves = waves = SeriesWaves(series, shape_zxy, microscope=microscope, device=first, blur_A=blur_A,
                                          n_layers_per_slice=n_layers_per_slice, likelihood=likelihood)
        self.n_tilts, self.lipschitz = waves.n_tilts, waves.lipschitz
        n_slices = len(waves.slices)
        self._parts = [_Part(device, (n_z, n_x, width), n_slices, n_layers_per_slice, rotation, series.tilt_deg,
                             None if i else waves)
                       for i, (device, width) in enumerate(zip(group.devices, group.widths, strict=True))]
        # The slices of all devices in the memory of the first one.
        self._collected = [self._parts[0].slices, *(first.zeros((n_slices, n_x, width), np.float32)
                                                    for width in group.widths[1:])]
        self._half_kernels: list[Array] = []
        if waves.host_kernel is not None:
            self._half_kernels = [device.upload(waves.host_kernel) for device in group.devices]
        self._used = False
        self._replay: Callable[[], None] | None = None

    def cost(self, volume: Slabs, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt; wait for the devices."""
        place = self._choose(i_tilt, 0.0)
        self._collect(volume)
        self._join()
        self._waves.measure()
        with self.group.devices[0].use():
            return float(self._waves.costs[place])

    def descend(self, volume: Slabs, i_tilt: int, step: float, metric: Slabs | None = None) -> Any:
        """Subtract ``step`` (in V²) times the gradient of one tilt from ``volume`` in place.

        ``metric`` and the returned cost are as for :meth:`aetlab.gpu.model.GpuModel.descend`.
        """
        place = self._choose(i_tilt, -step)
        self._collect(volume)
        if not self._used:
            self._propagate()
            self._used = True
        else:
            self._replay = self._replay or self.group.devices[0].record(self._propagate)
            self._replay()
        self.group.exchange([Transfer(0, collected, i, self._parts[i].slices)
                             for i, collected in enumerate(self._collected) if i > 0])
        for i, part in enumerate(self._parts):
            part.rotation.add_adjoint(part.slices, part.scale, volume.arrays[i],
                                      None if metric is None else metric.arrays[i])
        return self._waves.costs[place]

    def form_potential(self, volume: Slabs) -> Slabs:
        """Return V in volts: ``volume`` itself, or a new blurred volume if the model has a blur."""
        if not self._half_kernels:
            return volume
        reach = len(self._half_kernels[0]) - 1
        wide = self.group.widen(volume, reach)
        blurred = (blur_volume(device, slab, kernel) for device, slab, kernel
                   in zip(self.group.devices, wide.arrays, self._half_kernels, strict=True))
        return Slabs(tuple(blurred), wide.within).map(lambda slab: slab[..., reach:slab.shape[-1] - reach].copy())

    def images(self, volume: Slabs, i_tilt: int) -> Array:
        """Return noise-free images (F, X, Y) of ``volume`` (Z, X, Y) at one tilt on the first device, vacuum 1."""
        self._choose(i_tilt, 0.0)
        self._collect(volume)
        self._join()
        return self._waves.images()

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt, as :meth:`GpuModel.place_tilt` does."""
        if self._waves.place_tilt(i_tilt, transfer, amplitude, weight):
            self._used, self._replay = False, None
        for part in self._parts:
            part.rotation.place(i_tilt, tilt_deg)

    def _choose(self, i_tilt: int, scale: float) -> int:
        """Set the tilt and the factor of its gradient on all devices; return the index of its cost."""
        place = self._waves.choose(i_tilt, scale)
        for part in self._parts[1:]:
            set_tilt(part.device, i_tilt, place, scale, part.now, part.scale)
        return place

    def _collect(self, volume: Slabs) -> None:
        """Rotate all slabs, and send their slices to the first device."""
        for part, slab in zip(self._parts, volume.arrays, strict=True):
            part.rotation.prepare()
            part.rotation.rotate_and_bin(slab, part.slices)
        self.group.exchange([Transfer(i, self._parts[i].slices, 0, collected)
                             for i, collected in enumerate(self._collected) if i > 0])

    def _propagate(self) -> None:
        self._join()
        self._waves.measure()
        self._waves.propagate_back()
        self._split()

    def _join(self) -> None:
        """Put the collected slices next to each other."""
        slices = self._waves.slices
        for collected, first in zip(self._collected, self.group.first, strict=True):
            _copy_columns(self.group.devices[0], collected, 0, collected.shape[2], slices, first)

    def _split(self) -> None:
        """Write the gradient of the slices to the collected ones."""
        slices = self._waves.slices
        for collected, first in zip(self._collected, self.group.first, strict=True):
            _copy_columns(self.group.devices[0], slices, first, collected.shape[2], collected, 0)


class _Part:
    """The rotation of one device, and the slices of its slab; ``waves`` if the device propagates them as well."""

    def __init__(self, device: Device, shape_zxy: tuple[int, int, int], n_slices: int, n_layers: int, rotation: str,
                 tilt_deg: np.ndarray, waves: SeriesWaves | None) -> None:
        self.device = device
        self.now = device.zeros((2,), np.int32) if waves is None else waves.now
        self.scale = device.zeros((1,), np.float32) if waves is None else waves.scale
        self.slices = device.zeros((n_slices, *shape_zxy[1:]), np.float32)
        self.rotation: GpuRotation = make_gpu_rotation(rotation, shape_zxy, n_layers, tilt_deg, device, self.now)


def _copy_columns(device: Device, source: Array, first: int, width: int, target: Array, to: int) -> None:
    """Copy ``width`` rows of y of ``source`` from row ``first`` to row ``to`` of ``target``."""
    n = source.shape[0] * source.shape[1] * width
    device.launch("copy_columns", (n, 1, 1), source, np.int32(source.shape[2]), np.int32(first), np.int32(width),
                  np.int32(target.shape[2]), np.int32(to), np.int64(n), target)
