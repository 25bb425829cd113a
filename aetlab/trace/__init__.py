"""From a reconstructed potential to atoms with names and errors, and their scores against the truth."""

from aetlab.trace.match import match_atoms
from aetlab.trace.tracer import trace_atoms

__all__ = ["match_atoms", "trace_atoms"]
