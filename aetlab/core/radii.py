"""Distances of atoms from their covalent radii (Cordero et al., Dalton Trans. 2008, 2832)."""

from __future__ import annotations

from collections.abc import Iterable


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
