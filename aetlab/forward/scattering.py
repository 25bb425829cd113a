"""Electron scattering factors of neutral atoms, and their potential as a sum of Gaussians.

Notation: g is a spatial frequency in 1/Å, f(g) the electron scattering factor in Å (first Born approximation, rest
mass), B = 8π²⟨u²⟩ the Debye-Waller factor in Å². The potential of an atom at rest or blurred by its vibration is

    V(r) = h²/(2π m e) ∫ f(g) exp(-B g²/4) exp(2πi g·r) d³g          (Kirkland 2010, equations 5.9 and C.19)

Sources: I. Lobato, D. Van Dyck, Acta Cryst. A 70 (2014) 636, f = Σ a (2 + b g²)/(1 + b g²)²; E. J. Kirkland, Advanced
Computing in Electron Microscopy (2010), appendix C, f = Σ a/(g² + b) + Σ c exp(-d g²). Both for Z = 1 to 98.

Both are mixtures of Gaussians: 1/(1 + b g²) = ∫ exp(-t) exp(-t b g²) dt, and its square has the weight t exp(-t). A
Gaussian exp(-c g²) is one of variance c/(2π²) in space, to which the vibration adds B/(8π²). The mixture is fitted by
:data:`N_GAUSSIANS` Gaussians, whose averages over voxels are products of error functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares, nnls
from scipy.special import erf, kn

from aetlab.core import physics

PARAMETRIZATIONS = {"lobato": "lobato_2014.csv", "kirkland": "kirkland_2010.csv"}

#: Potential in V of a scattering factor of 1 Å per Å³ of frequency space: h²/(2π m e) in V Å².
POTENTIAL_PER_SCATTERING_V_A2 = (1e20 * physics.PLANCK_J_S**2
                                 / (2 * math.pi * physics.ELECTRON_MASS_KG * physics.ELEMENTARY_CHARGE_C))

#: Gaussians of an element, enough for the fit error stated below; the kernel of the potential writes out all eight.
N_GAUSSIANS = 8

#: The fit error is |error| / (V(r) + FIT_FLOOR · ∫V d³r / Å³), from the nucleus to 5 Å.
FIT_FLOOR = 1e-3

#: Fraction of ∫V d³r outside the cube of half-width ``cutoff_A`` in which an atom contributes to a volume.
TRUNCATED_FRACTION = 1e-3

#: Least B in Å²: an atom at rest has a cusp at the nucleus; voxels of 0.1 Å or more do not resolve this blur.
LEAST_DEBYE_WALLER_A2 = 0.02


@dataclass(frozen=True)
class AtomPotential:
    """V(r) = Σ integral_V_A3 · (normalised 3D Gaussian of width_A), both (N_GAUSSIANS,); cut off at ``cutoff_A``.

    ``fit_error`` is the greatest relative error of the sum against the parametrisation, see :data:`FIT_FLOOR`.
    """

    integral_V_A3: np.ndarray
    width_A: np.ndarray
    cutoff_A: float
    fit_error: float

    def potential_V(self, r_A: np.ndarray) -> np.ndarray:
        """Return V(r) in V at distances ``r_A`` of any shape."""
        r = np.asarray(r_A, dtype=float)[..., None]
        norm = (2 * np.pi * self.width_A**2) ** 1.5
        return (self.integral_V_A3 / norm * np.exp(-(r**2) / (2 * self.width_A**2))).sum(-1)


@cache
def _table(parametrization: str) -> dict[int, np.ndarray]:
    if parametrization not in PARAMETRIZATIONS:
        raise ValueError(f"no parametrization {parametrization!r}: choose one of {', '.join(PARAMETRIZATIONS)}")
    path = Path(__file__).parent / "data" / PARAMETRIZATIONS[parametrization]
    lines = [line for line in path.read_text(encoding="ascii").splitlines() if not line.startswith(("#", "Z"))]
    rows = [[float(value) for value in line.split(",")] for line in lines]
    groups = 2 if parametrization == "lobato" else 4
    return {int(row[0]): np.array(row[1:]).reshape(groups, -1) for row in rows}


def parameters(Z: int, parametrization: str = "lobato") -> np.ndarray:
    """Return the published parameters of element ``Z``: Lobato (2, 5) rows a, b; Kirkland (4, 3) rows a, b, c, d.

    Raises ValueError for an element or a parametrisation that is not tabulated.
    """
    table = _table(parametrization)
    if Z not in table:
        raise ValueError(f"no {parametrization} parametrization for Z = {Z}: elements 1 to {max(table)}")
    return table[Z]


def scattering_factor_A(g_per_A: np.ndarray, Z: int, parametrization: str = "lobato") -> np.ndarray:
    """Return f(g) in Å of an atom at rest, for frequencies of any shape in 1/Å."""
    g2 = np.asarray(g_per_A, dtype=float)[..., None] ** 2
    p = parameters(Z, parametrization)
    if parametrization == "lobato":
        a, b = p
        return (a * (2 + b * g2) / (1 + b * g2) ** 2).sum(-1)
    a, b, c, d = p
    return (a / (g2 + b) + c * np.exp(-d * g2)).sum(-1)


def projected_potential(r_A: np.ndarray, Z: int, parametrization: str = "lobato") -> np.ndarray:
    """Return the projected potential of one atom at rest in V Å, at distances r > 0 of any shape in Å.

    The two-dimensional Fourier transform of f in closed form: K0 and K1 for the Lorentzians, Gaussians for the rest
    (Kirkland 2010, equation C.20; Lobato and Van Dyck 2014, table 5).
    """
    r = np.asarray(r_A, dtype=float)[..., None]
    p = parameters(Z, parametrization)
    if parametrization == "lobato":
        a, b = p
        x = 2 * np.pi * r / np.sqrt(b)
        terms = a * 2 * np.pi / b * (kn(0, x) + np.pi * r / np.sqrt(b) * kn(1, x))
    else:
        a, b, c, d = p
        terms = 2 * np.pi * a * kn(0, 2 * np.pi * r * np.sqrt(b)) + c * np.pi / d * np.exp(-((np.pi * r) ** 2) / d)
    return POTENTIAL_PER_SCATTERING_V_A2 * terms.sum(-1)


def gaussian_mixture(Z: int, parametrization: str, debye_waller_A2: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the parametrisation as many 3D Gaussians: integrals in V Å³ and widths in Å, exact to about 1e-6.

    The integral over t of each Lorentzian is evaluated on a logarithmic grid. The integrand is smooth and vanishes at
    both ends, so that the trapezoidal rule converges exponentially.
    """
    log_t = np.linspace(math.log(1e-6), math.log(60.0), 300)
    t = np.exp(log_t)
    measure = np.exp(-t) * t * (log_t[1] - log_t[0])
    p = parameters(Z, parametrization)
    if parametrization == "lobato":
        a, b = p
        exponent = np.outer(b, t).ravel()
        weight = np.outer(a, (1 + t) * measure).ravel()
    else:
        a, b, c, d = p
        exponent = np.concatenate([np.outer(1 / b, t).ravel(), d])
        weight = np.concatenate([np.outer(a / b, measure).ravel(), c])
    width_A = np.sqrt(exponent / (2 * np.pi**2) + debye_waller_A2 / (8 * np.pi**2))
    return POTENTIAL_PER_SCATTERING_V_A2 * weight, width_A


def _cutoff_A(integral_V_A3: np.ndarray, width_A: np.ndarray) -> float:
    """Return the least half-width of a cube that holds all but TRUNCATED_FRACTION of the integral."""
    radii_A = np.arange(1.0, 12.0, 0.05)
    inside = (integral_V_A3 * erf(radii_A[:, None] / (math.sqrt(2) * width_A)) ** 3).sum(1) / integral_V_A3.sum()
    return float(radii_A[np.argmax(inside >= 1 - TRUNCATED_FRACTION)])


@lru_cache(maxsize=512)
def fit_gaussians(Z: int, parametrization: str = "lobato", debye_waller_A2: float = 0.5) -> AtomPotential:
    """Fit V(r) of one element, vibration included, by :data:`N_GAUSSIANS` non-negative Gaussians.

    Widths start from the best of a few logarithmic grids and are refined by least squares. For each set of widths the
    integrals follow by non-negative least squares (variable projection). ``debye_waller_A2`` is at least
    :data:`LEAST_DEBYE_WALLER_A2`. The error is below 2e-3 for every element and B ≥ 0.3 Å²; 8e-5 for O
    and 3e-4 for Si at B = 0.5 Å² (see ``fit_error``).
    """
    blur_A2 = max(debye_waller_A2, LEAST_DEBYE_WALLER_A2)
    integral, width_A = gaussian_mixture(Z, parametrization, blur_A2)
    total = integral.sum()
    r_A = np.concatenate([[0.0], np.geomspace(0.03, 5.0, 100)])
    norm = (2 * np.pi * width_A**2) ** 1.5
    potential_V = (integral / norm * np.exp(-(r_A[:, None] ** 2) / (2 * width_A**2))).sum(1)
    scale = 1 / (np.abs(potential_V) + FIT_FLOOR * total)
    target = np.append(potential_V * scale, 10.0)

    def basis(log_width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s2 = blur_A2 / (8 * np.pi**2) + np.exp(2 * log_width)
        values = np.exp(-(r_A[:, None] ** 2) / (2 * s2)) / (2 * np.pi * s2) ** 1.5
        return np.vstack([values * scale[:, None], np.full(N_GAUSSIANS, 10.0 / total)]), np.sqrt(s2)

    def residual(log_width: np.ndarray) -> np.ndarray:
        matrix, _ = basis(log_width)
        return matrix @ nnls(matrix, target, maxiter=5000)[0] - target

    starts = [np.linspace(math.log(low), math.log(high), N_GAUSSIANS)
              for low in (0.02, 0.035, 0.05, 0.07) for high in (0.7, 1.0, 1.4, 2.0)]
    start = min(starts, key=lambda s: float(np.sum(residual(s) ** 2)))
    best = least_squares(residual, start, bounds=(math.log(0.005), math.log(4.0)), max_nfev=25)
    matrix, widths_A = basis(best.x)
    integrals = nnls(matrix, target, maxiter=5000)[0]
    error = float(np.abs(matrix @ integrals - target)[:-1].max())
    return AtomPotential(integrals, widths_A, _cutoff_A(integrals, widths_A), error)
