"""Samples: from settings to true atoms."""

from aetlab.samples.build import (
    build_sample,
    describe_reading,
    in_scoring_region,
    require_box,
    require_elements,
    sample_elements,
)
from aetlab.samples.fit_box import describe_limits, extent_of_file_A, fit_scale

__all__ = ["build_sample", "describe_limits", "describe_reading", "extent_of_file_A", "fit_scale", "in_scoring_region",
           "require_box", "require_elements", "sample_elements"]
