"""Scores of traced or refined atoms against the true ones.

This is the only room that takes the true atoms: solver, tracer and refinement never see them. Each metric states in
:mod:`aetlab.scoring.scores` whether it needs the truth.

The functions are imported on first use, so that reading the table of scores loads neither SciPy nor ASE.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetlab.scoring.match import match_atoms
    from aetlab.scoring.profile import profile_scores
    from aetlab.scoring.register import register_atoms
    from aetlab.scoring.structure import compare_structure

__all__ = ["compare_structure", "match_atoms", "profile_scores", "register_atoms"]
_MODULES = {"compare_structure": "structure", "match_atoms": "match", "profile_scores": "profile",
            "register_atoms": "register"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"aetlab.scoring.{_MODULES[name]}"), name)
