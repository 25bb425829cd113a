"""First shifts and heights of the tilts, by cross-correlation of modelled and measured images.

The deep minimum of the cost reaches about 2 Å across the beam and 20 Å along it; fits that start farther off end
elsewhere. For each height on a grid the images of all defoci are correlated with the measured ones at all shifts at
once, and the best combination is taken.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.fft

from aetlab.core import parabola
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites


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
