"""Compare the slices of a tilt with its images on a GPU: measurement, optics and waves of a tilt series.

:class:`GpuExitWaves` are those of a volume at any tilt angle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.grid import n_slices
from aetlab.core.nouns import TiltSeries
from aetlab.forward.blur import gaussian_kernel
from aetlab.forward.multislice import Optics
from aetlab.forward.series_optics import SeriesOptics
from aetlab.gpu.choose import check_room
from aetlab.gpu.device import Array, Device
from aetlab.gpu.multislice import GpuWaves
from aetlab.gpu.rotation import check_rotation, make_gpu_rotation
from aetlab.spec import MicroscopeSpec


@dataclass(frozen=True)
class TiltArrays:
    """Transfer functions, as :meth:`SeriesWaves.orders` says, and amplitudes (F, X, Y) of one tilt on the device.

    ``weight`` is that of rows (F, X, 1) or of pixels; None: 1.
    """

    transfer: Array
    amplitude: Array
    weight: Array | None


class SeriesWaves:
    """Costs and gradients of the slices (S, X, Y) of each tilt of a series, on one device.

    The parameters are those of :class:`aetlab.gpu.model.GpuModel`.

    Attributes
    ----------
    n_tilts : int
        Number of tilts T.
    lipschitz : float
        Lipschitz constant of the gradient of one tilt in 1/V².
    slices : array of the device (S, X, Y)
        The slices of the tilt that :meth:`measure` compares with images, or the gradient.
    now, scale, costs : arrays of the device
        Index of the tilt and of its cost, the factor of the gradient, and the costs of the last tilts (2 T,). A cost is
        kept until the next iteration overwrites it.
    host_kernel, half_kernel : float (reach + 1,) or None
        Half of the kernel of the blur, on the CPU and on the device.

    Raises
    ------
    GpuError
        If the weights of pixels and the transfer functions of tilts with different defoci need more memory than is
        free.
    """

    def __init__(self, series: TiltSeries, shape_zxy: tuple[int, int, int], *, microscope: MicroscopeSpec,
                 n_layers_per_slice: int, device: Device, blur_A: float, likelihood: str) -> None:
        optics_of = SeriesOptics(series, shape_zxy, microscope, n_layers_per_slice)
        optics = optics_of.optics
        n_z, n_x, n_y = shape_zxy
        self.n_tilts = series.n_tilts
        self.lipschitz = optics.phase_per_V**2 * n_z * series.greatest_tilt_weight
        self._device = device
        check_room_for_differences(device, series)
        self._amplitude = device.upload(np.stack([series.amplitudes(i) for i in range(self.n_tilts)], dtype=np.float32,
                                                 casting="same_kind"))
        self._weight = device.upload(weights) if (weights := weights_on_device(series)) is not None else None
        zeros = device.zeros
        self.now, self.scale = zeros((2,), np.int32), zeros((1,), np.float32)
        self.slices = zeros((n_slices(n_z, n_layers_per_slice), n_x, n_y), np.float32)
        first = [int(np.flatnonzero(optics_of.set_of == k)[0]) for k in range(optics_of.n_sets)]
        transfer = np.stack([optics_of.transfer(i_tilt) for i_tilt in first])
        self._waves = GpuWaves(optics, device, likelihood, transfer, optics_of.set_of)
        self.host_kernel = gaussian_kernel(blur_A / series.pixel_A).astype(np.float32) if blur_A > 0 else None
        self.half_kernel = None if self.host_kernel is None else device.upload(self.host_kernel)
        self._blurred = None if self.half_kernel is None else zeros(self.slices.shape, np.float32)
        self.costs = zeros((2 * self.n_tilts,), np.float64)
        self._next_place = 0
        self._placed = False

    def choose(self, i_tilt: int, scale: float) -> int:
        """Set the next tilt and the factor of its gradient on the device; return the index of its cost."""
        place = self._next_place
        self._next_place = (place + 1) % len(self.costs)
        set_tilt(self._device, i_tilt, place, scale, self.now, self.scale)
        return place

    def measure(self) -> None:
        """Propagate the slices to images, replace the images by residuals and compute the cost."""
        self._blur_slices()
        self._waves.measure(self.slices, self._amplitude, self._weight, self.now, self.costs)

    def propagate_back(self) -> None:
        """Replace the slices by the gradient."""
        self._waves.propagate_back(self.slices, self.now)
        self._blur_slices()

    def images(self) -> Array:
        """Return noise-free images (F, X, Y) of the slices, vacuum 1."""
        self._blur_slices()
        return self._waves.intensities(self.slices, self.now)

    def place_tilt(self, i_tilt: int, transfer: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None) -> bool:
        """Set transfer functions and measurement of one tilt; return whether recordings have to be renewed.

        They have after the first call, from which on each tilt has transfer functions of its own.
        """
        arrays, first = self.tilt_arrays(i_tilt)
        self._device.write(self._waves.pack(transfer), arrays.transfer)
        self._device.write(amplitude.astype(np.float32), arrays.amplitude)
        if weight is not None:
            assert arrays.weight is not None, "weights of pixels replace those of the series"
            self._device.write(weight.astype(np.float32), arrays.weight)
        return first

    def tilt_arrays(self, i_tilt: int) -> tuple[TiltArrays, bool]:
        """Return the arrays of one tilt, to be written, and whether recordings have to be renewed."""
        first, self._placed = not self._placed, True
        if first:
            self._waves.separate_sets(self.n_tilts)
        return TiltArrays(self._waves.transfer[i_tilt], self._amplitude[i_tilt],
                          None if self._weight is None else self._weight[i_tilt]), first

    @property
    def orders(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the frequencies (X,) and (Y,), as indices of the FFT grid, in the order of transfer functions."""
        return self._waves.orders

    def _blur_slices(self) -> None:
        if self.half_kernel is not None:
            _, n_x, n_y = self.slices.shape
            blur_axis(self._device, self.slices, self.half_kernel, n_x, n_y, self._blurred)
            blur_axis(self._device, self._blurred, self.half_kernel, n_y, 1, self.slices)


def set_tilt(device: Device, i_tilt: int, place: int, scale: float, now: Array, scale_out: Array) -> None:
    """Write the index of the tilt and of its cost to ``now`` (2,), and the factor of its gradient to ``scale_out``."""
    device.launch("set_tilt", (1, 1, 1), np.int32(i_tilt), np.int32(place), np.float32(scale), now, scale_out)


def blur_volume(device: Device, volume: Array, half_kernel: Array) -> Array:
    """Return a new volume, ``volume`` (Z, X, Y) convolved along all axes with the kernel; 0 outside."""
    n_z, n_x, n_y = volume.shape
    formed, room = device.zeros(volume.shape, np.float32), device.zeros(volume.shape, np.float32)
    blur_axis(device, volume, half_kernel, n_x, n_y, formed)
    blur_axis(device, formed, half_kernel, n_y, 1, room)
    blur_axis(device, room, half_kernel, n_z, n_x * n_y, formed)
    return formed


def blur_axis(device: Device, values: Array, half_kernel: Array, n_axis: int, stride: int, out: Array) -> None:
    """Convolve ``values`` along the axis of length ``n_axis`` whose neighbours are ``stride`` apart; write ``out``."""
    device.launch("blur_axis", (values.size, 1, 1), values, half_kernel, np.int32(len(half_kernel) - 1),
                  np.int32(n_axis), np.int64(stride), np.int64(values.size), out)


def weights_on_device(series: TiltSeries) -> np.ndarray | None:
    """Return the weights for :meth:`GpuWaves.measure`: of rows (T, F, X, 1) or of pixels (T, F, X, Y); None: all 1."""
    if series.is_regular:
        return None
    weights = series.image_weights.astype(np.float32)[:, :, None, None]
    if series.pixel_weight is None:
        return np.repeat(weights, series.images.shape[2], axis=2)
    by_pixel: np.ndarray = weights * series.pixel_weight
    return by_pixel


def differences_bytes(series: TiltSeries) -> int:
    """Return the bytes of arrays that only an irregular series needs: weights of pixels, more transfer functions."""
    n_sets = len(np.unique(series.defocus_A, axis=0))
    n_bytes = (n_sets - 1) * 8 * int(np.prod(series.images.shape[1:]))
    return n_bytes + (4 * series.images.size if series.pixel_weight is not None else 0)


def check_room_for_differences(device: Device, series: TiltSeries) -> None:
    """Raise :class:`GpuError` if :func:`differences_bytes` exceed the free memory."""
    if n_bytes := differences_bytes(series):
        check_room(device, n_bytes)


class GpuExitWaves:
    """Rotate a volume of ``device``, and propagate the incident wave through it.

    ``rotation`` needs a GPU version. Nothing is recorded: each angle is used once.
    """

    def __init__(self, optics: Optics, shape_zxy: tuple[int, int, int], n_layers_per_slice: int, rotation: str,
                 device: Device) -> None:
        check_rotation(rotation, shape_zxy)
        n_z, n_x, n_y = shape_zxy
        self._device = device
        self._slices = device.zeros((n_slices(n_z, n_layers_per_slice), n_x, n_y), np.float32)
        self._now, self._scale = device.zeros((2,), np.int32), device.zeros((1,), np.float32)
        set_tilt(device, 0, 0, 0.0, self._now, self._scale)
        # The only image is that of the plane behind the last slice.
        behind = np.full((1, n_x, n_y), 1 / (n_x * n_y), np.complex64)
        self._waves = GpuWaves(replace(optics, transfer=behind, mtf=None), device, gradient=False)
        self._rotation = make_gpu_rotation(rotation, shape_zxy, n_layers_per_slice, np.zeros(1), device, self._now)

    def wave(self, potential_V: Array, tilt_deg: float) -> Array:
        """Return the exit wave at ``tilt_deg``, complex64 (X, Y), of ``potential_V`` (Z, X, Y) on the device.

        The next call overwrites it; until then it may be changed.
        """
        self._rotation.place(0, tilt_deg)
        self._rotation.prepare()
        self._rotation.rotate_and_bin(potential_V, self._slices)
        return self._waves.exit_wave(self._slices, self._now)
