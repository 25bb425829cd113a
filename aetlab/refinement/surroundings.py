"""Likelihood that a position holds an atom of each element, from its neighbours.

Atoms keep typical distances: an oxygen atom between two silicon atoms is 1.6 Å from both, noise may be anywhere. A
silicon atom that has three of its four neighbours lacks an atom, one that has all four does not. At low dose the
surroundings often decide what the images leave open. No chemistry is assumed. The surroundings of a position are the
distances and elements of the two nearest sites, the distance of these two from each other, and the number of neighbours
that each of them has about as near as the position. For each element their density is a product of histograms over the
sites that hold the element; for positions without an atom it is the same over positions drawn uniformly about the
sites. The histograms are not independent, and the ratio of two products is too far from 1: it is replaced by the ratio
of its own frequencies at the sites and at the drawn positions. The density of each element is mixed with a share of the
latter, so that unusual surroundings alone exclude nothing.
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
DRAWN_PER_SITE, LEAST_DRAWN = 15, 120_000
#: Places drawn to measure a volume.
N_FREE = 50_000
#: Sites of lower occupancy do not enter the histograms.
LEAST_OCCUPANCY = 0.7
#: Fewest sites that tell anything.
LEAST_SITES = 3
#: Logarithms of the ratio of an atom to no atom at which it is calibrated.
RATIOS = np.arange(-5.0, 8.5)
_N_CELLS = round(REACH_A / CELL_A) + 1
_N_WIDE = round(REACH_A / WIDE_CELL_A)
_N_APART = round(2 * REACH_A / APART_CELL_A) + 1


@dataclass(frozen=True)
class _Described:
    """Surroundings of P positions: their two nearest sites, all arrays (P, 2) but ``apart`` (P,).

    ``kinds`` are their elements, ``distance_A`` their distances, ``n_neighbours`` the other sites in the shell of each;
    ``apart`` is the bin of the distance between them.
    """

    kinds: np.ndarray
    distance_A: np.ndarray
    n_neighbours: np.ndarray
    apart: np.ndarray

    def select(self, chosen: np.ndarray) -> _Described:
        return _Described(self.kinds[chosen], self.distance_A[chosen], self.n_neighbours[chosen], self.apart[chosen])

    @property
    def distance_cells(self) -> tuple[np.ndarray, ...]:
        """Elements of both sites, and the bins of both distances."""
        cell = np.minimum((self.distance_A / CELL_A).astype(np.int64), _N_CELLS - 1)
        return self.kinds[:, 0], self.kinds[:, 1], cell[:, 0], cell[:, 1]

    @property
    def wide(self) -> np.ndarray:
        """Wide bins (P, 2) of the distances."""
        return np.minimum((self.distance_A / WIDE_CELL_A).astype(np.int64), _N_WIDE - 1)

    def pairs(self, n_kinds: int) -> np.ndarray:
        """Numbers (P,) of the pairs of elements."""
        return np.asarray(self.kinds[:, 0] * n_kinds + self.kinds[:, 1])


class _Tables:
    """The density of the surroundings of positions ``known``: a product of histograms."""

    def __init__(self, known: _Described, n_kinds: int, smooth: float) -> None:
        self._n_kinds = n_kinds
        self._near = np.log(_density(known.distance_cells, n_kinds, smooth))
        self._counts = [np.log(_conditional(known.kinds[:, i], known.wide[:, i], known.n_neighbours[:, i],
                                            (n_kinds, NEIGHBOURS_MAX + 1), 0.0)) for i in range(2)]
        self._apart = np.log(_conditional(known.pairs(n_kinds), known.wide[:, 1], known.apart,
                                          (n_kinds**2, _N_APART), 1.0))

    def log_density(self, here: _Described) -> np.ndarray:
        """Return the logarithm of the density (P,) at the surroundings ``here``."""
        log = self._near[here.distance_cells]
        for i, table in enumerate(self._counts):
            log = log + table[here.kinds[:, i], here.wide[:, i], here.n_neighbours[:, i]]
        return np.asarray(log + self._apart[here.pairs(self._n_kinds), here.wide[:, 1], here.apart])


class Surroundings:
    """Evidence of the surroundings of a position for the atom there, learnt from ``sites``.

    Parameters
    ----------
    sites : Sites
        The data of the histograms, at least :data:`LEAST_SITES`.
    n_kinds : int
        Number of elements.
    min_distance_A, max_distance_A : float
        Range of the distance of a position without an atom from its nearest site.
    seed : int
        Seed of the drawn positions.
    """

    def __init__(self, sites: Sites, n_kinds: int, *, min_distance_A: float, max_distance_A: float, seed: int) -> None:
        tree = cKDTree(sites.positions_A)
        of_sites = _describe(tree, sites, sites.positions_A, np.arange(len(sites)))
        drawn_A = _draw_places(tree, sites, min_distance_A, max_distance_A, np.random.default_rng(seed))
        of_drawn = _describe(tree, sites, drawn_A, np.full(len(drawn_A), -1))
        self._nothing = _Tables(of_drawn, n_kinds, SMOOTH_NOTHING)
        known = [of_sites.select((sites.kinds == kind) & (sites.occupancy >= LEAST_OCCUPANCY))
                 for kind in range(n_kinds)]
        self._elements = [_Tables(own, n_kinds, SMOOTH_ELEMENT) for own in known]
        self._ratios = [_calibrate(*(self._raw(kind, here) for here in (own, of_drawn)))
                        for kind, own in enumerate(known)]

    def log_density(self, places_A: np.ndarray, among: Sites, left_out: np.ndarray) -> np.ndarray:
        """Return the log density (P, n_kinds + 1) of the surroundings of positions, given each element, and no atom.

        Neighbours are the sites ``among`` without that of the index ``left_out`` (P,); -1 leaves none out.
        """
        here = _describe(cKDTree(among.positions_A), among, places_A, left_out)
        nothing = self._nothing.log_density(here)
        log = np.repeat(nothing[:, None], len(self._elements) + 1, axis=1)
        for kind, ratio in enumerate(self._ratios):
            log[:, kind] += np.logaddexp(np.log(1 - UNUSUAL) + np.interp(self._raw(kind, here), RATIOS, ratio),
                                         np.log(UNUSUAL))
        return log

    def _raw(self, kind: int, here: _Described) -> np.ndarray:
        """Return the log ratio (P,) of the products of histograms of an element and of no atom."""
        return np.asarray(self._elements[kind].log_density(here) - self._nothing.log_density(here))


def log_surroundings(places_A: np.ndarray, sites: Sites, n_kinds: int, *, own: bool, min_distance_A: float,
                     max_distance_A: float, seed: int) -> np.ndarray:
    """Return the log density (P, n_kinds + 1) of the surroundings of positions, given each element, and given no atom.

    With ``own`` the positions are those of ``sites``, and neighbours are the other sites. The other parameters are
    those of :class:`Surroundings`. Fewer sites than :data:`LEAST_SITES` tell nothing: 0.
    """
    if len(sites) < LEAST_SITES or not len(places_A):
        return np.zeros((len(places_A), n_kinds + 1))
    learnt = Surroundings(sites, n_kinds, min_distance_A=min_distance_A, max_distance_A=max_distance_A, seed=seed)
    return learnt.log_density(places_A, sites, np.arange(len(sites)) if own else np.full(len(places_A), -1))


def _calibrate(of_atoms: np.ndarray, of_nothing: np.ndarray) -> np.ndarray:
    """Return the log ratio (R,) of the frequencies of :data:`RATIOS` at atoms and at positions without one.

    Where there are few of either, the ratio stays what it is said to be. It does not fall: cells where it would are
    pooled with those before (isotonic regression).
    """
    edges = np.concatenate([[-np.inf], 0.5 * (RATIOS[1:] + RATIOS[:-1]), [np.inf]])
    counts, others = (np.histogram(values, edges)[0] for values in (of_atoms, of_nothing))
    atoms = counts + ADVANCE * np.exp(0.5 * RATIOS)
    nothing = others * (max(len(of_atoms), 1) / max(len(of_nothing), 1)) + ADVANCE * np.exp(-0.5 * RATIOS)
    pools: list[list[float]] = []  # atoms, nothing, cells
    for pool in zip(atoms, nothing, np.ones(len(RATIOS)), strict=True):
        pools.append(list(pool))
        while len(pools) > 1 and pools[-1][0] * pools[-2][1] < pools[-2][0] * pools[-1][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return np.repeat([math.log(pool[0] / pool[1]) for pool in pools], [int(pool[2]) for pool in pools])


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


def _describe(tree: cKDTree, sites: Sites, places_A: np.ndarray, left_out: np.ndarray) -> _Described:
    """Return the surroundings of the positions (P, 3) among ``sites`` without that of the index ``left_out`` (P,)."""
    distance_A, index = tree.query(places_A, k=3, workers=n_threads())
    # Of three sites the one that is left out, or else the farthest.
    kept = index != left_out[:, None]
    kept[kept.all(axis=1), 2] = False
    distance_A, index = distance_A[kept].reshape(-1, 2), index[kept].reshape(-1, 2)
    near_A, radius_A = sites.positions_A[index], SHELL * distance_A
    # The count holds the nearest site itself, and the one that is left out if it lies in the shell.
    counted = tree.query_ball_point(near_A, radius_A, return_length=True, workers=n_threads()) - 1
    out = left_out >= 0
    gone_A = np.linalg.norm(near_A[out] - sites.positions_A[left_out[out]][:, None], axis=2)
    counted[out] -= gone_A <= radius_A[out]
    apart = (np.linalg.norm(near_A[:, 0] - near_A[:, 1], axis=1) / APART_CELL_A).astype(np.int64)
    return _Described(sites.kinds[index], distance_A, np.clip(counted, 0, NEIGHBOURS_MAX),
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
