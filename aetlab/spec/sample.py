"""The sample and the voxel grid that holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath

from aetlab.core import physics
from aetlab.core.setting import check_ranges, debye_waller, documented, require, setting

_NEEDLE, _FILE = ("sample.kind=needle",), ("sample=file",)


@documented
@dataclass(frozen=True, kw_only=True)
class ScaleSpec:
    """Voxel grid, the needle that fits it, and the region in which atoms are scored."""

    name: str = setting("label; not part of a run's identity")
    shape_zxy: tuple[int, int, int] = setting(
        "voxels along the beam at tilt 0 (z), across it (x) and along the tilt axis (y), each at least 8; 0 for the "
        "smallest box of a structure from a file", within="[0, inf)")
    voxel_A: float = setting("edge of a voxel and of a pixel; 0 for 0.5 Å, or less where the aperture shows more",
                             unit="Å", within="[0, inf)")
    core_radius_A: float = setting("greatest radius of the needle's core, at its base", unit="Å", within="(0, inf)",
                                   reads=_NEEDLE)
    shell_thickness_A: float = setting("thickness of the needle's shell", unit="Å", within="[0, inf)", reads=_NEEDLE)
    length_A: float = setting("length of the needle along y; a longer one leaves the volume through its bottom face",
                              unit="Å", within="(0, inf)", reads=_NEEDLE)
    taper_deg: float = setting("half-angle of the needle's cone", unit="°", within="[0, 45)", reads=_NEEDLE,
                               default=0.0)
    apex_gap_A: float = setting("gap between the apex and the top face of the volume", unit="Å", within="[0, inf)",
                                reads=_NEEDLE, default=4.0)
    scoring_diameter_A: float = setting("diameter of the needle above which its atoms are not scored; inf scores all",
                                        unit="Å", within="(0, inf]", reads=_NEEDLE, default=math.inf)

    def __post_init__(self) -> None:
        check_ranges("scale", self)
        require(min(self.shape_zxy) >= 8 or self.shape_zxy == (0, 0, 0), "scale.shape_zxy", self.shape_zxy,
                "give three counts of at least 8 voxels, or scale=fit")


def format_ending(path: str) -> str:
    """Return the ending of a structure file's name that gives its format, in lower case; POSCAR* has ``.poscar``."""
    name = PurePath(path).name.lower()
    return ".poscar" if name.startswith(("poscar", "contcar")) else PurePath(name).suffix


@documented
@dataclass(frozen=True, kw_only=True)
class VacancyRegion:
    """A part of the sample with its own fraction of removed atoms. Infinite bounds are open."""

    fraction: float = setting("fraction of the atoms that are removed at random", within="[0, 1]")
    part: str = setting("part of the needle; a structure from a file has only all", choices=("all", "core", "shell"),
                        default="all")
    x_A: tuple[float, float] = setting("bounds along x from the centre of the volume, low below high", unit="Å",
                                       within="[-inf, inf]", default=(-math.inf, math.inf))
    y_A: tuple[float, float] = setting("bounds along y", unit="Å", within="[-inf, inf]", default=(-math.inf, math.inf))
    z_A: tuple[float, float] = setting("bounds along z", unit="Å", within="[-inf, inf]", default=(-math.inf, math.inf))

    def __post_init__(self) -> None:
        check_ranges("sample.vacancies", self)
        for name in ("x_A", "y_A", "z_A"):
            low, high = getattr(self, name)
            require(low < high, f"sample.vacancies.{name}", (low, high), "give (low, high) with low < high")


@documented
@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """The sample: the Si/SiO2 needle of the paper, or a structure from a file."""

    kind: str = setting("needle, or a structure from a file", choices=("needle", "file"), default="needle")
    min_distance_A: float = setting("least distance of two atoms where core and shell of the needle meet", unit="Å",
                                    within="[0, inf)", reads=_NEEDLE, default=1.2)
    vacancies: tuple[VacancyRegion, ...] = setting(
        "regions whose atoms are removed in part, one after the other: [{fraction: 0.05, part: all}], with bounds x_A, "
        "y_A and z_A from the centre", default=())
    path: str = setting("structure file that ASE reads; its content, not its path, is part of a run's identity",
                        reads=_FILE, default="")
    digest: str = setting("SHA-256 of the structure file, set when the settings are bound (aetlab.spec.bind); a file "
                          "with another digest is refused", reads=_FILE, default="")
    frame: int = setting(
        "structure of a file with several (frames of XYZ, models of PDB, data blocks of CIF, records of SDF), from 1; "
        "0 for a file that holds one", within="[0, inf)", reads=_FILE, default=0)
    repeat: tuple[int, int, int] = setting("repeats of the file's cell along its vectors", within="[1, inf)",
                                           reads=_FILE, default=(1, 1, 1))
    rotate_deg: tuple[float, float, float] = setting(
        "rotation of the file's atoms about x, y and z, in this order and after centring", unit="°", reads=_FILE,
        default=(0.0, 0.0, 0.0))
    tilt_axis: str = setting("axis of the file that becomes the tilt axis y", choices=("x", "y", "z"), reads=_FILE,
                             default="y")
    crop: str = setting("part of the file's atoms that is kept; none keeps all, cylinder is along y",
                        choices=("none", "sphere", "cylinder", "box"), reads=_FILE, default="none")
    crop_size_A: tuple[float, ...] = setting("sizes of the crop: diameter; diameter and length; or x, y and z",
                                             unit="Å", within="(0, inf)", reads=(*_FILE, "sample.crop!=none"),
                                             default=())
    elements: tuple[str, ...] = setting(
        "elements that the sample may hold, by symbol; by default those of the simulated atoms, or those that the file "
        "of a measured series names", default=())
    debye_waller_A2: dict[str, float] = setting(
        "B = 8π²⟨u²⟩ by element symbol, with the entry default for the others", unit="Å²", within="(0, inf)",
        factory=lambda: {"default": 0.5})

    def __post_init__(self) -> None:
        for symbol in self.elements:
            require(symbol in physics.SYMBOLS[1:], "sample.elements", symbol, "name elements by symbol, such as Pt")
        n_sizes = {"none": 0, "sphere": 1, "cylinder": 2, "box": 3}.get(self.crop)
        if n_sizes is not None:
            require(len(self.crop_size_A) == n_sizes, "sample.crop_size_A", self.crop_size_A,
                    f"sample.crop={self.crop} takes {n_sizes} sizes greater than 0")
        check_ranges("sample", self)
        require(self.kind == "needle" or bool(self.path), "sample.path", self.path,
                "give the structure file, for example sample.path=particle.xyz")
        require(not self.digest or self.kind == "file", "sample.digest", self.digest, "only sample=file has one")
        object.__setattr__(self, "debye_waller_A2", debye_waller(
            "sample.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:]))
