"""Samples: from settings to true atoms."""

from aetlab.samples.build import build_sample, in_scoring_region, sample_elements

__all__ = ["build_sample", "in_scoring_region", "sample_elements"]
