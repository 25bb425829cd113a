"""Distances of neighbours against the sum of their covalent radii: a structure in the wrong unit or place shows there.

Source of the radii: B. Cordero et al., Dalton Trans. 2008, 2832, as ASE tabulates them.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.physics import SYMBOLS

#: Least distance of two atoms, in sums of their covalent radii; the shortest bonds have 0.67.
NEAREST_RATIO = 0.5
#: Range of the median distance to the nearest neighbour, in sums of covalent radii: bonds have 0.8 to 1.2.
MEDIAN_RATIO = (0.6, 1.6)


def check_spacing(numbers: np.ndarray, positions_A: np.ndarray) -> tuple[str, ...]:
    """Return warnings of distances that are odd.

    Raises
    ------
    ValueError
        If two atoms are nearer than atoms can be, or most of them are.
    """
    if len(numbers) < 2:
        return ()
    ratio, distance_A, nearest = _ratios(numbers, positions_A)
    i = int(ratio.argmin())
    pair = f"{SYMBOLS[numbers[i]]} and {SYMBOLS[numbers[nearest[i]]]}"
    median = float(np.median(ratio))
    if ratio[i] < NEAREST_RATIO or median < MEDIAN_RATIO[0]:
        n_near = int((ratio < MEDIAN_RATIO[0]).sum())
        raise ValueError(f"{n_near} of its {len(numbers)} atoms lie nearer to another than atoms can, {pair} "
                         f"{distance_A[i]:.3g} Å apart{_unit_hint(median)}")
    notes = []
    if ratio[i] < MEDIAN_RATIO[0]:
        notes.append(f"{int((ratio < MEDIAN_RATIO[0]).sum())} of its atoms are nearer to another than any bond, {pair} "
                     f"{distance_A[i]:.3g} Å apart")
    if median > MEDIAN_RATIO[1]:
        notes.append(f"its atoms are farther apart than bonded ones, {np.median(distance_A):.3g} Å in the median; are "
                     "its coordinates in Å?")
    return tuple(notes)


def least_ratio(numbers: np.ndarray, positions_A: np.ndarray, cell_A: np.ndarray) -> float:
    """Return the least distance of two atoms of a crystal in sums of their covalent radii; ``inf`` for one atom."""
    shifts_A = (np.array(list(np.ndindex(3, 3, 3))) - 1) @ cell_A
    around_A = (positions_A[None] + shifts_A[:, None]).reshape(-1, 3)
    if not len(numbers):
        return float("inf")
    return float(_ratios(np.tile(numbers, 27), around_A)[0].min())


def _ratios(numbers: np.ndarray, positions_A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each atom (N,) the least ratio to its neighbours, the distance in Å to that neighbour and its index.

    The nearest few neighbours are looked at: one with a larger radius can have a smaller ratio.
    """
    distance_A, index = cKDTree(positions_A).query(positions_A, min(5, len(positions_A)))
    sums_A = radii_A(numbers)[:, None] + radii_A(numbers)[index]
    # An atom is its own neighbour at a distance of 0, once: others may lie upon it.
    own = index == np.arange(len(numbers))[:, None]
    own[~own.any(axis=1), 0] = True
    ratio = np.where(own, np.inf, distance_A / sums_A)
    best = ratio.argmin(axis=1)
    rows = np.arange(len(numbers))
    return ratio[rows, best], distance_A[rows, best], index[rows, best]


def radii_A(numbers: np.ndarray) -> np.ndarray:
    """Return covalent radii in Å."""
    from ase.data import covalent_radii

    return np.asarray(covalent_radii[numbers], dtype=np.float64)


def _unit_hint(median: float) -> str:
    """Return the unit that would make the median a bond, as the end of a message."""
    if 0.7 < median * 10 < 1.6:
        return "; are its coordinates in nm? They must be in Å"
    return "; is its unit, its origin or its setting another one, or a site listed twice?"
