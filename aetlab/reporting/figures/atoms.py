"""What figures show of traced and true atoms: where to cut, who is in the cut, tetrahedra, errors and signals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import ConvexHull

from aetlab.reporting.stored_run import COLUMNS, StoredRun, cut
from aetlab.scoring.structure import find_tetrahedra


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
        """Indices (n, 5) of the tetrahedra of traced atoms that the metrics count: centre, then four corners."""
        return find_tetrahedra(self.traced_numbers, self.traced_A)


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
