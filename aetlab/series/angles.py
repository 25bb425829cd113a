"""Tilt angles in text files: one per line, in degrees (.rawtlt and .tlt of IMOD)."""

from __future__ import annotations

import math
from pathlib import Path

from aetlab.core.text import decode_text
from aetlab.series.errors import SeriesError
from aetlab.series.frames import one_line

ANGLE_FILES = (".rawtlt", ".tlt")
_MOST_BYTES = 10_000_000


def read_angles(path: Path) -> list[float]:
    """Return the tilt angles in degrees of a file, one per image in the order of the stack.

    Raises
    ------
    SeriesError
        If a line is no angle between -360 and 360, or the file is empty or cannot be read.
    """
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
    return angles


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
