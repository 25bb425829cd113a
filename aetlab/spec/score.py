"""The comparison of traced atoms with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import positive


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """``max_distance_A``: how far a traced atom may lie from the true one that it takes."""

    max_distance_A: float = 1.0

    def __post_init__(self) -> None:
        positive("score.max_distance_A", self.max_distance_A)
