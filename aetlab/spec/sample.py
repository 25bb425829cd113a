"""The sample and the voxel grid that holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath

from aetlab.core import physics
from aetlab.spec.checks import choice, debye_waller, fraction, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class ScaleSpec:
    """Voxel grid, the needle that fits it, and the region in which atoms are scored.

    Attributes
    ----------
    name : str
        Label; not part of a run's identity.
    shape_zxy : tuple of int
        Voxels along the beam at tilt 0 (z), across it (x) and along the tilt axis (y), each at least 8.
    voxel_A : float
        Edge of a voxel and of a pixel in Å, greater than 0.
    core_radius_A : float
        Greatest radius of the needle's core, at its base, in Å, greater than 0.
    shell_thickness_A : float
        Thickness of the needle's shell in Å, at least 0.
    length_A : float
        Length of the needle along y in Å, greater than 0. A longer one leaves the volume through its bottom face.
    taper_deg : float
        Half-angle of the needle's cone in degrees, in [0, 45).
    apex_gap_A : float
        Gap between the apex and the top face of the volume in Å, at least 0.
    scoring_diameter_A : float
        Diameter of the needle in Å above which its atoms are not scored, greater than 0; ``inf`` scores all.
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


def format_ending(path: str) -> str:
    """Return the ending of a structure file's name that gives its format, in lower case; POSCAR* has ``.poscar``."""
    name = PurePath(path).name.lower()
    return ".poscar" if name.startswith(("poscar", "contcar")) else PurePath(name).suffix


@dataclass(frozen=True, kw_only=True)
class VacancyRegion:
    """A part of the sample with its own fraction of removed atoms.

    Attributes
    ----------
    fraction : float
        Fraction of the atoms that are removed at random, 0 to 1.
    part : str
        ``all``, ``core`` or ``shell`` of the needle.
    x_A, y_A, z_A : tuple of float
        Bounds (low, high) of the region in Å from the centre of the volume, low below high; infinite ones are open.
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
    """The sample: the Si/SiO2 needle of the paper, or a structure from a file.

    Attributes
    ----------
    kind : str
        ``needle`` or ``file``.
    min_distance_A : float
        Least distance of two atoms where core and shell of the needle meet, in Å, at least 0.
    vacancies : tuple of VacancyRegion
        Regions whose atoms are removed in part, one after the other.
    path : str
        Structure file that ASE reads; needed by ``kind=file``. Its content, not its path, is part of a run's identity.
    digest : str
        Hex SHA-256 of the structure file. It is set when the settings are bound (:mod:`aetlab.spec.inputs`). A file
        with another digest is refused.
    repeat : tuple of int
        Repeats of the file's cell along its vectors, each at least 1.
    rotate_deg : tuple of float
        Rotation of the file's atoms about x, y and z, in this order and after centring, in degrees.
    tilt_axis : str
        Axis of the file that becomes the tilt axis y: ``x``, ``y`` or ``z``.
    crop : str
        Part of the file's atoms that is kept: ``none`` (all), ``sphere``, ``cylinder`` (along y) or ``box``.
    crop_size_A : tuple of float
        Sizes of the crop in Å, greater than 0: diameter; diameter and length; or x, y and z.
    elements : tuple of str
        Elements that the sample may hold, by symbol. By default those of the simulated atoms, or those that the file
        of a measured series names.
    debye_waller_A2 : dict
        B = 8π²⟨u²⟩ in Å² by element symbol, greater than 0; the entry ``default`` is for elements without one.
    """

    kind: str = "needle"
    min_distance_A: float = 1.2
    vacancies: tuple[VacancyRegion, ...] = ()
    path: str = ""
    digest: str = ""
    repeat: tuple[int, int, int] = (1, 1, 1)
    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt_axis: str = "y"
    crop: str = "none"
    crop_size_A: tuple[float, ...] = ()
    elements: tuple[str, ...] = ()
    debye_waller_A2: dict[str, float] = field(default_factory=lambda: {"default": 0.5})

    def __post_init__(self) -> None:
        for symbol in self.elements:
            require(symbol in physics.SYMBOLS[1:], "sample.elements", symbol, "name elements by symbol, such as Pt")
        choice("sample.kind", self.kind, ("needle", "file"))
        not_negative("sample.min_distance_A", self.min_distance_A)
        require(self.kind == "needle" or bool(self.path), "sample.path", self.path,
                "give the structure file, for example sample.path=particle.xyz")
        require(not self.digest or self.kind == "file", "sample.digest", self.digest, "only sample=file has one")
        require(min(self.repeat) >= 1, "sample.repeat", self.repeat, "each at least 1")
        choice("sample.tilt_axis", self.tilt_axis, ("x", "y", "z"))
        choice("sample.crop", self.crop, ("none", "sphere", "cylinder", "box"))
        n_sizes = {"none": 0, "sphere": 1, "cylinder": 2, "box": 3}[self.crop]
        require(len(self.crop_size_A) == n_sizes and all(s > 0 for s in self.crop_size_A), "sample.crop_size_A",
                self.crop_size_A, f"sample.crop={self.crop} takes {n_sizes} sizes greater than 0")
        debye_waller("sample.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:])
