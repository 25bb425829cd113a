"""Samples: from settings to true atoms."""

from aetlab.samples.build import build_sample, describe_reading, in_scoring_region, sample_elements

__all__ = ["build_sample", "describe_reading", "in_scoring_region", "sample_elements"]
