"""Scores of traced or refined atoms against the true ones.

This is the only room that takes the true atoms: solver, tracer and refinement never see them. Each metric states in
:mod:`aetlab.scoring.scores` whether it needs the truth.

The functions are imported on first use, so that reading the table of scores loads neither SciPy nor ASE.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetlab.scoring.match import match_atoms as match_atoms
    from aetlab.scoring.poses import pose_errors as pose_errors
    from aetlab.scoring.potential import potential_error as potential_error
    from aetlab.scoring.profile import profile_scores as profile_scores
    from aetlab.scoring.refined import compare_errors as compare_errors
    from aetlab.scoring.refined import errors_of_pairs as errors_of_pairs
    from aetlab.scoring.register import register_atoms as register_atoms
    from aetlab.scoring.structure import compare_structure as compare_structure

_MODULES = {"compare_errors": "refined", "compare_structure": "structure", "errors_of_pairs": "refined",
            "match_atoms": "match", "pose_errors": "poses", "potential_error": "potential",
            "profile_scores": "profile", "register_atoms": "register"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"aetlab.scoring.{_MODULES[name]}"), name)
