"""Candidates: maxima of a volume that is smoothed and filtered with a difference of Gaussians.

The volume is processed in slabs of layers, several at once, without temporary arrays of its size. The result does not
depend on the slabs. A volume on the GPU is filtered there.

The volume is smoothed first. A regularised volume has peaks narrower than the resolution of the microscope: a sparse
prior shrinks an atom to one or two voxels. The height of such a peak tells little about the atom, and its width is that
of noise. A Gaussian of about half a voxel, of the order of the aperture's own blur, makes heights and widths
comparable.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numba
import numpy as np

from aetlab.core import parabola
from aetlab.core.backend import array_module, ndimage_module, to_numpy
from aetlab.core.nouns import Array
from aetlab.spec import TraceSpec
from aetlab.tracing.noise import residual_block

LAYERS_PER_SLAB = 32
#: Standard deviations at which scipy.ndimage cuts a Gaussian.
TRUNCATE = 4.0
#: Filtered values below this share of the least peak come from flat regions; those of atoms are over ten times larger.
EVEN = 2e-3
#: Steps to the 3×3×3 neighbourhood without its centre and its eight corners.
NEIGHBOURS = [step for step in itertools.product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() < 3]


def filter_difference_of_gaussians(block: Array, sigma_narrow: float, sigma_wide: float) -> Array:
    """Return the narrow minus the wide Gaussian of ``block``; widths in voxels, edge values repeated outside."""
    gaussian = ndimage_module(block).gaussian_filter
    filtered = gaussian(block, sigma_narrow, mode="nearest", truncate=TRUNCATE)
    filtered -= gaussian(block, sigma_wide, mode="nearest", truncate=TRUNCATE)
    return filtered


class Search(Protocol):
    """Search a volume: on the CPU (:func:`find_candidates`) or on a GPU (:class:`aetlab.gpu.GpuSearch`)."""

    def __call__(self, potential_V: np.ndarray, spec: TraceSpec, *, subtract: np.ndarray | None = None) -> np.ndarray:
        """Return the candidates of a volume as :func:`find_candidates` does."""


def find_candidates(potential_V: Array, spec: TraceSpec, *, subtract: np.ndarray | None = None) -> np.ndarray:
    """Return the start sites of the fits, (N, 5) rows (z, x, y, I, s) in voxels and V, in the order of the voxels.

    A candidate is a positive maximum of the filtered volume over its 18 nearest voxels (the first one of a plateau). A
    parabola along each axis gives its place between the voxels; the unfiltered value and ``spec.width_start`` give its
    intensity. Candidates below ``spec.candidate_fraction · spec.min_intensity_V`` are dropped. Voxels that are not
    finite count as 0.

    Parameters
    ----------
    potential_V : (Z, X, Y) float32
    spec : TraceSpec
    subtract : (M, 5), optional
        Sites whose Gaussians are subtracted first, to search the residual.
    """
    n_layers = potential_V.shape[0]
    starts = range(0, n_layers, LAYERS_PER_SLAB)
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        found = pool.map(lambda first: _search_slab(potential_V, spec, subtract, first), starts)
        return np.concatenate([*found, np.empty((0, 5))])


def _search_slab(potential_V: Array, spec: TraceSpec, subtract: np.ndarray | None, first: int) -> np.ndarray:
    xp = array_module(potential_V)
    halo = int(TRUNCATE * spec.filter_sigma_wide + 0.5) + 1
    low = max(0, first - halo)
    last = min(potential_V.shape[0], first + LAYERS_PER_SLAB)
    block = residual_block(potential_V, low, last + halo, np.empty((0, 5)) if subtract is None else subtract,
                           spec.neighbour_radius)
    filtered = filter_difference_of_gaussians(block, spec.filter_sigma_narrow, spec.filter_sigma_wide)
    padded = xp.pad(filtered, 1, constant_values=-xp.inf)

    # The peak may be up to half a voxel away along each axis.
    least_peak = spec.candidate_fraction * spec.min_intensity_V
    least_value = least_peak * math.exp(-0.375 / spec.width_start**2)
    core = slice(first - low, last - low)
    centre = xp.stack(xp.nonzero((filtered[core] > EVEN * least_peak) & (block[core] >= least_value)), axis=1)
    centre = centre + xp.asarray([first - low, 0, 0])
    stride_z, stride_x = padded.shape[1] * padded.shape[2], padded.shape[2]
    flat = padded.ravel()
    index = (centre[:, 0] + 1) * stride_z + (centre[:, 1] + 1) * stride_x + centre[:, 2] + 1
    for step in NEIGHBOURS:
        offset = step[0] * stride_z + step[1] * stride_x + step[2]
        keep = flat[index] > flat[index + offset] if offset < 0 else flat[index] >= flat[index + offset]
        index, centre = index[keep], centre[keep]

    shift = xp.stack([parabola.vertex(*(flat[index + k * stride].astype(xp.float64) for k in (-1, 0, 1))).place
                      for stride in (stride_z, stride_x, 1)], axis=1)
    value = block[centre[:, 0], centre[:, 1], centre[:, 2]].astype(xp.float64)
    sites = place_candidates(to_numpy(centre), to_numpy(shift), to_numpy(value), spec)
    sites[:, 0] += low
    return sites


def place_candidates(centre: np.ndarray, shift: np.ndarray, value: np.ndarray, spec: TraceSpec) -> np.ndarray:
    """Return the start sites (M, 5) of the candidates that are high enough.

    ``centre`` (N, 3) are their voxels, ``shift`` (N, 3) their places in them and ``value`` (N,) in V, float64, those of
    the voxels.
    """
    peak = value * np.exp(0.5 * (shift**2).sum(axis=1) / spec.width_start**2)
    sites = np.empty((len(centre), 5))
    sites[:, :3] = centre + shift
    sites[:, 3] = peak
    sites[:, 4] = spec.width_start
    return sites[peak >= spec.candidate_fraction * spec.min_intensity_V]


def smooth(potential_V: Array, sigma: float) -> Array:
    """Return the volume convolved with a Gaussian of standard deviation ``sigma`` voxels, of the same shape and type.

    Voxels that are not finite are missing data: they stay missing and have no weight in their neighbours. Edge values
    are repeated outside the volume.
    """
    if sigma == 0:
        return potential_V
    xp = array_module(potential_V)
    gaussian = ndimage_module(potential_V).gaussian_filter
    known = xp.isfinite(potential_V)
    if bool(known.all()):
        return gaussian(potential_V, sigma, mode="nearest")
    weight = gaussian(known.astype(potential_V.dtype), sigma, mode="nearest")
    total = gaussian(xp.where(known, potential_V, 0).astype(potential_V.dtype), sigma, mode="nearest")
    return xp.where(known, total / xp.maximum(weight, 1e-6), xp.nan).astype(potential_V.dtype)
