"""Local structure of traced atoms against that of the true ones: bonds, angles, coordination, pair distribution."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.nouns import Atoms, Match, TracedAtoms
from aetlab.core.physics import SYMBOLS
from aetlab.core.structure import (
    R_MAX_A,
    R_MAX_LEAST_A,
    bond_range_A,
    count_coordination,
    depth_below_surface,
    find_bonds,
    find_tetrahedra,
    measure_angles,
    pair_distribution,
)

N_LENGTH_BINS = 60
#: Up to this number of elements, all pairs are measured, also those without a bond.
FEW_ELEMENTS = 4
ANGLE_EDGES_DEG = np.linspace(40.0, 180.0, 71)


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
        length_A, tolerance_A = bond_range_A(centre, end)
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
    reach_A = max(sum(bond_range_A(element, element)) for element in elements)
    near: set[tuple[int, int]] = set()
    for numbers, positions_A in parts:
        if len(numbers):
            i, j = cKDTree(positions_A).query_pairs(reach_A, output_type="ndarray").T
            near |= set(map(tuple, np.unique(np.stack([numbers[i], numbers[j]], axis=1), axis=0).tolist()))
    return [(centre, end) for centre, end in pairs if (centre, end) in near or (end, centre) in near]


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
