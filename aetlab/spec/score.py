"""The comparison of traced atoms with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.setting import check_ranges, documented, setting


@documented
@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """Comparison of traced atoms with the true ones."""

    max_distance_A: float = setting("largest distance between a traced atom and the true atom that it is paired with",
                                    unit="Å", within="(0, inf)", default=1.0)

    def __post_init__(self) -> None:
        check_ranges("score", self)
