"""Signal that an isolated atom of each element gives to the tracing.

The tracing fits I·exp(-r²/2s²) to the voxels within a radius of a peak, with a background of 0, and takes the signal
I·s (V voxel). Here the same least squares are solved for the potential of one atom, averaged over voxels and blurred.
A reconstruction changes all signals by a common factor, and by a power where its prior shrinks weak peaks more, so the
order and the ratios of the elements are known. They are not those of the atomic numbers: titanium exceeds copper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from aetlab.core.physics import SYMBOLS
from aetlab.forward.scattering import gaussian_mixture

#: Radii at which an atom's potential is compared, and the widths in voxels between which its Gaussian is searched.
N_RADII, WIDTHS = 60, (0.2, 3.0)


def expected_signals(numbers: Sequence[int], voxel_A: float, *, fit_radius: float, blur_A: float = 0.0,
                     parametrization: str = "lobato",
                     debye_waller_A2: Mapping[str, float] | None = None) -> dict[int, float]:
    """Return the signal I·s in V voxel of an isolated atom of each element.

    Parameters
    ----------
    numbers : sequence of int
        Atomic numbers, 1 to 98.
    voxel_A : float
        Voxel size in Å.
    fit_radius : float
        Radius of the fit in voxels.
    blur_A : float
        Standard deviation in Å of a Gaussian that the volume is smoothed with.
    parametrization : str
        Of the scattering factors, see :mod:`aetlab.forward.scattering`.
    debye_waller_A2 : mapping, optional
        B in Å² by chemical symbol, and of all others by ``default``; 0.5 by default.

    Raises
    ------
    ValueError
        If an element is not tabulated.
    """
    factors = debye_waller_A2 or {"default": 0.5}
    signals = {}
    for number in numbers:
        symbol = SYMBOLS[number] if 0 < number < len(SYMBOLS) else str(number)
        factor_A2 = factors.get(symbol, factors.get("default", 0.5))
        integral, width_A = gaussian_mixture(number, parametrization, factor_A2)
        # The average over a voxel is nearly a convolution with a Gaussian of the voxel's variance.
        signals[int(number)] = _fit_signal(integral, np.sqrt(width_A**2 + blur_A**2 + voxel_A**2 / 12), voxel_A,
                                           fit_radius)
    return signals


def _fit_signal(integral_V_A3: np.ndarray, width_A: np.ndarray, voxel_A: float, fit_radius: float) -> float:
    """Fit a Gaussian to a sum of Gaussians by least squares over a ball of ``fit_radius`` voxels; return I·s."""
    r = (np.arange(N_RADII) + 0.5) / N_RADII * fit_radius
    peak_V = integral_V_A3 / (2 * np.pi * width_A**2) ** 1.5
    potential_V = (peak_V * np.exp(-0.5 * (r[:, None] * voxel_A / width_A) ** 2)).sum(axis=1)
    weight = r**2

    def intensity(width: float) -> float:
        shape = np.exp(-0.5 * (r / width) ** 2)
        return float((weight * shape * potential_V).sum() / (weight * shape**2).sum())

    def cost(width: float) -> float:
        return float((weight * (potential_V - intensity(width) * np.exp(-0.5 * (r / width) ** 2)) ** 2).sum())

    width = float(minimize_scalar(cost, bounds=WIDTHS, method="bounded", options={"xatol": 1e-6}).x)
    return intensity(width) * width
