"""The table of rotations: every file of this folder is one, and its name is a value of ``engine.rotation``."""

from __future__ import annotations

from aetlab.methods.rotation import RotationMethod
from aetlab.methods.table import find_rows

#: Rotations by name.
ROTATIONS = find_rows(__name__, __path__, RotationMethod)
