"""Traced or refined atoms against the true ones: the only room of the numerics that sees the truth."""

from aetlab.scoring.match import match_atoms
from aetlab.scoring.poses import offset_errors
from aetlab.scoring.potential import potential_error
from aetlab.scoring.profile import profile_scores
from aetlab.scoring.refined import compare_errors, errors_of_pairs, mean_distance_A
from aetlab.scoring.register import register_atoms
from aetlab.scoring.structure import compare_structure

__all__ = ["compare_errors", "compare_structure", "errors_of_pairs", "match_atoms", "mean_distance_A", "offset_errors",
           "potential_error", "profile_scores", "register_atoms"]
