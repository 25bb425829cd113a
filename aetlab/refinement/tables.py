r"""Tables of the potential of atoms at positions between the voxels.

An atom is a sum of 3D Gaussians (:mod:`aetlab.forward.scattering`). The mean of a Gaussian over a box is a product of
differences of cumulative Gaussians Φ at the edges of the box. One table of Φ and its slope serves all axes, voxels and
slices: edges lie one voxel apart, so that all edges of an atom have the same fractional offset. Between the entries Φ
is a cubic Hermite polynomial. The derivative with respect to a position is that of the polynomial, so that value and
gradient belong to the same function.

A thermal factor B adds B/(8π²) to the variance of every Gaussian. Tables at another B hold wider or narrower Gaussians
(:func:`broaden`) with the same cutoff, so that no shape changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import erf

from aetlab.core import physics
from aetlab.core.simd import BYTES
from aetlab.forward.scattering import LEAST_DEBYE_WALLER_A2, fit_gaussians

#: Entries per voxel. The error for the narrowest Gaussian of light elements (0.09 Å at B = 0.5 Å²) is then 2e-6 of its
#: integral at voxels of 0.5 Å.
STEPS = 32
#: Least width of a Gaussian in Å that is left where the mean over a voxel is compensated.
LEAST_WIDTH_A = 0.02


@dataclass(frozen=True)
class AtomTables:
    """Potential of K elements on one grid; lengths in voxels unless the name has a unit.

    ``numbers`` (K,) are atomic numbers, ``thermal_A2`` (K,) their B = 8π²⟨u²⟩ in Å² and ``width_A`` (K, 8) the standard
    deviations of their Gaussians in Å; ``cumulative`` (K, STEPS + 1, R, 2, 8) holds Φ and its slope times the spacing
    of the entries at offsets ``r - n_reach + i / STEPS`` of an edge from an atom; ``weight`` (K, 8) the integrals over
    the volume of a voxel in V; ``reach`` (K,) the half-width of an atom; ``n_reach`` and ``window`` the voxels that it
    needs on one side, and along y in whole vectors.
    """

    numbers: np.ndarray
    thermal_A2: np.ndarray
    width_A: np.ndarray
    cumulative: np.ndarray
    weight: np.ndarray
    reach: np.ndarray
    n_reach: int
    window: int

    @property
    def for_kernels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        """Return what :mod:`aetlab.refinement.kernels_numba` takes as its ``tables``."""
        return self.cumulative, self.weight, self.reach, self.n_reach, self.window


def tabulate_atoms(elements: tuple[int, ...], voxel_A: float, *, parametrization: str,
                   debye_waller_A2: dict[str, float], dtype: type = np.float32) -> AtomTables:
    """Return the tables of ``elements`` (atomic numbers) at a voxel size; B in Å² by symbol, or ``default``."""
    thermal_A2 = np.array([max(debye_waller_A2.get(physics.SYMBOLS[Z], debye_waller_A2["default"]),
                               LEAST_DEBYE_WALLER_A2) for Z in elements])
    fits = [fit_gaussians(Z, parametrization, float(B)) for Z, B in zip(elements, thermal_A2, strict=True)]
    reach = np.array([fit.cutoff_A for fit in fits]) / voxel_A
    n_reach, window = _extents(reach, dtype)
    width_A = np.stack([fit.width_A for fit in fits])
    weight = np.stack([fit.integral_V_A3 for fit in fits]).astype(dtype) / dtype(voxel_A**3)
    cumulative = _cumulate(width_A / voxel_A, n_reach, dtype)
    return AtomTables(np.array(elements), thermal_A2, width_A, cumulative, weight, reach, n_reach, window)


def broaden(tables: AtomTables, thermal_A2: np.ndarray, voxel_A: float) -> AtomTables:
    """Return the tables of the same atoms with thermal factors ``thermal_A2`` (K,) in Å²; same grid and cutoff."""
    variance_A2 = tables.width_A**2 + ((thermal_A2 - tables.thermal_A2) / (8 * math.pi**2))[:, None]
    if variance_A2.min() <= 0:
        raise ValueError(f"thermal factors of {thermal_A2} Å² leave no width to the atoms' Gaussians")
    width_A = np.sqrt(variance_A2)
    cumulative = _cumulate(width_A / voxel_A, tables.n_reach, tables.cumulative.dtype.type)
    return replace(tables, thermal_A2=np.array(thermal_A2, float), width_A=width_A, cumulative=cumulative)


def on_finer_voxels(tables: AtomTables, voxel_A: float, factor: int) -> AtomTables:
    """Return the tables of the same atoms on voxels ``factor`` times finer than ``voxel_A``, of the potential itself.

    The mean over a voxel of width d adds d²/12 to the variance of a Gaussian along each axis. That much is taken off
    the Gaussians, so that what is left of the mean is of fourth order in d; each keeps :data:`LEAST_WIDTH_A`.
    """
    fine_A, dtype = voxel_A / factor, tables.cumulative.dtype.type
    width_A = np.sqrt(np.maximum(tables.width_A**2 - fine_A**2 / 12, LEAST_WIDTH_A**2))
    reach = tables.reach * factor
    n_reach, window = _extents(reach, dtype)
    return replace(tables, width_A=width_A, cumulative=_cumulate(width_A / fine_A, n_reach, dtype),
                   weight=tables.weight * dtype(factor**3), reach=reach, n_reach=n_reach, window=window)


def _extents(reach: np.ndarray, dtype: type) -> tuple[int, int]:
    """Return ``n_reach`` and ``window`` of :class:`AtomTables` for atoms of half-widths ``reach`` (K,) in voxels."""
    lanes = BYTES // np.dtype(dtype).itemsize
    furthest = math.ceil(reach.max())
    return furthest + 2, -(-(2 * furthest + 2) // lanes) * lanes


def _cumulate(widths: np.ndarray, n_reach: int, dtype: type) -> np.ndarray:
    """Return Φ and its slope for Gaussians of ``widths`` (K, 8) in voxels: ``AtomTables.cumulative``."""
    # Windows are whole vectors wide, and edges of slices may lie farther off than edges of voxels.
    n_rows = 2 * n_reach + 1
    offset = (np.arange(n_rows) - n_reach)[None, :] + (np.arange(STEPS + 1) / STEPS)[:, None]
    cumulative: np.ndarray = np.empty((len(widths), STEPS + 1, n_rows, 2, 8), dtype)
    for k, width in enumerate(widths):
        u = offset[..., None] / width
        cumulative[k, :, :, 0] = 0.5 * erf(u / math.sqrt(2))
        cumulative[k, :, :, 1] = np.exp(-0.5 * u**2) / (math.sqrt(2 * math.pi) * width * STEPS)
    return cumulative
