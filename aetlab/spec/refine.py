"""Settings of the refinement of atoms; :mod:`aetlab.spec` takes them into the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from aetlab.core import physics
from aetlab.spec.checks import choice, debye_waller, fraction, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class RefineSpec:
    """Whether and how traced atoms are refined against the images; lengths in Å.

    ``kind``: none or atoms. ``first_share`` of the traced sites, the strongest, are where it begins; the weakest, among
    which false ones are, come back where the images and the other sites ask for them (with one round, which adds none,
    all are). At most ``n_rounds`` rounds of at most ``n_passes`` passes over the data, after each of which sites
    vanish, appear and are named anew; the last one adds none and takes up to ``n_passes_last`` passes. A fit ends when
    the RMS change that is left falls below ``tolerance`` standard errors. ``n_information`` passes estimate the
    information on each atom, ``n_information_last`` that behind the standard errors. Sites whose occupancy falls below
    ``min_occupancy``, or that are probably no atom, go; of two nearer than ``min_distance_A`` the weaker one goes. New
    ones have their nearest neighbour between that and ``max_distance_A``, and stand ``min_significance`` standard
    deviations above the noise, were there no atom (fewer where ``surroundings`` speak for one). ``debye_waller_A2`` is
    the B = 8π²⟨u²⟩ in Å² that the model assumes, by element symbol or ``default``, and ``parametrization`` its
    scattering factors. ``poses``: refine turn, shift and height of every tilt as well. ``thermal``: fit one B for each
    element, from ``debye_waller_A2`` on. ``imaging``: fit defocus and brightness of every image. ``surroundings``: the
    distances and elements of a site's neighbours, as they are among the sites themselves, count beside the images in
    what it holds.
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
