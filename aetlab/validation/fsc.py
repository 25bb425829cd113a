r"""Fourier shell correlation of two independent half reconstructions, over all directions and in cones.

FSC(q) = Re Σ F₁ F₂* / √(Σ |F₁|² Σ |F₂|²) over a shell of spatial frequencies (Harauz and van Heel, Optik 73, 146,
1986). A cone holds the frequencies within an angle of a direction or its opposite: along the missing wedge it
tells how far the volume can be trusted there (conical FSC, Diebolder et al., J. Struct. Biol. 190, 215, 2015).

Criteria. 0.143 is where the map of all data would correlate with the perfect one by 0.5 (Rosenthal and Henderson, J.
Mol. Biol. 333, 721, 2003); 0.5 is where each half has as much signal as noise beyond. The half-bit curve is

    T = (0.2071 + 1.9102/√n) / (1.2071 + 0.9102/√n)

with n independent Fourier coefficients of a shell (van Heel and Schatz, J. Struct. Biol. 151, 250, 2005): half of the
grid points, for those of q and -q are conjugate. n is not reduced for the empty part of the box. No mask is applied; a
cosine edge at the faces of the box keeps their discontinuity out of the axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from aetlab.core import parabola

#: Half-angle of a cone in degrees.
CONE_DEG = 30.0
#: Share of each side of the box on which the cosine edge falls to 0.
EDGE = 0.08


@dataclass(frozen=True)
class ShellCorrelation:
    """Fourier shell correlation of two volumes.

    Attributes
    ----------
    frequency_per_A : (S,)
        Centres of the shells, the Nyquist frequency included.
    all_directions, half_bit : (S,)
        FSC over all directions, and the half-bit curve.
    in_cones : dict
        FSC (S,) in the cone about each direction, by name; NaN in shells without a frequency.
    """

    frequency_per_A: np.ndarray
    all_directions: np.ndarray
    half_bit: np.ndarray
    in_cones: dict[str, np.ndarray]


def correlate_shells(first: np.ndarray, second: np.ndarray, voxel_A: float,
                     directions_xyz: dict[str, np.ndarray]) -> ShellCorrelation:
    """Return the Fourier shell correlation of two volumes (Z, X, Y) of equal shape.

    ``directions_xyz`` are unit vectors (x, y, z) of the cones by name. Shells are one frequency step of the longest
    side wide.
    """
    edge = _edge(first.shape)
    f, g = (scipy.fft.rfftn((volume - volume.mean(dtype=np.float64)) * edge) for volume in (first, second))
    q_z, q_x = (np.fft.fftfreq(n, voxel_A) for n in first.shape[:2])
    q_y = np.fft.rfftfreq(first.shape[2], voxel_A)
    q = np.sqrt(q_z[:, None, None] ** 2 + q_x[:, None] ** 2 + q_y**2)
    step = 1 / (max(first.shape) * voxel_A)
    n_shells = int(np.floor(0.5 / voxel_A / step + 1e-9))
    shell = np.rint(q / step).astype(np.int64)
    inside = (shell >= 1) & (shell <= n_shells)
    # Columns strictly inside the half plane stand for two conjugate coefficients.
    twice = np.full(len(q_y), 2.0)
    twice[0] = 1.0
    if first.shape[2] % 2 == 0:
        twice[-1] = 1.0
    weight = np.broadcast_to(twice, f.shape)
    cross, one, other = (f * g.conj()).real * weight, np.abs(f) ** 2 * weight, np.abs(g) ** 2 * weight

    def correlation(chosen: np.ndarray) -> np.ndarray:
        sums = [np.bincount(shell[chosen], values[chosen], n_shells + 1)[1:] for values in (cross, one, other)]
        norm = np.sqrt(sums[1] * sums[2])
        return np.where(norm > 0, sums[0] / np.where(norm > 0, norm, 1), np.nan)

    n = np.bincount(shell[inside], weight[inside], n_shells + 1)[1:] / 2
    root = np.sqrt(np.maximum(n, 1))
    cones = {}
    for name, (x, y, z) in directions_xyz.items():
        along = np.abs(q_z[:, None, None] * z + q_x[:, None] * x + q_y * y)
        cones[name] = correlation(inside & (along >= np.cos(np.deg2rad(CONE_DEG)) * q))
    return ShellCorrelation(step * np.arange(1, n_shells + 1), correlation(inside),
                            (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root), cones)


def resolution_A(frequency_per_A: np.ndarray, correlation: np.ndarray, criterion: np.ndarray | float) -> float:
    """Return the length in Å at which ``correlation`` (S,) first falls below ``criterion``, by linear interpolation.

    It is that of the last shell, the finest that the voxels hold, if the correlation stays above, and NaN if it starts
    below. Shells without a value are left out.
    """
    known = np.isfinite(correlation)
    above = (correlation - criterion)[known]
    q = frequency_per_A[known]
    if not len(above) or above[0] < 0:
        return float("nan")
    below = np.flatnonzero(above < 0)
    if not len(below):
        return float(1 / q[-1])
    i = int(below[0])
    return float(1 / (q[i - 1] + (q[i] - q[i - 1]) * above[i - 1] / (above[i - 1] - above[i])))


def shift_between(first: np.ndarray, second: np.ndarray, voxel_A: float) -> np.ndarray:
    """Return the shift (x, y, z) in Å that brings ``second`` (Z, X, Y) onto ``first``, below a voxel.

    It is the maximum of their cross-correlation, refined by a parabola along each axis.
    """
    f, g = (scipy.fft.rfftn(volume - volume.mean(dtype=np.float64)) for volume in (first, second))
    correlation = scipy.fft.irfftn(f * g.conj(), s=first.shape)
    top = np.unravel_index(int(correlation.argmax()), correlation.shape)
    found = []
    for axis, n in enumerate(first.shape):
        near = [float(correlation[tuple((t + (k if a == axis else 0)) % first.shape[a] for a, t in enumerate(top))])
                for k in (-1, 0, 1)]
        place = int(top[axis])
        found.append((place - n if place > n // 2 else place) + float(parabola.vertex(*near).place))
    return voxel_A * np.array(found)[[1, 2, 0]]


def shifted(volume: np.ndarray, shift_A: np.ndarray, voxel_A: float) -> np.ndarray:
    """Return ``volume`` (Z, X, Y) shifted by (x, y, z) in Å, exactly for a band-limited periodic volume."""
    spectrum = scipy.fft.rfftn(volume)
    for axis, by in ((0, shift_A[2]), (1, shift_A[0]), (2, shift_A[1])):
        n = volume.shape[axis]
        q = np.fft.rfftfreq(n, voxel_A) if axis == 2 else np.fft.fftfreq(n, voxel_A)
        shape = [1, 1, 1]
        shape[axis] = len(q)
        spectrum = spectrum * np.exp(-2j * np.pi * q * by).reshape(shape)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape))


def _edge(shape: tuple[int, ...]) -> np.ndarray:
    """Return the product of cosine edges along the three axes, 1 inside and 0 at the faces."""
    window = np.ones(shape)
    for axis, n in enumerate(shape):
        depth = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / (EDGE * n)
        side = np.where(depth < 1, 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth, 1)), 1.0)
        window *= side.reshape([-1 if a == axis else 1 for a in range(3)])
    return window
