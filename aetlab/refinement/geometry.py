r"""Where the atoms lie at each tilt, and how a gradient there becomes one of positions and of the tilt's own geometry.

A tilt takes the position p of an atom to p' = exp([ω]×) R p + d: R is the nominal rotation about +y, ω a small rotation
vector in rad and d a shift in Å, both in the frame of the microscope (x across, y along the tilt axis, z the beam).
ω_y corrects the tilt angle, ω_x and ω_z the direction of the tilt axis; d_x and d_y shift the image, and d_z is the
height of the sample: a plane wave enters, so that a sample moved by d_z along the beam looks as if all planes had moved
by -d_z, and that is how it is computed: the defocus of all images of a tilt changes, the slices stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.grid import rotation_matrix


@dataclass(frozen=True)
class Poses:
    """Geometry of T tilts: nominal ``tilt_deg`` (T,), ``turn_rad`` (T, 3) and ``shift_A`` (T, 3), each x, y, z."""

    tilt_deg: np.ndarray
    turn_rad: np.ndarray
    shift_A: np.ndarray

    def rotation(self, i_tilt: int) -> np.ndarray:
        """Rotation (3, 3) of positions at one tilt."""
        return exponential(self.turn_rad[i_tilt]) @ rotation_matrix(float(self.tilt_deg[i_tilt]))

    def place(self, positions_A: np.ndarray, i_tilt: int) -> np.ndarray:
        """Positions (N, 3) at one tilt, the sample's height left out."""
        return positions_A @ self.rotation(i_tilt).T + self.shift_A[i_tilt] * (1.0, 1.0, 0.0)

    def moved(self, by: np.ndarray) -> Poses:
        """The poses with ``by`` (T, 6) added: turns in rad, shifts in Å."""
        return replace(self, turn_rad=self.turn_rad + by[:, :3], shift_A=self.shift_A + by[:, 3:])


def nominal_poses(tilt_deg: np.ndarray) -> Poses:
    """Tilts as they were asked for."""
    return Poses(np.asarray(tilt_deg, float), np.zeros((len(tilt_deg), 3)), np.zeros((len(tilt_deg), 3)))


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """[v]× (3, 3), with [v]× u = v × u."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], float)


def exponential(turn_rad: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector (Rodrigues' formula)."""
    angle = float(np.linalg.norm(turn_rad))
    k = cross_matrix(turn_rad)
    if angle < 1e-6:
        return np.eye(3) + k + 0.5 * k @ k
    return np.eye(3) + np.sin(angle) / angle * k + (1 - np.cos(angle)) / angle**2 * k @ k


def pose_gradient(placed_A: np.ndarray, by_place: np.ndarray, turn_rad: np.ndarray, shift_A: np.ndarray) -> np.ndarray:
    """Gradient (6,) with respect to turn and shift, from that with respect to places ``by_place`` (N, 3).

    With the left Jacobian J of the rotation group, dp' = (J dω) × (p' - d) + dd. For the height this is the derivative
    with respect to moving all atoms through the slices, which is that of the defocus up to the slices' thickness.
    """
    torque = np.cross(placed_A - shift_A * (1.0, 1.0, 0.0), by_place).sum(axis=0)
    k = cross_matrix(turn_rad)
    jacobian = np.eye(3) + 0.5 * k + k @ k / 6 + k @ k @ k / 24
    return np.concatenate([jacobian.T @ torque, by_place.sum(axis=0)])


def settle(positions_A: np.ndarray, poses: Poses) -> tuple[np.ndarray, Poses]:
    """Positions and poses that give the same images, with what all tilts have in common moved into the positions.

    Turning the sample by q and shifting it by s before each tilt R adds R q to its turn and R s to its shift, to first
    order in the turns. Taken out are the mean of Rᵀω, and the s that fits the shifts across the beam best: those are
    what a sample is placed by, heights are known far less well.
    """
    nominal = np.stack([rotation_matrix(float(angle)) for angle in poses.tilt_deg])
    common_turn = np.einsum("tji,tj->ti", nominal, poses.turn_rad).mean(axis=0)
    common_shift = np.linalg.lstsq(nominal[:, :2].reshape(-1, 3), poses.shift_A[:, :2].ravel(), rcond=None)[0]
    rest = replace(poses, turn_rad=poses.turn_rad - nominal @ common_turn,
                   shift_A=poses.shift_A - nominal @ common_shift)
    return positions_A @ exponential(common_turn).T + common_shift, rest
