"""The simulation of a tilt series."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting

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
