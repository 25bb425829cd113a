"""The forward model in plain PyTorch with gradients by automatic differentiation: a reference of that approach.

One tilt is a bilinear rotation by ``grid_sample``, the sum of layers into slices, multislice with ``torch.fft``, and
the cost of aetlab, ½ Σ (|ψ| - √I)². PyTorch records these operations and differentiates them; nothing is fused. The
volume is held as (Z, X, Y), as everywhere. The formulas are those of docs/conventions.md; only the constants of
:mod:`aetlab.core.physics` are taken from aetlab.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from aetlab.core import physics


@dataclass(frozen=True)
class TorchMultislice:
    """Cost and gradient against ``images`` (T, F, X, Y), vacuum 1, at ``tilt_deg`` and ``defocus_A``, in float32.

    ``n_groups`` is the number of parts of the y axis that ``grid_sample`` rotates in parallel.
    """

    images: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    n_z: int
    voxel_A: float
    n_layers: int
    energy_keV: float = 300.0
    aperture_per_A: float = 1.0
    n_groups: int = 1

    def cost(self, volume: torch.Tensor, i_tilt: int) -> torch.Tensor:
        """Return the cost of ``volume`` (Z, X, Y) in V against the images of one tilt."""
        waves = self.image_waves(self.rotate_and_bin(volume, i_tilt))
        return 0.5 * ((waves.abs() - self._amplitudes[i_tilt]) ** 2).sum()

    def cost_and_gradient(self, volume: np.ndarray, i_tilt: int) -> tuple[float, np.ndarray]:
        """Return the cost of one tilt and its gradient (Z, X, Y) with respect to ``volume``, in 1/V."""
        leaf = torch.from_numpy(volume).requires_grad_()
        cost = self.cost(leaf, i_tilt)
        (gradient,) = torch.autograd.grad(cost, leaf)
        return cost.item(), gradient.numpy()

    def descend(self, volume: np.ndarray, i_tilt: int, step: float) -> float:
        """Subtract ``step`` (in V²) times the gradient of one tilt from ``volume`` in place; return the cost before."""
        cost, gradient = self.cost_and_gradient(volume, i_tilt)
        torch.from_numpy(volume).sub_(torch.from_numpy(gradient), alpha=step)
        return cost

    def rotate_and_bin(self, volume: torch.Tensor, i_tilt: int) -> torch.Tensor:
        """Return the slices (S, X, Y) of the rotated volume, sums over ``n_layers`` layers."""
        n_z, n_x, n_y = volume.shape
        # Images (groups, y, z, x) of grid_sample, with the tilt axis as channels.
        planes = volume.permute(2, 0, 1).reshape(self.n_groups, n_y // self.n_groups, n_z, n_x)
        grid = self._grid(i_tilt).expand(self.n_groups, -1, -1, -1)
        turned = torch.nn.functional.grid_sample(planes, grid, padding_mode="zeros", align_corners=True)
        layers = turned.reshape(n_y, n_z, n_x).permute(1, 2, 0)
        n_slices = math.ceil(n_z / self.n_layers)
        padded = torch.nn.functional.pad(layers, (0, 0, 0, 0, 0, n_slices * self.n_layers - n_z))
        return padded.reshape(n_slices, self.n_layers, n_x, n_y).sum(dim=1)

    def image_waves(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the waves (F, X, Y) at the images behind the slices (S, X, Y) in V."""
        sigma = physics.interaction_parameter(self.energy_keV) * self.voxel_A
        transmission = torch.exp(1j * sigma * slices)
        wave = transmission[0]
        for m in range(1, len(slices)):
            wave = transmission[m] * torch.fft.ifft2(self._propagators[m - 1] * torch.fft.fft2(wave))
        return torch.fft.ifft2(self._transfer * torch.fft.fft2(wave))

    @cached_property
    def _amplitudes(self) -> torch.Tensor:
        return torch.from_numpy(np.sqrt(self.images))

    @cached_property
    def _middles_A(self) -> np.ndarray:
        """Return z of the middle of each slice, from the centre of the volume."""
        first = np.arange(0, self.n_z, self.n_layers)
        last = np.minimum(first + self.n_layers, self.n_z) - 1
        return ((first + last) / 2 - (self.n_z - 1) / 2) * self.voxel_A

    @cached_property
    def _propagators(self) -> list[torch.Tensor]:
        """Return the propagator (X, Y) behind each slice except the last; equal distances share one tensor."""
        kept: dict[float, torch.Tensor] = {}
        return [kept.setdefault(d, self._propagator(d)) for d in np.diff(self._middles_A).round(9).tolist()]

    @cached_property
    def _transfer(self) -> torch.Tensor:
        """Return the transfer functions (F, X, Y) from behind the last slice to the images."""
        pupil = torch.from_numpy(np.sqrt(self._q2) <= self.aperture_per_A * (1 + 1e-9))
        return torch.stack([self._propagator(d - self._middles_A[-1]) * pupil for d in self.defocus_A])

    @cached_property
    def _q2(self) -> np.ndarray:
        n_x, n_y = self.images.shape[2:]
        return np.fft.fftfreq(n_x, self.voxel_A)[:, None] ** 2 + np.fft.fftfreq(n_y, self.voxel_A)[None, :] ** 2

    def _propagator(self, distance_A: float) -> torch.Tensor:
        """Return exp(2πi d (√(1/λ² - q²) - 1/λ)), complex64 (X, Y)."""
        on_axis = 1 / physics.wavelength_A(self.energy_keV)
        phase = 2 * np.pi * distance_A * (np.sqrt(on_axis**2 - self._q2) - on_axis)
        return torch.from_numpy(np.exp(1j * phase).astype(np.complex64))

    def _grid(self, i_tilt: int) -> torch.Tensor:
        """Return where the rotated volume samples the volume, (1, Z, X, 2) as x and z from -1 to 1."""
        n_z, n_x = self.n_z, self.images.shape[2]
        angle = math.radians(self.tilt_deg[i_tilt])
        z = (torch.arange(n_z, dtype=torch.float64) - (n_z - 1) / 2)[:, None]
        x = (torch.arange(n_x, dtype=torch.float64) - (n_x - 1) / 2)[None, :]
        at_x = x * math.cos(angle) - z * math.sin(angle)
        at_z = x * math.sin(angle) + z * math.cos(angle)
        return torch.stack([2 * at_x / (n_x - 1), 2 * at_z / (n_z - 1)], dim=-1)[None].float()
