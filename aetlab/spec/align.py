"""Settings of the alignment of tilts."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting

_ALIGNED = ("align=true",)


@documented
@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """Alignment of the tilts to the volume during the reconstruction.

    :mod:`aetlab.forward.alignment` computes it.
    """

    enabled: bool = setting("whether tilts are aligned to the volume", default=False)
    at: tuple[int, ...] = setting("iterations, counted from 0 and rising, before which all tilts are aligned",
                                  within="[1, inf)", reads=_ALIGNED,
                                  default=(3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27))
    smoothing_A: tuple[float, ...] = setting(
        "standard deviations of the Gaussian that smooths the compared images, one for each alignment; the last is for "
        "all further ones", unit="Å", within="[0, inf)", reads=_ALIGNED,
        default=(1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.1))
    angles_from: int = setting("iteration before which tilt angles are not changed", within="[0, inf)", reads=_ALIGNED,
                               default=8)
    reach_A: float = setting("largest shift along x and y that the first alignment tries", unit="Å", within="[0, inf)",
                             reads=_ALIGNED, default=4.0)
    reach_nm: float = setting("largest change of the defocus that the first alignment tries", unit="nm",
                              within="[0, inf)", reads=_ALIGNED, default=6.0)
    contrast: bool = setting("whether the contrast of the images of a tilt is left open while its pose is fitted",
                             reads=_ALIGNED, default=False)
    images: bool = setting("whether single images have a shift, defocus and brightness of their own, besides those of "
                           "their tilt", reads=_ALIGNED, default=False)
    magnification: bool = setting("whether the magnification of the images of each plane of the defocus is fitted, "
                                  "relative to the mean of all planes", reads=_ALIGNED, default=False)
    robust: bool = setting("whether images that fit the volume much worse than the others lose weight, by the square "
                           "of how much worse, in the alignment and in the reconstruction", reads=_ALIGNED,
                           default=False)

    def __post_init__(self) -> None:
        require(bool(self.at) and all(a < b for a, b in zip((0, *self.at), self.at, strict=False)), "align.at", self.at,
                "give rising numbers of iterations, at least 1: the first iteration has no volume to align to")
        require(bool(self.smoothing_A), "align.smoothing_A", self.smoothing_A, "give at least one")
        check_ranges("align", self)

    def smoothing_at(self, iteration: int) -> float:
        """Smoothing in Å of the alignment before ``iteration``, which is one of ``at``."""
        return self.smoothing_A[min(self.at.index(iteration), len(self.smoothing_A) - 1)]
