"""Settings of the refinement of atoms."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core import physics
from aetlab.core.checks import debye_waller, require
from aetlab.core.setting import check_ranges, documented, setting

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
    coarse: int | str = setting("N_B of all rounds but the last and of the information on the atoms; rule for half of "
                                "what the rule of binning.coarse gives; 0 takes binning.n_layers everywhere",
                                within="[0, inf)", reads=_REFINED, default="rule")
    tolerance: float = setting("RMS change that remains, in standard errors, below which a fit ends", within="(0, inf)",
                               reads=_REFINED, default=0.1)
    n_information: int | str = setting("passes that estimate the information on each atom in a round; rule for 30 "
                                       "samples, of one tilt each", within="[1, inf)", reads=_REFINED, default="rule")
    n_information_last: int | str = setting("passes that estimate the information on each atom for the standard "
                                            "errors; rule for 120 samples", within="[1, inf)", reads=_REFINED,
                                            default="rule")
    min_occupancy: float = setting("occupancy below which a site is removed", within="[0, 1]", reads=_REFINED,
                                   default=0.5)
    min_distance_A: float = setting("distance below which the weaker of two sites is removed", unit="Å",
                                    within="[0, inf)", reads=_REFINED, default=1.1)
    max_distance_A: float = setting("largest distance of a new site from its nearest neighbour, above min_distance_A",
                                    unit="Å", reads=_REFINED, default=3.0)
    min_significance: float = setting("standard deviations of the noise that a new site stands above it; surroundings "
                                      "may lower it", within="[0, inf)", reads=_IN_ROUNDS, default=3.5)
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
        debye_waller("refine.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:])
