"""Rigid motion between two nearly equal sets of atoms, from pairs of nearest neighbours.

Images do not determine the position of a sample as a whole: a sample rotated about the tilt axis, with tilt angles
offset by the same angle, gives the same images, and so does a shifted sample with images shifted back.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Largest distance of the pairs of each round, in units of ``max_distance_A``.
_ROUNDS = (1.0, 0.7, 0.5, 0.5)
#: With fewer pairs nothing is moved.
_LEAST_PAIRS = 10


def register_atoms(moving_A: np.ndarray, fixed_A: np.ndarray, max_distance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation (3, 3) and shift (3,) in Å that fit ``moving_A`` (N, 3) to ``fixed_A`` (M, 3).

    The moved atoms are ``moving_A @ rotation.T + shift``. Each round pairs mutual nearest neighbours within
    ``max_distance_A``, less in later rounds, and fits rotation and shift by least squares (W. Kabsch, Acta Cryst. A 32,
    922, 1976). With fewer than 10 pairs nothing is moved. Needs the truth if one set is the true atoms.
    """
    rotation, shift_A = np.eye(3), np.zeros(3)
    if not len(moving_A) or not len(fixed_A):
        return rotation, shift_A
    tree = cKDTree(fixed_A)
    for part in _ROUNDS:
        moved = moving_A @ rotation.T + shift_A
        distance_A, nearest = tree.query(moved)
        mutual = cKDTree(moved).query(fixed_A[nearest])[1] == np.arange(len(moved))
        pairs = np.flatnonzero(mutual & (distance_A <= part * max_distance_A))
        if len(pairs) < _LEAST_PAIRS:
            break
        rotation, shift_A = fit_motion(moving_A[pairs], fixed_A[nearest[pairs]])
    return rotation, shift_A


def fit_motion(moving_A: np.ndarray, fixed_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation (3, 3) and shift (3,) in Å that fit ``moving_A`` (N, 3) to ``fixed_A`` (N, 3), row by row."""
    centre, goal = moving_A.mean(axis=0), fixed_A.mean(axis=0)
    u, _, vt = np.linalg.svd((fixed_A - goal).T @ (moving_A - centre))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, goal - rotation @ centre
