"""Scores of traced or refined atoms against the true ones.

This is the only room of the numerics that takes the true atoms: solver, tracer and refinement never see them. Each
metric states in :mod:`aetlab.core.metrics` whether it needs the truth.
"""

from aetlab.core.pairing import register_atoms
from aetlab.scoring.errors import compare_errors, errors_of_pairs, pose_errors, potential_error, score_poses
from aetlab.scoring.match import match_atoms
from aetlab.scoring.profile import profile_scores
from aetlab.scoring.structure import compare_structure

__all__ = ["compare_errors", "compare_structure", "errors_of_pairs", "match_atoms", "pose_errors", "potential_error",
           "profile_scores", "register_atoms", "score_poses"]
