r"""Define poses: the placement of the sample at each tilt, and the defocus and brightness of its images.

A tilt takes a position p of the sample to p' = exp([ω]×) R p + d. R is the nominal rotation about +y, ω a rotation
vector and d a shift, in the frame of the microscope (x across, y along the tilt axis, z along the beam). ω_y corrects
the tilt angle, ω_z the direction of the tilt axis; d_x and d_y shift the image; d_z is the height of the sample. The
incident wave is plane, so that a sample raised by d_z gives the images of planes moved by -d_z: the height is computed
as a change of the defocus, and the slices do not move. The page docs/conventions.md states all signs.

The images of one tilt may be shifted further, each by its own, and those of one plane of the defocus may be larger than
stated: a feature at r of an image of magnification m lies at m r, from the centre of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.grid import in_plane_rotation, rotation_matrix

#: Arrays of :class:`Poses` that older files lack.
OF_IMAGES = ("image_shift_A", "magnification")


@dataclass(frozen=True)
class Poses:
    """Geometry of T tilts, with defocus and brightness of F images each.

    Attributes
    ----------
    tilt_deg : (T,)
        Nominal tilt angles.
    turn_deg : (T, 3)
        Rotation vector ω of each tilt (x, y, z), in degrees.
    shift_A : (T, 3)
        Shift d of each tilt (x, y and height) in Å.
    defocus_A : (T, F)
        Added to the defocus of each image, in Å; 0 unless it is fitted for each image.
    brightness : (T, F)
        Multiplies the intensity of each image.
    image_shift_A : (T, F, 2)
        Shift of each image (x, y) in Å, added to that of its tilt; 0 unless it is fitted for each image.
    magnification : (F,)
        Magnification of the images of each plane relative to the stated one; 1 unless it is fitted.
    """

    tilt_deg: np.ndarray
    turn_deg: np.ndarray
    shift_A: np.ndarray
    defocus_A: np.ndarray
    brightness: np.ndarray
    image_shift_A: np.ndarray
    magnification: np.ndarray

    @classmethod
    def nominal(cls, tilt_deg: np.ndarray, n_defoci: int) -> Poses:
        """Return the nominal poses of tilts at ``tilt_deg`` (T,), with ``n_defoci`` images each."""
        n_tilts = len(tilt_deg)
        return cls(np.asarray(tilt_deg, float), np.zeros((n_tilts, 3)), np.zeros((n_tilts, 3)),
                   np.zeros((n_tilts, n_defoci)), np.ones((n_tilts, n_defoci)), np.zeros((n_tilts, n_defoci, 2)),
                   np.ones(n_defoci))

    @classmethod
    def from_arrays(cls, tilt_deg: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Poses:
        """Return the poses of the ``arrays`` by name; shifts and magnifications of images may be missing."""
        nominal = cls.nominal(tilt_deg, arrays["brightness"].shape[1])
        own = {name: arrays[name] for name in ("turn_deg", "shift_A", "defocus_A", "brightness")}
        return replace(nominal, **own, **{name: arrays[name] for name in OF_IMAGES if name in arrays})

    @classmethod
    def from_table(cls, tilt_deg: np.ndarray, n_defoci: int, table: np.ndarray,
                   of_images: np.ndarray | None = None) -> Poses:
        """Return the poses of tilts that differ from ``tilt_deg`` (T,) by two angles, shift, defocus and brightness.

        The columns of ``table`` (T, 6) are tilt angle δ and direction of the tilt axis φ in degrees, shift along x and
        y and defocus common to the images of a tilt in Å, and brightness. exp([ω]×) = R_z(φ) R_y(δ) exactly, and the
        defocus is the height with the opposite sign. ``of_images`` (T, F, 4), if given, is added to the last four for
        single images.
        """
        turn_deg = np.array([rotation_vector(_about_beam(axis) @ rotation_matrix(tilt)) for tilt, axis in table[:, :2]])
        poses = replace(cls.nominal(tilt_deg, n_defoci), turn_deg=turn_deg.reshape(-1, 3),
                        shift_A=np.column_stack([table[:, 2:4], -table[:, 4]]),
                        brightness=np.tile(table[:, 5:], n_defoci))
        return poses if of_images is None else replace(
            poses, image_shift_A=of_images[..., :2].copy(), defocus_A=of_images[..., 2].copy(),
            brightness=poses.brightness + of_images[..., 3])

    @property
    def table(self) -> np.ndarray:
        """Return the columns (T, 6) of :meth:`from_table`, with the brightness of the first image of each tilt."""
        return np.column_stack([self.angles_deg, self.shift_A[:, :2], -self.shift_A[:, 2], self.brightness[:, 0]])

    @property
    def of_images(self) -> np.ndarray:
        """Return what single images add (T, F, 4) to :attr:`table`: shift along x and y, defocus and brightness."""
        brighter = self.brightness - self.brightness[:, :1]
        return np.concatenate([self.image_shift_A, self.defocus_A[..., None], brighter[..., None]], axis=2)

    @property
    def angles_deg(self) -> np.ndarray:
        """Return tilt angle δ and direction φ of the tilt axis (T, 2): exp([ω]×) = R_z(φ) R_x(ψ) R_y(δ), without ψ."""
        m = np.array([turn_matrix(turn) for turn in self.turn_deg]).reshape(-1, 3, 3)
        return np.rad2deg(np.column_stack([np.arctan2(-m[:, 2, 0], m[:, 2, 2]), np.arctan2(-m[:, 0, 1], m[:, 1, 1])]))

    @property
    def defocus_change_A(self) -> np.ndarray:
        """Return how far (T, F) in Å the plane of each image is moved along the beam relative to the sample."""
        return self.defocus_A - self.shift_A[:, 2:]

    def rotation(self, i_tilt: int) -> np.ndarray:
        """Return the rotation exp([ω]×) R (3, 3) of positions at one tilt."""
        return turn_matrix(self.turn_deg[i_tilt]) @ rotation_matrix(float(self.tilt_deg[i_tilt]))

    def place(self, positions_A: np.ndarray, i_tilt: int) -> np.ndarray:
        """Return positions (N, 3) at one tilt, without the height of the sample."""
        return positions_A @ self.rotation(i_tilt).T + self.shift_A[i_tilt] * (1.0, 1.0, 0.0)

    def select(self, tilts: np.ndarray) -> Poses:
        """Return the poses of some ``tilts`` (indices or mask), in their order."""
        return Poses(self.tilt_deg[tilts], self.turn_deg[tilts], self.shift_A[tilts], self.defocus_A[tilts],
                     self.brightness[tilts], self.image_shift_A[tilts], self.magnification)

    def moved(self, by: np.ndarray) -> Poses:
        """Return the poses with ``by`` (T, 6) added: rotation vectors in degrees, shifts in Å."""
        return replace(self, turn_deg=self.turn_deg + by[:, :3], shift_A=self.shift_A + by[:, 3:])


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """Return [v]× (3, 3), with [v]× u = v × u."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], float)


def turn_matrix(turn_deg: np.ndarray) -> np.ndarray:
    """Return the rotation matrix exp([ω]×) (3, 3) of a rotation vector ω (3,) in degrees (Rodrigues' formula)."""
    turn = np.deg2rad(turn_deg)
    angle = float(np.linalg.norm(turn))
    k = cross_matrix(turn)
    if angle < 1e-6:
        return np.eye(3) + k + 0.5 * k @ k
    return np.eye(3) + np.sin(angle) / angle * k + (1 - np.cos(angle)) / angle**2 * k @ k


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,) in degrees of a rotation matrix by less than 180°: its logarithm.

    The antisymmetric part of the matrix is sin θ [u]×, u the axis, and its trace 1 + 2 cos θ.
    """
    axial = 0.5 * (rotation - rotation.T)[[2, 0, 1], [1, 2, 0]]
    sine = float(np.linalg.norm(axial))
    angle = np.arctan2(sine, 0.5 * (np.trace(rotation) - 1))
    return np.rad2deg(axial * (angle / sine if sine > 0 else 1.0))


def _about_beam(angle_deg: float) -> np.ndarray:
    """Return the rotation matrix (3, 3) about the beam."""
    rotation = np.eye(3)
    rotation[:2, :2] = in_plane_rotation(angle_deg)
    return rotation
