"""Settings of the preparation."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.setting import check_ranges, documented, require, setting
from aetlab.series.microscope import SENSES

Rectangle = tuple[int, int, int, int]


@documented
@dataclass(frozen=True, kw_only=True)
class PrepareSpec:
    """Settings of the preparation, one group for each step. The defaults find everything from the images."""

    region: Rectangle | None = setting(
        "pixels (x_from, x_to, y_from, y_to) of the recorded images that are used, ends excluded; by default all, and "
        "of images above 512 pixels the region of the sample, which is found", default=None)
    bad_pixels: str = setting(
        "find gives hot, dead and stuck pixels and single hits the weight 0; keep uses all pixels",
        choices=("find", "keep"), default="find")
    false_alarms: float = setting("expected number of sound pixels that a whole series loses to bad_pixels=find",
                                  within="(0, inf)", default=0.1)
    gain: str = setting("residue of the gain reference: find corrects it where it is significant, keep leaves it in "
                        "the images", choices=("find", "keep"), default="find")
    vacuum: str = setting(
        "level that becomes 1: find takes that of the vacuum, found in each image; rectangles that of "
        "vacuum_rectangles; mean the mean of each image, and the brightness is left to the alignment",
        choices=("find", "rectangles", "mean"), default="find")
    vacuum_rectangles: tuple[Rectangle, ...] = setting(
        "pixels (x_from, x_to, y_from, y_to) of the region, ends excluded, that show vacuum in every image", default=())
    illumination: str = setting(
        "find divides by polynomials of second order, fitted to the vacuum, where they are significant; flat does not",
        choices=("find", "flat"), default="find")
    electrons: str = setting(
        "source of the electrons per pixel: find takes the variance of the vacuum, and the table where that says less "
        "certain things; table dose · pixel area · DQE; gain counts over the given counts per electron; variance the "
        "variance alone", choices=("find", "table", "gain", "variance"), default="find")
    bad_frames: str = setting("find gives blank, doubled and drifted images the weight 0; keep uses all images",
                              choices=("find", "keep"), default="find")
    shifts: str = setting("find finds drift between the defoci and shifts between the tilts and applies them, and "
                          "gives images that cannot be placed the weight 0; keep does not",
                          choices=("find", "keep"), default="find")
    axis: str = setting("find searches the direction of the tilt axis within axis_range_deg of axis_deg; given takes "
                        "axis_deg", choices=("find", "given"), default="find")
    axis_deg: float | None = setting(
        "direction of the tilt axis from the y axis of the images, counter-clockwise (from +x towards +y); by default "
        "that of the microscope's file or of the log", unit="°", within="[-360, 360]", default=None)
    axis_range_deg: float | None = setting(
        "half-width of the search; by default 10 where axis_deg is known, else 90, which covers all directions",
        unit="°", within="(0, 90]", default=None)
    sense: str = setting(
        "sense of the tilt angles: with right a positive angle turns the sample right-handed about the axis, the beam "
        "along +z; with left the other way, and the angles change their sign; by default that of the microscope's "
        "file, else right without being known", choices=("", *SENSES), default="")
    defocus_sign: str = setting(
        "sign of the defoci, overfocus positive: find takes the opposite of the given one where the images clearly "
        "show atoms with that alone; given keeps what the table or the headers say", choices=("find", "given"),
        default="find")
    voxel_A: float = setting("pixel of the result, by Fourier cropping; 0 keeps that of the images", unit="Å",
                             within="[0, inf)", default=0.0)
    size: tuple[int, int] | None = setting(
        "size (X, Y) of the result in pixels: cropped or padded about the centre; by default that of the images",
        default=None)

    def __post_init__(self) -> None:
        check_ranges("prepare", self)
        require(bool(self.vacuum_rectangles) == (self.vacuum == "rectangles"), "prepare.vacuum_rectangles",
                self.vacuum_rectangles, "they belong to vacuum=rectangles alone, which needs them")
