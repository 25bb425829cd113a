"""Settings of atom tracing and scoring; :mod:`aetlab.spec` takes them into the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class TraceSpec:
    """Constants of atom tracing (the paper's tracing code); lengths in voxels, potentials in V.

    ``smoothing``: standard deviation of the Gaussian that the volume is smoothed with first; candidates, rounds,
    thresholds and the signal that tells species are those of the smoothed volume (the paper: 0); ``n_sharp_fits`` to
    the volume as given then set position, intensity and width. ``cylinder_margin``: voxels less than this far inside
    the cylinder about the tilt axis that touches the volume's faces, or outside it, are missing data, for they leave
    the volume at some tilts and hold artefacts (negative: the whole volume is traced, as in the paper).
    ``filter_sigma_*``: the difference of Gaussians.
    ``candidate_fraction``: candidates whose peak is estimated below this fraction of ``min_intensity_V`` are not
    fitted. ``fit_radius``: voxels of a fit. ``intensity_bounds`` and ``width_step_bounds`` are factors of a fit's
    start, ``width_bounds`` hold overall. ``clip_at_zero``: subtracting the neighbours within ``neighbour_radius``
    leaves nothing below 0. ``n_residual_searches``: how often the residual is searched for more atoms.
    ``merge_distance``, ``min_intensity_V``, ``min_width``: what merges and what is dropped. ``stop_sites``,
    ``stop_shift``: rounds end when fewer sites go and the RMS shift is under it, or after ``n_rounds_max`` more than
    the first. ``min_significance``: sites whose amplitude is below this many standard deviations of the noise beside
    the atoms are dropped; ``min_signal``: those with less than this share of the median signal of the lightest element
    are; ``min_group``: those that do not hang together with so many, themselves included, over steps of at most
    ``link_factor`` times the median distance of nearest neighbours are (the paper: 0, no such tests).
    """

    smoothing: float = 0.0
    n_sharp_fits: int = 4
    cylinder_margin: float = -1.0
    filter_sigma_narrow: float = 0.5
    filter_sigma_wide: float = 1.0
    candidate_fraction: float = 0.5
    fit_radius: float = 1.8
    max_shift_per_fit: float = 0.25
    intensity_bounds: tuple[float, float] = (0.5, 1.5)
    width_step_bounds: tuple[float, float] = (0.75, 1.25)
    width_bounds: tuple[float, float] = (0.4, 1.2)
    width_start: float = 0.7
    neighbour_radius: float = 5.0
    clip_at_zero: bool = True
    n_residual_searches: int = 1
    n_refine_first: int = 5
    merge_distance: float = 2.25
    min_intensity_V: float = 30.0
    min_width: float = 0.45
    min_significance: float = 6.5
    min_signal: float = 0.0
    link_factor: float = 2.0
    min_group: int = 0
    n_rounds_max: int = 11
    stop_sites: int = 2
    stop_shift: float = 0.005

    def __post_init__(self) -> None:
        for name in ("filter_sigma_narrow", "filter_sigma_wide", "candidate_fraction", "max_shift_per_fit",
                     "width_start", "neighbour_radius", "merge_distance", "min_intensity_V", "min_width",
                     "link_factor", "stop_shift"):
            positive(f"trace.{name}", getattr(self, name))
        require(self.filter_sigma_narrow < self.filter_sigma_wide, "trace.filter_sigma_narrow",
                self.filter_sigma_narrow, f"it must be below trace.filter_sigma_wide={self.filter_sigma_wide}")
        require(1.5 <= self.fit_radius <= 8, "trace.fit_radius", self.fit_radius,
                "1.5 to 8 voxels (fewer voxels do not determine a fit)")
        for name in ("intensity_bounds", "width_step_bounds", "width_bounds"):
            low, high = getattr(self, name)
            require(0 < low < high, f"trace.{name}", (low, high), "give (low, high) with 0 < low < high")
        low, high = self.width_bounds
        require(low <= self.width_start <= high, "trace.width_start", self.width_start,
                f"it must lie in trace.width_bounds={(low, high)}")
        require(0 <= self.smoothing <= 5, "trace.smoothing", self.smoothing, "0 to 5 voxels")
        not_negative("trace.min_significance", self.min_significance)
        require(0 <= self.min_signal < 1, "trace.min_signal", self.min_signal, "it must lie in [0, 1)")
        for name in ("n_refine_first", "n_rounds_max", "stop_sites", "n_residual_searches", "n_sharp_fits",
                     "min_group"):
            require(getattr(self, name) >= 0, f"trace.{name}", getattr(self, name), "0 or more")
