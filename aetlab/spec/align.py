"""Settings of the alignment of tilts."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import not_negative, require


@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """Alignment of the tilts during the reconstruction (:mod:`aetlab.forward.alignment`).

    Attributes
    ----------
    enabled : bool
        Whether tilts are aligned to the volume.
    at : tuple of int
        Iterations, counted from 0 and rising from at least 1, before which all tilts are aligned.
    smoothing_A : tuple of float
        Standard deviations in Å, at least 0, of the Gaussian that smooths the compared images, one for each alignment;
        the last is for all further ones.
    angles_from : int
        Iteration before which tilt angles are not changed, at least 0.
    reach_A : float
        Largest shift in Å along x and y that the first alignment tries, at least 0.
    reach_nm : float
        Largest change of the defocus in nm that the first alignment tries, at least 0.
    """

    enabled: bool = False
    at: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27)
    smoothing_A: tuple[float, ...] = (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.1)
    angles_from: int = 8
    reach_A: float = 4.0
    reach_nm: float = 6.0

    def __post_init__(self) -> None:
        require(bool(self.at) and all(a < b for a, b in zip((0, *self.at), self.at, strict=False)), "align.at", self.at,
                "give rising numbers of iterations, at least 1: the first iteration has no volume to align to")
        require(bool(self.smoothing_A), "align.smoothing_A", self.smoothing_A, "give at least one")
        for smoothing_A in self.smoothing_A:
            not_negative("align.smoothing_A", smoothing_A)
        require(self.angles_from >= 0, "align.angles_from", self.angles_from, "at least 0")
        not_negative("align.reach_A", self.reach_A)
        not_negative("align.reach_nm", self.reach_nm)

    def smoothing_at(self, iteration: int) -> float:
        """Smoothing in Å of the alignment before ``iteration``, which is one of ``at``."""
        return self.smoothing_A[min(self.at.index(iteration), len(self.smoothing_A) - 1)]
