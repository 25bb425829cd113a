"""The microscope: energy, pupil, aberrations, envelopes and detector."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class MicroscopeSpec:
    """The microscope. Aberration coefficients (Uhlemann and Haider 1998) in their usual units, azimuths in degrees.

    :mod:`aetlab.forward.imaging` has the formula of each. ``aperture_per_A`` is the cut-off |q| of the pupil in 1/Å,
    ``aperture_edge_per_A`` the width over which it falls smoothly (0: a hard edge). ``focal_spread_sigma_nm`` is the
    standard deviation (not the 1/e half-width, which is √2 times as large) of the distribution of defocus, and
    ``convergence_sigma_mrad`` that of each component of the illumination's angle. ``mtf_half`` is the detector's MTF at
    half the sampling frequency (1: ideal), ``dqe`` its detective quantum efficiency at zero frequency. Defocus is a
    group of its own.
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
