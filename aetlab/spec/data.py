"""The origin of the tilt series."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Origin of the tilt series.

    Attributes
    ----------
    kind : str
        ``simulated``: images of the sample are computed, with the noise of the dose.
    """

    kind: str = "simulated"

    def __post_init__(self) -> None:
        choice("data.kind", self.kind, ("simulated",))
