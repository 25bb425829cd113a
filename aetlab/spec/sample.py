"""The sample and the voxel grid that holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aetlab.core import physics
from aetlab.spec.checks import choice, debye_waller, fraction, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class ScaleSpec:
    """The voxel grid, the needle that fits it, and the region in which atoms are scored.

    ``shape_zxy`` counts voxels along the beam at tilt 0 (z), across it (x) and along the tilt axis (y). The needle is
    described by its greatest core radius (at the base), shell thickness, whole length along y, cone half-angle, and the
    gap between its apex and the top face of the volume; where it is wider than ``scoring_diameter_A`` its atoms are not
    scored. A needle longer than the room below the gap leaves the volume through the bottom face.
    """

    name: str
    shape_zxy: tuple[int, int, int]
    voxel_A: float
    core_radius_A: float
    shell_thickness_A: float
    length_A: float
    taper_deg: float = 0.0
    apex_gap_A: float = 4.0
    scoring_diameter_A: float = math.inf

    def __post_init__(self) -> None:
        require(len(self.shape_zxy) == 3 and min(self.shape_zxy) >= 8, "scale.shape_zxy", self.shape_zxy,
                "give three counts of at least 8 voxels")
        positive("scale.voxel_A", self.voxel_A)
        positive("scale.core_radius_A", self.core_radius_A)
        not_negative("scale.shell_thickness_A", self.shell_thickness_A)
        positive("scale.length_A", self.length_A)
        require(0 <= self.taper_deg < 45, "scale.taper_deg", self.taper_deg, "it must lie between 0 and 45")
        not_negative("scale.apex_gap_A", self.apex_gap_A)
        positive("scale.scoring_diameter_A", self.scoring_diameter_A, finite=False)


@dataclass(frozen=True, kw_only=True)
class VacancyRegion:
    """A part of the sample with its own fraction of removed atoms.

    ``elements`` empty means all; the box bounds are (low, high) in Å about the volume's centre.
    """

    fraction: float
    part: str = "all"
    x_A: tuple[float, float] = (-math.inf, math.inf)
    y_A: tuple[float, float] = (-math.inf, math.inf)
    z_A: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        fraction("sample.vacancies.fraction", self.fraction)
        choice("sample.vacancies.part", self.part, ("all", "core", "shell"))
        for name in ("x_A", "y_A", "z_A"):
            low, high = getattr(self, name)
            require(low < high, f"sample.vacancies.{name}", (low, high), "give (low, high) with low < high")


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """What is imaged: the Si/SiO2 needle of the paper, or a structure read from ``path``.

    For a file: ``repeat`` repeats its cell along the cell vectors, ``rotate_deg`` turns it about x, y, z in this order
    after centring, ``tilt_axis`` names the axis of the file that becomes the tilt axis y, and ``crop`` with
    ``crop_size_A`` (sphere: diameter; cylinder along y: diameter, length; box: x, y, z) cuts it. ``debye_waller_A2`` is
    B = 8π²⟨u²⟩ by element symbol; the entry ``default`` serves the elements that are not named.
    """

    kind: str = "needle"
    min_distance_A: float = 1.2
    vacancies: tuple[VacancyRegion, ...] = ()
    path: str = ""
    repeat: tuple[int, int, int] = (1, 1, 1)
    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt_axis: str = "y"
    crop: str = "none"
    crop_size_A: tuple[float, ...] = ()
    debye_waller_A2: dict[str, float] = field(default_factory=lambda: {"default": 0.5})

    def __post_init__(self) -> None:
        choice("sample.kind", self.kind, ("needle", "file"))
        not_negative("sample.min_distance_A", self.min_distance_A)
        require(self.kind == "needle" or bool(self.path), "sample.path", self.path,
                "give the structure file, for example sample.path=particle.xyz")
        require(min(self.repeat) >= 1, "sample.repeat", self.repeat, "each at least 1")
        choice("sample.tilt_axis", self.tilt_axis, ("x", "y", "z"))
        choice("sample.crop", self.crop, ("none", "sphere", "cylinder", "box"))
        n_sizes = {"none": 0, "sphere": 1, "cylinder": 2, "box": 3}[self.crop]
        require(len(self.crop_size_A) == n_sizes and all(s > 0 for s in self.crop_size_A), "sample.crop_size_A",
                self.crop_size_A, f"sample.crop={self.crop} takes {n_sizes} sizes greater than 0")
        debye_waller("sample.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:])
