"""Likelihood that a position holds an atom of each element, from its two nearest neighbours.

Atoms keep typical distances: an oxygen atom between two silicon atoms is 1.6 Å from both, noise may be anywhere. At low
dose the surroundings often decide what the images leave open. No chemistry is assumed. For each element the joint
density of the distances and elements of the two nearest sites is a histogram over the sites that hold the element. For
positions without an atom it is a histogram over positions drawn uniformly about the sites. The density of each element
is mixed with a share of the latter, so that unusual surroundings alone exclude nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from aetlab.core.backend import n_threads
from aetlab.refinement.model import Sites

#: Bin width of the histograms and largest binned distance, in Å; larger distances share one bin.
CELL_A, REACH_A = 0.1, 4.0
#: Standard deviation of the smoothing in bins, for elements and for positions without an atom.
SMOOTH_ELEMENT, SMOOTH_NOTHING = 1.0, 2.0
#: Share of the density of positions without an atom in that of each element.
UNUSUAL = 0.1
#: Positions drawn for each site, and the least number in all.
DRAWN_PER_SITE, LEAST_DRAWN = 15, 60_000
#: Sites of lower occupancy do not enter the histograms.
LEAST_OCCUPANCY = 0.7
_N_CELLS = round(REACH_A / CELL_A) + 1


def log_surroundings(places_A: np.ndarray, sites: Sites, n_kinds: int, *, own: bool, min_distance_A: float,
                     max_distance_A: float, seed: int) -> np.ndarray:
    """Return the log density (P, n_kinds + 1) of the surroundings of positions, given each element, and given no atom.

    Parameters
    ----------
    places_A : (P, 3)
        x, y, z.
    sites : Sites
        Neighbours of the positions, and the data of the histograms.
    n_kinds : int
        Number of elements.
    own : bool
        If True, the positions are those of ``sites``, and neighbours are the nearest other sites.
    min_distance_A, max_distance_A : float
        Range of the distance of a position without an atom from its nearest site.
    seed : int
        Seed of the drawn positions.
    """
    densities = np.zeros((n_kinds + 1, n_kinds, n_kinds, _N_CELLS, _N_CELLS))
    if len(sites) < 3 or not len(places_A):
        return np.zeros((len(places_A), n_kinds + 1))
    tree = cKDTree(sites.positions_A)
    of_sites = _cells(tree, sites, sites.positions_A, own=True)
    drawn_A = _draw_places(tree, sites, min_distance_A, max_distance_A, np.random.default_rng(seed))
    nothing = _density(_cells(tree, sites, drawn_A, own=False), n_kinds, SMOOTH_NOTHING)
    for kind in range(n_kinds):
        taught = (sites.kinds == kind) & (sites.occupancy >= LEAST_OCCUPANCY)
        usual = _density(tuple(cell[taught] for cell in of_sites), n_kinds, SMOOTH_ELEMENT)
        densities[kind] = (1 - UNUSUAL) * usual + UNUSUAL * nothing
    densities[n_kinds] = nothing
    at = _cells(tree, sites, places_A, own=own)
    return np.log(np.stack([density[at] for density in densities], axis=1))


def _cells(tree: cKDTree, sites: Sites, places_A: np.ndarray, *, own: bool) -> tuple[np.ndarray, ...]:
    """Return the elements of the nearest and second nearest site, and the bins of their distances, (P,) each."""
    distance_A, index = tree.query(places_A, k=2 + own)
    distance_A, index = distance_A[:, int(own):], index[:, int(own):]
    cell = np.minimum((distance_A / CELL_A).astype(np.int64), _N_CELLS - 1)
    kinds = sites.kinds[index]
    return kinds[:, 0], kinds[:, 1], cell[:, 0], cell[:, 1]


def _density(cells: tuple[np.ndarray, ...], n_kinds: int, smooth: float) -> np.ndarray:
    """Return the smoothed histogram (K, K, bins, bins), normalised to 1, without empty bins."""
    counts = np.zeros((n_kinds, n_kinds, _N_CELLS, _N_CELLS))
    np.add.at(counts, cells, 1.0)
    counts = gaussian_filter(counts, (0, 0, smooth, smooth), mode="nearest") + 1e-3
    return np.asarray(counts / counts.sum())


def _draw_places(tree: cKDTree, sites: Sites, min_distance_A: float, max_distance_A: float,
                 rng: np.random.Generator) -> np.ndarray:
    """Draw positions (P, 3) uniformly where the nearest site lies between the two distances."""
    n = max(DRAWN_PER_SITE * len(sites), LEAST_DRAWN)
    direction = rng.normal(size=(n, 3))
    direction *= (max_distance_A * rng.random((n, 1)) ** (1 / 3)) / np.linalg.norm(direction, axis=1, keepdims=True)
    places_A = sites.positions_A[rng.integers(0, len(sites), n)] + direction
    crowd = tree.query_ball_point(places_A, max_distance_A, return_length=True, workers=n_threads())
    places_A = places_A[rng.random(n) * crowd < 1]  # accept with the inverse of the number of overlapping balls
    return np.asarray(places_A[tree.query(places_A, workers=n_threads())[0] >= min_distance_A])
