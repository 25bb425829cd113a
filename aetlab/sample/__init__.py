"""Samples: from settings to true atoms."""

from aetlab.sample.build import build_sample, in_scoring_region, sample_elements

__all__ = ["build_sample", "in_scoring_region", "sample_elements"]
