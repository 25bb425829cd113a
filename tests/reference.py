"""The paper's algorithms 1 to 3 in plain NumPy and SciPy: a reference for results and for speed.

Nothing is fused or optimised: the volume is complex, a rotation is three shears of planes padded to twice their size,
all transmission functions and waves are kept, and every step is one array expression. Arrays are
(Z, X, Y) as everywhere (docs/conventions.md), and a slice acts at the middle of its slab. Z and X must be even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from aetlab.core import physics

DUAL_STEP = 1 / 12


@dataclass(frozen=True)
class Reference:
    """Reconstruction of ``images`` (T, F, X, Y), vacuum 1, at ``tilt_deg`` and ``defocus_A``.

    ``dtype`` is that of the volume and waves; ``workers`` are the threads of scipy.fft.
    """

    images: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    n_z: int
    voxel_A: float
    n_layers: int
    energy_keV: float = 300.0
    aperture_per_A: float = 1.0
    dtype: type = np.complex64
    workers: int = 1

    def reconstruct(self, orders: list[np.ndarray], step: float, weight: float,
                    n_inner: int = 15) -> tuple[np.ndarray, list[float]]:
        """Run algorithm 3, one iteration per order of the tilts; return the volume and the cost ½ Σ r² per iteration.

        If the cost rose, momentum is reset at the last proximal point, but never twice in a row.
        """
        n_x, n_y = self.images.shape[2:]
        current = np.zeros((self.n_z, n_x, n_y), self.dtype)
        proximal, t = current.copy(), 1.0
        costs: list[float] = []
        was_reset = False
        for order in orders:
            cost = 0.0
            for i_tilt in order:
                error, gradient = self.cost_and_gradient(current, i_tilt)
                current = current - step * gradient
                cost += error
            was_reset = bool(costs) and cost > costs[-1] and not was_reset
            if was_reset:
                current, t = proximal.copy(), 1.0
            else:
                following = (1 + math.sqrt(1 + 4 * t**2)) / 2
                before, proximal = proximal, total_variation(current.real, step * weight, n_inner).astype(self.dtype)
                current = proximal + (t - 1) / following * (proximal - before)
                t = following
            costs.append(cost)
        return proximal.real, costs

    def cost_and_gradient(self, volume: np.ndarray, i_tilt: int) -> tuple[float, np.ndarray]:
        """Return cost and gradient (Z, X, Y), in 1/V, of a tilt by algorithms 1, 2 and binning (equations 6, 7)."""
        angle = math.radians(self.tilt_deg[i_tilt])
        rotated = rotate(volume, angle, self.workers)
        slices = np.stack([rotated[first:first + self.n_layers].sum(axis=0)
                           for first in range(0, self.n_z, self.n_layers)])
        cost, of_slices = self._gradient_of_slices(slices, self.images[i_tilt])
        layers = np.repeat(of_slices, self.n_layers, axis=0)[: self.n_z].astype(self.dtype)
        return cost, rotate(layers, angle, self.workers, adjoint=True).real

    def _gradient_of_slices(self, slices: np.ndarray, images: np.ndarray) -> tuple[float, np.ndarray]:
        sigma = physics.interaction_parameter(self.energy_keV) * self.voxel_A
        middles = self._middles_A()
        transmission = np.exp(1j * sigma * slices)
        waves = np.empty_like(transmission)
        wave = np.ones(slices.shape[1:], self.dtype)
        for m in range(len(slices)):
            if m > 0:
                wave = self._filter(wave, self._propagator(middles[m] - middles[m - 1]))
            wave = waves[m] = transmission[m] * wave
        back = np.zeros_like(wave)
        cost = 0.0
        for defocus_A, image in zip(self.defocus_A, images, strict=True):
            transfer = self._propagator(defocus_A - middles[-1]) * self._pupil()
            psi = self._filter(wave, transfer)
            residual = psi - np.sqrt(image) * np.exp(1j * np.angle(psi))
            cost += 0.5 * float(np.sum(np.abs(residual) ** 2))
            back = back + self._filter(residual, transfer.conj())
        gradient = np.empty(slices.shape)
        for m in range(len(slices) - 1, -1, -1):
            gradient[m] = sigma * np.imag(back * waves[m].conj())
            back = transmission[m].conj() * back
            if m > 0:
                back = self._filter(back, self._propagator(middles[m] - middles[m - 1]).conj())
        return cost, gradient

    def _middles_A(self) -> np.ndarray:
        """Return z of the middle of each slice, from the centre of the volume."""
        first = np.arange(0, self.n_z, self.n_layers)
        last = np.minimum(first + self.n_layers, self.n_z) - 1
        return ((first + last) / 2 - (self.n_z - 1) / 2) * self.voxel_A

    def _q2(self) -> np.ndarray:
        n_x, n_y = self.images.shape[2:]
        return np.fft.fftfreq(n_x, self.voxel_A)[:, None] ** 2 + np.fft.fftfreq(n_y, self.voxel_A)[None, :] ** 2

    def _pupil(self) -> np.ndarray:
        return np.sqrt(self._q2()) <= self.aperture_per_A * (1 + 1e-9)

    def _propagator(self, distance_A: float) -> np.ndarray:
        """Return equation 2 without the constant phase along the axis."""
        on_axis = 1 / physics.wavelength_A(self.energy_keV)
        return np.exp(2j * np.pi * distance_A * (np.sqrt(on_axis**2 - self._q2()) - on_axis)).astype(self.dtype)

    def _filter(self, wave: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return scipy.fft.ifft2(factor * scipy.fft.fft2(wave, workers=self.workers), workers=self.workers)


def rotate(volume: np.ndarray, angle: float, workers: int = 1, *, adjoint: bool = False) -> np.ndarray:
    """Rotate the complex volume by ``angle`` (rad) about y, by quarter turns and three shears; or the adjoint."""
    n_z, n_x, n_y = volume.shape
    n = 2 * max(n_z, n_x)
    low_z, low_x = (n - n_z) // 2, (n - n_x) // 2
    plane = np.zeros((n, n, n_y), volume.dtype)
    plane[low_z:low_z + n_z, low_x:low_x + n_x] = volume
    quarters = round(angle / (np.pi / 2))
    rest = angle - quarters * np.pi / 2
    if adjoint:
        plane = np.rot90(shear(plane, -rest, workers), -quarters, axes=(0, 1))
    else:
        plane = shear(np.rot90(plane, quarters, axes=(0, 1)), rest, workers)
    return plane[low_z:low_z + n_z, low_x:low_x + n_x]


def shear(plane: np.ndarray, angle: float, workers: int) -> np.ndarray:
    """Shear along x, z and x again: rows are shifted by phase ramps on their Fourier transforms."""
    centred = np.arange(len(plane)) - (len(plane) - 1) / 2
    frequency = np.fft.fftfreq(len(plane))
    for axis, slope in ((1, -math.tan(angle / 2)), (0, math.sin(angle)), (1, -math.tan(angle / 2))):
        phase = np.outer(slope * centred, frequency) if axis == 1 else np.outer(frequency, slope * centred)
        ramp = np.exp(2j * np.pi * phase).astype(plane.dtype)[:, :, None]
        plane = scipy.fft.ifft(ramp * scipy.fft.fft(plane, axis=axis, workers=workers), axis=axis, workers=workers)
    return plane


def total_variation(volume: np.ndarray, threshold: float, n_inner: int) -> np.ndarray:
    """Return argmin ½‖u - v‖² + threshold · TV(u) over u ≥ 0, by the fast dual gradient method started at 0."""
    dual = extrapolated = np.zeros((3, *volume.shape), volume.dtype)
    t = 1.0
    for _ in range(n_inner):
        u = np.maximum(volume - threshold * _transposed_differences(extrapolated), 0)
        ascent = extrapolated + DUAL_STEP / threshold * np.stack([np.roll(u, -1, axis) - u for axis in range(3)])
        before, dual = dual, ascent / np.maximum(np.sqrt((ascent**2).sum(axis=0)), 1)
        following = (1 + math.sqrt(1 + 4 * t**2)) / 2
        extrapolated = dual + (t - 1) / following * (dual - before)
        t = following
    return np.maximum(volume - threshold * _transposed_differences(dual), 0)


def _transposed_differences(dual: np.ndarray) -> np.ndarray:
    return sum(np.roll(dual[axis], 1, axis) - dual[axis] for axis in range(3))
