"""Cramér–Rao bound of every atom of a known structure for a planned experiment, without a reconstruction.

The information is proportional to the dose: it is computed for one electron a pixel and scaled. The bound holds for
unbiased estimates of positions and occupancies; with ``joint`` all atoms are unknown at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.special import erfc, ndtr

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.refinement.fisher import invert_blocks, own_information, sample_information, variance_factors
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import separation
from aetlab.refinement.surroundings import free_volume_A3
from aetlab.spec import MicroscopeSpec

#: Distances of a place from its nearest atom at which an atom is searched, in median distances of nearest neighbours.
NEAREST, FARTHEST = 0.7, 2.0


@dataclass(frozen=True)
class Bound:
    """Bounds of N atoms for one electron in a vacuum pixel of every image.

    ``sigma_A`` (N, 3) and ``sigma_occupancy`` (N,) are the least standard deviations, ``separation`` (N,) the distance
    in standard deviations of an atom from the element that it is most easily confused with (NaN for one element only).
    n electrons in a vacuum pixel make errors √n times smaller and separations √n times larger. ``free_A3`` is the
    volume for each atom in which noise could look like one (:func:`searched_volume_A3`), ``highest_per_A`` the highest
    frequency of the images.
    """

    numbers: np.ndarray
    sigma_A: np.ndarray
    sigma_occupancy: np.ndarray
    separation: np.ndarray
    free_A3: float = 1.0
    highest_per_A: float = 1.0

    def position_pm(self, electrons_per_pixel: float, number: int | None = None) -> float:
        """Return the mean 3D position error in pm of all atoms, or of those of one element."""
        own = np.ones(len(self.numbers), bool) if number is None else self.numbers == number
        length_A = np.sqrt((self.sigma_A[own] ** 2).sum(axis=1) * 8 / (3 * math.pi))
        return 100 * float(length_A.mean()) / math.sqrt(electrons_per_pixel)

    def confused_percent(self, electrons_per_pixel: float) -> float:
        """Return the percentage of atoms with a mistaken element: Φ(-d/2), equal priors; NaN for one element only."""
        known = np.isfinite(self.separation)
        if not known.any():
            return math.nan
        distance = self.separation[known] * math.sqrt(electrons_per_pixel)
        return 100 * float((0.5 * erfc(distance / (2 * math.sqrt(2)))).mean())

    def found_percent(self, electrons_per_pixel: float, false_percent: float = 1.0) -> float:
        """Return the percentage of atoms that an ideal observer finds with ``false_percent`` of false atoms.

        The observer knows all other atoms and tests the presence of one at every place by the likelihood ratio (Neyman
        and Pearson, Phil. Trans. A 231, 289, 1933). In standard deviations the amount at the place of an atom has the
        mean d = 1/σ of the occupancy, and the maximum that is found near it is higher by 3/(2d), since three
        coordinates follow the noise: it exceeds the threshold c with the probability Φ(d + 3/(2d) - c). False atoms are
        the maxima of the noise above c, of which :func:`maxima_per_A3` gives the number. The surroundings of a place
        are not used: who uses them can find more.
        """
        wanted = false_percent / 100 / self.free_A3
        least, most = math.sqrt(3.0), 30.0  # the number falls from √3 on
        threshold = least
        if maxima_per_A3(least, self.highest_per_A) > wanted:
            threshold = float(brentq(lambda c: math.log(maxima_per_A3(c, self.highest_per_A) / wanted), least, most))
        detectability = math.sqrt(electrons_per_pixel) / self.sigma_occupancy
        return 100 * float(ndtr(detectability + 1.5 / detectability - threshold).mean())


def maxima_per_A3(threshold: float, highest_per_A: float) -> float:
    """Return the number of maxima above ``threshold`` in 1 Å³ of a Gaussian field with variance 1.

    Its spectrum is white up to q = ``highest_per_A``: a derivative has the variance λ = (2πq)²/5, and high maxima have
    the density λ^(3/2) (c² - 1) exp(-c²/2)/(2π)² (Adler, The Geometry of Random Fields, 1981).
    """
    roughness = (2 * math.pi * highest_per_A) ** 2 / 5
    return roughness**1.5 * (threshold**2 - 1) * math.exp(-(threshold**2) / 2) / (2 * math.pi) ** 2


def searched_volume_A3(positions_A: np.ndarray) -> float:
    """Return the volume for each atom where another could be, in Å³; 1 for a single atom.

    It is that of the places whose nearest atom is between :data:`NEAREST` and :data:`FARTHEST` median distances of
    nearest neighbours away.
    """
    if len(positions_A) < 2:
        return 1.0
    distance_A = float(np.median(cKDTree(positions_A).query(positions_A, k=2)[0][:, 1]))
    return free_volume_A3(positions_A, NEAREST * distance_A, FARTHEST * distance_A)


def compute_bound(atoms: Atoms, shape_zxy: tuple[int, int, int], voxel_A: float, tilt_deg: np.ndarray,
                  defocus_A: np.ndarray, *, microscope: MicroscopeSpec, n_layers_per_slice: int, parametrization: str,
                  debye_waller_A2: dict[str, float], n_passes: int, seed: int, joint: bool = True) -> Bound:
    """Return the bound of ``atoms`` in a tilt series; parameters as in :func:`aetlab.forward.simulate_tilt_series`.

    The information is sampled in ``n_passes`` passes: the bound of an atom has a relative error of about
    1/√(2·n_passes·tilts), means over atoms a much smaller one. ``joint`` takes about a dozen passes more.
    """
    elements = tuple(int(Z) for Z in np.unique(atoms.numbers))
    sites = Sites(atoms.positions_A, np.ones(len(atoms)), np.searchsorted(elements, atoms.numbers))
    poses = Poses.nominal(tilt_deg, np.shape(defocus_A)[-1])
    vacuum = np.ones((len(tilt_deg), np.shape(defocus_A)[-1], *shape_zxy[1:]), np.float32)

    model = AtomModel(TiltSeries(vacuum, tilt_deg, defocus_A, voxel_A), shape_zxy, elements, microscope=microscope,
                      n_layers_per_slice=n_layers_per_slice, parametrization=parametrization,
                      debye_waller_A2=debye_waller_A2)
    model = model.with_images(model.images(sites, poses))
    full = sample_information(model, sites, poses, n_passes, seed, tried=tuple(range(len(elements))))
    own = own_information(full, sites.kinds, np.ones(len(sites)))
    factors = variance_factors(model, sites, poses, own, seed + 1) if joint else np.ones((len(elements), 4))
    variance = np.diagonal(invert_blocks(own), axis1=1, axis2=2) / 4 * factors[sites.kinds]
    nearest = np.full(len(sites), np.nan)
    for k in range(len(elements)):
        mine = sites.kinds == k
        others = [separation(full[mine], k, other, float(factors[k, 3])) for other in range(len(elements))
                  if other != k]
        if others:
            nearest[mine] = np.min(others, axis=0)
    highest_per_A = min(microscope.aperture_per_A, 0.5 / voxel_A)
    return Bound(atoms.numbers, np.sqrt(variance[:, :3]), np.sqrt(variance[:, 3]), nearest,
                 searched_volume_A3(atoms.positions_A), highest_per_A)
