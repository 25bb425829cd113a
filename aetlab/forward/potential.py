"""Potential of atoms, averaged over each voxel, in V.

Each atom is a sum of Gaussians (:mod:`aetlab.forward.scattering`), whose mean over a box is a product of differences of
error functions, exact at any position within a voxel. An atom contributes to the voxels whose centres lie within its
cut-off along each axis. Coordinates and axes: docs/conventions.md.

Atoms are sorted by z. Each thread owns a range of layers and adds every atom that reaches into it, in that order.
The result is therefore bit for bit the same for any number of threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from aetlab.core import physics
from aetlab.core.kernel_cache import njit
from aetlab.core.nouns import Atoms
from aetlab.forward.scattering import AtomPotential, fit_gaussians, parameters

_SQRT_HALF = math.sqrt(0.5)


@njit()
def _most_voxels(cutoff: np.ndarray) -> int:
    """Return the most voxels along an axis that an atom reaches."""
    return 2 * int(math.ceil(cutoff.max())) + 2


@njit(error_model="numpy")
def _profiles(centre: float, low: int, high: int, inverse_width: np.ndarray, out: np.ndarray) -> None:
    """Write the mean of each unit Gaussian over voxels low … high - 1 of one axis to out (8, high - low)."""
    for i_gaussian in range(inverse_width.shape[0]):
        scale = _SQRT_HALF * inverse_width[i_gaussian]
        left = math.erf((low - 0.5 - centre) * scale)
        for i in range(high - low):
            right = math.erf((low + i + 0.5 - centre) * scale)
            out[i_gaussian, i] = 0.5 * (right - left)
            left = right


@njit(error_model="numpy")
def _fill_profiles(centres: np.ndarray, kinds: np.ndarray, cutoff: np.ndarray, inverse_width: np.ndarray, n_y: int,
                   out: np.ndarray) -> None:
    """Write the profiles along y of atoms at ``centres`` (N,) in voxels to ``out`` (N, 8, reach)."""
    for i_atom in range(centres.shape[0]):
        y, reach = centres[i_atom], cutoff[kinds[i_atom]]
        y0, y1 = max(math.ceil(y - reach), 0), min(math.floor(y + reach) + 1, n_y)
        if y0 < y1:
            _profiles(y, y0, y1, inverse_width[kinds[i_atom]], out[i_atom])


@njit(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _add_atoms(out: np.ndarray, first_layer: int, centres: np.ndarray, kinds: np.ndarray, cutoff: np.ndarray,
               integral: np.ndarray, inverse_width: np.ndarray, numbers: np.ndarray, profiles_y: np.ndarray) -> None:
    """Set ``out`` (layers, X, Y), which begins at ``first_layer``, to the sum over atoms; lengths are in voxels.

    ``centres`` (N, 3) are z, x, y; ``kinds`` (N,) index ``cutoff`` (K,), ``integral`` and ``inverse_width`` (K, 8).
    ``profiles_y`` holds the profiles along y at the ``numbers`` (N,) of the atoms; if it is empty, they are computed.
    """
    n_z, n_x, n_y = out.shape
    n_reach = _most_voxels(cutoff)
    along_z = np.empty((8, n_reach), np.float32)
    along_x = np.empty((8, n_reach), np.float32)
    along_y = np.empty((8, n_reach), np.float32)
    plane = np.empty((8, n_reach * n_reach), np.float32)
    row = np.empty(n_reach * n_reach, np.float32)
    out[:] = 0
    for i_atom in range(centres.shape[0]):
        z, x, y = centres[i_atom, 0], centres[i_atom, 1], centres[i_atom, 2]
        kind = kinds[i_atom]
        reach = cutoff[kind]
        z0, z1 = max(math.ceil(z - reach), first_layer), min(math.floor(z + reach) + 1, first_layer + n_z)
        x0, x1 = max(math.ceil(x - reach), 0), min(math.floor(x + reach) + 1, n_x)
        y0, y1 = max(math.ceil(y - reach), 0), min(math.floor(y + reach) + 1, n_y)
        if z0 >= z1 or x0 >= x1 or y0 >= y1:
            continue
        _profiles(z, z0, z1, inverse_width[kind], along_z)
        _profiles(x, x0, x1, inverse_width[kind], along_x)
        if profiles_y.shape[0] == 0:
            _profiles(y, y0, y1, inverse_width[kind], along_y)
        else:
            along_y[:, : y1 - y0] = profiles_y[numbers[i_atom], :, : y1 - y0]
        n_xy, n_row = (x1 - x0) * (y1 - y0), y1 - y0
        for i_gaussian in range(8):
            for i in range(x1 - x0):
                factor = integral[kind, i_gaussian] * along_x[i_gaussian, i]
                for j in range(n_row):
                    plane[i_gaussian, i * n_row + j] = factor * along_y[i_gaussian, j]
        for k in range(z1 - z0):
            c0, c1, c2, c3 = along_z[0, k], along_z[1, k], along_z[2, k], along_z[3, k]
            c4, c5, c6, c7 = along_z[4, k], along_z[5, k], along_z[6, k], along_z[7, k]
            for j in range(n_xy):
                row[j] = (c0 * plane[0, j] + c1 * plane[1, j] + c2 * plane[2, j] + c3 * plane[3, j]
                          + c4 * plane[4, j] + c5 * plane[5, j] + c6 * plane[6, j] + c7 * plane[7, j])
            for i in range(x1 - x0):
                for j in range(n_row):
                    out[z0 + k - first_layer, x0 + i, y0 + j] += row[i * n_row + j]


def build_potential(atoms: Atoms, shape_zxy: tuple[int, int, int], voxel_A: float, *, parametrization: str = "lobato",
                    debye_waller_A2: dict[str, float], out: np.ndarray | None = None,
                    layers: tuple[int, int] | None = None, profiles_y: np.ndarray | None = None) -> np.ndarray:
    """Return the electrostatic potential of ``atoms``, averaged over each voxel.

    Parameters
    ----------
    atoms
        Positions in Å about the volume's centre; atoms outside contribute if they reach into the volume.
    shape_zxy, voxel_A
        The volume (Z, X, Y) and its voxel in Å.
    parametrization
        ``lobato`` or ``kirkland``.
    debye_waller_A2
        B = 8π²⟨u²⟩ in Å² by element symbol; ``default`` applies to elements that are not listed.
    out
        C-contiguous float32 array to overwrite; by default a new one.
    layers
        Build and allocate only the layers first … stop - 1 of the volume along z.
    profiles_y
        Those of :func:`profile_along_y` for atoms at the same y; by default they are computed for each call.

    Returns
    -------
    numpy.ndarray
        float32 (Z, X, Y), or (stop - first, X, Y), in V. The cut-off removes 0.1 % of an atom's integral; the
        relative error of the Gaussian fit is about 1e-3 (:mod:`aetlab.forward.scattering`).
    """
    first, stop = (0, shape_zxy[0]) if layers is None else layers
    if not 0 <= first < stop <= shape_zxy[0]:
        raise ValueError(f"layers {layers} lie outside a volume of {shape_zxy[0]} layers")
    slab_shape = (stop - first, *shape_zxy[1:])
    if out is None:
        out = np.empty(slab_shape, np.float32)
    if out.shape != slab_shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 {slab_shape}, not {out.dtype} {out.shape}")

    elements, fits = _fits(atoms, parametrization, debye_waller_A2)
    if not fits:
        out[:] = 0
        return out
    cutoff, inverse_width = _cutoff_and_width(fits, voxel_A)
    integral = np.array([fit.integral_V_A3 for fit in fits], np.float32) / np.float32(voxel_A**3)
    profiles_y = np.empty((0, 8, 0), np.float32) if profiles_y is None else profiles_y

    reach = float(cutoff.max())
    z = atoms.positions_A[:, 2] / voxel_A + (shape_zxy[0] - 1) / 2
    near = np.flatnonzero((z >= first - reach - 1) & (z <= stop + reach))
    near = near[np.argsort(z[near], kind="stable")]
    centres = np.ascontiguousarray(atoms.positions_A[near][:, [2, 0, 1]] / voxel_A + (np.array(shape_zxy) - 1) / 2)
    kinds = np.searchsorted(elements, atoms.numbers[near])

    def fill(low: int, high: int) -> None:
        a, b = np.searchsorted(centres[:, 0], [low - reach - 1, high + reach])
        _add_atoms(out[low - first:high - first], low, centres[a:b], kinds[a:b], cutoff, integral, inverse_width,
                   near[a:b], profiles_y)

    n_threads = numba.get_num_threads()
    if n_threads == 1:
        fill(first, stop)
        return out
    edges = _layer_edges(centres[:, 0], first, stop, 2 * n_threads)
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(fill, int(low), int(high)) for low, high in zip(edges[:-1], edges[1:], strict=True)]:
            done.result()
    return out


def profile_along_y(atoms: Atoms, n_y: int, voxel_A: float, *, parametrization: str,
                    debye_waller_A2: dict[str, float]) -> np.ndarray:
    """Return the means of each atom's Gaussians over the voxels along y, float32 (N, 8, voxels), for any x and z.

    A rotation about y leaves them as they are. The parameters are those of :func:`build_potential`.
    """
    elements, fits = _fits(atoms, parametrization, debye_waller_A2)
    if not fits:
        return np.empty((0, 8, 0), np.float32)
    cutoff, inverse_width = _cutoff_and_width(fits, voxel_A)
    profiles = np.empty((len(atoms), 8, _most_voxels(cutoff)), np.float32)
    y = atoms.positions_A[:, 1] / voxel_A + (n_y - 1) / 2
    _fill_profiles(y, np.searchsorted(elements, atoms.numbers), cutoff, inverse_width, n_y, profiles)
    return profiles


def _fits(atoms: Atoms, parametrization: str,
          debye_waller_A2: dict[str, float]) -> tuple[np.ndarray, list[AtomPotential]]:
    """Return the elements of ``atoms``, ascending, and the potential of each."""
    elements = np.flatnonzero(np.bincount(atoms.numbers))
    return elements, [_fit(int(Z), parametrization, debye_waller_A2) for Z in elements]


def _cutoff_and_width(fits: list[AtomPotential], voxel_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cut-off (K,) of each element in voxels, and the inverse widths (K, 8) of its Gaussians."""
    return np.array([fit.cutoff_A for fit in fits]) / voxel_A, np.array([voxel_A / fit.width_A for fit in fits])


def _fit(Z: int, parametrization: str, debye_waller_A2: dict[str, float]) -> AtomPotential:
    parameters(Z, parametrization)  # raises for an unknown element before its symbol is looked up
    symbol = physics.SYMBOLS[Z]
    factor_A2 = debye_waller_A2[symbol] if symbol in debye_waller_A2 else debye_waller_A2["default"]
    return fit_gaussians(Z, parametrization, factor_A2)


def _layer_edges(z: np.ndarray, first: int, stop: int, n_parts: int) -> np.ndarray:
    """Return layer numbers that divide first … stop into at most ``n_parts`` ranges with about equally many atoms."""
    inside = z[(z > first - 0.5) & (z < stop - 0.5)]
    if len(inside) == 0:
        return np.array([first, stop])
    inner = np.quantile(inside, np.arange(1, n_parts) / n_parts)
    return np.unique(np.concatenate([[first], np.clip(np.round(inner).astype(int), first, stop), [stop]]))
