"""The origin of the tilt series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aetlab.spec.checks import SpecError, choice, not_negative, require

#: Groups whose settings a measured series brings, or that belong to a simulated sample, and the keys that stay free.
_OF_SERIES = ("sample", "scale", "dose", "tilts", "defocus", "wedge", "simulate", "microscope", "score")
_FREE = ("sample.elements", "sample.debye_waller_A2")


def refuse_settings_of_series(keys: Iterable[str]) -> None:
    """Raise :class:`SpecError` on the first of ``keys`` (groups or dotted keys) that a measured series brings."""
    for key in keys:
        if key.split(".")[0] in _OF_SERIES and not key.startswith(_FREE):
            raise SpecError(f"{key} cannot be set with data=measured: voxels, tilts, defoci, dose and microscope are "
                            "those of the series; leave it out, or import the series with it")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Origin of the tilt series.

    Attributes
    ----------
    kind : str
        ``simulated``: images of the sample are computed, with the noise of the dose. ``given``: the series was handed
        over through the Python API; such settings name a record and cannot be run. ``measured``: the series file
        ``path``, written by ``python -m aetlab.series import``.
    path : str
        File of a measured series. Its content, not its path, is part of a run's identity.
    depth_A : float
        Depth of the volume along the beam for a measured series in Å, at least 0; 0: the diameter of the sample that
        the import found, with a margin.
    digest : str
        Hex SHA-256 of a given series, or of the file of a measured one. It is set when the settings are bound. A file
        with another digest is refused.
    """

    kind: str = "simulated"
    path: str = ""
    depth_A: float = 0.0
    digest: str = ""

    def __post_init__(self) -> None:
        choice("data.kind", self.kind, ("simulated", "measured", "given"))
        require(bool(self.path) == (self.kind == "measured"), "data.path", self.path,
                "data=measured needs the series file, for example data.path=pt.series.h5; other data have none")
        not_negative("data.depth_A", self.depth_A)
        require(self.depth_A == 0 or self.kind == "measured", "data.depth_A", self.depth_A,
                "it belongs to data=measured; give scale.shape_zxy")
        require(bool(self.digest) or self.kind != "given", "data.digest", self.digest, "data.kind=given needs it")
        require(not self.digest or self.kind != "simulated", "data.digest", self.digest,
                "a simulated series has none")
