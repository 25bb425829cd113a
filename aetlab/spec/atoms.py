"""Settings of the atoms: how they are traced, refined, validated without a truth, and scored with one."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core import physics
from aetlab.core.setting import check_ranges, debye_waller, documented, require, setting


@documented
@dataclass(frozen=True, kw_only=True)
class TraceSpec:
    """Constants of atom tracing; lengths are in voxels of 0.5 Å. On finer voxels they keep their length in Å.

    The smoothed volume decides which sites exist and gives the signal that tells elements; the volume as given decides
    position, intensity and width of each.
    """

    smoothing: float = setting("standard deviation of the Gaussian that the volume is smoothed with first (paper: 0)",
                               unit="voxels", within="[0, 5]", default=0.0)
    n_sharp_fits: int = setting("fits to the volume as given, after those to the smoothed one", within="[0, inf)",
                                reads=("trace.smoothing>0",), default=4)
    cylinder_margin: float = setting(
        "depth inside the cylinder about the tilt axis that touches the volume's faces up to which voxels are missing "
        "data, for they leave the volume at some tilts; negative traces the whole volume, as in the paper",
        unit="voxels", default=-1.0)
    filter_sigma_narrow: float = setting("narrow Gaussian of the difference of Gaussians", unit="voxels",
                                         within="(0, inf)", default=0.5)
    filter_sigma_wide: float = setting("wide Gaussian of the difference of Gaussians", unit="voxels", within="(0, inf)",
                                       default=1.0)
    candidate_fraction: float = setting("fraction of min_intensity_V below which the estimated peak of a candidate is "
                                        "not fitted", within="(0, inf)", default=0.5)
    fit_radius: float = setting("radius of a fit; fewer voxels do not determine it", unit="voxels", within="[1.5, 8]",
                                default=1.8)
    max_shift_per_fit: float = setting("largest shift in one fit", unit="voxels", within="(0, inf)", default=0.25)
    intensity_bounds: tuple[float, float] = setting("least and greatest factor of the intensity in one fit",
                                                    within="(0, inf)", default=(0.5, 1.5))
    width_step_bounds: tuple[float, float] = setting("least and greatest factor of the width in one fit",
                                                     within="(0, inf)", default=(0.75, 1.25))
    width_bounds: tuple[float, float] = setting("least and greatest width of an atom", unit="voxels", within="(0, inf)",
                                                default=(0.4, 1.2))
    width_start: float = setting("width of an atom before its first fit", unit="voxels", within="(0, inf)", default=0.7)
    neighbour_radius: float = setting("distance within which neighbours are subtracted before a fit", unit="voxels",
                                      within="(0, inf)", default=5.0)
    clip_at_zero: bool = setting("whether subtracting the neighbours leaves nothing below 0", default=True)
    n_residual_searches: int = setting("times that the residual is searched for more atoms", within="[0, inf)",
                                       default=1)
    n_refine_first: int = setting("rounds before sites are merged and dropped", within="[0, inf)", default=5)
    merge_distance: float = setting("distance below which sites are merged", unit="voxels", within="(0, inf)",
                                    default=2.25)
    min_intensity_V: float = setting("intensity below which a site is dropped", unit="V", within="(0, inf)",
                                     default=30.0)
    min_width: float = setting("width below which a site is dropped", unit="voxels", within="(0, inf)", default=0.45)
    min_significance: float = setting("amplitude, in standard deviations of the noise beside the atoms, below which a "
                                      "site is dropped (paper: 0, no such test)", within="[0, inf)", default=6.5)
    min_signal: float = setting("share of the median signal of the lightest element below which a site is dropped "
                                "(paper: 0)", within="[0, 1)", default=0.0)
    min_bond_part: float = setting(
        "distance below which the weaker of two sites is dropped, in sums of two covalent radii of the smallest "
        "element (paper: 0)", within="[0, 1]", default=0.0)
    link_factor: float = setting("longest step from site to site within a group, in median distances of nearest "
                                 "neighbours", within="(0, inf)", reads=("trace.min_group>1",), default=2.0)
    min_group: int = setting("sites of a group, themselves included, below which all of it are dropped (paper: 0)",
                             within="[0, inf)", default=0)
    n_rounds_max: int = setting("rounds at most after the first ones and one more", within="[0, inf)", default=11)
    stop_sites: int = setting("rounds end when fewer sites than this go, and stop_shift holds", within="[0, inf)",
                              reads=("trace.n_rounds_max>0",), default=2)
    stop_shift: float = setting("rounds end when the RMS shift is below this, and stop_sites holds", unit="voxels",
                                within="(0, inf)", reads=("trace.n_rounds_max>0",), default=0.005)

    def __post_init__(self) -> None:
        check_ranges("trace", self)
        require(self.filter_sigma_narrow < self.filter_sigma_wide, "trace.filter_sigma_narrow",
                self.filter_sigma_narrow, f"it must be below trace.filter_sigma_wide={self.filter_sigma_wide}")
        for name in ("intensity_bounds", "width_step_bounds", "width_bounds"):
            low, high = getattr(self, name)
            require(low < high, f"trace.{name}", (low, high), "give (low, high) with 0 < low < high")
        low, high = self.width_bounds
        require(low <= self.width_start <= high, "trace.width_start", self.width_start,
                f"it must lie in trace.width_bounds={(low, high)}")


#: Fewest passes that sample a posterior: seven parts of its path, each of seven passes, and one in eight at its start.
LEAST_SAMPLED = 56
_REFINED = ("refine=atoms",)
_IN_ROUNDS = (*_REFINED, "refine.n_rounds>1")


@documented
@dataclass(frozen=True, kw_only=True)
class RefineSpec:
    """Refinement of the traced atoms against the images."""

    kind: str = setting("whether the traced atoms are refined", choices=("none", "atoms"), default="none")
    first_share: float | str = setting(
        "share of the traced sites, the strongest, that the first round has; later rounds add sites where the images "
        "ask for them; rule for all sites if the noise cannot imitate an atom of min_occupancy, and 0.8 otherwise; "
        "clear for those of at least half the median signal of their element",
        within="(0, 1]", reads=_IN_ROUNDS, default="rule")
    n_rounds: int = setting("rounds at most; after each, sites are removed, added and named again, and the last adds "
                            "none", within="[1, inf)", reads=_REFINED, default=11)
    n_passes: int = setting("passes over the data at most in a round", within="[1, inf)", reads=_REFINED, default=25)
    n_passes_last: int = setting("passes over the data at most in the last round", within="[1, inf)", reads=_REFINED,
                                 default=40)
    coarse: int | str = setting("N_B of all rounds but the last and of the information on the atoms; rule for "
                                "what the rule of binning.coarse gives; 0 takes binning.n_layers everywhere",
                                within="[0, inf)", reads=_REFINED, default="rule")
    tolerance: float = setting("RMS change that remains, in standard errors, below which a fit ends", within="(0, inf)",
                               reads=_REFINED, default=0.1)
    n_information: int | str = setting("passes that estimate the information on each atom in a round; rule for 30 "
                                       "samples, of one tilt each", within="[1, inf)", reads=_REFINED, default="rule")
    n_information_last: int | str = setting("passes that estimate the information on each atom for the standard "
                                            "errors; rule for 120 samples", within="[1, inf)", reads=_REFINED,
                                            default="rule")
    n_sampled: int = setting(
        "passes that average positions and names over the posterior where noise can imitate an atom of min_occupancy, "
        f"at least {LEAST_SAMPLED}; 0 takes the positions of highest likelihood and linear errors there as well",
        within="[0, inf)", reads=_REFINED, default=200)
    min_occupancy: float = setting("occupancy below which a site is removed", within="[0, 1]", reads=_REFINED,
                                   default=0.5)
    min_distance_A: float = setting("distance below which the weaker of two sites is removed", unit="Å",
                                    within="[0, inf)", reads=_REFINED, default=1.1)
    max_distance_A: float = setting("largest distance of a new site from its nearest neighbour, above min_distance_A",
                                    unit="Å", reads=_REFINED, default=3.0)
    min_significance: float = setting("standard deviations of the noise that a new site stands above it; surroundings "
                                      "may lower it", within="[0, inf)", reads=_IN_ROUNDS, default=2.75)
    parametrization: str = setting("scattering factors of the model", choices=("lobato", "kirkland"), reads=_REFINED,
                                   default="lobato")
    debye_waller_A2: dict[str, float] = setting(
        "B = 8π²⟨u²⟩ of the model by element symbol, with the entry default for the others", unit="Å²",
        within="(0, inf)", reads=_REFINED, factory=lambda: {"default": 0.5})
    poses: bool = setting("whether the turn, shift and height of every tilt are refined", reads=_REFINED, default=False)
    thermal: bool = setting("whether one B is fitted for each element, from debye_waller_A2 on", reads=_REFINED,
                            default=False)
    imaging: bool = setting("whether defocus and brightness of every image are fitted", reads=_REFINED, default=False)
    image_shifts: bool = setting("whether the shift of every image is fitted, besides that of its tilt", reads=_REFINED,
                                 default=False)
    magnification: bool = setting("whether the magnification of the images of each plane of the defocus is fitted, "
                                  "relative to the mean of all planes", reads=_REFINED, default=False)
    contrast: bool = setting("whether a factor of the modulation that all images share is fitted; occupancies then "
                             "tell only how the sites differ", reads=_REFINED, default=False)
    aberrations: str = setting(
        "stated takes those of the microscope; fitted finds astigmatism, coma and three-fold astigmatism that the "
        "images clearly have in addition", choices=("stated", "fitted"), reads=_REFINED, default="stated")
    hand: str = setting("what is done about the mirror image of the atoms, which tells the sense of the tilt where "
                        "scattering is multiple: compare fits it as well and compares the costs; choose then takes the "
                        "one that clearly fits better; auto is choose where a measured series does not state the sense "
                        "of its tilt, else compare", choices=("none", "compare", "choose", "auto"), reads=_REFINED,
                        default="none")
    robust: bool = setting("whether images that fit much worse than the others lose weight, by the square of how much "
                           "worse", reads=_REFINED, default=False)
    sampling: str = setting("coarse compares images of the model on the pixels of the measured ones; corrected also "
                            "subtracts from the measured amplitudes what pixels twice as fine change in the modelled "
                            "ones", choices=("coarse", "corrected"), reads=_REFINED, default="coarse")
    focal_spread: str = setting(
        "envelope multiplies the transfer function by that of the focal spread; averaged corrects the images for the "
        "average of their intensities over it, which thick or strongly scattering samples need",
        choices=("envelope", "averaged"),
        reads=(*_REFINED, "refine.sampling=corrected"), default="envelope")
    surroundings: bool = setting("whether distances, elements and numbers of the neighbours count, besides the "
                                 "images, in naming a site", reads=_REFINED, default=True)

    def __post_init__(self) -> None:
        check_ranges("refine", self)
        require(self.n_sampled == 0 or self.n_sampled >= LEAST_SAMPLED, "refine.n_sampled", self.n_sampled,
                f"give 0, or {LEAST_SAMPLED} passes or more")
        for name in ("first_share", "coarse", "n_information", "n_information_last"):
            value = getattr(self, name)
            words = ("rule", "clear") if name == "first_share" else ("rule",)
            require(not isinstance(value, str) or value in words, f"refine.{name}", value,
                    f"give a number, or {' or '.join(words)}")
        require(self.min_distance_A < self.max_distance_A, "refine.max_distance_A", self.max_distance_A,
                f"it must be above refine.min_distance_A={self.min_distance_A}")
        for name in ("contrast", "image_shifts", "magnification"):
            require(self.imaging or not getattr(self, name), f"refine.{name}", getattr(self, name),
                    f"it is fitted with defocus and brightness: give refine.imaging=true, or refine.{name}=false")
        object.__setattr__(self, "debye_waller_A2", debye_waller(
            "refine.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:]))


_IMAGES = ("validate=images|halves",)
_HALVES = ("validate=halves",)


@documented
@dataclass(frozen=True, kw_only=True)
class ValidateSpec:
    """Validation of a run by its images, its atoms, and two independent halves of its data."""

    kind: str = setting(
        "images compares the final model with every image and checks distances of the atoms; halves also reconstructs "
        "and traces two independent halves of the data, which takes twice the time of a reconstruction",
        choices=("none", "images", "halves"), default="none")
    n_residuals: int = setting("images that a record keeps with their residuals, the worst ones", within="[0, 100]",
                               reads=_IMAGES, default=8)
    split: str = setting(
        "how halves are made: counts gives each count to one half at random, images gives alternate images to them; "
        "auto is counts, but images for a measured series, whose prepared images are no counts, and without noise",
        choices=("auto", "counts", "images"), reads=_HALVES, default="auto")
    max_distance_A: float = setting("largest distance of two atoms that are taken for the same one", unit="Å",
                                    within="(0, inf)", reads=_HALVES, default=1.0)
    refined: bool = setting("whether the atoms of both halves are refined as well, where those of the run are",
                            reads=(*_HALVES, "refine=atoms"), default=False)

    def __post_init__(self) -> None:
        check_ranges("validate", self)


@documented
@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """Comparison of traced atoms with the true ones."""

    max_distance_A: float = setting("largest distance between a traced atom and the true atom that it is paired with",
                                    unit="Å", within="(0, inf)", default=1.0)

    def __post_init__(self) -> None:
        check_ranges("score", self)
