"""Atoms to and from ASE."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from aetlab.core.nouns import Atoms, RefinedAtoms, TracedAtoms

if TYPE_CHECKING:
    import ase


def to_ase(atoms: Atoms | TracedAtoms | RefinedAtoms) -> ase.Atoms:
    """Return ASE Atoms with every per-atom quantity as an array of the same name.

    ASE's numbers and positions are ``numbers`` and ``positions_A``: Å about the volume's centre, without a cell. A site
    that is no atom (number 0) has ASE's symbol X. All other fields with one row an atom become arrays, for example
    ``occupancy``, ``probability`` and ``position_error_A`` (N, 3). ``part_names`` of :class:`Atoms` goes to ``info``.
    """
    import ase

    result = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions_A)
    for name in per_atom_names(atoms):
        result.set_array(name, np.array(getattr(atoms, name)))
    if isinstance(atoms, Atoms):
        result.info["part_names"] = ",".join(atoms.part_names)
    return result


def from_ase(atoms: ase.Atoms) -> Atoms:
    """Return the numbers and positions of ASE Atoms, and their parts where an array ``part`` gives them.

    Positions are taken as they are, so the origin must be the centre of the volume; centre a structure first if it is
    not: ``atoms.positions -= atoms.positions.mean(axis=0)``.

    Raises
    ------
    ValueError
        If a position is not finite or a part is negative.
    """
    positions_A = np.array(atoms.get_positions(), dtype=np.float64)
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
