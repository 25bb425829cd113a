"""XYZ files: plain, extended (read by ASE), and those of multislice programs.

The latter hold a comment, the cell's sides in Å, one line ``Z x y z occupancy thermal`` an atom, and -1 at the end.
Source: E. J. Kirkland, Advanced Computing in Electron Microscopy (2010), appendix; Prismatic reads the same.
"""

from __future__ import annotations

import re

import numpy as np

from aetlab.core.text import Lines
from aetlab.samples.ase_files import sites_of
from aetlab.samples.element_names import read_element
from aetlab.samples.sites import Sites, make_sites

_PROPERTIES = re.compile(r"""(?:^|\s)Properties\s*=\s*["'{]?([^\s"'}]+)""")


def read_xyz(text: str) -> Sites:
    """Return the sites of the last structure of an XYZ file.

    Symbols may be numbered, be ions or atomic numbers. An ``occupancy`` column of an extended file is read.

    Raises
    ------
    ValueError
        If the text is no such file, or a word names no element.
    """
    lines = text.removesuffix("\n").split("\n")
    if not lines[0].strip().isdigit():
        return _read_multislice(lines)
    start, stop = _last_frame(lines)
    frame = lines[start:stop]
    column = _check_columns(frame)
    if column is not None:
        for i in range(2, len(frame)):
            words = frame[i].split()
            if len(words) > column:
                words[column] = _symbol(words[column], start + i + 1)
                frame[i] = " ".join(words)
    import ase.io

    structure = ase.io.read(Lines("\n".join(frame) + "\n"), format="extxyz")
    assert not isinstance(structure, list)
    return sites_of(structure)


def _last_frame(lines: list[str]) -> tuple[int, int]:
    """Return first line and end of the last structure; each announces its number of atoms."""
    start, at = 0, 0
    while at < len(lines) and lines[at].strip():
        word = lines[at].split()[0]
        if not word.isdigit():
            raise ValueError(f"line {at + 1} should hold a number of atoms and holds {lines[at][:40]!r}")
        if len(word) > 9 or at + 2 + int(word) > len(lines):
            raise ValueError(f"it ends before all {word[:30]} atoms that it announces")
        start, at = at, at + 2 + int(word)
    if any(line.strip() for line in lines[at:]):
        raise ValueError(f"lines follow the {int(lines[start].split()[0])} atoms that it announces")
    return start, at


def _check_columns(frame: list[str]) -> int | None:
    """Return the column of the symbols; None if the frame has no atoms or gives atomic numbers alone."""
    match = _PROPERTIES.search(frame[1])
    fields = (match[1] if match else "species:S:1:pos:R:3").split(":")
    if len(fields) % 3 or not all(count.isdigit() and len(count) < 7 for count in fields[2::3]):
        raise ValueError("its Properties are no list of name:type:count")
    counts = [int(count) for count in fields[2::3]]
    n_columns = sum(counts)
    for i, line in enumerate(frame[2:], 1):
        if len(line.split(None, n_columns)) < n_columns:
            raise ValueError(f"atom {i} has fewer than the {n_columns} columns that are announced")
    if "species" not in fields[0::3]:
        return None
    place = fields[0::3].index("species")
    return sum(counts[:place])


def _symbol(word: str, line: int) -> str:
    from ase.data import chemical_symbols

    try:
        number = read_element(word)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
    if number >= len(chemical_symbols):
        raise ValueError(f"line {line}: there is no atomic number {number}")
    return chemical_symbols[number]


def _read_multislice(lines: list[str]) -> Sites:
    rows = [line.split() for line in lines[2:] if line.strip()]
    sides = lines[1].split() if len(lines) > 1 else []
    if len(sides) != 3 or not rows or rows[-1] != ["-1"]:
        raise ValueError("its first line holds no number of atoms")
    table = np.array([[float(word) for word in row[:6]] for row in rows[:-1]]).reshape(-1, 6)
    notes: tuple[str, ...] = ()
    if table[:, 5].any():
        notes = ("its thermal displacements are not used; sample.debye_waller_A2 gives them",)
    return make_sites(table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4],
                      cell_A=np.diag([float(side) for side in sides]), notes=notes)
