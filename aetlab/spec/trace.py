"""Settings of atom tracing. Lengths are in voxels of 0.5 Å."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting


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
