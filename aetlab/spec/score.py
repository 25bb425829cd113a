"""The comparison of traced atoms with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import positive


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """Comparison of traced atoms with the true ones.

    Attributes
    ----------
    max_distance_A : float
        Largest distance in Å between a traced atom and the true atom that it is paired with, greater than 0.
    """

    max_distance_A: float = 1.0

    def __post_init__(self) -> None:
        positive("score.max_distance_A", self.max_distance_A)
