"""The tilt series as it is acquired: dose, tilt angles, missing wedge and defoci."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aetlab.spec.checks import positive, require

#: The most tilts that a series may have.
MAX_TILTS = 10_000
#: The three ways to give the tilt angles, as refusals list them.
_WAYS = ("give exactly one of tilts.n_tilts (equal steps over tilts.span_deg), tilts.angles_deg (a list), or "
         "tilts.start_deg with tilts.stop_deg and tilts.step_deg")


@dataclass(frozen=True, kw_only=True)
class DoseSpec:
    """Total dose of the series.

    Attributes
    ----------
    total_e_A2 : float
        Electrons per Å² summed over all images, greater than 0. ``inf`` means images without noise.
    """

    total_e_A2: float

    def __post_init__(self) -> None:
        positive("dose.total_e_A2", self.total_e_A2, finite=False)


@dataclass(frozen=True, kw_only=True)
class TiltsSpec:
    """Tilt angles of the series, given in exactly one of three ways; the others are None.

    Attributes
    ----------
    n_tilts : int, optional
        Equal steps: number of steps over ``span_deg``, 2 to 10 000. The first tilt is at 0°, the last one step short of
        the span. ``wedge.missing_deg`` leaves out the tilts at the end.
    span_deg : float
        Span of the equal steps in degrees, in (0, 180]. It must stay 180 with the other two ways.
    angles_deg : tuple of float, optional
        A list: 2 to 10 000 angles in degrees, each from -360 to 360, in any order and at any spacing. Repeated angles
        are separate tilts.
    start_deg, stop_deg, step_deg : float, optional
        A range: angles in degrees from ``start_deg`` in steps of ``step_deg``. ``stop_deg`` is included if a step
        reaches it. A negative step leads down. All three must be given.
    """

    n_tilts: int | None = None
    span_deg: float = 180.0
    angles_deg: tuple[float, ...] | None = None
    start_deg: float | None = None
    stop_deg: float | None = None
    step_deg: float | None = None

    def __post_init__(self) -> None:
        named = {"n_tilts": self.n_tilts, "angles_deg": self.angles_deg, "start_deg": self.start_deg,
                 "stop_deg": self.stop_deg, "step_deg": self.step_deg}
        given = [f"tilts.{name}" for name, value in named.items() if value is not None]
        ways = (self.n_tilts is not None) + (self.angles_deg is not None) + self._has_range
        require(ways == 1, "tilts", " and ".join(given) or None, _WAYS)
        require(0 < self.span_deg <= 180, "tilts.span_deg", self.span_deg, "it must lie in (0, 180]")
        require(self.n_tilts is not None or self.span_deg == 180, "tilts.span_deg", self.span_deg,
                f"it is the span of equal steps (tilts.n_tilts); leave it at 180 with {given[0]}")
        if self.n_tilts is not None:
            require(2 <= self.n_tilts <= MAX_TILTS, "tilts.n_tilts", self.n_tilts, f"2 to {MAX_TILTS}")
        if self.angles_deg is not None:
            require(2 <= len(self.angles_deg) <= MAX_TILTS, "tilts.angles_deg", _short(self.angles_deg),
                    f"give 2 to {MAX_TILTS} angles")
            for angle_deg in self.angles_deg:
                _check_angle("tilts.angles_deg", angle_deg)
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
        _check_angle("tilts.start_deg", start_deg)
        _check_angle("tilts.stop_deg", stop_deg)
        require(step_deg != 0 and math.isfinite(step_deg), "tilts.step_deg", step_deg, "it must be finite and not 0")
        n_steps = (stop_deg - start_deg) / step_deg
        require(1 - 1e-9 <= n_steps < MAX_TILTS, "tilts.step_deg", step_deg,
                f"it must lead from tilts.start_deg={start_deg} to tilts.stop_deg={stop_deg} in 1 to "
                f"{MAX_TILTS - 1} steps")


@dataclass(frozen=True, kw_only=True)
class WedgeSpec:
    """Missing wedge of a series of equal steps.

    Attributes
    ----------
    missing_deg : float
        Degrees at the end of ``tilts.span_deg`` whose tilts are left out, in [0, 180). The tilt step stays. It must be
        0 with ``tilts.angles_deg`` and with a range, which say themselves which tilts there are.
    """

    missing_deg: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.missing_deg < 180, "wedge.missing_deg", self.missing_deg, "it must lie in [0, 180)")


@dataclass(frozen=True, kw_only=True)
class DefocusSpec:
    """Defoci of the images of each tilt.

    Attributes
    ----------
    planes_nm : tuple of float
        Distances in nm from the centre of the volume to the imaged planes, at least one, in any order. Positive is
        along the beam (overfocus), negative against it (underfocus). A repeated value is a repeated image.
    """

    planes_nm: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.planes_nm) >= 1 and all(math.isfinite(p) for p in self.planes_nm), "defocus.planes_nm",
                _short(self.planes_nm), "give at least one finite defocus")


def _check_angle(setting: str, angle_deg: float) -> None:
    require(-360 <= angle_deg <= 360, setting, angle_deg, "angles must lie from -360 to 360")


def _short(values: tuple[float, ...]) -> object:
    return values if len(values) <= 8 else f"{len(values)} values"
