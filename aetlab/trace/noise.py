"""Noise of a volume beside its atoms, as far as it decides whether a site is more than noise."""

from __future__ import annotations

import numpy as np

from aetlab.backend import array_module, ndimage_module, to_numpy
from aetlab.data import Array
from aetlab.spec import TraceSpec
from aetlab.trace.kernels_numba import subtract_gaussians

#: The noise is measured in this many slabs of this many layers, spread evenly.
N_SLABS, LAYERS = 8, 12
#: Standard deviation of a normal distribution over its median absolute deviation.
MAD_TO_STD = 1.4826


def residual_block(potential_V: Array, low: int, high: int, sites: np.ndarray, radius: float) -> Array:
    """Copy of the layers ``low`` to ``high`` less the Gaussians of ``sites``, cut at ``radius`` voxels.

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


def measure_noise(potential_V: Array, sites: np.ndarray, spec: TraceSpec) -> float:
    """Standard deviation in V of the amplitude of a Gaussian of ``spec.width_start`` fitted where no atom is.

    Taken from the median absolute deviation of the residual volume filtered with that Gaussian, so that correlated
    noise counts as it should; 0 where more than half of the volume is even, where it is below a hundredth of
    ``spec.min_intensity_V``, and if ``spec.min_significance`` is 0.
    """
    if spec.min_significance == 0:
        return 0.0
    xp, width = array_module(potential_V), spec.width_start
    n_layers = potential_V.shape[0]
    values = []
    for first in np.unique(np.linspace(0, max(n_layers - LAYERS, 0), N_SLABS).astype(int)):
        block = residual_block(potential_V, first, first + LAYERS, sites, spec.neighbour_radius)
        filtered = ndimage_module(block).gaussian_filter(block, width, mode="nearest")
        # Voxels next to the cut see repeated layers.
        values.append(filtered[2:-2].ravel()[::3] if len(filtered) > 4 else filtered.ravel())
    joined = xp.concatenate(values)
    deviation = float(xp.median(abs(joined - xp.median(joined))))
    # The filter's kernel g has sum 1; an amplitude is Σ g v / Σ g² with g of peak 1.
    taps = np.exp(-0.5 * (np.arange(-8, 9) / width) ** 2)
    noise_V = MAD_TO_STD * deviation * float(taps.sum() / (taps**2).sum()) ** 3
    return noise_V if noise_V >= 0.01 * spec.min_intensity_V else 0.0
