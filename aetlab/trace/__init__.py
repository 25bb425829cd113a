"""From a reconstructed potential to atoms with names and errors, and their scores against the truth."""

from aetlab.trace.match import match_atoms
from aetlab.trace.profile import profile_scores
from aetlab.trace.register import register_atoms
from aetlab.trace.structure import compare_structure
from aetlab.trace.tracer import trace_atoms

__all__ = ["compare_structure", "match_atoms", "profile_scores", "register_atoms", "trace_atoms"]
