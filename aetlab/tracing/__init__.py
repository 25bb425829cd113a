"""Atoms with elements and standard errors from a reconstructed potential."""

from aetlab.tracing.species import name_species
from aetlab.tracing.summary import describe, describe_missing, explain_nothing
from aetlab.tracing.tracer import (
    ON_CPU,
    FoundSites,
    MeasuredSites,
    Work,
    at_voxel,
    find_sites,
    measure_sites,
    name_found,
    trace_atoms,
)

__all__ = ["ON_CPU", "FoundSites", "MeasuredSites", "Work", "at_voxel", "describe", "describe_missing",
           "explain_nothing", "find_sites", "measure_sites", "name_found", "name_species", "trace_atoms"]
