"""Atoms refined against the images themselves, to the limit that the electrons set."""

from aetlab.refinement.refine import as_traced, most_passes, refine_atoms

__all__ = ["as_traced", "most_passes", "refine_atoms"]
