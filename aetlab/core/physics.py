"""Define physical constants and relativistic electron optics.

Notation: electron energy E in keV, wavelength λ in Å, interaction parameter σ in rad/(V Å). A wave that crosses a
projected potential of v V Å gains the phase σ v. Source: Kirkland, Advanced Computing in Electron Microscopy
(2010), equations 2.5 and 5.6; constants CODATA 2018 (the first three are exact in the SI).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PLANCK_J_S = 6.62607015e-34
ELEMENTARY_CHARGE_C = 1.602176634e-19
SPEED_OF_LIGHT_M_S = 299792458.0
ELECTRON_MASS_KG = 9.1093837015e-31
BOHR_RADIUS_A = 0.529177210903
VACUUM_PERMITTIVITY_F_M = 8.8541878128e-12

#: Chemical symbols; the index is the atomic number.
SYMBOLS: Sequence[str] = ("X "
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf").split()


def relativistic_mass_kg(energy_keV: float) -> float:
    """Return the relativistic mass of an electron in kg at ``energy_keV``."""
    return ELECTRON_MASS_KG + ELEMENTARY_CHARGE_C * 1e3 * energy_keV / SPEED_OF_LIGHT_M_S**2


def wavelength_A(energy_keV: float) -> float:
    """Return the relativistic de Broglie wavelength in Å (Kirkland 2010, equation 2.5)."""
    energy_J = ELEMENTARY_CHARGE_C * 1e3 * energy_keV
    momentum_c = math.sqrt(energy_J * (2 * ELECTRON_MASS_KG * SPEED_OF_LIGHT_M_S**2 + energy_J))
    return 1e10 * PLANCK_J_S * SPEED_OF_LIGHT_M_S / momentum_c


def interaction_parameter(energy_keV: float) -> float:
    """Return the interaction parameter σ in rad/(V Å) (Kirkland 2010, equation 5.6)."""
    wavelength_m = 1e-10 * wavelength_A(energy_keV)
    per_V_m = 2 * math.pi * relativistic_mass_kg(energy_keV) * ELEMENTARY_CHARGE_C * wavelength_m / PLANCK_J_S**2
    return 1e-10 * per_V_m
