"""Small structure files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aetlab.core.nouns import Atoms
from aetlab.core.physics import SYMBOLS
from aetlab.samples.structure_file import read_structure
from aetlab.spec import SampleSpec

#: Columns of sites of a CIF file with occupancies.
COLUMNS = "label type_symbol fract_x fract_y fract_z occupancy"


def elements(atoms: Atoms) -> list[str]:
    """Return the symbol of each atom."""
    return [SYMBOLS[number] for number in atoms.numbers]


def read(path: Path | str, content: str | bytes | None = None, *, seed: int = 2, **settings: object) -> Atoms:
    """Write ``content`` to ``path`` if it is given, and return the atoms that the file gives with ``seed``."""
    if content is not None:
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)
    sample = SampleSpec(kind="file", path=str(path), **settings)  # type: ignore[arg-type]
    return read_structure(sample, np.random.default_rng(seed))


def pdb_line(name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0, *, record: str = "HETATM", residue: str = "UNK",
             number: int = 1, altloc: str = " ", occupancy: float | None = 1.0, element: str = "") -> str:
    """Return the line of an atom of a PDB file, in the columns of the format; ``name`` has four characters."""
    filled = "      " if occupancy is None else f"{occupancy:6.2f}"
    return (f"{record:6s}{1:5d} {name:4s}{altloc}{residue:>3s} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{filled}  0.00"
            f"          {element:>2s}\n")


def cif(rows: list[str], *, symmetry: str = "", columns: str = "label fract_x fract_y fract_z", a: float = 5.0,
        gamma: float = 90.0) -> str:
    """Return a CIF file of a cell with the side ``a`` in Å: ``rows`` of sites, lines of ``symmetry``."""
    angles = f"_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma {gamma:g}\n"
    lengths = "".join(f"_cell_length_{side} {a:g}\n" for side in "abc")
    names = "".join(f"_atom_site_{name}\n" for name in columns.split())
    return f"data_x\n{lengths}{angles}{symmetry}\nloop_\n{names}" + "\n".join(rows) + "\n"
