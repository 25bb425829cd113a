"""From a reconstructed potential to atoms with names and errors."""

from aetlab.tracing.tracer import trace_atoms

__all__ = ["trace_atoms"]
