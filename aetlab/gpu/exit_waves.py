"""Exit waves of a volume at any tilt angle on a GPU: the counterpart of :class:`aetlab.forward.CpuExitWaves`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft

from aetlab.core.grid import n_slices
from aetlab.forward.multislice import Optics
from aetlab.gpu.device import Array, Device
from aetlab.gpu.multislice import GpuWaves
from aetlab.gpu.rotation import check_rotation, make_gpu_rotation
from aetlab.gpu.series_waves import set_tilt


class GpuExitWaves:
    """Rotate a volume of ``device``, and propagate the incident wave through it; one plane is read back.

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

    def take(self, potential_V: Array) -> Array:
        """Return ``potential_V`` (Z, X, Y) itself, which is on the device."""
        return potential_V

    def spectrum(self, potential_V: Any, tilt_deg: float) -> np.ndarray:
        """Return the Fourier transform of the exit wave at ``tilt_deg``, complex64 (X, Y), on the CPU."""
        self._rotation.place(0, tilt_deg)
        self._rotation.prepare()
        self._rotation.rotate_and_bin(potential_V, self._slices)
        wave = np.empty(self._slices.shape[1:], np.complex64)
        self._device.read(self._waves.exit_wave(self._slices, self._now), wave)
        spectrum: np.ndarray = scipy.fft.fft2(wave)
        return spectrum
