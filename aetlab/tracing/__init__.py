"""Atoms with elements and standard errors from a reconstructed potential."""

from aetlab.tracing.summary import describe, explain_nothing
from aetlab.tracing.tracer import trace_atoms

__all__ = ["describe", "explain_nothing", "trace_atoms"]
