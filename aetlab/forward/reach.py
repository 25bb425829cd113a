"""The distance along an image that a wave travels from the atom that scatters it."""

from __future__ import annotations

import numpy as np

from aetlab.core import physics
from aetlab.forward.imaging import aberrations
from aetlab.spec import MicroscopeSpec

#: Number of frequencies at which the displacement is computed.
_N_FREQUENCIES = 512


def lateral_reach_A(microscope: MicroscopeSpec, defocus_A: float, depth_A: float, pixel_A: float) -> float:
    """Return the greatest distance in Å, in an image at ``defocus_A``, of a scattered wave from its atom.

    A wave scattered to the frequency q travels at the angle θ = λq. From an atom at the height z to the imaged plane it
    moves sideways by θ (Δf - z), and aberrations move it by the gradient of W(θ). Round ones are added with their sign;
    of the others, which depend on the azimuth, the largest value of each is added. The reach is the maximum over all
    frequencies up to the aperture or the Nyquist frequency, and over heights within ±``depth_A``/2.
    """
    cutoff_per_A = min(microscope.aperture_per_A + microscope.aperture_edge_per_A / 2, 0.5 / pixel_A)
    theta = physics.wavelength_A(microscope.energy_keV) * np.linspace(0, cutoff_per_A, _N_FREQUENCIES)
    theta = theta[theta < 1]
    slope = theta / np.sqrt(1 - theta**2)
    round_A, other_A = np.zeros_like(theta), np.zeros_like(theta)
    for term in aberrations(microscope):
        moved_A = term.factor * term.coefficient_A * term.power * theta ** (term.power - 1)
        if term.symmetry == 0:
            round_A += moved_A
        else:
            other_A += np.abs(moved_A)
    planes_A = (defocus_A - depth_A / 2, defocus_A + depth_A / 2)
    return float(max((np.abs(plane_A * slope + round_A) + other_A).max() for plane_A in planes_A))
