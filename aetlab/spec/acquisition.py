"""The tilt series as it is acquired: dose, tilt angles, missing wedge and defoci."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aetlab.spec.checks import positive, require


@dataclass(frozen=True, kw_only=True)
class DoseSpec:
    """Total electrons per Å² over all images of the series; ``inf`` means no noise."""

    total_e_A2: float

    def __post_init__(self) -> None:
        positive("dose.total_e_A2", self.total_e_A2, finite=False)


@dataclass(frozen=True, kw_only=True)
class TiltsSpec:
    """``n_tilts`` equal steps over ``span_deg``; the last tilt is one step short of the span."""

    n_tilts: int
    span_deg: float = 180.0

    def __post_init__(self) -> None:
        require(self.n_tilts >= 2, "tilts.n_tilts", self.n_tilts, "at least 2 tilts are needed")
        require(0 < self.span_deg <= 180, "tilts.span_deg", self.span_deg, "it must lie in (0, 180]")


@dataclass(frozen=True, kw_only=True)
class WedgeSpec:
    """Missing degrees at the end of the span; the tilt step stays, the tilts in the wedge are left out."""

    missing_deg: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.missing_deg < 180, "wedge.missing_deg", self.missing_deg, "it must lie in [0, 180)")


@dataclass(frozen=True, kw_only=True)
class DefocusSpec:
    """Distances from the volume's centre to the imaged planes, in nm, positive along the beam."""

    planes_nm: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.planes_nm) >= 1 and all(math.isfinite(p) for p in self.planes_nm), "defocus.planes_nm",
                self.planes_nm, "give at least one finite defocus")


def tilt_angles_deg(tilts: TiltsSpec, wedge: WedgeSpec) -> tuple[float, ...]:
    """Tilt angles in degrees that are left outside the missing wedge; the step is that of the full series."""
    step = tilts.span_deg / tilts.n_tilts
    limit = tilts.span_deg - wedge.missing_deg
    return tuple(i * step for i in range(tilts.n_tilts) if i * step < limit - 1e-9)
