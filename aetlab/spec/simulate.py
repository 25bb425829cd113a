"""The simulation of a tilt series."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, not_negative, require

#: Settings of the simulation that say how far tilts lie from where they were asked for.
TILT_ERRORS = ("tilt_error_deg", "axis_error_deg", "shift_error_A", "defocus_error_nm", "brightness_error")


@dataclass(frozen=True, kw_only=True)
class SimulateSpec:
    """How the data are made: a fresh potential of rotated atoms for each tilt, or the rotated voxel volume.

    ``oversample`` refines the voxels of the simulation (the images are binned back to the reconstruction's pixels);
    ``n_frozen_phonons`` > 0 averages the intensity over that many thermally displaced copies; ``band_limit`` cuts
    waves and transmission functions at that fraction of the Nyquist frequency (1 keeps all, 2/3 is the usual guard
    against wrap-around of the product of two functions). The ``*_error_*`` are standard deviations of how far each tilt
    lies from where it was asked for (:class:`aetlab.core.poses.Poses`; kind=atoms alone), 0: not at all.
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
