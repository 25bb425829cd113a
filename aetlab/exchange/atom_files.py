"""Traced atoms as files that other programs open: extended XYZ (OVITO, ASE) and CSV, one column a quantity."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from aetlab.core.nouns import TracedAtoms
from aetlab.core.physics import SYMBOLS


def list_columns(traced: TracedAtoms) -> dict[str, np.ndarray]:
    """Every per-atom quantity but species and position, by name with unit, each (N,)."""
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


def write_xyz(path: Path | str, traced: TracedAtoms, *, box_A: tuple[float, float, float] | None = None) -> None:
    """Write extended XYZ with all per-atom columns; positions in Å about the volume's centre.

    ``box_A`` (x, y, z) draws the volume's box, with its corner as the origin that OVITO reads.
    """
    columns = list_columns(traced)
    properties = "species:S:1:pos:R:3:" + ":".join(
        f"{name}:{'I' if values.dtype.kind == 'i' else 'R'}:1" for name, values in columns.items())
    head = f'Properties={properties} pbc="F F F"'
    if box_A is not None:
        x, y, z = box_A
        head = f'Lattice="{x:g} 0 0 0 {y:g} 0 0 0 {z:g}" Origin="{-x / 2:g} {-y / 2:g} {-z / 2:g}" ' + head
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write(f"{len(traced)}\n{head}\n")
        for symbol, position, values in _rows(traced, columns):
            file.write(" ".join([symbol, *position, *values]) + "\n")


def write_csv(path: Path | str, traced: TracedAtoms) -> None:
    """Write a table with one atom a line: species, x_A, y_A, z_A and all per-atom columns."""
    columns = list_columns(traced)
    with open(path, "w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["species", "x_A", "y_A", "z_A", *columns])
        writer.writerows([symbol, *position, *values] for symbol, position, values in _rows(traced, columns))


def _rows(traced: TracedAtoms, columns: dict[str, np.ndarray]) -> list[tuple[str, list[str], list[str]]]:
    texts = [[str(v) for v in values.tolist()] if values.dtype.kind == "i" else [f"{v:.6g}" for v in values.tolist()]
             for values in columns.values()]
    positions = [[f"{v:.5f}" for v in row] for row in traced.positions_A.tolist()]
    symbols = [SYMBOLS[number] for number in traced.numbers.tolist()]
    return [(symbol, position, list(values))
            for symbol, position, values in zip(symbols, positions, zip(*texts, strict=True), strict=True)]
