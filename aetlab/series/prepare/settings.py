"""Settings of the preparation."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.checks import choice, not_negative, positive, require
from aetlab.series.senses import SENSES

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class PrepareSpec:
    """Settings of the preparation, one group for each step. The defaults find everything from the images.

    Attributes
    ----------
    region : (x_from, x_to, y_from, y_to), optional
        Pixels of the recorded images that are used, ends excluded. Default: all.
    bad_pixels : str
        ``find``: hot, dead and stuck pixels and single hits get weight 0. ``keep``: all pixels are used.
    false_alarms : float
        Expected number of sound pixels that a whole series loses to ``find``, greater than 0.
    gain : str
        Residue of the gain reference. ``find``: corrected where it is significant. ``keep``: left in the images.
    vacuum : str
        Level that becomes 1. ``find``: that of the vacuum, found in each image. ``rectangles``: that of
        ``vacuum_rectangles``. ``mean``: the mean of each image, and the brightness is left to the alignment.
    vacuum_rectangles : tuple of (x_from, x_to, y_from, y_to)
        Pixels of the region, ends excluded, that show vacuum in every image.
    illumination : str
        ``find``: polynomials of second order, fitted to the vacuum, where they are significant. ``flat``: none.
    electrons : str
        Source of the electrons per pixel. ``find``: the variance of the vacuum, and the table where that says less
        certain things; ``table``: dose · pixel area · DQE; ``gain``: counts over the given counts per electron;
        ``variance``: the variance alone.
    bad_frames : str
        ``find``: blank, doubled and drifted images get weight 0. ``keep``: all images are used.
    shifts : str
        ``find``: drift between the defoci and shifts between the tilts are found and applied. ``keep``: none.
    axis : str
        ``find``: the direction of the tilt axis is searched within ``axis_range_deg`` of ``axis_deg``. ``given``: it is
        ``axis_deg``.
    axis_deg : float, optional
        Direction of the tilt axis from the y axis of the images, counter-clockwise (from +x towards +y), in degrees.
        Default: that of the microscope's file or of the log.
    axis_range_deg : float, optional
        Half-width of the search in degrees, greater than 0, at most 90. Default: 10 where ``axis_deg`` is known, else
        90, which covers all directions.
    sense : str, optional
        Sense of the tilt angles. ``right``: a positive angle turns the sample right-handed about the axis, the beam
        along +z. ``left``: the other way; the angles change their sign. Default: that of the microscope's file, else
        ``right`` without being known.
    voxel_A : float
        Pixel of the result in Å, by Fourier cropping; 0 keeps that of the images.
    size : (X, Y), optional
        Size of the result in pixels: cropped or padded about the centre. Default: that of the images.
    """

    region: Rectangle | None = None
    bad_pixels: str = "find"
    false_alarms: float = 0.1
    gain: str = "find"
    vacuum: str = "find"
    vacuum_rectangles: tuple[Rectangle, ...] = ()
    illumination: str = "find"
    electrons: str = "find"
    bad_frames: str = "find"
    shifts: str = "find"
    axis: str = "find"
    axis_deg: float | None = None
    axis_range_deg: float | None = None
    sense: str = ""
    voxel_A: float = 0.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        choice("prepare.bad_pixels", self.bad_pixels, ("find", "keep"))
        choice("prepare.gain", self.gain, ("find", "keep"))
        choice("prepare.vacuum", self.vacuum, ("find", "rectangles", "mean"))
        choice("prepare.illumination", self.illumination, ("find", "flat"))
        choice("prepare.electrons", self.electrons, ("find", "table", "gain", "variance"))
        choice("prepare.bad_frames", self.bad_frames, ("find", "keep"))
        choice("prepare.shifts", self.shifts, ("find", "keep"))
        choice("prepare.axis", self.axis, ("find", "given"))
        choice("prepare.sense", self.sense, ("", *SENSES))
        positive("prepare.false_alarms", self.false_alarms)
        not_negative("prepare.voxel_A", self.voxel_A)
        require(self.axis_range_deg is None or 0 < self.axis_range_deg <= 90, "prepare.axis_range_deg",
                self.axis_range_deg, "it must lie in (0, 90]")
        require(self.axis_deg is None or abs(self.axis_deg) <= 360, "prepare.axis_deg", self.axis_deg,
                "it must lie between -360 and 360")
        require(bool(self.vacuum_rectangles) == (self.vacuum == "rectangles"), "prepare.vacuum_rectangles",
                self.vacuum_rectangles, "they belong to vacuum=rectangles alone, which needs them")
