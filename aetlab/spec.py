"""Every setting of a run: frozen dataclasses, the unit in the name, checked on construction.

A :class:`RunSpec` is all that decides the numbers of a run; its canonical JSON is the run's identity
(:mod:`aetlab.results.record`). The exception is :attr:`EngineSpec.device`, which decides where and how fast a run
happens, not what it means.

Every check raises :class:`SpecError`, whose message is one line that names the setting, the value and the choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aetlab import physics
from aetlab.checks import SpecError as SpecError
from aetlab.checks import choice, debye_waller, fraction, not_negative, positive, require
from aetlab.spec_align import AlignSpec as AlignSpec
from aetlab.spec_refine import RefineSpec as RefineSpec
from aetlab.spec_reg import RegSpec as RegSpec
from aetlab.spec_trace import ScoreSpec as ScoreSpec
from aetlab.spec_trace import TraceSpec as TraceSpec


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


@dataclass(frozen=True, kw_only=True)
class BinningSpec:
    """N_B: voxel layers summed into one slice for each propagation of the reconstruction."""

    n_layers: int

    def __post_init__(self) -> None:
        require(self.n_layers >= 1, "binning.n_layers", self.n_layers, "at least 1")


#: Settings of the simulation that say how far tilts lie from where they were asked for.
TILT_ERRORS = ("tilt_error_deg", "axis_error_deg", "shift_error_A", "defocus_error_nm", "brightness_error")


@dataclass(frozen=True, kw_only=True)
class SimulateSpec:
    """How the data are made: a fresh potential of rotated atoms for each tilt, or the rotated voxel volume.

    ``oversample`` refines the voxels of the simulation (the images are binned back to the reconstruction's pixels);
    ``n_frozen_phonons`` > 0 averages the intensity over that many thermally displaced copies; ``band_limit`` cuts
    waves and transmission functions at that fraction of the Nyquist frequency (1 keeps all, 2/3 is the usual guard
    against wrap-around of the product of two functions). The ``*_error_*`` are standard deviations of how far each tilt
    lies from where it was asked for (:class:`aetlab.data.TiltOffsets`; kind=atoms alone), 0: not at all.
    """

    kind: str = "atoms"
    parametrization: str = "lobato"
    n_layers: int = 1
    oversample: int = 1
    n_frozen_phonons: int = 0
    band_limit: float = 1.0
    tilt_error_deg: float = 0.0
    axis_error_deg: float = 0.0
    shift_error_A: float = 0.0
    defocus_error_nm: float = 0.0
    brightness_error: float = 0.0

    def __post_init__(self) -> None:
        choice("simulate.kind", self.kind, ("atoms", "voxels"))
        choice("simulate.parametrization", self.parametrization, ("lobato", "kirkland"))
        require(self.n_layers >= 1, "simulate.n_layers", self.n_layers, "at least 1")
        require(1 <= self.oversample <= 8, "simulate.oversample", self.oversample, "1 to 8")
        require(self.n_frozen_phonons >= 0, "simulate.n_frozen_phonons", self.n_frozen_phonons, "0 or more")
        require(self.n_frozen_phonons == 0 or self.kind == "atoms", "simulate.n_frozen_phonons",
                self.n_frozen_phonons, "only simulate.kind=atoms has atoms to displace; give 0")
        require(0 < self.band_limit <= 1, "simulate.band_limit", self.band_limit, "it must lie in (0, 1]")
        for name in TILT_ERRORS:
            not_negative(f"simulate.{name}", getattr(self, name))
            require(getattr(self, name) == 0 or self.kind == "atoms", f"simulate.{name}", getattr(self, name),
                    "only simulate.kind=atoms moves tilts; give 0")
        require(self.brightness_error <= 0.1, "simulate.brightness_error", self.brightness_error, "0 to 0.1")


@dataclass(frozen=True, kw_only=True)
class MicroscopeSpec:
    """The microscope. Aberration coefficients (Uhlemann and Haider 1998) in their usual units, azimuths in degrees.

    :mod:`aetlab.forward.imaging` has the formula of each. ``aperture_per_A`` is the cut-off |q| of the pupil in 1/Å,
    ``aperture_edge_per_A`` the width over which it falls smoothly (0: a hard edge). ``focal_spread_sigma_nm`` is the
    standard deviation (not the 1/e half-width, which is √2 times as large) of the distribution of defocus, and
    ``convergence_sigma_mrad`` that of each component of the illumination's angle. ``mtf_half`` is the detector's MTF at
    half the sampling frequency (1: ideal), ``dqe`` its detective quantum efficiency at zero frequency. Defocus is a
    group of its own.
    """

    name: str = "aberration_corrected_300kV"
    energy_keV: float = 300.0
    aperture_per_A: float = 1.0
    aperture_edge_per_A: float = 0.0
    Cs_mm: float = 0.0
    C5_mm: float = 0.0
    A1_nm: float = 0.0
    A1_deg: float = 0.0
    B2_nm: float = 0.0
    B2_deg: float = 0.0
    A2_nm: float = 0.0
    A2_deg: float = 0.0
    S3_um: float = 0.0
    S3_deg: float = 0.0
    A3_um: float = 0.0
    A3_deg: float = 0.0
    D4_um: float = 0.0
    D4_deg: float = 0.0
    B4_um: float = 0.0
    B4_deg: float = 0.0
    A4_um: float = 0.0
    A4_deg: float = 0.0
    S5_mm: float = 0.0
    S5_deg: float = 0.0
    R5_mm: float = 0.0
    R5_deg: float = 0.0
    A5_mm: float = 0.0
    A5_deg: float = 0.0
    focal_spread_sigma_nm: float = 0.0
    convergence_sigma_mrad: float = 0.0
    mtf_half: float = 1.0
    dqe: float = 1.0

    def __post_init__(self) -> None:
        require(10 <= self.energy_keV <= 3000, "microscope.energy_keV", self.energy_keV, "10 to 3000 keV")
        positive("microscope.aperture_per_A", self.aperture_per_A)
        not_negative("microscope.aperture_edge_per_A", self.aperture_edge_per_A)
        not_negative("microscope.focal_spread_sigma_nm", self.focal_spread_sigma_nm)
        not_negative("microscope.convergence_sigma_mrad", self.convergence_sigma_mrad)
        for name in ("mtf_half", "dqe"):
            value = getattr(self, name)
            require(0 < value <= 1, f"microscope.{name}", value, "it must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How the reconstruction is computed. ``device`` and ``n_threads`` do not belong to a run's identity.

    ``step`` is in units of the inverse Lipschitz constant of one tilt, (σ Δz)² · N_z · N_defoci (method, c ≈ 1.5);
    ``step_decay`` is its factor at each reset of the momentum (1: the paper's constant step). ``likelihood`` is what
    the images are compared by: amplitude (equation 5) or poisson.
    """

    device: str = "auto"
    n_threads: int = 0
    rotation: str = "linear"
    n_iterations: int = 40
    step: float = 1.5
    step_decay: float = 0.7
    likelihood: str = "amplitude"

    def __post_init__(self) -> None:
        choice("engine.device", self.device, ("auto", "cpu", "gpu"))
        require(self.n_threads >= 0, "engine.n_threads", self.n_threads, "0 (all cores) or more")
        choice("engine.rotation", self.rotation, ("linear", "cubic", "fourier"))
        require(self.n_iterations >= 1, "engine.n_iterations", self.n_iterations, "at least 1")
        positive("engine.step", self.step)
        choice("engine.likelihood", self.likelihood, ("amplitude", "poisson"))
        require(0 < self.step_decay <= 1, "engine.step_decay", self.step_decay, "it must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides the numbers of one run."""

    seed: int
    sample: SampleSpec
    scale: ScaleSpec
    dose: DoseSpec
    tilts: TiltsSpec
    defocus: DefocusSpec
    wedge: WedgeSpec
    reg: RegSpec
    binning: BinningSpec
    simulate: SimulateSpec
    microscope: MicroscopeSpec
    engine: EngineSpec
    align: AlignSpec = field(default_factory=AlignSpec)
    trace: TraceSpec
    refine: RefineSpec = field(default_factory=RefineSpec)
    score: ScoreSpec

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2^63 - 1")
        n_z = self.scale.shape_zxy[0]
        require(self.binning.n_layers <= n_z, "binning.n_layers", self.binning.n_layers,
                f"the volume of scale={self.scale.name} has only {n_z} layers")
        n_left = len(tilt_angles_deg(self.tilts, self.wedge))
        require(n_left >= 2, "wedge.missing_deg", self.wedge.missing_deg,
                f"it leaves {n_left} of {self.tilts.n_tilts} tilts; at least 2 are needed")
        if self.align.enabled:
            self._check_alignment()

    def _check_alignment(self) -> None:
        require(self.engine.device != "gpu", "engine.device", self.engine.device,
                "align=true is computed on the CPU; choose one of auto, cpu")
        require(self.engine.n_iterations > self.align.at[0], "engine.n_iterations", self.engine.n_iterations,
                f"align=true aligns before iteration {self.align.at[0]} for the first time; give more, or align=false")
        require(self.reg.weight != "auto", "reg.weight", self.reg.weight,
                "tilts held out before they are aligned predict nothing; give a number or rule with align=true")
        require(self.refine.kind == "none" or self.refine.poses, "refine.poses", self.refine.poses,
                "the images lie where align=true finds them; refine.poses=true lets the atoms find them as well")


def tilt_angles_deg(tilts: TiltsSpec, wedge: WedgeSpec) -> tuple[float, ...]:
    """Tilt angles in degrees that are left outside the missing wedge; the step is that of the full series."""
    step = tilts.span_deg / tilts.n_tilts
    limit = tilts.span_deg - wedge.missing_deg
    return tuple(i * step for i in range(tilts.n_tilts) if i * step < limit - 1e-9)


def dose_per_image_e_A2(spec: RunSpec) -> float:
    """Electrons per Å² of one image: the total shared by the images that are left outside the wedge."""
    n_images = len(tilt_angles_deg(spec.tilts, spec.wedge)) * len(spec.defocus.planes_nm)
    return spec.dose.total_e_A2 / n_images


def leaves_counts_out(spec: RunSpec) -> bool:
    """Whether counts are left out to find how many iterations a fit takes: where it has noise, and its tilts lie."""
    return spec.reg.iterations_factor > 0 and math.isfinite(spec.dose.total_e_A2) and not spec.align.enabled
