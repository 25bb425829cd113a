"""Tilt angles in files: one per line, in degrees (.rawtlt and .tlt of IMOD), or a table of MATLAB (.mat)."""

from __future__ import annotations

import math
from pathlib import Path

from aetlab.core.errors import SeriesError
from aetlab.core.structure_text import decode_text
from aetlab.series.frames import one_line
from aetlab.series.readers.matlab import matlab_angles

ANGLE_FILES = (".rawtlt", ".tlt")
_MOST_BYTES = 10_000_000


def holds_angles(path: Path) -> bool:
    """Return whether a file holds tilt angles: by its ending, or by the shape of its arrays if it is one of MATLAB."""
    return path.suffix.lower() in ANGLE_FILES or (path.suffix.lower() == ".mat" and matlab_angles(path) is not None)


def read_angles(path: Path) -> tuple[list[float], list[str]]:
    """Return the tilt angles in degrees of a file, one per image in the order of the stack, and notes.

    Raises
    ------
    SeriesError
        If a line is no angle between -360 and 360, or the file is empty or cannot be read.
    """
    if path.suffix.lower() == ".mat":
        found = matlab_angles(path)
        if found is None:
            raise SeriesError(f"{path} holds no table of tilt angles")
        return found
    angles = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            angle = float(line)
        except ValueError:
            angle = math.nan
        if not abs(angle) <= 360:
            raise SeriesError(f"{path}, line {number}: {line.strip()[:40]!r} is no tilt angle in degrees")
        angles.append(angle)
    if not angles:
        raise SeriesError(f"{path} holds no tilt angles")
    return angles, []


def read_text(path: Path) -> str:
    """Return the text of a small file; raises SeriesError if it is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SeriesError(f"{path} is too large for a text file of angles or settings")
        raw = path.read_bytes()
    except OSError as error:
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None
    try:
        return decode_text(raw) if raw.strip() else ""
    except ValueError as error:
        raise SeriesError(f"{path} cannot be read: {error}") from None
