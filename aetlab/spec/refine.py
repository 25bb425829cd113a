"""Settings of the refinement of atoms."""

from __future__ import annotations

from dataclasses import dataclass, field

from aetlab.core import physics
from aetlab.spec.checks import choice, debye_waller, fraction, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class RefineSpec:
    """Refinement of the traced atoms against the images.

    Attributes
    ----------
    kind : str
        ``none`` or ``atoms``.
    first_share : float
        Share of the traced sites, the strongest, that the first round has, in (0, 1]. Later rounds add sites where the
        images ask for them. A single round has all.
    n_rounds : int
        Rounds at most, at least 1. After each, sites are removed, added and named again; the last adds none.
    n_passes, n_passes_last : int
        Passes over the data at most in a round and in the last round, at least 1.
    tolerance : float
        A fit ends when the RMS change that remains is below this many standard errors, greater than 0.
    n_information, n_information_last : int
        Passes that estimate the information on each atom, in a round and for the standard errors, at least 1.
    min_occupancy : float
        Occupancy below which a site is removed, 0 to 1.
    min_distance_A : float
        Distance in Å below which the weaker of two sites is removed, at least 0.
    max_distance_A : float
        Largest distance in Å of a new site from its nearest neighbour, above ``min_distance_A``.
    min_significance : float
        Standard deviations of the noise that a new site stands above it, at least 0. ``surroundings`` may lower it.
    parametrization : str
        Scattering factors of the model: ``lobato`` or ``kirkland``.
    debye_waller_A2 : dict
        B = 8π²⟨u²⟩ in Å² of the model by element symbol, greater than 0, with the entry ``default``.
    poses : bool
        Whether the turn, shift and height of every tilt are refined.
    thermal : bool
        Whether one B is fitted for each element, from ``debye_waller_A2`` on.
    imaging : bool
        Whether defocus and brightness of every image are fitted.
    surroundings : bool
        Whether distances and elements of the neighbours count, besides the images, in naming a site.
    """

    kind: str = "none"
    first_share: float = 0.8
    n_rounds: int = 8
    n_passes: int = 25
    n_passes_last: int = 40
    tolerance: float = 0.1
    n_information: int = 2
    n_information_last: int = 8
    min_occupancy: float = 0.5
    min_distance_A: float = 1.1
    max_distance_A: float = 3.0
    min_significance: float = 3.75
    parametrization: str = "lobato"
    debye_waller_A2: dict[str, float] = field(default_factory=lambda: {"default": 0.5})
    poses: bool = False
    thermal: bool = False
    imaging: bool = False
    surroundings: bool = True

    def __post_init__(self) -> None:
        choice("refine.kind", self.kind, ("none", "atoms"))
        choice("refine.parametrization", self.parametrization, ("lobato", "kirkland"))
        for name in ("n_rounds", "n_passes", "n_passes_last", "n_information", "n_information_last"):
            require(getattr(self, name) >= 1, f"refine.{name}", getattr(self, name), "at least 1")
        positive("refine.tolerance", self.tolerance)
        fraction("refine.min_occupancy", self.min_occupancy)
        require(0 < self.first_share <= 1, "refine.first_share", self.first_share, "it must lie in (0, 1]")
        not_negative("refine.min_distance_A", self.min_distance_A)
        require(self.min_distance_A < self.max_distance_A, "refine.max_distance_A", self.max_distance_A,
                f"it must be above refine.min_distance_A={self.min_distance_A}")
        not_negative("refine.min_significance", self.min_significance)
        debye_waller("refine.debye_waller_A2", self.debye_waller_A2, physics.SYMBOLS[1:])
