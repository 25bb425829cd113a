"""Compute the forward model of a tilt series on a GPU: the counterpart of :class:`aetlab.forward.ForwardModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aetlab.core.grid import n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.forward.blur import gaussian_kernel
from aetlab.forward.series_optics import SeriesOptics
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.gpu.multislice import GpuWaves
from aetlab.gpu.rotation import check_rotation, make_gpu_rotation
from aetlab.spec import MicroscopeSpec


class GpuModel:
    """Cost ½ Σ w (|ψ| - √I)² of a volume against each tilt of a series, and its incremental step, on a device.

    The parameters are those of :class:`aetlab.forward.ForwardModel`, in float32; ``rotation`` needs a GPU version.
    Volumes are arrays of ``device``. A step sends only a few numbers to the device, and copies nothing back unless the
    caller reads it. The launches of a step are recorded at its second use and replayed afterwards. One recording works
    for all tilts, since their differences (angle, images, step) are read on the device.

    Attributes
    ----------
    n_tilts : int
        Number of tilts T.
    device : Device
        The device that holds the volumes.
    lipschitz : float
        Lipschitz constant of the gradient of one tilt in 1/V².

    Raises
    ------
    GpuError
        If the rotation has no GPU version, or if the weights of pixels and the transfer functions of tilts with
        different defoci need more memory than is free.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int, device: Device, rotation: str = "linear", blur_A: float = 0.0,
                 likelihood: str = "amplitude") -> None:
        check_rotation(rotation, shape_zxy)
        optics_of = SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice)
        optics = optics_of.optics
        n_z, n_x, n_y = shape_zxy
        slices = n_slices(n_z, n_layers_per_slice)
        self.n_tilts = series.n_tilts
        self.lipschitz = optics.phase_per_V**2 * n_z * series.greatest_tilt_weight
        self.device = device
        self._shape = n_z, n_x, n_y
        self._n_layers = n_layers_per_slice
        _check_room_for_differences(device, series, optics_of.n_sets)
        self._amplitude = device.upload(np.stack([series.amplitudes(i) for i in range(self.n_tilts)], dtype=np.float32,
                                                 casting="same_kind"))
        self._weight = device.upload(weights) if (weights := _weights(series)) is not None else None
        zeros = device.zeros
        self._now, self._scale = zeros((2,), np.int32), zeros((1,), np.float32)
        self._rotation = make_gpu_rotation(rotation, shape_zxy, n_layers_per_slice, series.tilt_deg, device, self._now)
        self._slices = zeros((slices, n_x, n_y), np.float32)
        first = [int(np.flatnonzero(optics_of.set_of == k)[0]) for k in range(optics_of.n_sets)]
        transfer = np.stack([optics_of.transfer(i_tilt) for i_tilt in first])
        self._waves = GpuWaves(optics, device, likelihood, transfer, optics_of.set_of)
        self._half_kernel: Array = None
        self._blurred: Array = None
        if blur_A > 0:
            self._half_kernel = device.upload(gaussian_kernel(blur_A / series.pixel_A).astype(np.float32))
            self._blurred = zeros(self._slices.shape, np.float32)
        # A cost is kept until the next iteration overwrites it.
        self._costs = zeros((2 * self.n_tilts,), np.float64)
        self._next_place = 0
        self._placed = False
        self._replay: tuple[tuple[int, int], Callable[[], None] | None] = ((0, 0), None)

    def cost(self, volume: Array, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt; wait for the device."""
        place = self._choose(i_tilt, 0.0)
        self._rotate(volume)
        self._measure()
        return float(self._costs[place])

    def descend(self, volume: Array, i_tilt: int, step: float, metric: Array | None = None) -> Any:
        """Subtract ``step`` (in V²) times the gradient of one tilt from ``volume`` in place.

        ``metric`` (Z, X, Y), without a unit, multiplies the step voxel by voxel. Return the cost before the step, a
        scalar on the device that is valid for the next ``n_tilts`` steps.
        """
        place = self._choose(i_tilt, -step)
        arrays = self.device.address(volume), 0 if metric is None else self.device.address(metric)
        recorded, replay = self._replay
        if recorded != arrays:
            self._step(volume, metric)
            self._replay = arrays, None
        elif replay is None:
            replay = self.device.record(lambda: self._step(volume, metric))
            self._replay = arrays, replay
            replay()
        else:
            replay()
        return self._costs[place]

    def form_potential(self, volume: Array) -> Array:
        """Return V in volts: ``volume`` itself, or a new blurred volume if the model has a blur."""
        if self._half_kernel is None:
            return volume
        n_z, n_x, n_y = self._shape
        formed, room = self.device.zeros(self._shape, np.float32), self.device.zeros(self._shape, np.float32)
        self._blur_axis(volume, n_x, n_y, formed)
        self._blur_axis(formed, n_y, 1, room)
        self._blur_axis(room, n_z, n_x * n_y, formed)
        return formed

    def images(self, volume: Array, i_tilt: int) -> Array:
        """Return noise-free images (F, X, Y) of ``volume`` (Z, X, Y) at one tilt, vacuum 1."""
        self._choose(i_tilt, 0.0)
        self._rotate(volume)
        self._blur_slices()
        return self._waves.intensities(self._slices, self._now)

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls.

        The arguments are those of :meth:`aetlab.forward.ForwardModel.place_tilt`. From the first call on, each tilt has
        transfer functions of its own.
        """
        if not self._placed:
            self._placed = True
            self._waves.separate_sets(self.n_tilts)
            self._replay = (0, 0), None
        self._rotation.place(i_tilt, tilt_deg)
        self._waves.place_transfer(self._waves.pack(transfer), i_tilt)
        self.device.write(amplitude.astype(np.float32), self._amplitude[i_tilt])
        if weight is not None:
            assert self._weight is not None, "weights of pixels replace those of the series"
            self.device.write(weight.astype(np.float32), self._weight[i_tilt])

    def parts(self, volume: Array) -> dict[str, Callable[[], None]]:
        """Return the parts of a step by name, to measure the time of each; each needs the results of those before it.

        They work on the tilt of the last call of another method, with its step.
        """
        return {"rotate": lambda: self._rotate(volume), "measure": self._measure, "back": self._propagate_back,
                "adjoint": lambda: self._add_adjoint(self._slices, volume, None)}

    def rotate_and_bin(self, volume: Array, i_tilt: int) -> Array:
        """Return the slices (S, X, Y) of ``volume`` at one tilt; the next call overwrites the array."""
        self._choose(i_tilt, 0.0)
        self._rotate(volume)
        return self._slices

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: Array) -> None:
        """Add ``scale`` times the adjoint of :meth:`rotate_and_bin` of ``slices`` (S, X, Y) to ``volume``."""
        self._choose(i_tilt, scale)
        self._rotation.prepare()
        self._add_adjoint(self.device.upload(slices), volume, None)

    def _choose(self, i_tilt: int, scale: float) -> int:
        """Set the next tilt and the factor of its gradient on the device; return the index of its cost."""
        place = self._next_place
        self._next_place = (place + 1) % len(self._costs)
        self.device.launch("set_tilt", (1, 1, 1), np.int32(i_tilt), np.int32(place), np.float32(scale), self._now,
                            self._scale)
        return place

    def _step(self, volume: Array, metric: Array | None) -> None:
        self._rotate(volume)
        self._measure()
        self._propagate_back()
        self._add_adjoint(self._slices, volume, metric)

    def _rotate(self, volume: Array) -> None:
        self._rotation.prepare()
        self._rotation.rotate_and_bin(volume, self._slices)

    def _add_adjoint(self, slices: Array, volume: Array, metric: Array | None) -> None:
        self._rotation.add_adjoint(slices, self._scale, volume, metric)

    def _blur_slices(self) -> None:
        if self._half_kernel is not None:
            _, n_x, n_y = self._shape
            self._blur_axis(self._slices, n_x, n_y, self._blurred)
            self._blur_axis(self._blurred, n_y, 1, self._slices)

    def _blur_axis(self, planes: Array, n_axis: int, stride: int, out: Array) -> None:
        self.device.launch("blur_axis", (planes.size, 1, 1), planes, self._half_kernel,
                            np.int32(len(self._half_kernel) - 1), np.int32(n_axis), np.int64(stride),
                            np.int64(planes.size), out)

    def _measure(self) -> None:
        """Propagate the slices to images, replace the images by residuals and compute the cost."""
        self._blur_slices()
        self._waves.measure(self._slices, self._amplitude, self._weight, self._now, self._costs)

    def _propagate_back(self) -> None:
        """Replace the slices by the gradient."""
        self._waves.propagate_back(self._slices, self._now)
        self._blur_slices()


def _weights(series: TiltSeries) -> np.ndarray | None:
    """Return the weights for :meth:`GpuWaves.measure`: of rows (T, F, X, 1) or of pixels (T, F, X, Y); None: all 1."""
    if series.is_regular:
        return None
    weights = series.image_weights.astype(np.float32)[:, :, None, None]
    if series.pixel_weight is None:
        return np.repeat(weights, series.images.shape[2], axis=2)
    by_pixel: np.ndarray = weights * series.pixel_weight
    return by_pixel


def _check_room_for_differences(device: Device, series: TiltSeries, n_sets: int) -> None:
    """Raise :class:`GpuError` if the arrays that only an irregular series needs exceed the free memory."""
    n_bytes = (n_sets - 1) * 8 * int(np.prod(series.images.shape[1:]))
    if series.pixel_weight is not None:
        n_bytes += 4 * series.images.size
    if n_bytes:
        check_room(device, n_bytes)
