"""Refinement of atoms against the images, to the limit set by the dose."""

from aetlab.refinement.aberrations import found_lens
from aetlab.refinement.model import ImageFormation
from aetlab.refinement.passes import most_passes, usual_passes
from aetlab.refinement.refine import refine_atoms
from aetlab.refinement.start import Known, finds_unknowns
from aetlab.refinement.summary import describe_found

__all__ = ["ImageFormation", "Known", "describe_found", "finds_unknowns", "found_lens", "most_passes", "refine_atoms",
           "usual_passes"]
