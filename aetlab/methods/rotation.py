"""Rotation of the volume about the tilt axis, summed into slices, with the exact adjoint.

Convention (docs/conventions.md): a tilt takes the point p to p' = R p with x' = x cos + z sin, z' = -x sin + z cos,
about the volume's centre. The rotated volume at p' is therefore the volume at R⁻¹ p'. Voxels that leave the volume are
dropped, and zeros enter. ``n_layers`` rotated layers are added into one slice (equation 6 of the paper); the
adjoint copies a slice's value to each of its layers (equation 7) and turns them back.

The table of rotations is :data:`aetlab.methods.rotations.ROTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Rotation(Protocol):
    """Rotate-and-bin and its adjoint for a set of tilts."""

    def set_angle(self, i_tilt: int, tilt_deg: float) -> None:
        """Set the angle of tilt ``i_tilt``."""

    def rotate_and_bin(self, volume: np.ndarray, i_tilt: int, slices: np.ndarray) -> None:
        """Fill ``slices`` (S, X, Y) with the sums of the rotated ``volume`` (Z, X, Y)."""

    def span(self, i_tilt: int) -> tuple[int, int] | None:
        """Return the first slice that the turned support reaches, and the one behind the last; None without support."""

    def add_adjoint(self, slices: np.ndarray, i_tilt: int, scale: float, volume: np.ndarray,
                    metric: np.ndarray | None = None) -> None:
        """Add ``scale`` times the adjoint of ``slices`` to ``volume`` in place; ``metric`` (Z, X, Y) scales voxels."""


@dataclass(frozen=True)
class Matrix:
    """The sparse matrix of a local interpolation.

    ``capacity`` is the largest number of rows that one voxel can enter: lattice points of a turned unit grid in the
    footprint of the interpolation. ``bytes_per_column`` is the memory of the matrix of one tilt for each (z, x).
    """

    cubic: bool
    capacity: int
    bytes_per_column: float


@dataclass(frozen=True, kw_only=True)
class RotationMethod:
    """A rotation of the table.

    Attributes
    ----------
    meaning : str
        The interpolation, in a few words for help and documentation.
    make : callable
        ``make(shape_zxy, n_layers, tilt_deg, dtype, support)`` returns the :class:`Rotation` of volumes (Z, X, Y) by
        the angles ``tilt_deg`` in degrees. Positions outside ``support`` (Z, X) count as 0, and the adjoint leaves them
        as they are; None for all, and only with a matrix another.
    matrix : Matrix, optional
        The matrix of a local interpolation, whose memory is counted.
    gpu_kernel : str
        The kernel that rotates on a GPU, with the matrix if there is one; empty: none, and ``engine=auto`` reconstructs
        on the CPU.
    all_threads : bool
        Whether small planes are rotated by all threads as well.
    """

    meaning: str
    make: Callable[[tuple[int, int, int], int, np.ndarray, type, np.ndarray | None], Rotation]
    matrix: Matrix | None = None
    gpu_kernel: str = ""
    all_threads: bool = False
