"""Settings of the alignment of tilts; :mod:`aetlab.spec` takes them into the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import not_negative, require


@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """Whether and when the reconstruction finds out where its tilts really lie (:mod:`aetlab.forward.alignment`).

    ``at``: iterations, counted from 0, before which all tilts are aligned to the volume as it is then; those that the
    reconstruction does not come to are left out. ``smoothing_A``: standard deviation of the Gaussian that both images
    are smoothed by, one for each of them, the last one for all further. The tilt angle stays as it is in those before
    iteration ``angles_from``. The first alignment begins with the best correlation over shifts up to ``reach_A`` along
    x and y, and over changes of the defocus up to ``reach_nm``.
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
