"""Crystals in CIF files: parsed by ASE, expanded to the whole cell by their symmetry operations.

Every row of the file keeps its occupancy, so that elements which share a site, split sites and vacancies can be drawn.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from aetlab.core.structure_text import read_element
from aetlab.samples.sites import MAX_ATOMS, ReadSites, Sites, make_sites
from aetlab.samples.space_group import Operations, check_metric, describe_symmetry, find_operations
from aetlab.samples.spacing import least_ratio

#: Images of a site nearer than this in Å are one site on a symmetry element; its coordinates are rounded. Sites that
#: are occupied in part can be split by little.
SAME_SITE_A, SAME_PARTIAL_SITE_A = 0.1, 0.03
#: Two origins can both be meant if all atoms are farther apart than this, in sums of covalent radii.
_POSSIBLE_RATIO = 0.6
_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_AXES = ("x", "y", "z")
_ABSENT = (".", "?")


def read_cif(text: str) -> list[ReadSites]:
    """Return a function for each data block of a CIF file that holds sites, which reads those of the unit cell.

    Raises
    ------
    ValueError
        If the text holds no structure; by the functions, if an item cannot be read or contradicts others, or the block
        does not say how its sites are repeated.
    """
    from ase.io.cif import parse_cif

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks = [dict(block) for block in parse_cif(io.StringIO(text))]
    wrong = next((str(each.message) for each in caught if "Wrong number" in str(each.message)), None)
    if wrong:
        raise ValueError(f"a row does not have as many values as its loop has names ({wrong[:60]})")
    structures = [tags for tags in blocks if "_atom_site_fract_x" in tags or "_atom_site_cartn_x" in tags]
    if not structures:
        if any("_atom_site.cartn_x" in tags for tags in blocks):
            raise ValueError("it is an mmCIF file, which is not read: save it as PDB")
        raise ValueError("it holds no sites of atoms")
    return [partial(_sites_of, tags) for tags in structures]


def _sites_of(tags: Mapping[str, Any]) -> Sites:
    kind = "fract" if "_atom_site_fract_x" in tags else "cartn"
    columns = [_column(tags, f"_atom_site_{kind}_{axis}") for axis in _AXES]
    names = _names(tags, len(columns[0]))
    if any(len(column) != len(columns[0]) for column in columns):
        raise ValueError("its sites do not all have three coordinates")
    rows = [i for i, values in enumerate(zip(*columns)) if not all(value in _ABSENT for value in values)]
    coordinates = np.array([[_number(column[i], f"a coordinate of site {i + 1}") for column in columns] for i in rows])
    coordinates = coordinates.reshape(-1, 3)
    is_type = "_atom_site_type_symbol" in tags
    numbers = np.array([read_element(names[i], is_label=not is_type) for i in rows], dtype=np.int64)
    occupancy = _occupancies(tags, rows, len(columns[0]))
    if kind == "cartn":
        return _cartesian(tags, numbers, coordinates, occupancy)
    cellpar = _cellpar(tags)
    if cellpar is None:
        raise ValueError("it gives coordinates in fractions of a cell, and no cell")
    notes = (*describe_symmetry(tags), *_notes(tags))
    choices = [(name, _fill(operations, cellpar, numbers, coordinates, occupancy, notes))
               for name, operations in find_operations(tags, cellpar)]
    return choices[0][1] if len(choices) == 1 else _choose(choices, _expected_atoms(tags))


def _column(tags: Mapping[str, Any], name: str) -> list[Any]:
    values = tags.get(name, [])
    return values if isinstance(values, list) else [values]


def _names(tags: Mapping[str, Any], n: int) -> list[str]:
    names = [str(name) for name in _column(tags, "_atom_site_type_symbol") or _column(tags, "_atom_site_label")]
    if len(names) != n:
        raise ValueError(f"it has {n} sites and {len(names)} symbols of elements")
    return names


def _number(value: Any, what: str) -> float:
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{what} is {str(value)[:30]!r}")
    return float(value)


def _occupancies(tags: Mapping[str, Any], rows: list[int], n: int) -> np.ndarray:
    values = _column(tags, "_atom_site_occupancy")
    if values and len(values) != n:
        raise ValueError(f"it has {n} sites and {len(values)} occupancies")
    # The dictionary's default of an occupancy that is not stated is 1.
    return np.array([1.0 if not values or values[i] in _ABSENT else _number(values[i], f"the occupancy of site {i + 1}")
                     for i in rows])


def _cellpar(tags: Mapping[str, Any]) -> list[float] | None:
    if not all(f"_cell_{name}" in tags for name in _CELL):
        return None
    values = [_number(tags[f"_cell_{name}"], f"_cell_{name}") for name in _CELL]
    if min(values) <= 0 or max(values[3:]) >= 180:
        raise ValueError(f"its cell makes no sense: {values}")
    return values


def _cell_vectors_A(cellpar: list[float]) -> np.ndarray:
    from ase.geometry import cellpar_to_cell

    with np.errstate(invalid="ignore"):
        cell_A = np.array(cellpar_to_cell(cellpar))
    if not np.isfinite(cell_A).all() or abs(np.linalg.det(cell_A)) < 1e-3:
        raise ValueError(f"its cell makes no sense: {cellpar}")
    return cell_A


def _cartesian(tags: Mapping[str, Any], numbers: np.ndarray, positions_A: np.ndarray, occupancy: np.ndarray) -> Sites:
    cellpar = _cellpar(tags)
    if cellpar is not None and len(find_operations(tags, cellpar)[0][1][0]) > 1:
        raise ValueError("it gives coordinates in Å together with symmetry operations, whose axes they do not state; "
                         "save it with fractions of the cell")
    cell_A = None if cellpar is None else _cell_vectors_A(cellpar)
    return make_sites(numbers, positions_A, occupancy, cell_A=cell_A, notes=_notes(tags))


def _notes(tags: Mapping[str, Any]) -> tuple[str, ...]:
    groups = {str(value) for value in _column(tags, "_atom_site_disorder_group")} - set(_ABSENT)
    if len(groups) < 2:
        return ()
    return ("its disordered groups are drawn site by site, not as whole groups",)


def _fill(operations: Operations, cellpar: list[float], numbers: np.ndarray, fractions: np.ndarray,
          occupancy: np.ndarray, notes: tuple[str, ...]) -> Sites:
    """Return the sites that the operations make in the cell."""
    cell_A = _cell_vectors_A(cellpar)
    check_metric(operations, cell_A)
    filled, source = _apply(operations, fractions, occupancy, cell_A)
    keep, n_twice = _drop_listed_twice(filled, numbers[source], occupancy[source], cell_A)
    if n_twice:
        notes = (*notes, f"{n_twice} sites are listed twice in the cell and taken once")
    kept = source[keep]
    return make_sites(numbers[kept], filled[keep] @ cell_A, occupancy[kept], cell_A=cell_A, notes=notes)


def _choose(choices: list[tuple[str, Sites]], n_expected: float | None) -> Sites:
    """Return the one of two origins that is possible by the distances of its atoms, or by their number."""
    possible, reason = [], "the other puts atoms upon each other"
    for name, sites in choices:
        assert sites.cell_A is not None
        certain = sites.occupancy == 1
        if least_ratio(sites.numbers[certain], sites.positions_A[certain], sites.cell_A) > _POSSIBLE_RATIO:
            possible.append((name, sites))
    if len(possible) > 1 and n_expected is not None:
        reason = f"the file states {n_expected:g} atoms in the cell"
        possible = [(name, sites) for name, sites in possible
                    if abs(sites.occupancy[sites.numbers > 1].sum() - n_expected) < 0.02 * n_expected]
    if len(possible) != 1:
        raise ValueError(f"it lists no symmetry operations and does not say which of "
                         f"{' and '.join(name for name, _ in choices)} it means: "
                         f"{'both are' if possible else 'none is'} possible; save it with its operations")
    name, sites = possible[0]
    return replace(sites, notes=(*sites.notes, f"it does not say which origin it means; {name} is taken, for {reason}"))


def _expected_atoms(tags: Mapping[str, Any]) -> float | None:
    """Return the number of atoms in the cell, hydrogen left out, by formula and units in the cell; None: not stated."""
    formula, units = tags.get("_chemical_formula_sum"), tags.get("_cell_formula_units_z")
    counts = re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", str(formula)) if formula else []
    if not counts or not isinstance(units, (int, float)):
        return None
    return float(units) * sum(float(count or 1) for symbol, count in counts if symbol not in ("H", "D"))


def _apply(operations: Operations, fractions: np.ndarray, occupancy: np.ndarray,
           cell_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct images (M, 3) in the cell of sites (N, 3), both in fractions, and the site of each image."""
    rotations, translations = operations
    if len(rotations) * len(fractions) > MAX_ATOMS:
        raise ValueError(f"its symmetry operations make more than {MAX_ATOMS} atoms")
    images, source = [], []
    for i, site in enumerate(fractions):
        orbit = _into_cell(rotations @ site + translations)
        images.append(orbit[_first_of_each(orbit, cell_A, SAME_SITE_A if occupancy[i] == 1 else SAME_PARTIAL_SITE_A)])
        source.append(np.full(len(images[-1]), i))
    if not images:
        return fractions, np.zeros(0, dtype=np.int64)
    return np.concatenate(images), np.concatenate(source)


def _into_cell(fractions: np.ndarray) -> np.ndarray:
    inside = fractions - np.floor(fractions)
    inside[inside > 1 - 1e-6] = 0.0
    return inside


def _near_pairs(fractions: np.ndarray, cell_A: np.ndarray, reach_A: float) -> np.ndarray:
    """Return the pairs (P, 2) of places in a periodic cell nearer than ``reach_A``."""
    reach = min(reach_A * float(np.linalg.norm(np.linalg.inv(cell_A), axis=0).max()), 0.49)
    pairs = cKDTree(_into_cell(fractions), boxsize=1.0).query_pairs(reach, output_type="ndarray")
    apart = fractions[pairs[:, 0]] - fractions[pairs[:, 1]]
    apart -= np.round(apart)
    return pairs[np.linalg.norm(apart @ cell_A, axis=1) < reach_A]


def _first_of_each(fractions: np.ndarray, cell_A: np.ndarray, reach_A: float) -> np.ndarray:
    """Return the indices of places that no earlier one coincides with."""
    if len(fractions) == 1:
        return np.zeros(1, dtype=np.int64)
    keep = np.ones(len(fractions), dtype=bool)
    pairs = np.sort(_near_pairs(fractions, cell_A, reach_A), axis=1)
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        if keep[first]:
            keep[second] = False
    return np.flatnonzero(keep)


def _drop_listed_twice(fractions: np.ndarray, numbers: np.ndarray, occupancy: np.ndarray,
                       cell_A: np.ndarray) -> tuple[np.ndarray, int]:
    """Return which sites to keep, without full ones that repeat another full one of their element, and how many go."""
    keep = np.ones(len(fractions), dtype=bool)
    pairs = np.sort(_near_pairs(fractions, cell_A, SAME_SITE_A), axis=1)
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        if keep[first] and numbers[first] == numbers[second] and occupancy[first] == occupancy[second] == 1:
            keep[second] = False
    return keep, int((~keep).sum())
