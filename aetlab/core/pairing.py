"""Pairs of atoms of two sets: within a distance, the best one-to-one assignment, and the rigid motion between them.

Images do not determine the position of a sample as a whole: a sample rotated about the tilt axis, with tilt angles
offset by the same angle, gives the same images, and so does a shifted sample with images shifted back.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

#: Largest distance of the pairs of each round, in units of ``max_distance_A``.
_ROUNDS = (1.0, 0.7, 0.5, 0.5)
#: With fewer pairs nothing is moved.
_LEAST_PAIRS = 10


def pair_atoms(first_A: np.ndarray, second_A: np.ndarray, distance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (P,) and (P,) of the most one-to-one pairs within a distance.

    Among the assignments with the most pairs, it is the one with the least sum of squared distances.

    Parameters
    ----------
    first_A, second_A : (N, 3) and (M, 3)
        Positions in Å.
    distance_A : float
        Largest distance of a pair in Å.
    """
    return assign_optimally(*list_pairs(first_A, second_A, distance_A), len(first_A), len(second_A))


def list_pairs(first_A: np.ndarray, second_A: np.ndarray,
               distance_A: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs within the distance, nearest first for each atom of ``first_A``: indices and distances."""
    if not len(first_A) or not len(second_A):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    found = cKDTree(first_A).sparse_distance_matrix(cKDTree(second_A), distance_A, output_type="ndarray")
    order = np.lexsort((found["j"], found["v"], found["i"]))
    return found["i"][order], found["j"][order], found["v"][order]


def assign_optimally(i_first: np.ndarray, i_second: np.ndarray, distance_A: np.ndarray, n_first: int,
                     n_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most one-to-one pairs, with the least sum of squared distances; connected groups are independent."""
    graph = coo_array((np.ones(len(i_first)), (i_first, i_second + n_first)), shape=(n_first + n_second,) * 2)
    _, label = connected_components(graph, directed=False)
    group = label[i_first]
    order = np.argsort(group, kind="stable")
    pairs = []
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) <= 1:
            pairs.append(np.stack([i_first[members], i_second[members]], axis=1))
            continue
        rows, row = np.unique(i_first[members], return_inverse=True)
        columns, column = np.unique(i_second[members], return_inverse=True)
        # A pair beyond the distance must cost more than all pairs of the group together.
        forbidden = 1.0 + 2 * len(members) * max(float(distance_A[members].max()), 1e-6) ** 2
        cost = np.full((len(rows), len(columns)), forbidden)
        cost[row, column] = distance_A[members] ** 2
        row, column = linear_sum_assignment(cost)
        allowed = cost[row, column] < forbidden
        pairs.append(np.stack([rows[row[allowed]], columns[column[allowed]]], axis=1))
    joined = np.concatenate(pairs)
    return tuple(joined[np.argsort(joined[:, 0], kind="stable")].T)


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
