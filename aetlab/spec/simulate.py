"""The simulation of a tilt series."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, not_negative, require

#: Settings of the simulation that are standard deviations of the errors of tilts.
TILT_ERRORS = ("tilt_error_deg", "axis_error_deg", "shift_error_A", "defocus_error_nm", "brightness_error")


@dataclass(frozen=True, kw_only=True)
class SimulateSpec:
    """Simulation of the tilt series.

    Standard deviations of tilt errors are 0 for tilts that lie where they were asked for; others need ``kind=atoms``
    (:class:`aetlab.core.nouns.TiltOffsets`).

    Attributes
    ----------
    kind : str
        ``atoms``: a new potential of the rotated atoms for each tilt. ``voxels``: one potential, whose voxels rotate.
    parametrization : str
        Scattering factors: ``lobato`` or ``kirkland``.
    n_layers : int
        Voxel layers in one slice of the simulation, at least 1.
    oversample : int
        Factor of finer voxels, 1 to 8. Images are binned back to the pixels of the reconstruction.
    n_frozen_phonons : int
        Thermally displaced copies over which the intensity is averaged, at least 0; above 0 needs ``kind=atoms``.
    band_limit : float
        Fraction of the Nyquist frequency at which waves and transmission functions are cut, in (0, 1]. 1 keeps all, 2/3
        avoids wrap-around of products.
    tilt_error_deg : float
        Standard deviation of the tilt angle in degrees, at least 0.
    axis_error_deg : float
        Standard deviation of the direction of the tilt axis in the image in degrees, at least 0.
    shift_error_A : float
        Standard deviation of the shift of the images of a tilt along x, and along y, in Å, at least 0.
    defocus_error_nm : float
        Standard deviation of the defocus common to the images of a tilt in nm, at least 0.
    brightness_error : float
        Standard deviation of the factor of all intensities of a tilt about 1, 0 to 0.1.
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
