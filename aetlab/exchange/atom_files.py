"""Atoms as files that other programs open: extended XYZ (OVITO, ASE) and CSV, one column a quantity.

ASE reads XYZ here and does not write it: its writer gives every quantity eight decimals, so that signals of 1e-7 in the
unit of another program lose all digits, and takes 1.3 times the time and 1.8 times the bytes.
"""

from __future__ import annotations

import csv
import io
import re
from functools import partial
from pathlib import Path

import numpy as np

from aetlab.core.files import write_atomically
from aetlab.core.nouns import Atoms, RefinedAtoms, TracedAtoms
from aetlab.core.physics import SYMBOLS
from aetlab.core.setting import SpecError
from aetlab.core.structure_text import decode_text, one_of_several, plain_text, split_frames
from aetlab.exchange.ase_atoms import from_ase, per_atom_names
from aetlab.exchange.volume_files import FileError

AnyAtoms = Atoms | TracedAtoms | RefinedAtoms

XYZ, CSV = (".xyz", ".extxyz"), (".csv",)


def write_atoms(path: Path | str, atoms: AnyAtoms) -> None:
    """Write atoms as extended XYZ or CSV, by the suffix of ``path``, with all per-atom columns.

    Positions in Å about the volume's centre have five decimals, other quantities six significant digits.

    Raises
    ------
    FileError
        If the suffix names no format.
    """
    suffix = Path(path).suffix.lower()
    if suffix in XYZ:
        write_xyz(path, atoms)
    elif suffix in CSV:
        write_csv(path, atoms)
    else:
        raise FileError(_unknown_suffix(path))


def read_atoms(path: Path | str, *, frame: int = 0) -> Atoms:
    """Return the atoms of an extended XYZ or CSV file, by the suffix of ``path``.

    XYZ files are parsed by ASE; ``frame`` is the number from 1 of one of several structures. A CSV file needs the
    columns species, x_A, y_A and z_A. Positions are taken as they are, in Å about the volume's centre. The column
    ``part`` is read where there is one, all other columns are not.

    Raises
    ------
    FileError
        If the suffix names no format, or if the file cannot be read as such.
    SpecError
        If the file holds several structures and ``frame`` is 0, or fewer than ``frame``.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in XYZ + CSV:
        raise FileError(_unknown_suffix(path))
    if not path.is_file():
        raise FileError(f"{path} is not there")
    try:
        text = decode_text(path.read_bytes())
        frames = [partial(_read_xyz, *each) for each in split_frames(text)] if suffix in XYZ else [
            partial(_read_csv, text)]
        return one_of_several(frames, frame, "frame", path)[0]()
    except SpecError:
        raise
    except Exception as error:  # the readers raise exceptions of every kind on malformed files
        raise FileError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _unknown_suffix(path: Path | str) -> str:
    return f"{path} has no known ending: give {', '.join(XYZ)} or {CSV[0]}"


def _read_xyz(start: int, lines: list[str]) -> Atoms:
    import ase
    import ase.io

    frame = ase.io.read(io.StringIO(plain_text(start, lines)), index=0, format="extxyz")
    assert isinstance(frame, ase.Atoms)
    return from_ase(frame)


def _read_csv(text: str) -> Atoms:
    table = csv.DictReader(io.StringIO(text), strict=True)
    missing = {"species", "x_A", "y_A", "z_A"} - set(table.fieldnames or ())
    if missing:
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    rows = list(table)
    unknown = {row["species"] for row in rows} - set(SYMBOLS)
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is not a chemical symbol")
    positions_A = np.array([[float(row[f"{axis}_A"]) for axis in "xyz"] for row in rows]).reshape(-1, 3)
    if not np.isfinite(positions_A).all():
        raise ValueError("atoms have positions that are not finite")
    part = np.array([int(row.get("part") or 0) for row in rows], dtype=np.int64)
    if part.min(initial=0) < 0:
        raise ValueError("the column part must hold numbers from 0")
    n_parts = int(part.max(initial=0)) + 1
    names = ("all",) if n_parts == 1 else tuple(f"part {k}" for k in range(n_parts))
    numbers = np.array([SYMBOLS.index(row["species"]) for row in rows], dtype=np.int64)
    return Atoms(numbers, positions_A, part, names)


def list_columns(atoms: AnyAtoms) -> dict[str, np.ndarray]:
    """Return every per-atom quantity but species and position, by name with unit, each (N,)."""
    if isinstance(atoms, TracedAtoms):
        return _columns_of_traced(atoms)
    columns: dict[str, np.ndarray] = {}
    for name in per_atom_names(atoms):
        values = getattr(atoms, name)
        if name == "position_error_A":
            columns |= {f"{axis}_error_A": values[:, k] for k, axis in enumerate("xyz")}
        elif values.ndim == 2:
            columns |= {f"{name}_{k}": values[:, k] for k in range(values.shape[1])}
        else:
            columns[name] = values
    return columns


def _columns_of_traced(traced: TracedAtoms) -> dict[str, np.ndarray]:
    elements = traced.species.get("elements", ())
    columns = {"intensity_V": traced.intensity_V, "width_A": traced.width_A, "signal_V_voxel": traced.signal}
    for axis, name in enumerate("xyz"):
        columns[f"{name}_error_A"] = traced.position_error_A[:, axis]
    columns |= {"intensity_error_V": traced.intensity_error_V, "width_error_A": traced.width_error_A,
                "residual_V": traced.residual_V, "probability": traced.probability,
                "not_atom_probability": traced.not_atom_probability}
    for k, number in enumerate(elements):
        columns[f"probability_{SYMBOLS[number]}"] = traced.posterior[:, k]
    return columns | {"flag": traced.flag.astype(np.int64)}


def write_xyz(path: Path | str, atoms: AnyAtoms, *, box_A: tuple[float, float, float] | None = None,
              traced_from: str = "") -> None:
    """Write extended XYZ with all per-atom columns; positions in Å about the volume's centre.

    With ``box_A`` (x, y, z) the lattice is the volume's box, with its corner as the origin that OVITO reads.
    ``traced_from`` is the name of the file that the atoms were traced in.
    """
    columns = list_columns(atoms)
    properties = "species:S:1:pos:R:3:" + ":".join(
        f"{name}:{'I' if values.dtype.kind == 'i' else 'R'}:1" for name, values in columns.items())
    head = f'Properties={properties} pbc="F F F"'
    if isinstance(atoms, Atoms):
        head += f' part_names="{",".join(atoms.part_names)}"'
    if traced_from:
        head += f' traced_from="{_plain_name(traced_from)}"'
    if box_A is not None:
        x, y, z = box_A
        head = f'Lattice="{x:g} 0 0 0 {y:g} 0 0 0 {z:g}" Origin="{-x / 2:g} {-y / 2:g} {-z / 2:g}" ' + head

    def write(partial: Path) -> None:
        with open(partial, "w", encoding="ascii", newline="\n") as file:
            file.write(f"{len(atoms)}\n{head}\n")
            for symbol, position, values in _rows(atoms, columns):
                file.write(" ".join([symbol, *position, *values]) + "\n")

    write_atomically(Path(path), write)


def is_traced_from(path: Path, name: str) -> bool:
    """Return whether ``path`` is a file of :func:`write_xyz` with the atoms that were traced in the file ``name``."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            head = file.read(2**16).split("\n")[1:2]
    except OSError:
        return False
    return bool(head) and f' traced_from="{_plain_name(name)}"' in head[0]


def _plain_name(name: str) -> str:
    """Return a file's name in ASCII, without the characters that end a value in the comment of an XYZ file."""
    return re.sub(r'["\\\n\r]', "_", name.encode("ascii", "xmlcharrefreplace").decode())


def write_csv(path: Path | str, atoms: AnyAtoms) -> None:
    """Write a table with one atom a line: species, x_A, y_A, z_A and all per-atom columns."""
    columns = list_columns(atoms)

    def write(partial: Path) -> None:
        with open(partial, "w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["species", "x_A", "y_A", "z_A", *columns])
            writer.writerows([symbol, *position, *values] for symbol, position, values in _rows(atoms, columns))

    write_atomically(Path(path), write)


def _rows(atoms: AnyAtoms, columns: dict[str, np.ndarray]) -> list[tuple[str, list[str], list[str]]]:
    texts = [[str(v) for v in values.tolist()] if values.dtype.kind == "i" else [f"{v:.6g}" for v in values.tolist()]
             for values in columns.values()]
    positions = [[f"{v:.5f}" for v in row] for row in atoms.positions_A.tolist()]
    symbols = [SYMBOLS[number] for number in atoms.numbers.tolist()]
    return [(symbol, position, list(values))
            for symbol, position, values in zip(symbols, positions, zip(*texts, strict=True), strict=True)]
