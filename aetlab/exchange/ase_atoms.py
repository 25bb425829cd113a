"""Atoms to and from ASE."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from aetlab.core.nouns import Atoms, RefinedAtoms, TracedAtoms

if TYPE_CHECKING:
    import ase


#: Least distance in Å of an atom from the faces of a cell that is made around the atoms.
MARGIN_A = 3.0


def to_ase(atoms: Atoms | TracedAtoms | RefinedAtoms, box_A: tuple[float, float, float] | None = None) -> ase.Atoms:
    """Return ASE Atoms in a cell, with every per-atom quantity as an array of the same name.

    Positions in the cell are positive: the volume's centre lies in the middle of the cell, and ``info["centre_A"]``
    says where. ``box_A`` gives the sides of the cell in Å, as a rule those of the volume; None makes it around the
    atoms. The cell is not periodic. A site that is no atom (number 0) has ASE's symbol X. All other fields with one
    row for each atom become arrays, for example ``occupancy``, ``probability`` and ``position_error_A`` (N, 3).
    ``part_names`` of :class:`Atoms` goes to ``info``.

    Raises
    ------
    ValueError
        If an atom lies outside ``box_A``.
    """
    import ase

    reach_A = np.abs(atoms.positions_A).max(axis=0, initial=0.0)
    cell_A = 2 * (reach_A + MARGIN_A) if box_A is None else np.array(box_A, float)
    if (2 * reach_A > cell_A).any():
        raise ValueError(f"atoms reach {', '.join(f'{r:.4g}' for r in reach_A)} Å from the centre, beyond a box of "
                         f"{' x '.join(f'{side:g}' for side in cell_A)} Å")
    result = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions_A + cell_A / 2, cell=cell_A)
    result.info["centre_A"] = cell_A / 2
    for name in per_atom_names(atoms):
        result.set_array(name, np.array(getattr(atoms, name)))
    if isinstance(atoms, Atoms):
        result.info["part_names"] = ",".join(atoms.part_names)
    return result


def from_ase(atoms: ase.Atoms) -> Atoms:
    """Return the numbers and positions of ASE Atoms, and their parts where an array ``part`` gives them.

    ``info["centre_A"]``, which :func:`to_ase` writes, is the point that becomes the centre of the volume. Without it
    that is the origin; centre such a structure first: ``atoms.positions -= atoms.positions.mean(axis=0)``.

    Raises
    ------
    ValueError
        If a position is not finite, a part is negative, or sites are occupied in part: ASE keeps one element of each.
    """
    shared = atoms.info.get("occupancy")
    if isinstance(shared, dict) and any(list(site.values()) != [1] for site in shared.values()):
        raise ValueError("some sites of these atoms are occupied in part or by several elements; ASE keeps one: "
                         "read their file with sample=file, which draws them, or delete atoms.info['occupancy']")
    centre_A = np.array(atoms.info.get("centre_A", np.zeros(3)), dtype=np.float64)
    positions_A = np.array(atoms.get_positions(), dtype=np.float64) - centre_A
    if not np.isfinite(positions_A).all():
        raise ValueError("atoms have positions that are not finite")
    part = np.array(atoms.arrays.get("part", np.zeros(len(atoms))), dtype=np.int64)
    n_parts = int(part.max(initial=0)) + 1
    if part.shape != (len(atoms),) or part.min(initial=0) < 0:
        raise ValueError("the array part must hold one number from 0 for each atom")
    names = tuple(str(atoms.info.get("part_names", "all")).split(","))
    if len(names) < n_parts:
        names = tuple(f"part {k}" for k in range(n_parts))
    return Atoms(np.array(atoms.get_atomic_numbers(), dtype=np.int64), positions_A, part, names)


def per_atom_names(atoms: Atoms | TracedAtoms | RefinedAtoms) -> list[str]:
    """Return the names of the fields with one row an atom, less ``numbers`` and ``positions_A``."""
    per_element_or_pass = {"thermal_A2", "thermal_error_A2", "cost"}
    names = [field.name for field in dataclasses.fields(atoms)]
    return [name for name in names if isinstance(getattr(atoms, name), np.ndarray)
            and name not in per_element_or_pass | {"numbers", "positions_A"}]
