"""Atoms with elements and standard errors from a reconstructed potential."""

from aetlab.tracing.lengths import at_voxel
from aetlab.tracing.sites import Fitter, fit_on_cpu
from aetlab.tracing.species import name_species
from aetlab.tracing.summary import describe, describe_missing, explain_nothing
from aetlab.tracing.tracer import FoundSites, MeasuredSites, find_sites, measure_sites, name_found, trace_atoms

__all__ = ["Fitter", "FoundSites", "MeasuredSites", "at_voxel", "describe", "describe_missing", "explain_nothing",
           "find_sites", "fit_on_cpu", "measure_sites", "name_found", "name_species", "trace_atoms"]
