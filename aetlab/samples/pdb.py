"""Atoms of PDB files: elements, occupancies, alternate locations, models, cell.

Columns (from 1): 13 to 16 name, 17 alternate location, 18 to 21 residue, 22 chain, 23 to 27 number of the residue, 31
to 54 coordinates in Å, 55 to 60 occupancy, 77 and 78 element. Without an element the name tells: a symbol of two
letters starts in column 13, one of one letter in column 14 (" CA " is carbon, "CA  " calcium), and names of four
characters that start in column 13 with H are hydrogen.
Source: wwPDB, Protein Data Bank Contents Guide 3.3, "ATOM".
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from aetlab.core.structure_text import number_of_symbol, read_element
from aetlab.samples.sites import ReadSites, Sites, make_sites

_ATOMS = ("ATOM  ", "HETATM")
#: Residues whose atoms are all H, C, N, O, P or S.
_STANDARD = frozenset("ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
                      "A C G U DA DC DG DT HOH WAT".split())


def read_pdb(text: str) -> list[ReadSites]:
    """Return a function for each model of a PDB file, which reads its sites.

    Each residue chooses one of its alternate locations.

    Raises
    ------
    ValueError
        By the functions, if a line cannot be read, an atom's element is unclear, or the occupancies make no sense.
    """
    lines = text.split("\n")
    return [partial(_read_model, lines, model) for model in _models(lines)]


def _read_model(lines: list[str], model: list[tuple[int, str]]) -> Sites:
    names_aligned = _names_are_aligned([line for _, line in model])
    numbers, positions_A, occupancy, places = [], [], [], []
    for at, line in model:
        try:
            numbers.append(_element(line, names_aligned))
            positions_A.append([_coordinate(line[start:start + 8]) for start in (30, 38, 46)])
            occupancy.append(_occupancy(line[54:60]))
        except ValueError as error:
            raise ValueError(f"line {at}: {error}") from None
        places.append((line[21:27], line[16:17].strip()))
    filled = np.array(occupancy, dtype=np.float64)
    if len(filled) and not filled.any():
        raise ValueError("all its occupancies are 0: write 1 where an atom is")
    choice, option = _choices(places)
    cell_A, notes = _cell(lines)
    return make_sites(np.array(numbers, dtype=np.int64), np.array(positions_A).reshape(-1, 3), filled, choice=choice,
                      option=option, cell_A=cell_A, notes=notes)


def _models(lines: list[str]) -> list[list[tuple[int, str]]]:
    """Return the lines of the atoms of each model that has any, with their numbers from 1."""
    models: list[list[tuple[int, str]]] = [[]]
    for at, line in enumerate(lines, 1):
        if line.startswith(_ATOMS):
            models[-1].append((at, line))
        elif line.startswith(("MODEL", "END")) and models[-1]:
            models.append([])
    return [model for model in models if model]


def _coordinate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is no coordinate") from None
    if not math.isfinite(value):
        raise ValueError(f"the coordinate {text.strip()} is not finite")
    return value


def _occupancy(text: str) -> float:
    """Return the occupancy of a field; 1 where it is blank."""
    try:
        return float(text) if text.strip() else 1.0
    except ValueError:
        raise ValueError(f"{text.strip()!r} is no occupancy") from None


def _names_are_aligned(lines: list[str]) -> bool:
    """Return whether names keep column 13 for the first letter of symbols of two and of names of four characters.

    A program that writes all names from column 13 on also writes short ones there that begin with no such symbol.
    """
    return not any(line[12:13].isalpha() and len(line[12:16].rstrip()) < 4
                   and not (line[12:14].isalpha() and number_of_symbol(line[12:14]) is not None) for line in lines)


def _element(line: str, names_aligned: bool) -> int:
    symbol, name = line[76:78].strip(), line[12:16]
    if symbol.isalpha():  # older files number their lines here
        return read_element(symbol, is_label=False)
    letters = name.strip().lstrip("0123456789")
    if not letters[:1].isalpha():
        raise ValueError(f"the name {name.strip()!r} holds no element, nor do columns 77 and 78")
    one = number_of_symbol(letters[0])
    two = number_of_symbol(letters[:2]) if letters[:2].isalpha() and len(letters) > 1 else None
    in_two_columns = names_aligned and name[0].isalpha() and not _is_long_hydrogen(name)
    in_one_column = names_aligned and not name[0].isalpha() and name[1:2].isalpha()
    if two is not None and (letters[1].islower() or one is None):
        return two
    if one is not None and (two is None or in_one_column or (names_aligned and _is_long_hydrogen(name))
                            or (line.startswith("ATOM") and line[17:20].strip() in _STANDARD)):
        return one
    if two is not None and in_two_columns:
        return two
    raise ValueError(f"the name {name.strip()!r} can be more than one element, and columns 77 and 78 do not say which")


def _is_long_hydrogen(name: str) -> bool:
    return len(name.rstrip()) == 4 and name[0] == "H"


def _choices(places: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return choice and option of each atom: the alternate locations of a residue exclude each other."""
    choice = np.full(len(places), -1, dtype=np.int64)
    option = np.full(len(places), -1, dtype=np.int64)
    residues: dict[str, int] = {}
    letters = {letter: i for i, letter in enumerate(sorted({letter for _, letter in places if letter}))}
    for i, (residue, letter) in enumerate(places):
        if letter:
            choice[i] = residues.setdefault(residue, len(residues))
            option[i] = letters[letter]
    return choice, option


def _cell(lines: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the vectors of the unit cell, and a note where the file holds only a part of it."""
    from ase.geometry import cellpar_to_cell

    line = next((line for line in lines if line.startswith("CRYST1")), "")
    fields = (line[6:15], line[15:24], line[24:33], line[33:40], line[40:47], line[47:54])
    try:
        values = [float(field) for field in fields]
        with np.errstate(invalid="ignore"):
            cell_A = np.array(cellpar_to_cell(values))
    except (ValueError, AssertionError):
        return None, ()
    if not np.isfinite(cell_A).all() or min(values) <= 0 or max(values[:3]) <= 1.0:  # 1 1 1: a structure without a cell
        return None, ()
    group = line[55:66].strip()
    if group not in ("", "P 1", "P1"):
        return None, (f"only the atoms that the file lists are taken, not the whole cell of its space group {group}",)
    return cell_A, ()
