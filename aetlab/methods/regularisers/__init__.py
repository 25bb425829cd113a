"""The table of regularisers: every file of this folder is one, and its name is a value of ``reg.kind``."""

from __future__ import annotations

from typing import Any

from aetlab.methods import find_rows
from aetlab.methods.regulariser import Regulariser

#: Regularisers by name.
REGULARISERS: dict[str, Regulariser[Any]] = find_rows(__name__, __path__, Regulariser)
