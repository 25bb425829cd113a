"""Where a refinement begins: shifts and heights of the tilts, sites, and what another part of the sample gave.

The deep minimum of the cost reaches about 2 Å across the beam and 20 Å along it; fits that start farther off end
elsewhere. For each height on a grid the images of all defoci are correlated with the measured ones at all shifts at
once, and the best combination is taken.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from aetlab.core import parabola
from aetlab.core.nouns import TracedAtoms
from aetlab.core.poses import Poses
from aetlab.refinement.kept import well_traced
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS
from aetlab.refinement.search import drop_duplicates, lightest_kind, typical_information
from aetlab.spec import MicroscopeSpec, RefineSpec

#: Share of the traced sites of the first round where noise can imitate an atom: the false ones are among the weakest.
SHARE = 0.8
#: Standard deviations that the noise reaches at none of the 10⁶ to 10⁸ places of an atom in a volume.
CLEAR = 6.0


def align_tilts(model: AtomModel, sites: Sites, poses: Poses, *, heights_A: np.ndarray, reach_A: float) -> Poses:
    """Return poses with the shift of each tilt for which the images of ``sites`` fit best.

    ``heights_A`` are added to the height of each pose. Shifts across the beam reach ``reach_A`` along x and y, in whole
    pixels refined by a parabola.
    """
    costs = np.full((len(heights_A), model.n_tilts), np.inf)
    best = np.zeros((len(heights_A), model.n_tilts, 2))
    measured = model.data.recorded - 1
    power = (measured.astype(np.float64) ** 2).sum(axis=(1, 2, 3))
    # Bad pixels reduce the power of an image by their share, whatever its shift.
    share = np.ones(measured.shape[:2])
    for i_tilt in range(model.n_tilts):
        weights = model.data.weights_of(i_tilt)
        if weights is not None:
            power[i_tilt] = (weights * measured[i_tilt].astype(np.float64) ** 2).sum()
            share[i_tilt] = weights.mean(axis=(1, 2))
            measured[i_tilt] *= weights
    spectrum = scipy.fft.rfft2(measured)
    reach = int(np.floor(reach_A / model.voxel_A))
    for k, height_A in enumerate(heights_A):
        lifted = dataclasses.replace(poses, shift_A=poses.shift_A + np.array([0.0, 0.0, height_A]))
        seen = np.sqrt(model.images(sites, lifted)) - 1
        product = (spectrum * scipy.fft.rfft2(seen).conj()).sum(axis=1)
        correlation = scipy.fft.fftshift(scipy.fft.irfft2(product, s=seen.shape[2:]), axes=(1, 2))
        centre = np.array(correlation.shape[1:]) // 2
        near = correlation[:, centre[0] - reach:centre[0] + reach + 1, centre[1] - reach:centre[1] + reach + 1]
        for i_tilt in range(model.n_tilts):
            top = np.unravel_index(int(near[i_tilt].argmax()), near.shape[1:])
            value, place = _vertex(near[i_tilt], top)
            best[k, i_tilt] = (place - reach) * model.voxel_A
            costs[k, i_tilt] = 0.5 * (power[i_tilt] + _power(seen[i_tilt], share[i_tilt])) - value
    chosen = costs.argmin(axis=0)
    tilts = np.arange(model.n_tilts)
    by = np.zeros((model.n_tilts, 6))
    by[:, 3:5] = best[chosen, tilts]
    by[:, 5] = np.asarray(heights_A)[chosen]
    return poses.moved(by)


def _power(images: np.ndarray, share: np.ndarray) -> float:
    """Return the sum of the squares of images (F, X, Y), each times its ``share`` (F,)."""
    if (share == 1).all():
        return float((images**2).sum())
    return float(share @ (images**2).sum(axis=(1, 2)))


def _vertex(values: np.ndarray, top: tuple[np.intp, ...]) -> tuple[float, np.ndarray]:
    """Height and place of the maximum near ``top`` by a parabola along each axis; at the edge the pixel itself."""
    height, place = float(values[top]), np.array(top, float)
    for axis in range(2):
        if 0 < top[axis] < values.shape[axis] - 1:
            step = np.eye(2, dtype=int)[axis]
            found = parabola.vertex(*(float(values[tuple(np.array(top) + k * step)]) for k in (-1, 0, 1)))
            place[axis] += found.place
            height += float(found.rise)
    return height, place


def as_sites(traced: TracedAtoms, elements: tuple[int, ...]) -> Sites:
    """Return traced atoms with occupancy 1; what is no atom becomes the first of ``elements``, which ascend."""
    kinds = np.searchsorted(elements, traced.numbers)
    kinds = np.where(np.isin(traced.numbers, elements), kinds, 0)
    return Sites(traced.positions_A.copy(), np.ones(len(traced)), kinds)


def first_sites(traced: TracedAtoms, model: AtomModel, spec: RefineSpec) -> tuple[Sites, np.ndarray]:
    """Return the traced sites, less duplicates, and which of them the first round has by ``refine.first_share``.

    By the rule these are the strongest :data:`SHARE` of them; :func:`noise_imitates_atoms` tells if all of them serve.
    The weakest ones may also be all atoms of an element, named as another one; clear sites are those that are well
    traced. A refinement of a single round has all of them.
    """
    sites = as_sites(traced, model.elements)
    if spec.first_share == "clear":
        strong = well_traced(traced)
    else:
        share = SHARE if isinstance(spec.first_share, str) else spec.first_share
        strong = np.zeros(len(traced), bool)
        strong[np.argsort(traced.signal, kind="stable")[math.floor((1 - share) * len(traced)):]] = True
    keep = drop_duplicates(sites, spec.min_distance_A)
    return sites.select(keep), strong[keep] | (spec.n_rounds == 1)


def noise_imitates_atoms(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray,
                         min_occupancy: float) -> bool:
    """Return whether the noise reaches ``min_occupancy`` of an atom of the lightest element somewhere in the volume.

    It does where this occupancy is less than :data:`CLEAR` of its standard deviations. ``information`` (N, 4, 4) is
    JᵀJ of each site.
    """
    electrons = min(model.data.mean_electrons(poses), NOISE_FREE_ELECTRONS)
    typical = typical_information(model, sites, information, lightest_kind(model))
    return min_occupancy * math.sqrt(4 * electrons * typical) < CLEAR


def finds_unknowns(spec: RefineSpec) -> bool:
    """Return whether a refinement finds more than the atoms: poses, thermal factors, images, contrast or lens."""
    return spec.kind != "none" and (spec.poses or spec.thermal or spec.imaging or spec.contrast
                                    or spec.aberrations == "fitted")


@dataclass(frozen=True)
class Known:
    """Poses with what each image has of its own, thermal factors B (K,) in Å² by element, contrast and lens.

    ``microscope`` is None where the stated one is not changed.
    """

    poses: Poses
    thermal_A2: np.ndarray
    contrast: float = 1.0
    microscope: MicroscopeSpec | None = None

    def held_in(self, model: AtomModel, spec: RefineSpec) -> tuple[AtomModel, RefineSpec]:
        """Return ``model`` with the known factors, and the settings of a refinement that leaves them as they are."""
        if spec.thermal:
            model = model.with_thermal(self.thermal_A2)
        if spec.contrast:
            model = model.with_contrast(self.contrast)
        if self.microscope is not None:
            model = model.with_microscope(self.microscope)
        model = model.at_magnification(self.poses.magnification)
        return model, replace(spec, poses=False, thermal=False, imaging=False, contrast=False, image_shifts=False,
                              magnification=False, aberrations="stated")
