r"""Gradients with respect to the poses of the tilts, and the motion that all tilts have in common.

Notation and signs are those of :mod:`aetlab.core.poses`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.grid import rotation_matrix
from aetlab.core.poses import Poses, cross_matrix, turn_matrix


def pose_gradient(placed_A: np.ndarray, by_place: np.ndarray, turn_deg: np.ndarray, shift_A: np.ndarray) -> np.ndarray:
    """Return the gradient (6,) with respect to ``turn_deg`` and ``shift_A`` of one tilt, in 1/degree and 1/Å.

    ``by_place`` (N, 3) is the gradient with respect to the placed positions ``placed_A`` (N, 3). With the left Jacobian
    J of the rotation group, dp' = (J dω) × (p' - d) + dd. The derivative with respect to the height is that of moving
    all atoms through the slices, which equals that of the defocus up to the thickness of the slices.
    """
    torque = np.cross(placed_A - shift_A * (1.0, 1.0, 0.0), by_place).sum(axis=0)
    k = cross_matrix(np.deg2rad(turn_deg))
    jacobian = np.eye(3) + 0.5 * k + k @ k / 6 + k @ k @ k / 24
    return np.concatenate([np.deg2rad(jacobian.T @ torque), by_place.sum(axis=0)])


def settle(positions_A: np.ndarray, poses: Poses) -> tuple[np.ndarray, Poses]:
    """Move what all tilts have in common from ``poses`` into ``positions_A`` (N, 3); the images stay the same.

    Turning the sample by q and shifting it by s before each tilt R adds R q to the turn of the tilt and R s to its
    shift, to first order in the turns. q is the mean of Rᵀω. s fits the shifts across the beam best: heights are known
    much less well.
    """
    nominal = np.stack([rotation_matrix(float(angle)) for angle in poses.tilt_deg])
    common_deg = np.einsum("tji,tj->ti", nominal, poses.turn_deg).mean(axis=0)
    common_A = np.linalg.lstsq(nominal[:, :2].reshape(-1, 3), poses.shift_A[:, :2].ravel(), rcond=None)[0]
    rest = replace(poses, turn_deg=poses.turn_deg - nominal @ common_deg, shift_A=poses.shift_A - nominal @ common_A)
    return positions_A @ turn_matrix(common_deg).T + common_A, rest
