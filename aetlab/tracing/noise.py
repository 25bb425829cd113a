"""Noise of a volume between its atoms, to decide whether a site is more than noise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import map_coordinates

from aetlab.core.backend import array_module, ndimage_module, to_numpy
from aetlab.core.nouns import Array
from aetlab.spec import TraceSpec
from aetlab.tracing.kernels_numba import subtract_gaussians

#: Side of the cubes in voxels, layers of a slab, and stride of the samples of the noise.
CUBE, LAYERS, STRIDE = 8, 32, 2
#: A sample counts if at least this share of the filter's weight lies on finite voxels.
WHOLE = 0.999
#: Standard deviation of a normal distribution divided by its median absolute deviation.
MAD_TO_STD = 1.4826


@dataclass(frozen=True)
class Noise:
    """Standard deviation in V of an amplitude: ``level_V`` of the whole volume, ``cubes_V`` of its cubes.

    A cube's value counts where it exceeds that of the whole: a reconstruction is noisier where fewer tilts contribute.
    """

    level_V: float
    cubes_V: np.ndarray

    def at(self, sites: np.ndarray) -> np.ndarray:
        """Return the standard deviation in V at each site, (N,)."""
        if self.level_V == 0:
            return np.zeros(len(sites))
        place = (sites[:, :3] + 0.5) / CUBE - 0.5
        return np.maximum(self.level_V, map_coordinates(self.cubes_V, place.T, order=1, mode="nearest"))


def residual_block(potential_V: Array, low: int, high: int, sites: np.ndarray, radius: float) -> Array:
    """Return a copy of the layers ``low`` to ``high`` minus the Gaussians of ``sites``, cut at ``radius`` voxels.

    Voxels that are not finite become 0.
    """
    xp = array_module(potential_V)
    block = potential_V[low:high]
    block = xp.where(xp.isfinite(block), block, xp.float32(0))
    near = sites[(sites[:, 0] > low - radius) & (sites[:, 0] < low + block.shape[0] - 1 + radius)]
    if len(near):
        host = to_numpy(block)
        subtract_gaussians(host, low, near, radius)
        block = xp.asarray(host)
    return block


def measure_noise(potential_V: Array, sites: np.ndarray, spec: TraceSpec) -> Noise:
    """Return the noise of the amplitude of a Gaussian of ``spec.width_start`` fitted between the atoms.

    It is the median absolute deviation of the residual volume filtered with that Gaussian, which accounts for
    correlated noise. Samples with missing voxels in their neighbourhood do not count. The noise is 0 if more than half
    of the others are equal, if it is below a hundredth of ``spec.min_intensity_V``, or if ``spec.min_significance`` is
    0.
    """
    if spec.min_significance == 0:
        return Noise(0.0, np.zeros((1, 1, 1)))
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        parts = list(pool.map(lambda low: _measure_slab(potential_V, low, sites, spec),
                              range(0, potential_V.shape[0], LAYERS)))
    samples = np.concatenate([part[0] for part in parts])
    if len(samples) == 0:
        return Noise(0.0, np.zeros((1, 1, 1)))
    level_V = MAD_TO_STD * float(np.median(np.abs(samples - np.median(samples))))
    if level_V < 0.01 * spec.min_intensity_V:
        return Noise(0.0, np.zeros((1, 1, 1)))
    return Noise(level_V, np.concatenate([part[1] for part in parts]))


def _measure_slab(potential_V: Array, low: int, sites: np.ndarray, spec: TraceSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitudes at some voxels of a slab, and the noise of its cubes (0 where all voxels are missing).

    Cubes cut by the border are completed by mirroring.
    """
    width = spec.width_start
    reach = int(4 * width + 0.5)
    first, last = max(0, low - reach), min(potential_V.shape[0], low + LAYERS)
    block = residual_block(potential_V, first, last + reach, sites, spec.neighbour_radius)
    # The filter's kernel g has sum 1; an amplitude is Σ g v / Σ g² with g of peak 1.
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    factor = float(taps.sum() / (taps**2).sum()) ** 3
    chosen = slice(low - first, last - first)
    thin = _filter_thinly(block, width, chosen) * np.float32(factor)
    finite = array_module(potential_V).isfinite(potential_V[first : last + reach])
    if not bool(finite.all()):
        # The filter takes missing voxels as 0; one within its reach makes an amplitude wrong.
        thin[_filter_thinly(finite.astype(np.float32), width, chosen) < WHOLE] = np.nan
    side = CUBE // STRIDE
    padded = np.pad(thin, [(0, -n % side) for n in thin.shape], mode="symmetric")
    n_z, n_x, n_y = (n // side for n in padded.shape)
    cubes = padded.reshape(n_z, side, n_x, side, n_y, side).transpose(0, 2, 4, 1, 3, 5).reshape(n_z, n_x, n_y, -1)
    deviation = np.abs(cubes - _median(cubes)[..., None])
    samples = thin[::2, ::2, ::2].ravel()
    return samples[np.isfinite(samples)], MAD_TO_STD * np.nan_to_num(_median(deviation))


def _filter_thinly(block: Array, width: float, layers: slice) -> np.ndarray:
    """Return a Gaussian filter of ``block`` at every second voxel of ``layers``; edge values are repeated outside."""
    for axis, (low, high) in enumerate(((layers.start, layers.stop), (0, None), (0, None))):
        block = ndimage_module(block).gaussian_filter1d(block, width, axis=axis, mode="nearest")
        block = block[(slice(None),) * axis + (slice(low, high, STRIDE),)]
    return to_numpy(block)


def _median(values: np.ndarray) -> np.ndarray:
    """Return the median along the last axis of the values that are not NaN; NaN where all are."""
    missing = np.isnan(values)
    if not missing.any():
        return np.median(values, axis=-1)
    ordered = np.sort(values, axis=-1)  # NaN goes last
    count = np.maximum(values.shape[-1] - missing.sum(axis=-1, keepdims=True), 1)
    middle = [np.take_along_axis(ordered, place, axis=-1)[..., 0] for place in ((count - 1) // 2, count // 2)]
    return 0.5 * (middle[0] + middle[1])
