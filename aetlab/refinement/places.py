"""Where the sites of a path were, how often, and how far they spread there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: Places of a site that are kept; the rarest one gives way to a new one.
N_PLACES = 4
#: Centres nearer than this are one place; means of places and sites nearer than the second are one atom, in Å.
SAME_CENTRE_A, SAME_ATOM_A = 0.5, 0.8


@dataclass(frozen=True)
class Places:
    """The place at which each site was most often.

    ``positions_A`` (N, 3) are the means of the corrected positions there, ``spread_A2`` (N, 3) the variances of the
    positions, and ``presence`` (N,) the share of the steps; sites that were never present have 0 and no place.
    """

    positions_A: np.ndarray
    spread_A2: np.ndarray
    presence: np.ndarray


class Tally:
    """Counts and sums for the places of N sites, which start at the centres ``home_A`` (N, 3)."""

    def __init__(self, home_A: np.ndarray) -> None:
        shape = (len(home_A), N_PLACES)
        self._centre_A = np.full((*shape, 3), np.inf)
        self._centre_A[:, 0] = home_A
        self._count = np.zeros(shape, np.int64)
        self._sum_A, self._squares_A2, self._corrected_A = np.zeros((3, *shape, 3))
        self._n_steps, self._home_A, self._place = 0, home_A.copy(), np.zeros(len(home_A), np.int64)

    def add(self, home_A: np.ndarray, move_A: np.ndarray, corrected_move_A: np.ndarray, present: np.ndarray) -> None:
        """Count one step: centres of the places, positions and corrected positions relative to them, all (N, 3)."""
        changed = np.flatnonzero((home_A != self._home_A).any(axis=1))
        if len(changed):
            self._find(changed, home_A[changed])
            self._home_A = home_A.copy()
        site = np.flatnonzero(present)
        at = site, self._place[site]
        position_A = home_A[site] + move_A[site]
        self._count[at] += 1
        self._sum_A[at] += position_A
        self._squares_A2[at] += position_A**2
        self._corrected_A[at] += home_A[site] + corrected_move_A[site]
        self._n_steps += 1

    def _find(self, sites: np.ndarray, home_A: np.ndarray) -> None:
        """Set the place of sites that have new centres."""
        distance_A = np.linalg.norm(self._centre_A[sites] - home_A[:, None], axis=2)
        nearest = distance_A.argmin(axis=1)
        new = distance_A[np.arange(len(sites)), nearest] > SAME_CENTRE_A
        rarest = self._count[sites].argmin(axis=1)
        self._place[sites] = place = np.where(new, rarest, nearest)
        fresh = sites[new], place[new]
        self._centre_A[fresh] = home_A[new]
        self._count[fresh] = 0
        for sums in (self._sum_A, self._squares_A2, self._corrected_A):
            sums[fresh] = 0

    def places(self) -> Places:
        """Return the place at which each site was most often, with the places whose means are nearly the same."""
        count = np.maximum(self._count, 1)[..., None]
        means_A = np.where(self._count[..., None] > 0, self._sum_A / count, np.inf)
        best = self._count.argmax(axis=1)
        of_best_A = means_A[np.arange(len(best)), best]
        with np.errstate(invalid="ignore"):  # sites that were never present
            one = np.linalg.norm(means_A - of_best_A[:, None], axis=2) <= SAME_ATOM_A
        n, sums_A, squares_A2, corrected_A = (
            (values * one.reshape(one.shape + (1,) * (values.ndim - 2))).sum(axis=1)
            for values in (self._count, self._sum_A, self._squares_A2, self._corrected_A))
        there = np.maximum(n, 1)[:, None]
        spread_A2 = np.maximum(squares_A2 / there - (sums_A / there) ** 2, 0)
        return Places(corrected_A / there, spread_A2, n / max(self._n_steps, 1))


def presence_of_atoms(places: Places) -> np.ndarray:
    """Return the presence (N,) of the atom at the place of each site, 0 for all but the most frequent site of an atom.

    Sites that take turns at one place are one atom: their shares add up.
    """
    presence = places.presence.copy()
    seen = np.flatnonzero(presence > 0)
    pairs = seen[cKDTree(places.positions_A[seen]).query_pairs(SAME_ATOM_A, output_type="ndarray")]
    first = np.where(presence[pairs[:, 0]] >= presence[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    for i in np.argsort(-presence[first], kind="stable"):
        stronger, weaker = first[i], pairs[i].sum() - first[i]
        if presence[stronger] > 0 and presence[weaker] > 0:
            presence[stronger] = min(presence[stronger] + presence[weaker], 1.0)
            presence[weaker] = 0.0
    return presence


def presence_on_path(places: Places, away: np.ndarray, n_steps: int) -> np.ndarray:
    """Return the probabilities (N,) of the atoms at ``places`` after ``n_steps``.

    That of a site that never left its atom follows from ``away`` (N,), its mean probability to do so; no count of steps
    tells that one is 1.
    """
    presence = np.minimum(presence_of_atoms(places), 1 - 0.5 / n_steps)
    return np.where((places.presence == 1) & (presence > 0) & (away > 0), 1 - away, presence)
