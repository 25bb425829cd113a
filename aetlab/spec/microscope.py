"""The microscope: energy, pupil, aberrations, envelopes and detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from aetlab.spec.checks import not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class MicroscopeSpec:
    """The microscope. Defocus is a group of its own.

    Aberration coefficients are those of Uhlemann and Haider (Ultramicroscopy 72, 109, 1998) and take any finite number;
    :mod:`aetlab.forward.imaging` has the formula of each. Azimuths count from +x towards +y.

    Attributes
    ----------
    name : str
        Label; not part of a run's identity.
    energy_keV : float
        Energy of the electrons in keV, 10 to 3000.
    aperture_per_A : float
        Cut-off |q| of the pupil in 1/Å, greater than 0.
    aperture_edge_per_A : float
        Width in 1/Å over which the pupil falls, at least 0; 0 is a hard edge.
    Cs_mm : float
        Spherical aberration of third order in mm.
    C5_mm : float
        Spherical aberration of fifth order in mm.
    A1_nm, A1_deg : float
        Two-fold astigmatism: coefficient in nm, azimuth in degrees.
    B2_nm, B2_deg : float
        Axial coma: coefficient in nm, azimuth in degrees.
    A2_nm, A2_deg : float
        Three-fold astigmatism: coefficient in nm, azimuth in degrees.
    S3_um, S3_deg : float
        Star aberration: coefficient in µm, azimuth in degrees.
    A3_um, A3_deg : float
        Four-fold astigmatism: coefficient in µm, azimuth in degrees.
    D4_um, D4_deg : float
        Three-lobe aberration: coefficient in µm, azimuth in degrees.
    B4_um, B4_deg : float
        Axial coma of fourth order: coefficient in µm, azimuth in degrees.
    A4_um, A4_deg : float
        Five-fold astigmatism: coefficient in µm, azimuth in degrees.
    S5_mm, S5_deg : float
        Star aberration of fifth order: coefficient in mm, azimuth in degrees.
    R5_mm, R5_deg : float
        Rosette aberration: coefficient in mm, azimuth in degrees.
    A5_mm, A5_deg : float
        Six-fold astigmatism: coefficient in mm, azimuth in degrees.
    focal_spread_sigma_nm : float
        Standard deviation of the defocus in nm, at least 0. The 1/e half-width is √2 times as large.
    convergence_sigma_mrad : float
        Standard deviation of each component of the illumination angle in mrad, at least 0.
    mtf_half : float
        MTF of the detector at half the sampling frequency, in (0, 1]; 1 is ideal.
    mtf_cycles_per_pixel, mtf_values : tuple of float
        MTF of the detector as a table, in the place of ``mtf_half``: spatial frequencies that rise from 0 to at least
        0.5 cycles per pixel of the images, and values in (0, 1] that start at 1. Empty: ``mtf_half`` is the MTF.
    dqe : float
        Detective quantum efficiency of the detector at zero frequency, in (0, 1]; 1 is ideal.
    """

    name: str = "aberration_corrected_300kV"
    energy_keV: float = 300.0
    aperture_per_A: float = 1.0
    aperture_edge_per_A: float = 0.0
    Cs_mm: float = 0.0
    C5_mm: float = 0.0
    A1_nm: float = 0.0
    A1_deg: float = 0.0
    B2_nm: float = 0.0
    B2_deg: float = 0.0
    A2_nm: float = 0.0
    A2_deg: float = 0.0
    S3_um: float = 0.0
    S3_deg: float = 0.0
    A3_um: float = 0.0
    A3_deg: float = 0.0
    D4_um: float = 0.0
    D4_deg: float = 0.0
    B4_um: float = 0.0
    B4_deg: float = 0.0
    A4_um: float = 0.0
    A4_deg: float = 0.0
    S5_mm: float = 0.0
    S5_deg: float = 0.0
    R5_mm: float = 0.0
    R5_deg: float = 0.0
    A5_mm: float = 0.0
    A5_deg: float = 0.0
    focal_spread_sigma_nm: float = 0.0
    convergence_sigma_mrad: float = 0.0
    mtf_half: float = 1.0
    mtf_cycles_per_pixel: tuple[float, ...] = ()
    mtf_values: tuple[float, ...] = ()
    dqe: float = 1.0

    def __post_init__(self) -> None:
        require(10 <= self.energy_keV <= 3000, "microscope.energy_keV", self.energy_keV, "10 to 3000 keV")
        positive("microscope.aperture_per_A", self.aperture_per_A)
        not_negative("microscope.aperture_edge_per_A", self.aperture_edge_per_A)
        not_negative("microscope.focal_spread_sigma_nm", self.focal_spread_sigma_nm)
        not_negative("microscope.convergence_sigma_mrad", self.convergence_sigma_mrad)
        for name in ("mtf_half", "dqe"):
            value = getattr(self, name)
            require(0 < value <= 1, f"microscope.{name}", value, "it must lie in (0, 1]")
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
