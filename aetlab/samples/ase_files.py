"""Structures of the formats that ASE reads, with checks of what its readers take on trust."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aetlab.core.structure_text import Lines
from aetlab.samples.sites import ReadSites, Sites, make_sites

if TYPE_CHECKING:
    import ase

#: Names of a column of occupancies.
_OCCUPANCY = ("occupancy", "occupancies", "occ")
#: Symbols that are English words, as a comment begins with.
_ENGLISH = {"Am", "As", "At", "Be", "He", "I", "In", "No"}


def read_with_ase(text: str, file_format: str) -> list[ReadSites]:
    """Return a function for each structure of a text in one of ASE's formats, which reads its sites.

    Raises
    ------
    Exception
        Of every kind, also by the functions, for text that is malformed; ValueError for counts beyond the text, for
        several structures where the format has one, and for what ASE would misread.
    """
    import ase.io

    if file_format in ("sdf", "mol"):
        return [partial(_read_one, record, file_format) for record in _split_records(text)]
    if file_format == "xsf":
        structures = cast("list[ase.Atoms]", ase.io.read(Lines(text), index=":", format="xsf"))
        return [partial(sites_of, structure) for structure in structures]
    return [partial(_read_one, text, file_format)]


def _read_one(text: str, file_format: str) -> Sites:
    import ase.io
    import ase.io.cube

    if file_format in _CHECKS:
        _CHECKS[file_format](text)
    if file_format == "cube":
        structure = ase.io.cube.read_cube(Lines(text), read_data=False)["atoms"]
    else:
        structure = cast("ase.Atoms", ase.io.read(Lines(text), format=file_format))
    if file_format == "cfg":
        structure.set_cell(structure.cell.array * _cfg_unit(text), scale_atoms=True)
    return sites_of(structure)


def sites_of(structure: ase.Atoms) -> Sites:
    """Return the sites of an ASE structure, with the occupancies of a column of that name."""
    cell_A = np.array(structure.cell) if structure.cell.rank == 3 else None
    shared, kinds = structure.info.get("occupancy"), structure.arrays.get("spacegroup_kinds")
    if isinstance(shared, dict) and kinds is not None:
        return _shared_sites(structure, shared, kinds, cell_A)
    occupancy = next((structure.arrays[name] for name in structure.arrays if name.lower() in _OCCUPANCY), None)
    if occupancy is not None and (occupancy.ndim != 1 or occupancy.dtype.kind not in "iuf"):
        raise ValueError("its occupancies are not one number an atom")
    return make_sites(np.array(structure.numbers), np.array(structure.positions), occupancy, cell_A=cell_A)


def _shared_sites(structure: ase.Atoms, shared: dict[str, Any], kinds: np.ndarray, cell_A: np.ndarray | None) -> Sites:
    """Return one site for each element at each position, as ASE keeps them of CIF files."""
    from ase.data import atomic_numbers

    rows = [(atomic_numbers[symbol], position, occupancy) for kind, position in zip(kinds, structure.positions)
            for symbol, occupancy in shared[str(int(kind))].items()]
    numbers, positions_A, occupancy = zip(*rows)
    return make_sites(np.array(numbers), np.array(positions_A), np.array(occupancy), cell_A=cell_A)


def _check_count(count: int, text: str, what: str = "atoms") -> None:
    if not 0 <= count <= text.count("\n") + 1:
        raise ValueError(f"it ends before all {count} {what} that it announces")


def _check_single(n_structures: int) -> None:
    if n_structures > 1:
        raise ValueError(f"it holds {n_structures} structures, and the format has one: save one of them")


def _check_gen(text: str) -> None:
    lines = text.rstrip().split("\n")
    n_atoms = int(lines[0].split()[0])
    if n_atoms > len(lines) - 2:
        raise ValueError(f"it ends before all {n_atoms} atoms that it announces")
    n_species = len(lines[1].split())
    for i, line in enumerate(lines[2:2 + n_atoms], 3):
        if not 1 <= int(line.split()[1]) <= n_species:
            raise ValueError(f"line {i} has the species {line.split()[1]}, and the second line names {n_species}")
    n_lines = n_atoms + (2 if lines[0].split()[1] == "C" else 6)
    if len(lines) > n_lines:
        raise ValueError(f"lines follow the structure that ends in line {n_lines}: save one structure")


def _check_cfg(text: str) -> None:
    _check_single(len(re.findall(r"^\s*Number of particles", text, re.MULTILINE)))
    for key, value in re.findall(r"^\s*(Number of particles|entry_count)\s*=\s*(-?\d+)", text, re.MULTILINE):
        limit = text.count("\n") + 1 if key[0] == "N" else max(len(line.split()) for line in text.split("\n"))
        if not 0 <= int(value) <= limit:
            raise ValueError(f"it ends before all that it announces ({key} = {value})")
    n_entries = re.search(r"^\s*entry_count\s*=\s*(\d+)", text, re.MULTILINE)
    named = re.search(r"^\s*auxiliary\[", text, re.MULTILINE)
    if n_entries and int(n_entries[1]) > 4 and ".NO_VELOCITY." in text and not named:
        rows = [line.split() for line in text.split("\n")]
        if any(len(row) == int(n_entries[1]) and float(row[4]) != 1 for row in rows if "=" not in row):
            raise ValueError("its fifth column has no name and may be an occupancy: name it with the line "
                             "'auxiliary[1] = occupancy', and the fourth likewise")


def _cfg_unit(text: str) -> float:
    """Return the unit of length in Å, which ASE leaves out."""
    unit = re.search(r"^\s*A\s*=\s*([-+.\deE]+)", text, re.MULTILINE)
    return float(unit[1]) if unit else 1.0


def _check_vasp(text: str) -> None:
    """Check the numbers of atoms; a file without symbols needs them at the start of its first line."""
    _check_single(len(re.findall(r"^\s*Direct configuration=", text, re.MULTILINE)))
    lines = text.split("\n")
    words = lines[5].split("!")[0].split() if len(lines) > 5 else []
    if not words:
        raise ValueError("its sixth line holds no symbols or numbers of atoms")
    if words[0].isdigit():
        _check_old_vasp(lines[0], len(words))
    else:
        words = lines[6].split("!")[0].split()
    n_atoms = sum(int(word) for word in words if word.isdigit())
    _check_count(n_atoms, text)
    first = lines.index(next(line for line in lines[5:7] if line.split()[0].isdigit())) + 1
    if lines[first:first + 1] and lines[first].strip()[:1] in ("s", "S"):  # selective dynamics
        first += 1
    first += 1  # Direct or Cartesian
    rows = [line.split()[:3] for line in lines[first:first + n_atoms + 1]]
    if sum(_three_numbers(row) for row in rows[:n_atoms]) < n_atoms:
        raise ValueError(f"it ends before all {n_atoms} atoms that it announces")
    if len(rows) > n_atoms and _three_numbers(rows[n_atoms]):
        raise ValueError(f"it holds more coordinates than the {n_atoms} atoms that it announces")


def _three_numbers(words: list[str]) -> bool:
    try:
        return len([float(word) for word in words]) == 3
    except ValueError:
        return False


def _check_old_vasp(comment: str, n_elements: int) -> None:
    from ase.data import chemical_symbols
    from ase.formula import Formula

    words = comment.split()
    if words and words[0] in _ENGLISH and len(words) > n_elements:
        words = []
    n_symbols = next((i for i, word in enumerate(words) if word not in chemical_symbols), len(words))
    if n_symbols == n_elements:
        return
    try:
        named = words and n_symbols < 2 and len(list(dict.fromkeys(Formula(words[0])))) == n_elements
    except ValueError:
        named = False
    if not named:
        raise ValueError(f"it names no elements for its {n_elements} numbers of atoms: write a line of symbols above")


def _check_cube(text: str) -> None:
    lines = text.split("\n")
    _check_count(abs(int(lines[2].split()[0])), text)
    if any(int(float(line.split()[0])) < 0 for line in lines[3:6]):
        raise ValueError("its negative numbers of voxels say Å in place of Bohr radii, which is not read; convert it")


def _split_records(text: str) -> list[str]:
    """Return the records of an SDF file."""
    return [record for record in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE) if record.strip()]


def _check_mol(text: str) -> None:
    """Check that a record of an SDF file is of the version V2000 and whole."""
    lines = text.split("\n")
    if "V3000" in lines[3]:
        raise ValueError("it is of the version V3000; V2000 is read")
    n_atoms = int(lines[3][:3])
    if n_atoms > len(lines) - 4 or not any(line.startswith("M  END") for line in lines):
        raise ValueError(f"it ends before all {n_atoms} atoms that it announces, or without M  END")


_CHECKS: dict[str, Callable[[str], None]] = {"gen": _check_gen, "cfg": _check_cfg, "vasp": _check_vasp,
                                            "cube": _check_cube, "sdf": _check_mol, "mol": _check_mol}
