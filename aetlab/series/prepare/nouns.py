"""Nouns of the preparation: what goes in, what each step reports, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.poses import Poses
from aetlab.core.tilt_series import TiltSeries
from aetlab.series.facts import Measures
from aetlab.spec import MicroscopeSpec


@dataclass(frozen=True)
class Recorded:
    """Images of T tilts at F defoci as the camera counted them, and what is known of them.

    Attributes
    ----------
    counts : float32 (T, F, X, Y)
        Counts of the camera.
    tilt_deg : (T,)
        Tilt angles in degrees.
    defocus_A : (T, F)
        Nominal defocus of each image in Å, overfocus positive.
    pixel_A : float
        Pixel in Å.
    weight : (T, F), optional
        0: the image is missing. Default: 1.
    dose_e_A2 : (T, F), optional
        Dose of each image in e/Å² as the table says.
    counts_per_electron : float, optional
        Gain of the camera as its header or its user says.
    energy_keV : float, optional
        Energy of the electrons; without it images at different defoci are compared by their contrast of low frequency
        alone.
    dqe : float
        Detective quantum efficiency at zero frequency.
    mtf : (cycles_per_pixel (N,), mtf (N,)), optional
        Modulation transfer of the detector, with the area of the pixel.
    axis_deg : float, optional
        Direction of the tilt axis as the microscope's file or the log says, see :class:`PrepareSpec`.
    sense : str
        Sense of the tilt angles as the microscope's file says, see :class:`PrepareSpec`; empty: not known.
    lens : MicroscopeSpec, optional
        Energy, aperture and aberrations, from which the sign of the defocus is tried.

    Raises
    ------
    DataError
        For shapes that do not agree.
    """

    counts: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    pixel_A: float
    weight: np.ndarray | None = None
    dose_e_A2: np.ndarray | None = None
    counts_per_electron: float | None = None
    energy_keV: float | None = None
    dqe: float = 1.0
    mtf: tuple[np.ndarray, np.ndarray] | None = None
    axis_deg: float | None = None
    sense: str = ""
    lens: MicroscopeSpec | None = None

    def __post_init__(self) -> None:
        if self.counts.ndim != 4:
            raise DataError(f"counts: shape {self.counts.shape}, wanted (tilts, defoci, X, Y)")
        grid = self.counts.shape[:2]
        if self.weight is None:
            object.__setattr__(self, "weight", np.ones(grid))
        for name, wanted in (("tilt_deg", grid[:1]), ("defocus_A", grid), ("weight", grid), ("dose_e_A2", grid)):
            value = getattr(self, name)
            if value is not None and np.shape(value) != wanted:
                raise DataError(f"{name}: shape {np.shape(value)}, wanted {wanted}")

    @property
    def present(self) -> np.ndarray:
        """Images that are there, bool (T, F)."""
        assert self.weight is not None
        return np.asarray(self.weight) > 0


@dataclass(frozen=True)
class Step:
    """One step of the preparation, for the record and the check page.

    ``setting`` is its setting as text, ``line`` what it found in one sentence, ``verdict`` one of ``ok``, ``look`` and
    ``cannot be used``, ``numbers`` the figures by name with the unit in the name; ``before`` and ``after`` are small
    images (X, Y), None where the step changes none.
    """

    name: str
    setting: str
    line: str
    numbers: dict[str, float] = field(default_factory=dict)
    verdict: str = "ok"
    before: np.ndarray | None = None
    after: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """A series that can be reconstructed, with all that was found on the way.

    Attributes
    ----------
    series : TiltSeries
        Images with vacuum 1, electrons per pixel, weights of images and pixels.
    poses : Poses
        Where the alignment begins: shifts that were found but not applied, and the direction of the tilt axis where the
        images were not rotated.
    steps : tuple of Step
        In the order in which they were done.
    excluded : dict
        Reason by (i_tilt, i_defocus) for each image of weight 0 that was not missing.
    axis_deg : float
        Direction of the tilt axis in the images as recorded, from +y, counted from +x towards +y.
    shift_A : (T, F, 2)
        Position (x, y) of the sample in each image as recorded, about its centre, in Å.
    radius_A : float
        Half the diameter of the sample in Å.
    measures : Measures
        Level, sharpness and drift of each image.
    thumbnails : float16 (T, F, x, y)
        Small images as recorded, over their vacuum level.
    axis_curve : (2, N)
        Directions that were searched, in degrees, and how well the lines of all tilts agree.
    """

    series: TiltSeries
    poses: Poses
    steps: tuple[Step, ...]
    excluded: dict[tuple[int, int], str]
    axis_deg: float
    shift_A: np.ndarray
    radius_A: float
    measures: Measures
    thumbnails: np.ndarray
    axis_curve: np.ndarray
