"""Atoms with elements and standard errors from a reconstructed potential."""

from aetlab.tracing.lengths import at_voxel
from aetlab.tracing.summary import describe, describe_missing, explain_nothing
from aetlab.tracing.tracer import trace_atoms

__all__ = ["at_voxel", "describe", "describe_missing", "explain_nothing", "trace_atoms"]
