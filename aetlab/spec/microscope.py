"""The microscope: energy, pupil, aberrations, envelopes and detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting


def _azimuth(coefficient: str, aberration: str) -> Any:
    return setting(f"azimuth of the {aberration}", unit="°", reads=(f"microscope.{coefficient}!=0",), default=0.0)


@documented
@dataclass(frozen=True, kw_only=True)
class MicroscopeSpec:
    """The microscope.

    Defocus is a group of its own. Aberration coefficients are those of Uhlemann and Haider (Ultramicroscopy 72, 109,
    1998) and take any finite number; :mod:`aetlab.forward.imaging` has the formula of each. Azimuths count from +x
    towards +y.
    """

    name: str = setting("label; not part of a run's identity", default="aberration_corrected_300kV")
    energy_keV: float = setting("energy of the electrons", unit="keV", within="[10, 3000]", default=300.0)
    aperture_per_A: float = setting("cut-off |q| of the pupil", unit="1/Å", within="(0, inf)", default=1.0)
    aperture_edge_per_A: float = setting("width over which the pupil falls; 0 is a hard edge", unit="1/Å",
                                         within="[0, inf)", default=0.0)
    Cs_mm: float = setting("spherical aberration of third order", unit="mm", default=0.0)
    C5_mm: float = setting("spherical aberration of fifth order", unit="mm", default=0.0)
    A1_nm: float = setting("two-fold astigmatism", unit="nm", default=0.0)
    A1_deg: float = _azimuth("A1_nm", "two-fold astigmatism")
    B2_nm: float = setting("axial coma", unit="nm", default=0.0)
    B2_deg: float = _azimuth("B2_nm", "axial coma")
    A2_nm: float = setting("three-fold astigmatism", unit="nm", default=0.0)
    A2_deg: float = _azimuth("A2_nm", "three-fold astigmatism")
    S3_um: float = setting("star aberration", unit="µm", default=0.0)
    S3_deg: float = _azimuth("S3_um", "star aberration")
    A3_um: float = setting("four-fold astigmatism", unit="µm", default=0.0)
    A3_deg: float = _azimuth("A3_um", "four-fold astigmatism")
    D4_um: float = setting("three-lobe aberration", unit="µm", default=0.0)
    D4_deg: float = _azimuth("D4_um", "three-lobe aberration")
    B4_um: float = setting("axial coma of fourth order", unit="µm", default=0.0)
    B4_deg: float = _azimuth("B4_um", "axial coma of fourth order")
    A4_um: float = setting("five-fold astigmatism", unit="µm", default=0.0)
    A4_deg: float = _azimuth("A4_um", "five-fold astigmatism")
    S5_mm: float = setting("star aberration of fifth order", unit="mm", default=0.0)
    S5_deg: float = _azimuth("S5_mm", "star aberration of fifth order")
    R5_mm: float = setting("rosette aberration", unit="mm", default=0.0)
    R5_deg: float = _azimuth("R5_mm", "rosette aberration")
    A5_mm: float = setting("six-fold astigmatism", unit="mm", default=0.0)
    A5_deg: float = _azimuth("A5_mm", "six-fold astigmatism")
    focal_spread_sigma_nm: float = setting(
        "standard deviation of the defocus; the 1/e half-width is √2 times as large", unit="nm", within="[0, inf)",
        default=0.0)
    convergence_sigma_mrad: float = setting("standard deviation of each component of the illumination angle",
                                            unit="mrad", within="[0, inf)", default=0.0)
    blur_sigma_A: float = setting("standard deviation in each direction of a blur of the images by vibration or drift "
                                  "during an exposure", unit="Å", within="[0, inf)", default=0.0)
    mtf_half: float = setting("MTF of the detector at half the sampling frequency; 1 is ideal", within="(0, 1]",
                              reads=("microscope.mtf_values=[]",), default=1.0)
    mtf_cycles_per_pixel: tuple[float, ...] = setting(
        "spatial frequencies of the detector's MTF as a table in place of mtf_half, rising from 0 to at least 0.5; "
        "empty for mtf_half", unit="cycles per pixel", reads=("microscope.mtf_values!=[]",), default=())
    mtf_values: tuple[float, ...] = setting("values of the detector's MTF at mtf_cycles_per_pixel, starting at 1",
                                            default=())
    dqe: float = setting("detective quantum efficiency of the detector at zero frequency; 1 is ideal",
                         within="(0, 1]", reads=("dose.total_e_A2<inf",), default=1.0)

    def __post_init__(self) -> None:
        check_ranges("microscope", self)
        self._check_mtf()

    def _check_mtf(self) -> None:
        u, mtf = self.mtf_cycles_per_pixel, self.mtf_values
        require(len(u) == len(mtf) and len(u) != 1, "microscope.mtf_values", mtf,
                f"microscope.mtf_cycles_per_pixel has {len(u)}; give two lists of one length, of at least 2, or none")
        if not u:
            return
        require(u[0] == 0 and u[-1] >= 0.5 and all(low < high for low, high in pairwise(u)) and math.isfinite(u[-1]),
                "microscope.mtf_cycles_per_pixel", u, "it must rise from 0 to at least 0.5")
        require(abs(mtf[0] - 1) < 1e-3 and all(0 < value <= 1.001 for value in mtf), "microscope.mtf_values", mtf,
                "values must lie in (0, 1] and start at 1")
        require(self.mtf_half == 1, "microscope.mtf_half", self.mtf_half,
                "microscope.mtf_values has a table already; leave one of them out")
