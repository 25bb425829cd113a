"""The source of the images."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, require


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the tilt series comes from.

    ``kind``: ``simulated`` (from the sample of these settings) or ``given`` (handed over through the Python API).
    ``digest`` is the SHA-256 of a given series, in hex; it is set when the run is kept, never by hand.
    """

    kind: str = "simulated"
    digest: str = ""

    def __post_init__(self) -> None:
        choice("data.kind", self.kind, ("simulated", "given"))
        require(bool(self.digest) == (self.kind == "given"), "data.digest", self.digest,
                "it belongs to data.kind=given alone, which needs it")
