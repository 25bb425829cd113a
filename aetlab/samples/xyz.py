"""XYZ files: plain, extended (read by ASE), and those of multislice programs.

The latter hold a comment, the cell's sides in Å, one line ``Z x y z occupancy thermal`` an atom, and -1 at the end.
Source: E. J. Kirkland, Advanced Computing in Electron Microscopy (2010), appendix; Prismatic reads the same.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from aetlab.core.structure_text import Lines, plain_text, split_frames
from aetlab.samples.ase_files import sites_of
from aetlab.samples.sites import ReadSites, Sites, make_sites


def read_xyz(text: str) -> list[ReadSites]:
    """Return a function for each structure of an XYZ file, which reads its sites.

    Symbols may be numbered, be ions or atomic numbers. An ``occupancy`` column of an extended file is read.

    Raises
    ------
    ValueError
        If the text is no such file; by the functions, if a word names no element.
    """
    lines = text.rstrip("\n").split("\n")
    if len(lines) > 2 and lines[-1].strip() == "-1" and not lines[0].strip().isdigit():
        return [partial(_read_multislice, lines)]
    return [partial(_read_frame, start, frame) for start, frame in split_frames(text)]


def _read_frame(start: int, frame: list[str]) -> Sites:
    import ase.io

    structure = ase.io.read(Lines(plain_text(start, frame)), format="extxyz")
    assert not isinstance(structure, list)
    return sites_of(structure)


def _read_multislice(lines: list[str]) -> Sites:
    sides = [float(side) for side in lines[1].split()]
    if len(sides) != 3 or min(sides) <= 0:
        raise ValueError("its second line does not hold the three sides of the cell")
    rows = [line.split() for line in lines[2:-1]]
    short = next((i for i, row in enumerate(rows) if len(row) < 6), None)
    if short is not None:
        raise ValueError(f"line {short + 3} has {len(rows[short])} numbers, wanted Z, x, y, z, occupancy and thermal "
                         "displacement")
    table = np.array([[float(word) for word in row[:6]] for row in rows]).reshape(-1, 6)
    if (table[:, 0] % 1).any():
        raise ValueError(f"{table[:, 0][table[:, 0] % 1 != 0][0]:g} is no atomic number")
    notes: tuple[str, ...] = ()
    if table[:, 5].any():
        notes = ("its thermal displacements are not used; sample.debye_waller_A2 gives them",)
    return make_sites(table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4], cell_A=np.diag(sides), notes=notes)
