"""The rigid motion between two sets of atoms that are nearly the same, from pairs of nearest neighbours.

Images cannot tell where a sample lies as a whole: a sample turned about the tilt axis, with tilts that begin earlier,
gives the same images, and so does one that is shifted, with images that are shifted back.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Largest distances of the pairs of each round, in units of that asked for.
_ROUNDS = (1.0, 0.7, 0.5, 0.5)
#: Pairs below which nothing is moved.
_LEAST_PAIRS = 10


def register_atoms(moving_A: np.ndarray, fixed_A: np.ndarray, max_distance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) in Å that take ``moving_A`` (N, 3) best onto ``fixed_A`` (M, 3).

    ``moving_A @ rotation.T + shift``. Each round pairs atoms that are each other's nearest within ``max_distance_A``,
    less in later rounds, and takes the rotation and shift of least squares (W. Kabsch, Acta Cryst. A 32, 922, 1976).
    Where fewer than 10 pairs are found nothing moves.
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
        rotation, shift_A = _least_squares(moving_A[pairs], fixed_A[nearest[pairs]])
    return rotation, shift_A


def _least_squares(moving_A: np.ndarray, fixed_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre, goal = moving_A.mean(axis=0), fixed_A.mean(axis=0)
    u, _, vt = np.linalg.svd((fixed_A - goal).T @ (moving_A - centre))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, goal - rotation @ centre
