"""Settings of the tilt series: its origin, how it is acquired, the microscope, and the simulation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aetlab.core.setting import SpecError, check_ranges, documented, require, setting

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


#: Name of the volume of a measured series. The settings of the groups that a series brings have other values, those of
#: their default choices, until they are joined with the series.
OF_SERIES = "measured"
#: Groups whose settings a measured series brings, or that belong to a simulated sample, and the keys that stay free.
_OF_SERIES = ("sample", "scale", "dose", "tilts", "defocus", "wedge", "simulate", "microscope", "score")
_FREE = ("sample.elements", "sample.debye_waller_A2")


def refuse_settings_of_series(keys: Iterable[str]) -> None:
    """Raise :class:`SpecError` on the first of ``keys`` (groups or dotted keys) that a measured series brings."""
    for key in keys:
        if key.split(".")[0] in _OF_SERIES and not key.startswith(_FREE):
            raise SpecError(f"{key} cannot be set with data=measured: voxels, tilts, defoci, dose and microscope are "
                            "those of the series; leave it out, or import the series with it")


@documented
@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Origin of the tilt series."""

    kind: str = setting(
        "simulated computes the images of the sample, with the noise of the dose; measured reads the series file path, "
        "written by python -m aetlab.series import; given names a record of a series that was handed over through the "
        "Python API, and cannot be run", choices=("simulated", "measured", "given"), default="simulated")
    path: str = setting("file of a measured series; its content, not its path, is part of a run's identity",
                        reads=("data=measured",), default="")
    depth_A: float = setting(
        "depth of the volume of a measured series along the beam; 0 for the diameter of the sample that the import "
        "found, with a margin", unit="Å", within="[0, inf)", reads=("data=measured",), default=0.0)
    held_out: float = setting(
        "share of the images that no step is fitted to and that the final model predicts; they are drawn with the "
        "seed, at most one of a tilt; with one image for each tilt whole tilts are left out",
        within="[0, 0.5]", reads=("validate=images|halves",), default=0.0)
    digest: str = setting(
        "SHA-256 of a given series, or of the file of a measured one, set when the settings are bound; a file with "
        "another digest is refused", reads=("data=measured|given",), default="")

    def __post_init__(self) -> None:
        check_ranges("data", self)
        require(bool(self.path) == (self.kind == "measured"), "data.path", self.path,
                "data=measured needs the series file, for example data.path=pt.series.h5; other data have none")
        require(self.depth_A == 0 or self.kind == "measured", "data.depth_A", self.depth_A,
                "it belongs to data=measured; give scale.shape_zxy")
        require(bool(self.digest) or self.kind != "given", "data.digest", self.digest, "data.kind=given needs it")
        require(not self.digest or self.kind != "simulated", "data.digest", self.digest,
                "a simulated series has none")


def _azimuth(coefficient: str, aberration: str) -> Any:
    return setting(f"azimuth of the {aberration}", unit="°", reads=(f"microscope.{coefficient}!=0",), default=0.0)


@documented
@dataclass(frozen=True, kw_only=True)
class MicroscopeSpec:
    """The microscope.

    Defocus is a group of its own. Aberration coefficients are those of Uhlemann and Haider (Ultramicroscopy 72, 109,
    1998) and take any finite number; :mod:`aetlab.forward.imaging` has the formula of each. Azimuths count from +x
    towards +y.
    """

    name: str = setting("label; not part of a run's identity", default="aberration_corrected_300kV")
    energy_keV: float = setting("energy of the electrons", unit="keV", within="[10, 3000]", default=300.0)
    aperture_per_A: float = setting("cut-off |q| of the pupil", unit="1/Å", within="(0, inf)", default=1.0)
    aperture_edge_per_A: float = setting("width over which the pupil falls; 0 is a hard edge", unit="1/Å",
                                         within="[0, inf)", default=0.0)
    Cs_mm: float = setting("spherical aberration of third order", unit="mm", default=0.0)
    C5_mm: float = setting("spherical aberration of fifth order", unit="mm", default=0.0)
    A1_nm: float = setting("two-fold astigmatism", unit="nm", default=0.0)
    A1_deg: float = _azimuth("A1_nm", "two-fold astigmatism")
    B2_nm: float = setting("axial coma", unit="nm", default=0.0)
    B2_deg: float = _azimuth("B2_nm", "axial coma")
    A2_nm: float = setting("three-fold astigmatism", unit="nm", default=0.0)
    A2_deg: float = _azimuth("A2_nm", "three-fold astigmatism")
    S3_um: float = setting("star aberration", unit="µm", default=0.0)
    S3_deg: float = _azimuth("S3_um", "star aberration")
    A3_um: float = setting("four-fold astigmatism", unit="µm", default=0.0)
    A3_deg: float = _azimuth("A3_um", "four-fold astigmatism")
    D4_um: float = setting("three-lobe aberration", unit="µm", default=0.0)
    D4_deg: float = _azimuth("D4_um", "three-lobe aberration")
    B4_um: float = setting("axial coma of fourth order", unit="µm", default=0.0)
    B4_deg: float = _azimuth("B4_um", "axial coma of fourth order")
    A4_um: float = setting("five-fold astigmatism", unit="µm", default=0.0)
    A4_deg: float = _azimuth("A4_um", "five-fold astigmatism")
    S5_mm: float = setting("star aberration of fifth order", unit="mm", default=0.0)
    S5_deg: float = _azimuth("S5_mm", "star aberration of fifth order")
    R5_mm: float = setting("rosette aberration", unit="mm", default=0.0)
    R5_deg: float = _azimuth("R5_mm", "rosette aberration")
    A5_mm: float = setting("six-fold astigmatism", unit="mm", default=0.0)
    A5_deg: float = _azimuth("A5_mm", "six-fold astigmatism")
    focal_spread_sigma_nm: float = setting(
        "standard deviation of the defocus; the 1/e half-width is √2 times as large", unit="nm", within="[0, inf)",
        default=0.0)
    convergence_sigma_mrad: float = setting("standard deviation of each component of the illumination angle",
                                            unit="mrad", within="[0, inf)", default=0.0)
    blur_sigma_A: float = setting("standard deviation in each direction of a blur of the images by vibration or drift "
                                  "during an exposure", unit="Å", within="[0, inf)", default=0.0)
    mtf_half: float = setting("MTF of the detector at half the sampling frequency; 1 is ideal", within="(0, 1]",
                              reads=("microscope.mtf_values=[]",), default=1.0)
    mtf_cycles_per_pixel: tuple[float, ...] = setting(
        "spatial frequencies of the detector's MTF as a table in place of mtf_half, rising from 0 to at least 0.5; "
        "empty for mtf_half", unit="cycles per pixel", reads=("microscope.mtf_values!=[]",), default=())
    mtf_values: tuple[float, ...] = setting("values of the detector's MTF at mtf_cycles_per_pixel, starting at 1",
                                            default=())
    dqe: float = setting("detective quantum efficiency of the detector at zero frequency; 1 is ideal",
                         within="(0, 1]", reads=("dose.total_e_A2<inf",), default=1.0)

    def __post_init__(self) -> None:
        check_ranges("microscope", self)
        self._check_mtf()

    def _check_mtf(self) -> None:
        u, mtf = self.mtf_cycles_per_pixel, self.mtf_values
        require(len(u) == len(mtf) and len(u) != 1, "microscope.mtf_values", mtf,
                f"microscope.mtf_cycles_per_pixel has {len(u)}; give two lists of one length, of at least 2, or none")
        if not u:
            return
        require(u[0] == 0 and u[-1] >= 0.5 and all(low < high for low, high in pairwise(u)) and math.isfinite(u[-1]),
                "microscope.mtf_cycles_per_pixel", u, "it must rise from 0 to at least 0.5")
        require(abs(mtf[0] - 1) < 1e-3 and all(0 < value <= 1.001 for value in mtf), "microscope.mtf_values", mtf,
                "values must lie in (0, 1] and start at 1")
        require(self.mtf_half == 1, "microscope.mtf_half", self.mtf_half,
                "microscope.mtf_values has a table already; leave one of them out")


#: Settings of the simulation that are standard deviations of the errors of tilts.
TILT_ERRORS = ("tilt_error_deg", "axis_error_deg", "shift_error_A", "defocus_error_nm", "brightness_error")
_OF_ATOMS = ("simulate.kind=atoms",)


@documented
@dataclass(frozen=True, kw_only=True)
class SimulateSpec:
    """Simulation of the tilt series.

    Standard deviations of tilt errors are 0 for tilts that lie where they were asked for; others need ``kind=atoms``
    (:class:`aetlab.core.poses.Poses`).
    """

    kind: str = setting("atoms makes a new potential of the rotated atoms for each tilt; voxels makes one potential, "
                        "whose voxels rotate", choices=("atoms", "voxels"), default="atoms")
    parametrization: str = setting("scattering factors", choices=("lobato", "kirkland"), default="lobato")
    n_layers: int = setting("voxel layers in one slice of the simulation", within="[1, inf)", default=1)
    oversample: int = setting("factor of finer voxels; images are binned back to the pixels of the reconstruction",
                              within="[1, 8]", default=1)
    n_frozen_phonons: int = setting("thermally displaced copies over which the intensity is averaged; 0 for none",
                                    within="[0, inf)", reads=_OF_ATOMS, default=0)
    band_limit: float = setting("fraction of the Nyquist frequency at which waves and transmission functions are cut; "
                                "1 keeps all, 2/3 avoids wrap-around of products", within="(0, 1]", default=1.0)
    tilt_error_deg: float = setting("standard deviation of the tilt angle", unit="°", within="[0, inf)",
                                    reads=_OF_ATOMS, default=0.0)
    axis_error_deg: float = setting("standard deviation of the direction of the tilt axis in the image", unit="°",
                                    within="[0, inf)", reads=_OF_ATOMS, default=0.0)
    shift_error_A: float = setting("standard deviation of the shift of the images of a tilt along x, and along y",
                                   unit="Å", within="[0, inf)", reads=_OF_ATOMS, default=0.0)
    defocus_error_nm: float = setting("standard deviation of the defocus common to the images of a tilt", unit="nm",
                                      within="[0, inf)", reads=_OF_ATOMS, default=0.0)
    brightness_error: float = setting("standard deviation of the factor of all intensities of a tilt about 1",
                                      within="[0, 0.1]", reads=_OF_ATOMS, default=0.0)

    def __post_init__(self) -> None:
        check_ranges("simulate", self)
        require(self.n_frozen_phonons == 0 or self.kind == "atoms", "simulate.n_frozen_phonons",
                self.n_frozen_phonons, "only simulate.kind=atoms has atoms to displace; give 0")
        for name in TILT_ERRORS:
            require(getattr(self, name) == 0 or self.kind == "atoms", f"simulate.{name}", getattr(self, name),
                    "only simulate.kind=atoms moves tilts; give 0")
