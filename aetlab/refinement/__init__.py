"""Refinement of atoms against the images, to the limit set by the dose."""

from aetlab.refinement.kept import as_traced
from aetlab.refinement.refine import most_passes, refine_atoms

__all__ = ["as_traced", "most_passes", "refine_atoms"]
