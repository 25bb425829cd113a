"""Local structure of a set of atoms: bonds, angles, coordination, pair distribution, tetrahedra.

Functions take atomic numbers (N,) and positions (N, 3) in Å, for traced and true atoms alike; they do not need the
truth, except :func:`compare_tetrahedra` and :func:`compare_structure`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError, cKDTree

from aetlab.core.nouns import Atoms, Match, TracedAtoms
from aetlab.core.physics import SYMBOLS

#: Si-O bond length of the paper's figures in Å, and the largest deviation of a bond of a tetrahedron.
SI_O_BOND_A, SI_O_TOLERANCE_A = 1.6, 0.375
#: Atoms are bonded from 1/this to this times the sum of their covalent radii.
BOND_REACH = 1.2
#: Range of the stored pair distribution functions in Å, and the least range that is stored.
R_MAX_A, R_MAX_LEAST_A = 8.0, 3.0
N_LENGTH_BINS = 60
#: Up to this number of elements, all pairs are measured, also those without a bond.
FEW_ELEMENTS = 4
ANGLE_EDGES_DEG = np.linspace(40.0, 180.0, 71)


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


def compare_tetrahedra(traced: np.ndarray, true: np.ndarray, pairs_traced: np.ndarray,
                       pairs_true: np.ndarray) -> dict[str, float]:
    """Compare tetrahedra (T, 5) of traced and of true atoms, given the pairs of matched atoms. Needs the truth.

    Returns ``n_true``, ``n_traced``, ``n_common`` (all five atoms pair up), ``recall`` and ``precision`` (NaN for 0/0).
    """
    partner = dict(zip(pairs_traced.tolist(), pairs_true.tolist(), strict=True))
    known = {(row[0], *sorted(row[1:])) for row in true.tolist()}
    common = 0
    for row in traced.tolist():
        if all(index in partner for index in row):
            centre, *corners = (partner[index] for index in row)
            common += (centre, *sorted(corners)) in known
    return {"n_true": float(len(true)), "n_traced": float(len(traced)), "n_common": float(common),
            "recall": common / len(true) if len(true) else float("nan"),
            "precision": common / len(traced) if len(traced) else float("nan")}


def compare_structure(match: Match, traced: TracedAtoms, atoms: Atoms, *, traced_inside: np.ndarray,
                      true_inside: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Measure bonds, angles, coordination, pair distribution and tetrahedra of traced and of true atoms.

    Bonds join atoms nearer than :data:`BOND_REACH` times the sum of their covalent radii (Cordero et al., Dalton Trans.
    2832, 2008); Si-O bonds are the paper's. Sites that are named no atom are left out. Needs the truth.

    Parameters
    ----------
    match, traced, atoms : Match, TracedAtoms, Atoms
    traced_inside, true_inside : (N,) and (M,) bool
        Masks of the atoms that are measured.

    Returns
    -------
    arrays : dict
        For each pair of elements such as ``Si-O`` (of more than :data:`FEW_ELEMENTS` elements, those that are near):
        counts ``Si-O/length_true`` and ``_traced`` between ``Si-O/length_edges_A``; counts of the angles of each two O
        at one Si, ``Si-O/angle_*``, between ``angle_edges_deg``; and ``Si-O/coordination_*`` (13,), the number of Si
        with 0, 1 … 12 O or more.
        ``pair_distribution/r_A``, ``g_true`` and ``g_traced`` if there are atoms deep enough.
    metrics : dict
        Means such as ``bond_Si_O_true_A``, ``angle_Si_O_true_deg`` and ``coordination_Si_O_true``, the same for
        ``traced``, and ``tetrahedra_*``.
    """
    kept = np.asarray(traced_inside, dtype=bool) & (traced.numbers > 0)
    true_inside = np.asarray(true_inside, dtype=bool)
    parts = {"true": (atoms.numbers[true_inside], atoms.positions_A[true_inside]),
             "traced": (traced.numbers[kept], traced.positions_A[kept])}
    arrays: dict[str, np.ndarray] = {"angle_edges_deg": ANGLE_EDGES_DEG}
    metrics: dict[str, float] = {}
    elements = [int(number) for number in np.unique(parts["true"][0])]
    for centre, end in _near_pairs(elements, parts.values()):
        length_A, tolerance_A = _bond_range_A(centre, end)
        key, name = f"{SYMBOLS[centre]}-{SYMBOLS[end]}", f"{SYMBOLS[centre]}_{SYMBOLS[end]}"
        edges_A = np.linspace(length_A - tolerance_A, length_A + tolerance_A, N_LENGTH_BINS + 1)
        arrays[f"{key}/length_edges_A"] = edges_A
        for kind, (numbers, positions_A) in parts.items():
            bonds = find_bonds(numbers, positions_A, centre, end, length_A=length_A, tolerance_A=tolerance_A)
            angle_deg = measure_angles(bonds, positions_A)
            coordination = count_coordination(bonds, numbers, centre)
            arrays[f"{key}/length_{kind}"] = np.histogram(bonds.length_A, edges_A)[0]
            arrays[f"{key}/angle_{kind}"] = np.histogram(angle_deg, ANGLE_EDGES_DEG)[0]
            arrays[f"{key}/coordination_{kind}"] = np.bincount(np.minimum(coordination, 12), minlength=13)
            metrics[f"bond_{name}_{kind}_A"] = _mean(bonds.length_A)
            metrics[f"angle_{name}_{kind}_deg"] = _mean(angle_deg)
            metrics[f"coordination_{name}_{kind}"] = _mean(coordination)
    arrays |= _compare_pair_distributions(parts["traced"][1], parts["true"][1])
    both = kept[match.traced] & true_inside[match.true]
    place_traced, place_true = np.cumsum(kept) - 1, np.cumsum(true_inside) - 1
    tetrahedra = compare_tetrahedra(find_tetrahedra(*parts["traced"]), find_tetrahedra(*parts["true"]),
                                    place_traced[match.traced[both]], place_true[match.true[both]])
    return arrays, metrics | {f"tetrahedra_{name}": value for name, value in tetrahedra.items()}


def _near_pairs(elements: Sequence[int], parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int]]:
    """Return the pairs of ``elements`` whose atoms may be bonded in any of ``parts`` (numbers, positions in Å).

    Of few elements these are all pairs; of many, one search finds those of atoms within the longest bond.
    """
    pairs = list(itertools.product(elements, elements))
    if len(elements) <= FEW_ELEMENTS:
        return pairs
    reach_A = max(sum(_bond_range_A(element, element)) for element in elements)
    near: set[tuple[int, int]] = set()
    for numbers, positions_A in parts:
        if len(numbers):
            i, j = cKDTree(positions_A).query_pairs(reach_A, output_type="ndarray").T
            near |= set(map(tuple, np.unique(np.stack([numbers[i], numbers[j]], axis=1), axis=0).tolist()))
    return [(centre, end) for centre, end in pairs if (centre, end) in near or (end, centre) in near]


def _bond_range_A(centre: int, end: int) -> tuple[float, float]:
    """Return middle and half-width in Å of the range of bond lengths."""
    if {centre, end} == {8, 14}:
        return SI_O_BOND_A, SI_O_TOLERANCE_A
    from ase.data import covalent_radii  # the report finds tetrahedra without loading ASE

    usual_A = float(covalent_radii[centre] + covalent_radii[end])
    low_A, high_A = usual_A / BOND_REACH, usual_A * BOND_REACH
    return (low_A + high_A) / 2, (high_A - low_A) / 2


def _compare_pair_distributions(traced_A: np.ndarray, true_A: np.ndarray) -> dict[str, np.ndarray]:
    """Return g(r) of both up to :data:`R_MAX_A` or 0.6 of the greatest depth; nothing if that range is too short."""
    depth_A = depth_below_surface(true_A, true_A)
    r_max_A = min(R_MAX_A, 0.6 * float(np.nanmax(depth_A, initial=0.0)))
    if not r_max_A >= R_MAX_LEAST_A:
        return {}
    try:
        r_A, g_true = pair_distribution(true_A, r_max_A)
        g_traced = pair_distribution(traced_A, r_max_A)[1]
    except ValueError:  # no traced atom is that deep
        return {}
    return {"pair_distribution/r_A": r_A, "pair_distribution/g_true": g_true, "pair_distribution/g_traced": g_traced}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
