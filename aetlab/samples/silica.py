"""The amorphous silica cell that ships with the project: a cube of 1 000 SiO2, periodic on all sides.

It was made by scripts/make_silica.py of the source tree, which describes the method and reproduces the file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

SILICA_FILE = Path(__file__).parent / "data" / "silica.extxyz"
SILICA_SHA256 = "3a7fcb5d1857ea0a29d714069b8cdc5604d9a17c4681bdfe98a8e71a09857a43"


@cache
def load_silica() -> tuple[np.ndarray, np.ndarray, float]:
    """Return atomic numbers (N,), positions (N, 3) in [0, side) and the side of the cube, both in Å."""
    lines = SILICA_FILE.read_text(encoding="ascii").splitlines()
    side_A = float(lines[1].split('Lattice="')[1].split()[0])
    rows = [line.split() for line in lines[2:2 + int(lines[0])]]
    numbers = np.array([{"Si": 14, "O": 8}[row[0]] for row in rows])
    return numbers, np.array([[float(value) for value in row[1:4]] for row in rows]), side_A
