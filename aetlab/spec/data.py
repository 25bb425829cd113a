"""The origin of the tilt series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aetlab.core.checks import SpecError, require
from aetlab.core.setting import check_ranges, documented, setting

#: Name of the volume of a measured series. The settings of the groups that a series brings have other values, those of
#: their default choices, until they are joined with the series.
OF_SERIES = "measured"
#: Groups whose settings a measured series brings, or that belong to a simulated sample, and the keys that stay free.
_OF_SERIES = ("sample", "scale", "dose", "tilts", "defocus", "wedge", "simulate", "microscope", "score")
_FREE = ("sample.elements", "sample.debye_waller_A2")


def refuse_settings_of_series(keys: Iterable[str]) -> None:
    """Raise :class:`SpecError` on the first of ``keys`` (groups or dotted keys) that a measured series brings."""
    for key in keys:
        if key.split(".")[0] in _OF_SERIES and not key.startswith(_FREE):
            raise SpecError(f"{key} cannot be set with data=measured: voxels, tilts, defoci, dose and microscope are "
                            "those of the series; leave it out, or import the series with it")


@documented
@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Origin of the tilt series."""

    kind: str = setting(
        "simulated computes the images of the sample, with the noise of the dose; measured reads the series file path, "
        "written by python -m aetlab.series import; given names a record of a series that was handed over through the "
        "Python API, and cannot be run", choices=("simulated", "measured", "given"), default="simulated")
    path: str = setting("file of a measured series; its content, not its path, is part of a run's identity",
                        reads=("data=measured",), default="")
    depth_A: float = setting(
        "depth of the volume of a measured series along the beam; 0 for the diameter of the sample that the import "
        "found, with a margin", unit="Å", within="[0, inf)", reads=("data=measured",), default=0.0)
    held_out: float = setting(
        "share of the images that no step is fitted to and that the final model predicts; they are drawn with the "
        "seed, at most one of a tilt; with one image for each tilt whole tilts are left out",
        within="[0, 0.5]", reads=("validate=images|halves",), default=0.0)
    digest: str = setting(
        "SHA-256 of a given series, or of the file of a measured one, set when the settings are bound; a file with "
        "another digest is refused", reads=("data=measured|given",), default="")

    def __post_init__(self) -> None:
        check_ranges("data", self)
        require(bool(self.path) == (self.kind == "measured"), "data.path", self.path,
                "data=measured needs the series file, for example data.path=pt.series.h5; other data have none")
        require(self.depth_A == 0 or self.kind == "measured", "data.depth_A", self.depth_A,
                "it belongs to data=measured; give scale.shape_zxy")
        require(bool(self.digest) or self.kind != "given", "data.digest", self.digest, "data.kind=given needs it")
        require(not self.digest or self.kind != "simulated", "data.digest", self.digest,
                "a simulated series has none")
