"""What figures show of traced and true atoms: where to cut, who is in the cut, tetrahedra, errors and signals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from aetlab.reporting.stored_run import COLUMNS, StoredRun, cut

#: Mean Si-O bond length in Å and how far a bond may be from it (the paper, results and discussion).
BOND_A = 1.6
BOND_TOLERANCE_A = 0.375
#: Angles between the bonds of a tetrahedron, 109.5° at best, that still count, in degrees.
ANGLE_RANGE_DEG = (80.0, 140.0)


@dataclass(frozen=True)
class Scored:
    """True and traced atoms of one run with their match; positions (N, 3) in Å."""

    true_A: np.ndarray
    true_numbers: np.ndarray
    inside: np.ndarray
    traced_A: np.ndarray
    traced_numbers: np.ndarray
    signal: np.ndarray
    match_traced: np.ndarray
    match_true: np.ndarray
    false: np.ndarray
    missing: np.ndarray

    @property
    def error_A(self) -> np.ndarray:
        """Traced minus true position of the found atoms, (M, 3) in Å."""
        return self.traced_A[self.match_traced] - self.true_A[self.match_true]

    @cached_property
    def tetrahedra(self) -> np.ndarray:
        """Indices (n, 5) of traced atoms that form a tetrahedron: its centre, then its four corners."""
        return find_tetrahedra(self.traced_A)


def read_scored(run: StoredRun) -> Scored:
    """The atoms of ``run``."""
    return Scored(
        *(
            run.array(name)
            for name in (
                "truth/positions_A",
                "truth/numbers",
                "truth/in_scoring_region",
                "traced/positions_A",
                "traced/numbers",
                "traced/signal",
                "match/traced",
                "match/true",
                "match/unmatched_traced",
                "match/unmatched_true",
            )
        )
    )


def thickest_y_A(scored: Scored, thickness_A: float = 1.0) -> float:
    """Height y in Å of the cut of ``thickness_A`` across the tilt axis that holds the most true atoms that count."""
    y_A = np.sort(scored.true_A[scored.inside.astype(bool), COLUMNS["y"]])
    if len(y_A) == 0:
        return 0.0
    starts = np.arange(y_A[0], max(y_A[-1] - thickness_A, y_A[0]) + 0.25, 0.25)
    counts = np.searchsorted(y_A, starts + thickness_A) - np.searchsorted(y_A, starts)
    return float(starts[np.argmax(counts)] + thickness_A / 2)


def in_cut(positions_A: np.ndarray, axis: str, centre_A: float, thickness_A: float = 1.0) -> np.ndarray:
    """Mask (N,) of the positions within the slab across ``axis`` about ``centre_A``."""
    return np.abs(positions_A[:, COLUMNS[axis]] - centre_A) <= thickness_A / 2


def find_tetrahedra(positions_A: np.ndarray) -> np.ndarray:
    """Clusters (n, 5) of one atom and exactly four at a bond of 1.6 ± 0.375 Å in tetrahedral directions.

    Species are not asked for, as in the paper, so that the count tells of the positions alone.
    """
    if len(positions_A) < 5:
        return np.empty((0, 5), int)
    tree = cKDTree(positions_A)
    distance_A, index = tree.query(positions_A, k=6, distance_upper_bound=BOND_A + BOND_TOLERANCE_A)
    bonds = np.isfinite(distance_A) & (distance_A >= BOND_A - BOND_TOLERANCE_A)
    bonds[:, 0] = False
    centres = np.flatnonzero((bonds.sum(axis=1) == 4) & bonds[:, 1:5].all(axis=1))
    corners = index[centres, 1:5]
    arms = positions_A[corners] - positions_A[centres, None]
    arms /= np.linalg.norm(arms, axis=2, keepdims=True)
    first, second = np.triu_indices(4, 1)
    angle_deg = np.rad2deg(np.arccos(np.clip((arms[:, first] * arms[:, second]).sum(axis=2), -1, 1)))
    good = ((angle_deg >= ANGLE_RANGE_DEG[0]) & (angle_deg <= ANGLE_RANGE_DEG[1])).all(axis=1)
    return np.column_stack([centres[good], corners[good]])


def outlines(positions_A: np.ndarray, tetrahedra: np.ndarray, columns: tuple[int, int]) -> list[np.ndarray]:
    """Outline of each tetrahedron seen along the axis that ``columns`` leave out, polygons (k, 2) in Å."""
    polygons = []
    for corners in tetrahedra[:, 1:]:
        points = positions_A[np.ix_(corners, columns)]
        polygons.append(points[ConvexHull(points, qhull_options="QJ").vertices])
    return polygons


def species_thresholds(scored: Scored) -> list[float]:
    """Signals between the species given to traced atoms, halfway between neighbours; empty where they overlap."""
    numbers = np.unique(scored.traced_numbers)
    groups = sorted((scored.signal[scored.traced_numbers == number] for number in numbers), key=np.median)
    return [
        float((low.max() + high.min()) / 2)
        for low, high in zip(groups, groups[1:], strict=False)
        if low.max() <= high.min()
    ]


def slice_V(run: StoredRun, axis: str, centre_A: float) -> np.ndarray:
    """A 1 Å slice of the reconstructed potential of ``run`` in V; see :func:`aetlab.reporting.stored_run.cut`."""
    return cut(run.array("volume/potential_V"), run.voxel_A, axis, centre_A)
