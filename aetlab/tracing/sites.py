"""Sites, the working form of traced atoms: (N, 5) float64 rows (z, x, y, I, s) in voxels of the array and V.

Each step treats all sites at once from the same state. The result depends neither on their order nor on the number of
threads. :class:`Removed` counts the sites that each rule of the tracing removed or merged into another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numba
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from aetlab.core.structure import covalent_radii_A
from aetlab.spec import TraceSpec
from aetlab.tracing import kernels_numba
from aetlab.tracing.noise import Noise

#: Most sites of a task, fewest of a task of a kernel, and tasks of a thread where there are fewer sites.
SITES_PER_TASK, SITES_PER_KERNEL, TASKS_PER_THREAD = 512, 64, 4
FIT_STEPS_MAX = 10
#: A fit has converged when a step moves no length by more voxels and the intensity by no greater fraction.
FIT_TOLERANCE = 1e-4
#: Greatest distance of bonded atoms over the sum of their covalent radii.
BOND_REACH = 1.3
#: Rules in the order in which they are applied, and what each removed.
RULES = {
    "same_atom": "maxima of one atom",
    "close": "merged with a site nearer than trace.merge_distance",
    "crowded": "nearer to a stronger site than atoms lie (trace.min_bond_part)",
    "weak": "below trace.min_intensity_V",
    "insignificant": "within the noise (trace.min_significance)",
    "narrow": "narrower than trace.min_width",
    "lone": "in groups of fewer than trace.min_group",
    "seam": "in the margin of a tile and not its own",
    "faint": "below trace.min_signal of the lightest element",
}


def canonical_order(sites: np.ndarray) -> np.ndarray:
    """Return indices (N,) that sort sites by z, x, y, I, s."""
    order = np.argsort(sites[:, 0], kind="stable")
    z = sites[order, 0]
    if (z[1:] > z[:-1]).all():  # five keys take four times as long as one
        return order
    return np.lexsort((sites[:, 4], sites[:, 3], sites[:, 2], sites[:, 1], sites[:, 0]))


def list_neighbours(sites: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """List neighbours within ``distance`` voxels: those of site i are ``neighbours[first[i]:first[i + 1]]``, by index.

    Returns
    -------
    first : (N + 1,) int64
    neighbours : (M,) int64
    """
    if len(sites) < 2:
        return np.zeros(len(sites) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = cKDTree(sites[:, :3]).query_pairs(distance, output_type="ndarray")
    one, other = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    # Sorting one key is faster than sorting by two columns.
    key = np.sort(np.concatenate([one * len(sites) + other, other * len(sites) + one]))
    first = np.searchsorted(key, np.arange(len(sites) + 1) * len(sites))
    return first.astype(np.int64), key % len(sites)


def share_sites(n_sites: int, work: Callable[[int, int], object], n_least: int = SITES_PER_TASK) -> list:
    """Call ``work(first, last)`` for all sites in tasks shared by the threads; return the results in their order.

    A task has :data:`SITES_PER_TASK` sites, or as few as ``n_least`` where the threads would otherwise wait for one.
    """
    n_threads = numba.get_num_threads()
    size = max(min(n_least, SITES_PER_TASK), min(SITES_PER_TASK, -(-n_sites // (TASKS_PER_THREAD * n_threads))))
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(lambda first: work(first, min(first + size, n_sites)), range(0, n_sites, size)))


def gather_fits(potential_V: np.ndarray, sites: np.ndarray, spec: TraceSpec, *, clip: bool,
                subtract_neighbours: bool = True) -> kernels_numba.FitInput:
    """Return what the kernels read: ``potential_V`` (Z, X, Y), ``sites`` (N, 5) and the neighbours of each site."""
    first, neighbours = list_neighbours(sites, spec.neighbour_radius if subtract_neighbours else 0.0)
    return kernels_numba.FitInput(potential_V, sites, first, neighbours, float(spec.fit_radius), clip)


class Fitter(Protocol):
    """Fit sites at once: on the CPU (:func:`fit_on_cpu`) or on a GPU (:class:`aetlab.gpu.GpuFits`)."""

    def __call__(self, data: kernels_numba.FitInput, movable: np.ndarray,
                 limits: kernels_numba.FitLimits) -> tuple[np.ndarray, np.ndarray]:
        """Return the sites (N, 5) with the ``movable`` ones (N,) fitted, and the status (N,) uint8 of their fits."""


def fit_on_cpu(data: kernels_numba.FitInput, movable: np.ndarray,
               limits: kernels_numba.FitLimits) -> tuple[np.ndarray, np.ndarray]:
    """Fit sites by the threads of the CPU; see :class:`Fitter`."""
    fitted, status = data.sites.copy(), np.zeros(len(data.sites), dtype=np.uint8)
    share_sites(len(fitted), lambda low, high: kernels_numba.fit_gaussians(
        data, movable, low, high, limits, fitted, status), SITES_PER_KERNEL)
    return fitted, status


def fit_sites(potential_V: np.ndarray, sites: np.ndarray, spec: TraceSpec, *, subtract_neighbours: bool = True,
              n_fixed: int = 0, fit: Fitter = fit_on_cpu) -> tuple[np.ndarray, np.ndarray]:
    """Fit every site once to the volume minus its neighbours, which are taken as they are in ``sites``.

    Parameters
    ----------
    potential_V : (Z, X, Y) float32, contiguous
    sites : (N, 5)
    spec : TraceSpec
    subtract_neighbours : bool
        False fits the volume itself.
    n_fixed : int
        Number of sites at the beginning that are not fitted.
    fit : Fitter
        Where they are fitted.

    Returns
    -------
    fitted : (N, 5)
    status : (N,) uint8
        Bits of :mod:`aetlab.tracing.kernels_numba`; sites with too few voxels are not changed.
    """
    order = canonical_order(sites)
    ordered = np.ascontiguousarray(sites[order])
    data = gather_fits(potential_V, ordered, spec, subtract_neighbours=subtract_neighbours, clip=spec.clip_at_zero)
    movable = order >= n_fixed
    bounds = np.array([spec.max_shift_per_fit, *spec.intensity_bounds, *spec.width_step_bounds, *spec.width_bounds])
    limits = kernels_numba.FitLimits(bounds, FIT_TOLERANCE, FIT_STEPS_MAX)
    fitted, status = fit(data, movable, limits)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return fitted[inverse], status[inverse]


def merge_sites(sites: np.ndarray, distance: float) -> np.ndarray:
    """Merge sites nearer than ``distance`` voxels, closest pairs first, until none are left; weights I·s.

    All pairs of mutual nearest neighbours are merged at once, with the same result as one pair at a time.
    """
    sites = sites[canonical_order(sites)]
    while len(sites) > 1:
        separation, nearest = cKDTree(sites[:, :3]).query(sites[:, :3], k=2, distance_upper_bound=distance)
        own = np.arange(len(sites))
        # Of two sites at the same place, a site may be listed second in its own row.
        partner = np.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])
        close = (partner < len(sites)) & (separation[:, 1] < distance)
        mutual = close.copy()
        mutual[close] = partner[partner[close]] == own[close]
        first = own[mutual & (own < partner)]
        if not len(first):
            if not close.any():
                break
            # Ties can form a ring; the first of the closest pairs breaks it.
            first = np.array([np.argmin(np.where(close, separation[:, 1], np.inf))])
        second = partner[first]
        weights = np.stack([sites[first, 3] * sites[first, 4], sites[second, 3] * sites[second, 4]])
        weights /= weights.sum(axis=0)
        sites[first] = weights[0, :, None] * sites[first] + weights[1, :, None] * sites[second]
        sites = np.delete(sites, second, axis=0)
        sites = sites[canonical_order(sites)]
    return sites


def drop_crowded_sites(sites: np.ndarray, distance: float) -> np.ndarray:
    """Return the sites (N, 5) without the weaker one of every two that are nearer than ``distance`` voxels.

    The strongest sites (of the greatest I·s) are kept first.
    """
    sites = sites[canonical_order(sites)]
    keep = np.ones(len(sites), bool)
    near = cKDTree(sites[:, :3]).query_ball_point(sites[:, :3], distance) if len(sites) else []
    for i in np.argsort(-sites[:, 3] * sites[:, 4], kind="stable"):
        if keep[i]:
            keep[[j for j in near[i] if j != i]] = False
    return sites[keep]


def drop_lone_sites(sites: np.ndarray, factor: float, n_least: int, *, bond: float = 0.0) -> np.ndarray:
    """Return the sites of groups of at least ``n_least`` sites; all sites if there is no such group.

    Two sites are linked if they are at most ``factor`` times the median distance of nearest neighbours apart, or
    ``bond`` voxels: where a sample holds light and heavy atoms, the median may be that of the light ones alone. A
    sample of fewer atoms than ``n_least`` has no group that large, and loses none.
    """
    if n_least <= 1 or len(sites) < n_least:
        return sites
    nearest = cKDTree(sites[:, :3]).query(sites[:, :3], k=2)[0][:, 1]
    first, neighbours = list_neighbours(sites, max(factor * float(np.median(nearest)), bond))
    links = csr_array((np.ones(len(neighbours), np.int8), neighbours, first), shape=(len(sites), len(sites)))
    _, group = connected_components(links, directed=False)
    size = np.bincount(group)
    return sites[size[group] >= n_least] if size.max() >= n_least else sites


def longest_bond_A(elements: tuple[int, ...]) -> float:
    """Return the greatest distance in Å of bonded atoms of ``elements``; 0 if they are not known.

    It is :data:`BOND_REACH` times twice the largest covalent radius (Cordero et al., Dalton Trans. 2008, 2832).
    """
    return 2 * BOND_REACH * max(covalent_radii_A(elements), default=0.0)


def drop_doubtful_sites(potential_V: np.ndarray, sites: np.ndarray, spec: TraceSpec, noise: Noise, *,
                        part: float = 1.0, narrow: bool = True) -> tuple[np.ndarray, dict[str, int]]:
    """Return the sites above the noise that are, with ``narrow``, not narrower than ``spec.min_width``.

    A site is above the noise if the amplitude of a Gaussian of the start width, fitted after the neighbours are
    subtracted, is at least ``part · spec.min_significance`` times its noise. Noise alone can make an atom narrow: where
    there is noise, a narrow site of at least 1.5 times the least significance is kept. The second value counts the
    sites dropped as ``insignificant`` and those dropped as ``narrow`` alone.
    """
    sites = sites[canonical_order(sites)]
    wide = (sites[:, 4] >= spec.min_width) | (not narrow)
    significance = np.full(len(sites), np.inf)
    if noise.level_V > 0:
        data = gather_fits(potential_V, sites, spec, clip=False)
        amplitudes = np.empty(len(sites))
        share_sites(len(sites), lambda low, high: kernels_numba.measure_amplitudes(
            data, low, high, float(spec.width_start), amplitudes), SITES_PER_KERNEL)
        significance = amplitudes / (noise.at(sites) * spec.min_significance)
        wide |= significance >= 1.5
    above = significance >= part
    return sites[above & wide], {"insignificant": int((~above).sum()), "narrow": int((above & ~wide).sum())}


class Removed:
    """Counts by rule; every rule of :data:`RULES` has one."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(RULES, 0)

    def by(self, rule: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Count the sites of ``before`` that ``rule`` left out of ``after``; return ``after``."""
        self.counts[rule] += len(before) - len(after)
        return after

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of several rules."""
        for rule, count in counts.items():
            self.counts[rule] += count
