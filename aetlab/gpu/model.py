"""Compute the forward model of a tilt series on a GPU: the counterpart of :class:`aetlab.forward.ForwardModel`.

Nesterov's step on its volumes is :func:`extrapolate`; the proximal operators are in :mod:`aetlab.methods.regularisers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.gpu.device import Array, Device
from aetlab.gpu.rotation import check_rotation, make_gpu_rotation
from aetlab.gpu.series_waves import SeriesWaves, TiltArrays, blur_volume
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
        self._waves = SeriesWaves(series, shape_zxy, microscope=microscope, n_layers_per_slice=n_layers_per_slice,
                                  device=device, blur_A=blur_A, likelihood=likelihood)
        self.n_tilts, self.lipschitz, self.device = self._waves.n_tilts, self._waves.lipschitz, device
        self._rotation = make_gpu_rotation(rotation, shape_zxy, n_layers_per_slice, series.tilt_deg, device,
                                           self._waves.now)
        self._replay: tuple[tuple[int, int], Callable[[], None] | None] = ((0, 0), None)

    def cost(self, volume: Array, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt; wait for the device."""
        place = self._waves.choose(i_tilt, 0.0)
        self._rotate(volume)
        self._waves.measure()
        return float(self._waves.costs[place])

    def descend(self, volume: Array, i_tilt: int, step: float, metric: Array | None = None) -> Any:
        """Subtract ``step`` (in V²) times the gradient of one tilt from ``volume`` in place.

        ``metric`` (Z, X, Y), without a unit, multiplies the step voxel by voxel. Return the cost before the step, a
        scalar on the device that is valid for the next ``n_tilts`` steps.
        """
        place = self._waves.choose(i_tilt, -step)
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
        return self._waves.costs[place]

    def form_potential(self, volume: Array) -> Array:
        """Return V in volts: ``volume`` itself, or a new blurred volume if the model has a blur."""
        kernel = self._waves.half_kernel
        return volume if kernel is None else blur_volume(self.device, volume, kernel)

    def images(self, volume: Array, i_tilt: int) -> Array:
        """Return noise-free images (F, X, Y) of ``volume`` (Z, X, Y) at one tilt, vacuum 1."""
        self._waves.choose(i_tilt, 0.0)
        self._rotate(volume)
        return self._waves.images()

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls.

        The arguments are those of :meth:`aetlab.forward.ForwardModel.place_tilt`. From the first call on, each tilt has
        transfer functions of its own.
        """
        if self._waves.place_tilt(i_tilt, transfer, amplitude, weight):
            self._replay = (0, 0), None
        self._rotation.place(i_tilt, tilt_deg)

    def tilt_arrays(self, i_tilt: int, tilt_deg: float) -> TiltArrays:
        """Set the angle of one tilt, and return its arrays, to be written, as by :meth:`place_tilt`."""
        arrays, first = self._waves.tilt_arrays(i_tilt)
        if first:
            self._replay = (0, 0), None
        self._rotation.place(i_tilt, tilt_deg)
        return arrays

    @property
    def orders(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the frequencies (X,) and (Y,), as indices of the FFT grid, in the order of transfer functions."""
        return self._waves.orders

    def parts(self, volume: Array) -> dict[str, Callable[[], None]]:
        """Return the parts of a step by name, to measure the time of each; each needs the results of those before it.

        They work on the tilt of the last call of another method, with its step.
        """
        return {"rotate": lambda: self._rotate(volume), "measure": self._waves.measure,
                "back": self._waves.propagate_back,
                "adjoint": lambda: self._add_adjoint(self._waves.slices, volume, None)}

    def rotate_and_bin(self, volume: Array, i_tilt: int) -> Array:
        """Return the slices (S, X, Y) of ``volume`` at one tilt; the next call overwrites the array."""
        self._waves.choose(i_tilt, 0.0)
        self._rotate(volume)
        return self._waves.slices

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: Array) -> None:
        """Add ``scale`` times the adjoint of :meth:`rotate_and_bin` of ``slices`` (S, X, Y) to ``volume``."""
        self._waves.choose(i_tilt, scale)
        self._rotation.prepare()
        self._add_adjoint(self.device.upload(slices), volume, None)

    def _step(self, volume: Array, metric: Array | None) -> None:
        self._rotate(volume)
        self._waves.measure()
        self._waves.propagate_back()
        self._add_adjoint(self._waves.slices, volume, metric)

    def _rotate(self, volume: Array) -> None:
        self._rotation.prepare()
        self._rotation.rotate_and_bin(volume, self._waves.slices)

    def _add_adjoint(self, slices: Array, volume: Array, metric: Array | None) -> None:
        self._rotation.add_adjoint(slices, self._waves.scale, volume, metric)


def extrapolate(device: Device, volume: Array, proximal: Array, beta: float) -> None:
    """Take Nesterov's step in place.

    Add ``beta`` · (``volume`` - ``proximal``) to ``volume``, and replace ``proximal`` by the old ``volume``.
    """
    device.launch("extrapolate", (volume.size, 1, 1), np.float32(beta), np.int64(volume.size), volume, proximal)
