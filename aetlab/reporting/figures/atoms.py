"""Atoms of a record as figures show them: traced atoms, and the true atoms with their match where there is a truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import ConvexHull

from aetlab.core.physics import SYMBOLS
from aetlab.core.structure import find_tetrahedra
from aetlab.reporting.stored_run import StoredRun

#: Arrays of the traced atoms that :func:`read_atoms` reads.
TRACED_ARRAYS = ("traced/positions_A", "traced/numbers", "traced/signal")
#: Arrays that it reads in addition where the record has a truth.
MATCH_ARRAYS = (
    "truth/positions_A",
    "truth/numbers",
    "truth/in_scoring_region",
    "match/traced",
    "match/true",
    "match/unmatched_traced",
    "match/unmatched_true",
)


@dataclass(frozen=True)
class MatchedTruth:
    """True atoms and the match of traced atoms to them.

    ``positions_A`` (N, 3), ``numbers`` (N,) and ``scored`` (N,), the mask of the scoring region, describe the true
    atoms. ``traced`` and ``true`` (M,) are indices of the pairs, ``false`` those of unmatched traced atoms and
    ``missing`` those of unmatched true atoms.
    """

    positions_A: np.ndarray
    numbers: np.ndarray
    scored: np.ndarray
    traced: np.ndarray
    true: np.ndarray
    false: np.ndarray
    missing: np.ndarray


@dataclass(frozen=True)
class ShownAtoms:
    """Traced atoms of one record: positions (N, 3) in Å, atomic numbers, site intensities in V voxel.

    ``truth`` is None where the record has no truth.
    """

    positions_A: np.ndarray
    numbers: np.ndarray
    signal: np.ndarray
    truth: MatchedTruth | None

    @property
    def sample_A(self) -> np.ndarray:
        """Positions (N, 3) in Å that show the extent of the sample: true atoms, or traced atoms without a truth."""
        return self.positions_A if self.truth is None else self.truth.positions_A

    @property
    def scored_A(self) -> np.ndarray:
        """Positions (N, 3) in Å of the true atoms of the scoring region, or of all traced atoms without a truth."""
        return self.positions_A if self.truth is None else self.truth.positions_A[self.truth.scored.astype(bool)]

    @property
    def error_A(self) -> np.ndarray:
        """Traced minus true position of the matched atoms, (M, 3) in Å; raises ValueError without a truth."""
        if self.truth is None:
            raise ValueError("position errors need a truth")
        return self.positions_A[self.truth.traced] - self.truth.positions_A[self.truth.true]

    @cached_property
    def tetrahedra(self) -> np.ndarray:
        """Indices (n, 5) of traced atoms that form SiO4 tetrahedra: the centre, then the four corners."""
        return find_tetrahedra(self.numbers, self.positions_A)


def read_atoms(run: StoredRun, *, with_truth: bool = True) -> ShownAtoms:
    """Return the traced atoms of ``run``, with its true atoms where it has any and ``with_truth`` asks for them."""
    positions_A, numbers, signal = (run.array(name) for name in TRACED_ARRAYS)
    truth = MatchedTruth(*(run.array(name) for name in MATCH_ARRAYS)) if with_truth and run.has_truth else None
    return ShownAtoms(positions_A, numbers, signal, truth)


def outlines(positions_A: np.ndarray, tetrahedra: np.ndarray, columns: tuple[int, int]) -> list[np.ndarray]:
    """Return the outline of each tetrahedron in the plane of the two ``columns``, polygons (k, 2) in Å."""
    polygons = []
    for corners in tetrahedra[:, 1:]:
        points = positions_A[np.ix_(corners, columns)]
        polygons.append(points[ConvexHull(points, qhull_options="QJ").vertices])
    return polygons


def species_thresholds(atoms: ShownAtoms) -> list[float]:
    """Return the site intensities halfway between neighbouring species; empty where species overlap."""
    numbers = np.unique(atoms.numbers)
    groups = sorted((atoms.signal[atoms.numbers == number] for number in numbers), key=np.median)
    return [
        float((low.max() + high.min()) / 2)
        for low, high in zip(groups, groups[1:], strict=False)
        if low.max() <= high.min()
    ]


def element_name(number: int) -> str:
    """Return the symbol of an element; ``no element`` for atomic number 0, which marks sites without one."""
    return SYMBOLS[number] if number else "no element"
