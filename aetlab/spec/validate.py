"""Settings of the validation, which needs no truth."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.setting import check_ranges, documented, setting

_IMAGES = ("validate=images|halves",)
_HALVES = ("validate=halves",)


@documented
@dataclass(frozen=True, kw_only=True)
class ValidateSpec:
    """Validation of a run by its images, its atoms, and two independent halves of its data."""

    kind: str = setting(
        "images compares the final model with every image and checks distances of the atoms; halves also reconstructs "
        "and traces two independent halves of the data, which takes twice the time of a reconstruction",
        choices=("none", "images", "halves"), default="none")
    n_residuals: int = setting("images that a record keeps with their residuals, the worst ones", within="[0, 100]",
                               reads=_IMAGES, default=8)
    split: str = setting(
        "how halves are made: counts gives each count to one half at random, images gives alternate images to them; "
        "auto is counts, but images for a measured series, whose prepared images are no counts, and without noise",
        choices=("auto", "counts", "images"), reads=_HALVES, default="auto")
    max_distance_A: float = setting("largest distance of two atoms that are taken for the same one", unit="Å",
                                    within="(0, inf)", reads=_HALVES, default=1.0)
    refined: bool = setting("whether the atoms of both halves are refined as well, where those of the run are",
                            reads=(*_HALVES, "refine=atoms"), default=False)

    def __post_init__(self) -> None:
        check_ranges("validate", self)
