"""Local structure of a set of atoms: bonds, angles, coordination, pair distribution, tetrahedra.

Functions take atomic numbers (N,) and positions (N, 3) in Å, for traced, refined and true atoms alike; they do not need
the truth. Bonds and least distances follow from covalent radii (Cordero et al., Dalton Trans. 2008, 2832).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError, cKDTree

#: Si-O bond length of the paper's figures in Å, and the largest deviation of a bond of a tetrahedron.
SI_O_BOND_A, SI_O_TOLERANCE_A = 1.6, 0.375
#: Atoms are bonded from 1/this to this times the sum of their covalent radii.
BOND_REACH = 1.2
#: Range of the stored pair distribution functions in Å, and the least range that is stored.
R_MAX_A, R_MAX_LEAST_A = 8.0, 3.0


@dataclass(frozen=True)
class Bonds:
    """``centre`` and ``end`` (B,) indices of the atoms, sorted by both; ``length_A`` (B,)."""

    centre: np.ndarray
    end: np.ndarray
    length_A: np.ndarray


def find_bonds(numbers: np.ndarray, positions_A: np.ndarray, centre: int, end: int, *, length_A: float = SI_O_BOND_A,
               tolerance_A: float = SI_O_TOLERANCE_A) -> Bonds:
    """Return pairs of a ``centre`` and an ``end`` element that are ``length_A`` ± ``tolerance_A`` apart.

    Each bond within one element is listed twice, once from each side.
    """
    i_centre, i_end = np.flatnonzero(numbers == centre), np.flatnonzero(numbers == end)
    if not len(i_centre) or not len(i_end):
        return Bonds(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    found = cKDTree(positions_A[i_centre]).sparse_distance_matrix(
        cKDTree(positions_A[i_end]), length_A + tolerance_A, output_type="ndarray")
    keep = (found["v"] >= length_A - tolerance_A) & (found["v"] > 0)
    first, second, length = i_centre[found["i"][keep]], i_end[found["j"][keep]], found["v"][keep]
    order = np.lexsort((second, first))
    return Bonds(first[order], second[order], length[order])


def count_coordination(bonds: Bonds, numbers: np.ndarray, centre: int) -> np.ndarray:
    """Count the bonds of each atom of the ``centre`` element, (number of such atoms,)."""
    return np.bincount(bonds.centre, minlength=len(numbers))[numbers == centre]


def measure_angles(bonds: Bonds, positions_A: np.ndarray) -> np.ndarray:
    """Return the angles in degrees between every two bonds of the same centre, (A,)."""
    direction = (positions_A[bonds.end] - positions_A[bonds.centre]) / bonds.length_A[:, None]
    first = np.searchsorted(bonds.centre, bonds.centre, side="left")
    place = np.arange(len(bonds.centre)) - first
    count = np.searchsorted(bonds.centre, bonds.centre, side="right") - first
    later = count - 1 - place
    one = np.repeat(np.arange(len(bonds.centre)), later)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(later) - later, later)
    cosine = np.einsum("ij,ij->i", direction[one], direction[other])
    return np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0)))


def depth_below_surface(positions_A: np.ndarray, surface_A: np.ndarray) -> np.ndarray:
    """Return the depth in Å (N,) below the convex hull of ``surface_A`` (M, 3); NaN if the hull has no volume."""
    try:
        hull = ConvexHull(surface_A)
    except (QhullError, ValueError):
        return np.full(len(positions_A), np.nan)
    planes = np.unique(np.round(hull.equations, 9), axis=0)
    depth = np.full(len(positions_A), np.inf)
    for plane in planes:
        np.minimum(depth, -(positions_A @ plane[:3] + plane[3]), out=depth)
    return depth


def pair_distribution(positions_A: np.ndarray, r_max_A: float, dr_A: float = 0.05, *, numbers: np.ndarray | None = None,
                      pair: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair distribution function g(r), which is 1 for atoms at random places.

    Centres are the atoms deeper than ``r_max_A`` below the convex hull, whose shells the surface does not cut. The
    density is that within ``r_max_A`` of the centres.

    Parameters
    ----------
    positions_A : (N, 3)
    r_max_A, dr_A : float
        Range and width of the shells.
    numbers : (N,), optional
    pair : (centre, other), optional
        Elements of a partial g(r); needs ``numbers``.

    Returns
    -------
    r_A : (R,)
        Middles of the shells.
    g : (R,)

    Raises
    ------
    ValueError
        If no atom of the centre's element is deep enough.
    """
    chosen, others = np.ones(len(positions_A), dtype=bool), np.ones(len(positions_A), dtype=bool)
    if pair is not None and numbers is not None:
        chosen, others = numbers == pair[0], numbers == pair[1]
    chosen = chosen & (depth_below_surface(positions_A, positions_A) >= r_max_A)
    if not chosen.any() or not others.any():
        raise ValueError(f"r_max_A={r_max_A} cannot be used: no atom of the pair lies that deep below the surface")
    edges = np.arange(0.0, r_max_A + 0.5 * dr_A, dr_A)
    tree, other_tree = cKDTree(positions_A[chosen]), cKDTree(positions_A[others])
    below = tree.count_neighbors(other_tree, edges).astype(np.float64)
    # The centre itself, at distance 0, is in no shell, but is part of the density.
    shells = np.diff(below)
    density = below[-1] / (4 / 3 * np.pi * edges[-1] ** 3)
    return 0.5 * (edges[:-1] + edges[1:]), shells / (density * 4 / 3 * np.pi * np.diff(edges**3))


def find_tetrahedra(numbers: np.ndarray, positions_A: np.ndarray, centre: int = 14, corner: int = 8, *,
                    length_A: float = SI_O_BOND_A, tolerance_A: float = SI_O_TOLERANCE_A) -> np.ndarray:
    """Return the indices (T, 5) of each centre atom and its four corner atoms.

    All four bonds are ``length_A`` ± ``tolerance_A`` long, by default the Si-O bond of the paper's figures. A centre
    with more such bonds takes the four nearest to ``length_A``. Corners are in rising order. The metrics count these
    tetrahedra and the figures draw them.
    """
    bonds = find_bonds(numbers, positions_A, centre, corner, length_A=length_A, tolerance_A=tolerance_A)
    order = np.lexsort((np.abs(bonds.length_A - length_A), bonds.centre))
    ends, centres = bonds.end[order], bonds.centre[order]
    unique, first, count = np.unique(centres, return_index=True, return_counts=True)
    whole = count >= 4
    corners = np.sort(ends[first[whole, None] + np.arange(4)], axis=1)
    return np.concatenate([unique[whole, None], corners], axis=1)


def bond_range_A(centre: int, end: int) -> tuple[float, float]:
    """Return middle and half-width in Å of the range of bond lengths."""
    if {centre, end} == {8, 14}:
        return SI_O_BOND_A, SI_O_TOLERANCE_A
    from ase.data import covalent_radii  # the report finds tetrahedra without loading ASE

    usual_A = float(covalent_radii[centre] + covalent_radii[end])
    low_A, high_A = usual_A / BOND_REACH, usual_A * BOND_REACH
    return (low_A + high_A) / 2, (high_A - low_A) / 2


def covalent_radii_A(numbers: Iterable[int]) -> list[float]:
    """Return the covalent radii in Å of elements; those that are not known are left out."""
    from ase.data import covalent_radii  # code without distances does not load ASE

    return [float(covalent_radii[z]) for z in numbers if 0 < z < len(covalent_radii)]


def least_distance_A(numbers: Iterable[int], part: float) -> float:
    """Return ``part`` of the distance in Å of two bonded atoms of the smallest of these elements; 0 if none is known.

    Names may be wrong while distances are judged, so that the smallest element stands for all. The distances of atoms
    in a triple bond are 0.78 of the sums of their covalent radii and more.
    """
    return 2 * part * min(covalent_radii_A(numbers), default=0.0)
