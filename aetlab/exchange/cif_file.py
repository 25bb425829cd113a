"""Atoms as a CIF for deposition: every coordinate with its standard uncertainty in parentheses.

The cell is the box of the volume, a plain orthorhombic one without symmetry (P 1), for the sample is no crystal of that
cell. Atoms are whole: the amount of scattering that a refinement found stands in a data item of its own,
``_aetlab_occupancy``, for programs that read ``_atom_site_occupancy`` take it for a share of disordered sites.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aetlab.core.files import write_text
from aetlab.core.nouns import RefinedAtoms, TracedAtoms
from aetlab.core.physics import SYMBOLS

#: Longest line of a CIF 1.1 file.
_LINE = 80


def write_cif(path: Path | str, atoms: TracedAtoms | RefinedAtoms, *, box_A: tuple[float, float, float], name: str,
              made_by: str, elements: Sequence[int] = ()) -> None:
    """Write ``atoms`` to a CIF; sites that are no atom are left out.

    Parameters
    ----------
    path : path
        The file, written whole or not at all.
    atoms : TracedAtoms or RefinedAtoms
        Positions in Å about the centre of the box, with their standard errors. Refined atoms have B of their elements
        as well.
    box_A : tuple of float
        Sides (x, y, z) of the box in Å.
    name : str
        Name of the data block; characters that a block's name cannot have become underscores.
    made_by : str
        One line on the program.
    elements : sequence of int, optional
        Atomic numbers of the elements of the sample, in the order of ``thermal_A2``; without them no B is written.
    """
    named = np.flatnonzero(atoms.numbers > 0)
    numbers = atoms.numbers[named].tolist()
    lines = [f"data_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}",
             f"_audit_creation_method '{re.sub(r'[^ -&(-~]', '_', made_by)[:_LINE - 30]}'"]
    lines += [f"_cell_length_{axis} {side:.5f}" for axis, side in zip("abc", box_A, strict=True)]
    lines += [f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")]
    lines += ["_space_group_name_H-M_alt 'P 1'", "_space_group_IT_number 1", "loop_",
              "_space_group_symop_operation_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol",
              "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"]
    columns: list[Sequence[str]] = [_labels(numbers), [SYMBOLS[number] for number in numbers]]
    for axis, side_A in enumerate(box_A):
        fractions = atoms.positions_A[named, axis] / side_A + 0.5
        columns.append(with_uncertainties(fractions, atoms.position_error_A[named, axis] / side_A))
    if isinstance(atoms, RefinedAtoms):
        lines += ["_atom_site_B_iso_or_equiv", "_aetlab_occupancy"]
        columns += [_thermal(atoms, numbers, elements),
                    with_uncertainties(atoms.occupancy[named], atoms.occupancy_error[named])]
    lines.append("_aetlab_probability")
    columns.append([f"{value:.4f}" for value in atoms.probability[named].tolist()])
    lines += [" ".join(row) for row in zip(*columns, strict=True)]
    write_text(Path(path), "\n".join(lines) + "\n")


def with_uncertainties(values: np.ndarray, errors: np.ndarray) -> list[str]:
    """Return numbers with their standard uncertainties in parentheses, in units of the last digit: 0.48213(15).

    The uncertainty has two digits up to 19 and one above. An error that is 0 or not finite is left out, and the number
    has six decimals.
    """
    return [_with_uncertainty(value, error) for value, error in zip(values.tolist(), errors.tolist(), strict=True)]


def _with_uncertainty(value: float, error: float) -> str:
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6f}"
    digits = 1 - math.floor(math.log10(error))
    if round(error * 10.0**digits) > 19:
        digits -= 1
    digits = max(digits, 0)
    return f"{value:.{digits}f}({max(round(error * 10.0**digits), 1)})"


def _labels(numbers: Sequence[int]) -> list[str]:
    """Return a label for each atom: its symbol and a number that counts the atoms of the element."""
    counts: dict[int, int] = {}
    labels = []
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
        labels.append(f"{SYMBOLS[number]}{counts[number]}")
    return labels


def _thermal(atoms: RefinedAtoms, numbers: Sequence[int], elements: Sequence[int]) -> list[str]:
    """Return B of the element of each atom; ``?``, which stands for unknown in a CIF, without the ``elements``."""
    if len(elements) != len(atoms.thermal_A2):
        return ["?"] * len(numbers)
    texts = dict(zip(elements, with_uncertainties(atoms.thermal_A2, atoms.thermal_error_A2), strict=True))
    return [texts[number] for number in numbers]
