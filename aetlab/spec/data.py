"""The origin of the tilt series."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, require


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Origin of the tilt series.

    Attributes
    ----------
    kind : str
        ``simulated``: images of the sample are computed, with the noise of the dose. ``given``: the series was handed
        over through the Python API; such settings name a record and cannot be run.
    digest : str
        Hex SHA-256 of a given series. It is set when the run is kept, never by hand.
    """

    kind: str = "simulated"
    digest: str = ""

    def __post_init__(self) -> None:
        choice("data.kind", self.kind, ("simulated", "given"))
        require(bool(self.digest) == (self.kind == "given"), "data.digest", self.digest,
                "it belongs to data.kind=given alone, which needs it")
