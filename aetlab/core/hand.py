"""Mirror images along the beam: the other hand of a sample, tilted the other way.

With z mirrored, a tilt by t becomes one by -t, and a rotation vector ω becomes (-ω_x, -ω_y, ω_z). Shifts, planes of
focus and brightness stay. Projections do not change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.nouns import Reconstruction, RefinedAtoms, TiltSeries, TracedAtoms
from aetlab.core.poses import Poses


def mirror_poses(poses: Poses) -> Poses:
    """Return the poses of the mirror image."""
    return replace(poses, tilt_deg=-poses.tilt_deg, turn_deg=poses.turn_deg * (-1.0, -1.0, 1.0))


def mirror_positions(positions_A: np.ndarray) -> np.ndarray:
    """Return positions (N, 3) with z mirrored."""
    return positions_A * (1.0, 1.0, -1.0)


def mirror_traced(traced: TracedAtoms) -> TracedAtoms:
    """Return the traced atoms with z mirrored."""
    return replace(traced, positions_A=mirror_positions(traced.positions_A))


def mirror_reconstruction(reconstruction: Reconstruction) -> Reconstruction:
    """Return the reconstruction with its volume and poses mirrored."""
    volume, poses = reconstruction.volume, reconstruction.poses
    return replace(reconstruction, volume=replace(volume, potential_V=volume.potential_V[::-1].copy()),
                   poses=None if poses is None else mirror_poses(poses))


def in_hand_of(refined: RefinedAtoms | None, series: TiltSeries, reconstruction: Reconstruction,
               traced: TracedAtoms) -> tuple[TiltSeries, Reconstruction, TracedAtoms]:
    """Return series, reconstruction and traced atoms in the hand of the ``refined`` atoms.

    They are mirrored if the refinement took the mirror image, whose tilts are the opposite ones, and otherwise returned
    as they are.
    """
    if refined is None or np.array_equal(refined.poses.tilt_deg, series.tilt_deg):
        return series, reconstruction, traced
    return (replace(series, tilt_deg=-series.tilt_deg), mirror_reconstruction(reconstruction),
            mirror_traced(traced))
