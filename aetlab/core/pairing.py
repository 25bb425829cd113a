"""Pairs of atoms of two sets: all within a distance, and the best one-to-one assignment."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


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
