"""The tilt series as it is acquired: dose, tilt angles, missing wedge and defoci."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting

#: The most tilts that a series may have.
MAX_TILTS = 10_000
#: The three ways to give the tilt angles, as refusals list them.
_WAYS = ("give exactly one of tilts.n_tilts (equal steps over tilts.span_deg), tilts.angles_deg (a list), or "
         "tilts.start_deg with tilts.stop_deg and tilts.step_deg")


@documented
@dataclass(frozen=True, kw_only=True)
class DoseSpec:
    """Total dose of the series."""

    total_e_A2: float = setting("electrons summed over all images; inf for images without noise", unit="e/Å²",
                                within="(0, inf]")

    def __post_init__(self) -> None:
        check_ranges("dose", self)


@documented
@dataclass(frozen=True, kw_only=True)
class TiltsSpec:
    """Tilt angles of the series, given in exactly one of three ways; the others are null."""

    n_tilts: int | None = setting(
        "number of equal steps over span_deg; the first tilt is at 0°, the last one step short of the span, and "
        "wedge.missing_deg leaves out the tilts at the end", within=f"[2, {MAX_TILTS}]", default=None)
    span_deg: float = setting("span of the equal steps; 180 with a list or a range", unit="°", within="(0, 180]",
                              default=180.0)
    angles_deg: tuple[float, ...] | None = setting(
        f"list of 2 to {MAX_TILTS} angles in any order and at any spacing; repeated angles are separate tilts",
        unit="°", within="[-360, 360]", default=None)
    start_deg: float | None = setting("first angle of a range", unit="°", within="[-360, 360]", default=None)
    stop_deg: float | None = setting("end of a range, included if a step reaches it", unit="°", within="[-360, 360]",
                                     default=None)
    step_deg: float | None = setting("step of a range; negative leads down", unit="°", default=None)

    def __post_init__(self) -> None:
        named = {"n_tilts": self.n_tilts, "angles_deg": self.angles_deg, "start_deg": self.start_deg,
                 "stop_deg": self.stop_deg, "step_deg": self.step_deg}
        given = [f"tilts.{name}" for name, value in named.items() if value is not None]
        ways = (self.n_tilts is not None) + (self.angles_deg is not None) + self._has_range
        require(ways == 1, "tilts", " and ".join(given) or None, _WAYS)
        require(self.n_tilts is not None or self.span_deg == 180, "tilts.span_deg", self.span_deg,
                f"it is the span of equal steps (tilts.n_tilts); leave it at 180 with {given[0]}")
        if self.angles_deg is not None:
            require(2 <= len(self.angles_deg) <= MAX_TILTS, "tilts.angles_deg", _short(self.angles_deg),
                    f"give 2 to {MAX_TILTS} angles")
        check_ranges("tilts", self)
        if self._has_range:
            self._check_range()

    @property
    def _has_range(self) -> bool:
        return any(value is not None for value in (self.start_deg, self.stop_deg, self.step_deg))

    def _check_range(self) -> None:
        for name in ("start_deg", "stop_deg", "step_deg"):
            require(getattr(self, name) is not None, f"tilts.{name}", None,
                    "a range takes tilts.start_deg, tilts.stop_deg and tilts.step_deg")
        start_deg, stop_deg, step_deg = self.start_deg, self.stop_deg, self.step_deg
        assert start_deg is not None and stop_deg is not None and step_deg is not None
        require(step_deg != 0, "tilts.step_deg", step_deg, "it must not be 0")
        n_steps = (stop_deg - start_deg) / step_deg
        require(1 - 1e-9 <= n_steps < MAX_TILTS, "tilts.step_deg", step_deg,
                f"it must lead from tilts.start_deg={start_deg} to tilts.stop_deg={stop_deg} in 1 to "
                f"{MAX_TILTS - 1} steps")


@documented
@dataclass(frozen=True, kw_only=True)
class WedgeSpec:
    """Missing wedge of a series of equal steps."""

    missing_deg: float = setting(
        "angle at the end of tilts.span_deg whose tilts are left out, while the tilt step stays; 0 with a list and "
        "with a range, which say themselves which tilts there are", unit="°", within="[0, 180)", default=0.0)

    def __post_init__(self) -> None:
        check_ranges("wedge", self)


@documented
@dataclass(frozen=True, kw_only=True)
class DefocusSpec:
    """Defoci of the images of each tilt."""

    planes_nm: tuple[float, ...] = setting(
        "distances from the centre of the volume to the imaged planes, at least one, in any order; positive is along "
        "the beam (overfocus), negative against it (underfocus); a repeated value is a repeated image", unit="nm")

    def __post_init__(self) -> None:
        require(len(self.planes_nm) >= 1 and all(math.isfinite(p) for p in self.planes_nm), "defocus.planes_nm",
                _short(self.planes_nm), "give at least one finite defocus")


def _short(values: tuple[float, ...]) -> object:
    return values if len(values) <= 8 else f"{len(values)} values"
