"""Exit waves of a volume at any tilt angle, on the CPU."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.grid import n_slices
from aetlab.forward.multislice import Multislice, Optics
from aetlab.methods.rotation import Rotation


class ExitWaves(Protocol):
    """Exit waves behind the last slice of a volume rotated about the tilt axis."""

    def take(self, potential_V: Any) -> Any:
        """Return ``potential_V`` (Z, X, Y) of a forward model where :meth:`spectrum` needs it."""

    def spectrum(self, potential_V: Any, tilt_deg: float) -> np.ndarray:
        """Return the Fourier transform of the exit wave at ``tilt_deg``, complex64 (X, Y), on the CPU."""


class CpuExitWaves:
    """Implement :class:`ExitWaves` with a rotation of one tilt, whose angle is set before each exit wave."""

    def __init__(self, optics: Optics, shape_zxy: tuple[int, int, int], n_layers_per_slice: int,
                 rotation: Rotation) -> None:
        self._multislice, self._rotation = Multislice(optics), rotation
        self._slices = np.empty((n_slices(shape_zxy[0], n_layers_per_slice), *shape_zxy[1:]), np.float32)

    def take(self, potential_V: Any) -> np.ndarray:
        return to_numpy(potential_V)

    def spectrum(self, potential_V: np.ndarray, tilt_deg: float) -> np.ndarray:
        self._rotation.set_angle(0, tilt_deg)
        self._rotation.rotate_and_bin(potential_V, 0, self._slices)
        return self._multislice.exit_spectrum(self._slices).copy()
