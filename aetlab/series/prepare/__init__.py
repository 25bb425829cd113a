"""Preparing measured images: from counts of a camera to a tilt series with vacuum 1, weights and first poses.

Every step is a function of arrays that returns what it found, with one line in words. :func:`prepare` joins them.
"""

from aetlab.series.prepare.collected import record_collection
from aetlab.series.prepare.flow import prepare
from aetlab.series.prepare.nouns import Prepared, Recorded, Step
from aetlab.series.prepare.settings import PrepareSpec

__all__ = ["PrepareSpec", "Prepared", "Recorded", "Step", "prepare", "record_collection"]
