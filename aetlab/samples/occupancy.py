"""Draw the atoms of a structure whose sites are occupied in part.

Each draw is one random choice: of the elements that share a site, of places too near each other to be filled both, of
the alternate locations of a residue, or of an atom and a vacancy. Occupancies are the probabilities, and what they lack
to 1 is the probability of a vacancy.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from aetlab.core.physics import SYMBOLS
from aetlab.samples.sites import Sites
from aetlab.samples.spacing import MEDIAN_RATIO, radii_A

#: Occupancies that exclude each other may add up to this; files round them.
_MOST = 1.03


def draw_atoms(sites: Sites, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, int]]:
    """Return which sites hold an atom, bool (N,), and counts for the record; no number is drawn if all sites are full.

    ``n_partial`` counts the sites that are occupied in part, ``n_drawn`` the atoms drawn for them.

    Raises
    ------
    ValueError
        If occupancies that exclude each other add up to more than 1.
    """
    filled = np.ones(len(sites), dtype=bool)
    partial = np.flatnonzero((sites.occupancy < 1) | (sites.choice >= 0))
    if not len(partial):
        return filled, {}
    draw = _exclusive(sites, partial)
    option = np.where(sites.option[partial] >= 0, sites.option[partial], np.arange(len(partial)) + len(sites))
    filled[partial] = _draw(sites, partial, draw, option, rng)
    return filled, {"n_partial": len(partial), "n_drawn": int(filled[partial].sum())}


def _exclusive(sites: Sites, partial: np.ndarray) -> np.ndarray:
    """Return the number of the draw (P,) that decides each partial site: sites that exclude each other share one."""
    pairs = [_too_near(sites, partial)]
    stated = sites.choice[partial]
    order = np.argsort(stated, kind="stable")
    same = (stated[order][1:] == stated[order][:-1]) & (stated[order][1:] >= 0)
    pairs.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    joined = np.concatenate(pairs)
    links = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(len(partial),) * 2)
    return connected_components(links, directed=False)[1].astype(np.int64)


def _too_near(sites: Sites, partial: np.ndarray) -> np.ndarray:
    """Return the pairs (K, 2) of partial sites, none of a stated choice, whose atoms cannot both be there."""
    free = np.flatnonzero(sites.choice[partial] < 0)
    if len(free) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    positions_A, radius_A = sites.positions_A[partial[free]], radii_A(sites.numbers[partial[free]])
    pairs = cKDTree(positions_A).query_pairs(2 * MEDIAN_RATIO[0] * radius_A.max(), output_type="ndarray")
    distance_A = np.linalg.norm(positions_A[pairs[:, 0]] - positions_A[pairs[:, 1]], axis=1)
    near = distance_A < MEDIAN_RATIO[0] * (radius_A[pairs[:, 0]] + radius_A[pairs[:, 1]])
    return free[pairs[near]]


def _draw(sites: Sites, partial: np.ndarray, draw: np.ndarray, option: np.ndarray,
          rng: np.random.Generator) -> np.ndarray:
    """Return which partial sites (P,) are filled. The sites of one option have the mean of their occupancies."""
    options, of_option = np.unique(np.stack([draw, option], axis=1), axis=0, return_inverse=True)
    of_option = of_option.reshape(-1)
    chance = np.bincount(of_option, sites.occupancy[partial]) / np.bincount(of_option)
    total = np.bincount(options[:, 0], chance)
    if total.max() > _MOST:
        i = partial[np.flatnonzero(draw == int(total.argmax()))]
        x, y, z = sites.positions_A[i[0]]
        names = ", ".join(f"{SYMBOLS[sites.numbers[k]]} {sites.occupancy[k]:g}" for k in i[:6])
        raise ValueError(f"sites near ({x:.2f}, {y:.2f}, {z:.2f}) Å exclude each other, and their occupancies add up "
                         f"to {total.max():.3g}: {names}")
    chance /= np.maximum(total, 1.0)[options[:, 0]]
    # Options are sorted by draw: their cumulative chance starts at 0 in each draw.
    running = np.cumsum(chance)
    before = np.concatenate([[0.0], running[:-1]])
    first = np.concatenate([[True], options[1:, 0] != options[:-1, 0]])
    start = np.maximum.accumulate(np.where(first, before, -np.inf))
    at = rng.random(len(total))[options[:, 0]]
    chosen = (at >= before - start) & (at < running - start)
    return chosen[of_option]
