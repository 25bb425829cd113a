"""Rotation by three shears, each an exact shift of rows in Fourier space (Paeth, Graphics Interface 86, 77, 1986).

With the angle brought into ±45° by quarter turns, which only permute voxels, a rotated plane is
W(p') = V(S_x S_z S_x p') with the shears S_x: x + a z, a = -tan(θ/2), and S_z: z + b x, b = sin θ. A shear shifts each
row by the phase ramp exp(2πi k δ) on its Fourier transform. Planes are zero-padded to twice their size to prevent
wrap-around into the volume. A shift by δ is a real circulant matrix whose transpose is the shift by -δ: the adjoint of
the rotation is the inverse rotation, except for the cut at the faces.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from aetlab.core.backend import n_threads

#: Bytes of padded planes that are turned together.
BLOCK_BYTES = 64e6


class FourierRotation:
    """Rotate-and-bin by three shears, with the exact adjoint; see :class:`aetlab.methods.rotation.Rotation`."""

    def __init__(self, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                 dtype: type = np.float32) -> None:
        self._shape = shape_zxy
        self._n_layers = n_layers
        self._dtype = np.dtype(dtype)
        n_z, n_x, n_y = shape_zxy
        # The padded square shares its centre with the volume along z; along x it may be half a voxel off.
        self._n = 2 * max(n_z, n_x) + (n_z % 2)
        self._low_z = (self._n - n_z) // 2
        self._low_x = (self._n - n_x) // 2
        self._offset_x = (self._n - 1) / 2 - (self._low_x + (n_x - 1) / 2)
        self._n_rows = int(max(1, min(n_y, BLOCK_BYTES // (self._n**2 * self._dtype.itemsize))))
        quarters = np.rint(np.asarray(tilt_deg, np.float64) / 90)
        self._quarters = quarters.astype(int)
        self._rest_rad = np.deg2rad(np.asarray(tilt_deg, np.float64) - 90 * quarters)

    def set_angle(self, i_tilt: int, tilt_deg: float) -> None:
        """Set the angle of tilt ``i_tilt``."""
        self._quarters[i_tilt] = round(tilt_deg / 90)
        self._rest_rad[i_tilt] = math.radians(tilt_deg - 90 * round(tilt_deg / 90))

    def span(self, i_tilt: int) -> None:
        """Return None: there is no support."""

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""
        for rows in self._blocks():
            plane = self._turn(self._pad(volume[:, :, rows]), i_tilt, 1)
            layers = self._cut(plane)
            for i_slice in range(len(slices)):
                first = i_slice * self._n_layers
                slices[i_slice, :, rows] = layers[first:first + self._n_layers].sum(axis=0)

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        """Add ``scale`` times the adjoint of ``slices`` to ``volume`` in place; ``metric`` (Z, X, Y) scales voxels."""
        for rows in self._blocks():
            layers = np.repeat(slices[:, :, rows], self._n_layers, axis=0)[:self._shape[0]]
            plane = self._turn(self._pad(layers), i_tilt, -1)
            added = self._dtype.type(scale) * self._cut(plane)
            volume[:, :, rows] += added if metric is None else added * metric[:, :, rows]

    def _blocks(self) -> list[slice]:
        return [slice(low, low + self._n_rows) for low in range(0, self._shape[2], self._n_rows)]

    def _pad(self, block: np.ndarray) -> np.ndarray:
        n_z, n_x, n_y = block.shape
        plane = np.zeros((self._n, self._n, n_y), self._dtype)
        plane[self._low_z:self._low_z + n_z, self._low_x:self._low_x + n_x] = block
        return self._shift_x(plane, 1)

    def _cut(self, plane: np.ndarray) -> np.ndarray:
        n_z, n_x, _ = self._shape
        return self._shift_x(plane, -1)[self._low_z:self._low_z + n_z, self._low_x:self._low_x + n_x]

    def _shift_x(self, plane: np.ndarray, sign: int) -> np.ndarray:
        """Move the volume's centre to the square's, or back, if they differ by half a voxel."""
        if self._offset_x == 0:
            return plane
        return _shift(plane, 1, np.full(self._n, -sign * self._offset_x))

    def _turn(self, plane: np.ndarray, i_tilt: int, sign: int) -> np.ndarray:
        quarters, rest_rad = sign * int(self._quarters[i_tilt]), sign * float(self._rest_rad[i_tilt])
        if sign > 0:
            return self._shear(_quarter_turns(plane, quarters), rest_rad)
        return _quarter_turns(self._shear(plane, rest_rad), quarters)

    def _shear(self, plane: np.ndarray, angle_rad: float) -> np.ndarray:
        if angle_rad == 0:
            return plane
        centred = np.arange(self._n) - (self._n - 1) / 2
        by_x, by_z = -math.tan(angle_rad / 2) * centred, math.sin(angle_rad) * centred
        return _shift(_shift(_shift(plane, 1, by_x), 0, by_z), 1, by_x)


def _quarter_turns(plane: np.ndarray, n_turns: int) -> np.ndarray:
    """Return the plane (Z, X, Y) turned by ``n_turns`` · 90°: W[z', x'] = V[x', n - 1 - z'] for one."""
    return np.ascontiguousarray(np.rot90(plane, n_turns % 4, axes=(0, 1)))


def _shift(plane: np.ndarray, axis: int, distance: np.ndarray) -> np.ndarray:
    """Return f(u + distance) along ``axis`` of (Z, X, Y), with one distance for each row along the other axis."""
    n = plane.shape[axis]
    spectrum = scipy.fft.rfft(plane, axis=axis, workers=n_threads())
    frequency = np.arange(spectrum.shape[axis]) / n
    angle = 2 * np.pi * (np.outer(distance, frequency) if axis == 1 else np.outer(frequency, distance))
    spectrum *= np.exp(1j * angle).astype(spectrum.dtype)[:, :, None]
    return scipy.fft.irfft(spectrum, n, axis=axis, workers=n_threads())
