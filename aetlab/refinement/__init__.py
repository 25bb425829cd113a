"""Refinement of atoms against the images, to the limit set by the dose."""

from aetlab.refinement.kept import as_traced
from aetlab.refinement.passes import most_passes
from aetlab.refinement.refine import refine_atoms
from aetlab.refinement.robust import describe_weakened

__all__ = ["as_traced", "describe_weakened", "most_passes", "refine_atoms"]
