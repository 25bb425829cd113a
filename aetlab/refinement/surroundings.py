"""Likelihood that a position holds an atom of each element, from its neighbours.

Atoms keep typical distances: an oxygen atom between two silicon atoms is 1.6 Å from both, noise may be anywhere. A
silicon atom that has three of its four neighbours lacks an atom, one that has all four does not. At low dose the
surroundings often decide what the images leave open. No chemistry is assumed. The surroundings of a position are the
distances and elements of the two nearest sites, the distance of these two from each other, and the number of neighbours
that each of them has about as near as the position. For each element their density is a product of histograms over the
sites that hold the element; for positions without an atom it is the same over positions drawn uniformly about the
sites. The density of each element is mixed with a share of the latter, so that unusual surroundings alone exclude
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from aetlab.core.backend import n_threads
from aetlab.refinement.model import Sites

#: Bin width of the distances of the two nearest sites and largest binned distance, in Å; larger ones share one bin.
CELL_A, REACH_A = 0.1, 4.0
#: Bin width in Å of the distance between the two nearest sites; distances above 2 :data:`REACH_A` do not occur there.
APART_CELL_A = 0.15
#: Bin width in Å of the distances on which the other histograms depend.
WIDE_CELL_A = 0.3
#: A site is a neighbour of the nearest site if it is at most this factor farther from it than the position is: the
#: shell of neighbours that the position is in, whatever its radius.
SHELL = 1.25
#: Most neighbours that are counted.
NEIGHBOURS_MAX = 15
#: Standard deviation of the smoothing in bins, for elements and for positions without an atom.
SMOOTH_ELEMENT, SMOOTH_NOTHING = 1.0, 2.0
#: Standard deviation of the smoothing of the other histograms in bins of :data:`WIDE_CELL_A`, and their count in each
#: bin in advance.
SMOOTH_WIDE, ADVANCE = 0.7, 0.3
#: Share of the density of positions without an atom in that of each element.
UNUSUAL = 0.1
#: Positions drawn for each site, and the least number in all.
DRAWN_PER_SITE, LEAST_DRAWN = 15, 60_000
#: Places drawn to measure a volume.
N_FREE = 50_000
#: Sites of lower occupancy do not enter the histograms.
LEAST_OCCUPANCY = 0.7
_N_CELLS = round(REACH_A / CELL_A) + 1
_N_WIDE = round(REACH_A / WIDE_CELL_A)
_N_APART = round(2 * REACH_A / APART_CELL_A) + 1


@dataclass(frozen=True)
class _Surroundings:
    """Two nearest sites of P positions, all arrays (P, 2) but ``apart`` (P,).

    ``kinds`` are their elements, ``distance_A`` their distances, ``n_neighbours`` the other sites in the shell of each;
    ``apart`` is the bin of the distance between them.
    """

    kinds: np.ndarray
    distance_A: np.ndarray
    n_neighbours: np.ndarray
    apart: np.ndarray

    def select(self, chosen: np.ndarray) -> _Surroundings:
        return _Surroundings(self.kinds[chosen], self.distance_A[chosen], self.n_neighbours[chosen], self.apart[chosen])

    @property
    def distance_cells(self) -> tuple[np.ndarray, ...]:
        """Elements of both sites, and the bins of both distances."""
        cell = np.minimum((self.distance_A / CELL_A).astype(np.int64), _N_CELLS - 1)
        return self.kinds[:, 0], self.kinds[:, 1], cell[:, 0], cell[:, 1]

    @property
    def wide(self) -> np.ndarray:
        """Wide bins (P, 2) of the distances."""
        return np.minimum((self.distance_A / WIDE_CELL_A).astype(np.int64), _N_WIDE - 1)

    def log_density(self, known: _Surroundings, n_kinds: int, smooth: float) -> np.ndarray:
        """Return the logarithm of the density (P,) of ``known`` at these surroundings."""
        log = np.log(_density(known.distance_cells, n_kinds, smooth)[self.distance_cells])
        for i in range(2):
            table = _conditional(known.kinds[:, i], known.wide[:, i], known.n_neighbours[:, i],
                                 (n_kinds, NEIGHBOURS_MAX + 1), 0.0)
            log += np.log(table[self.kinds[:, i], self.wide[:, i], self.n_neighbours[:, i]])
        pair, own_pair = (part.kinds[:, 0] * n_kinds + part.kinds[:, 1] for part in (known, self))
        table = _conditional(pair, known.wide[:, 1], known.apart, (n_kinds**2, _N_APART), 1.0)
        return np.asarray(log + np.log(table[own_pair, self.wide[:, 1], self.apart]))


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
    if len(sites) < 3 or not len(places_A):
        return np.zeros((len(places_A), n_kinds + 1))
    tree = cKDTree(sites.positions_A)
    of_sites = _describe(tree, sites, sites.positions_A, own=True)
    drawn_A = _draw_places(tree, sites, min_distance_A, max_distance_A, np.random.default_rng(seed))
    here = of_sites if own else _describe(tree, sites, places_A, own=False)
    nothing = here.log_density(_describe(tree, sites, drawn_A, own=False), n_kinds, SMOOTH_NOTHING)
    log = np.empty((len(places_A), n_kinds + 1))
    for kind in range(n_kinds):
        usual = here.log_density(of_sites.select((sites.kinds == kind) & (sites.occupancy >= LEAST_OCCUPANCY)), n_kinds,
                                 SMOOTH_ELEMENT)
        log[:, kind] = np.logaddexp(np.log(1 - UNUSUAL) + usual, np.log(UNUSUAL) + nothing)
    log[:, -1] = nothing
    return log


def free_volume_A3(positions_A: np.ndarray, least_A: float, most_A: float) -> float:
    """Return the volume in Å³, for each atom, of the places whose nearest atom is ``least_A`` to ``most_A`` away.

    ``positions_A`` (N, 3) are those of the atoms. It is 1 for a single atom.
    """
    n = len(positions_A)
    if n < 2:
        return 1.0
    tree, rng = cKDTree(positions_A), np.random.default_rng(0)
    offset_A = _in_ball(N_FREE, most_A, rng)
    places_A = positions_A[rng.integers(0, n, N_FREE)] + offset_A
    # A place in k balls is drawn k times as often.
    balls = tree.query_ball_point(places_A, most_A, return_length=True, workers=n_threads())
    free = tree.query(places_A, workers=n_threads())[0] >= least_A
    return 4 / 3 * math.pi * most_A**3 * float((free / balls).mean())


def _in_ball(n: int, radius_A: float, rng: np.random.Generator) -> np.ndarray:
    """Draw places (n, 3) uniformly in a ball about 0."""
    direction = rng.normal(size=(n, 3))
    direction *= radius_A * rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(direction, axis=1, keepdims=True)
    return direction


def _describe(tree: cKDTree, sites: Sites, places_A: np.ndarray, *, own: bool) -> _Surroundings:
    """Return the surroundings of the positions (P, 3); with ``own`` each position is a site, which is left out."""
    distance_A, index = tree.query(places_A, k=2 + own, workers=n_threads())
    distance_A, index = distance_A[:, int(own):], index[:, int(own):]
    near_A = sites.positions_A[index]
    # The count holds the nearest site itself and, with own, the position's.
    n_neighbours = tree.query_ball_point(near_A, SHELL * distance_A, return_length=True, workers=n_threads()) - 1 - own
    apart = (np.linalg.norm(near_A[:, 0] - near_A[:, 1], axis=1) / APART_CELL_A).astype(np.int64)
    return _Surroundings(sites.kinds[index], distance_A, np.clip(n_neighbours, 0, NEIGHBOURS_MAX),
                         np.minimum(apart, _N_APART - 1))


def _density(cells: tuple[np.ndarray, ...], n_kinds: int, smooth: float) -> np.ndarray:
    """Return the smoothed histogram (K, K, bins, bins), normalised to 1, without empty bins."""
    counts = np.zeros((n_kinds, n_kinds, _N_CELLS, _N_CELLS))
    np.add.at(counts, cells, 1.0)
    counts = gaussian_filter(counts, (0, 0, smooth, smooth), mode="nearest") + 1e-3
    return np.asarray(counts / counts.sum())


def _conditional(kinds: np.ndarray, wide: np.ndarray, values: np.ndarray, shape: tuple[int, int],
                 smooth: float) -> np.ndarray:
    """Return the probabilities of the values for each kind and wide bin, (kinds, wide bins, values) of ``shape``."""
    counts = np.zeros((shape[0], _N_WIDE, shape[1]))
    np.add.at(counts, (kinds, wide, values), 1.0)
    counts = gaussian_filter(counts, (0, SMOOTH_WIDE, smooth), mode="nearest") + ADVANCE
    return np.asarray(counts / counts.sum(axis=2, keepdims=True))


def _draw_places(tree: cKDTree, sites: Sites, min_distance_A: float, max_distance_A: float,
                 rng: np.random.Generator) -> np.ndarray:
    """Draw positions (P, 3) uniformly where the nearest site lies between the two distances."""
    n = max(DRAWN_PER_SITE * len(sites), LEAST_DRAWN)
    offset_A = _in_ball(n, max_distance_A, rng)
    places_A = sites.positions_A[rng.integers(0, len(sites), n)] + offset_A
    crowd = tree.query_ball_point(places_A, max_distance_A, return_length=True, workers=n_threads())
    places_A = places_A[rng.random(n) * crowd < 1]  # accept with the inverse of the number of overlapping balls
    return np.asarray(places_A[tree.query(places_A, workers=n_threads())[0] >= min_distance_A])
