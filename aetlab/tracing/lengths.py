"""Lengths of the tracing settings on voxels of other sizes."""

from __future__ import annotations

from dataclasses import replace

from aetlab.spec import TraceSpec

#: Voxel in Å for which the settings give lengths in voxels, and the greatest radius of a fit on finer ones.
USUAL_VOXEL_A, GREATEST_RADIUS = 0.5, 8.0
_LENGTHS = ("smoothing", "cylinder_margin", "filter_sigma_narrow", "filter_sigma_wide", "fit_radius",
            "max_shift_per_fit", "width_start", "neighbour_radius", "merge_distance", "min_width", "stop_shift")


def at_voxel(spec: TraceSpec, voxel_A: float) -> TraceSpec:
    """Return the settings for finer voxels of ``voxel_A``: each length in Å is that of voxels of 0.5 Å.

    Atoms are as wide as the resolution makes them, whatever the voxel. On coarser voxels the settings stay, because a
    fit needs as many voxels; on very fine ones the radius of a fit limits the factor.
    """
    factor = max(min(USUAL_VOXEL_A / voxel_A, GREATEST_RADIUS / spec.fit_radius), 1.0)
    if factor == 1:
        return spec
    low, high = spec.width_bounds
    return replace(spec, width_bounds=(factor * low, factor * high),
                   **{name: factor * getattr(spec, name) for name in _LENGTHS})
