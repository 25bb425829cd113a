"""Gradient of one tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TiltGradient:
    """Cost of one tilt and its gradient with respect to the sites, in the frame of the microscope.

    ``gradient`` (K, N, 4) holds d/dx', d/dy', d/dz' in 1/Å and d/d occupancy for each of the K requested tables;
    ``placed_A`` (N, 3) the positions at the tilt; ``by_thermal`` (N,) the derivative in 1/Å² with respect to the
    thermal factor of each site, if requested.
    """

    i_tilt: int
    cost: float
    gradient: np.ndarray
    placed_A: np.ndarray
    by_thermal: np.ndarray | None = None
