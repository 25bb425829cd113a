"""Atoms with elements and standard errors from a reconstructed potential."""

from aetlab.tracing.tracer import trace_atoms

__all__ = ["trace_atoms"]
