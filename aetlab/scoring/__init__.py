"""Traced or refined atoms against the true ones: the only room that sees the truth."""

from aetlab.scoring.match import match_atoms
from aetlab.scoring.profile import profile_scores
from aetlab.scoring.register import register_atoms
from aetlab.scoring.structure import compare_structure

__all__ = ["compare_structure", "match_atoms", "profile_scores", "register_atoms"]
