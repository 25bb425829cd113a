"""The gradient of U with respect to the amount of an atom at any place, and its response to atoms that come and go.

One pass gives the gradient everywhere: it is the back-projected residual, smoothed with the width of an atom. U is
quadratic in what atoms add to the images, so that the residual responds linearly: each atom that comes or goes changes
it by the response to one atom, shifted to its place. That response is nearly the same at all places; it is measured in
the centre of the volume, and a convolution gives the changes by many atoms.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from aetlab.core.backend import n_threads
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.search import ResidualVolume, join

#: How far from its place a site is looked for, and distance of the places that are tried, in Å.
REACH_A, STEP_A = 1.8, 0.3
#: Offsets of places along an axis, those in a cube, which of them are within reach, these, and the one that is 0.
ALONG_A = np.arange(-math.floor(REACH_A / STEP_A), math.floor(REACH_A / STEP_A) + 1) * STEP_A
OFFSETS_A = np.stack(np.meshgrid(*3 * [ALONG_A], indexing="ij"), axis=-1).reshape(-1, 3)
WITHIN_REACH = np.linalg.norm(OFFSETS_A, axis=1) <= REACH_A
PLACES_A = OFFSETS_A[WITHIN_REACH]
CENTRE = int(np.argmin(np.linalg.norm(PLACES_A, axis=1)))
#: Standard deviation in Å of the Gaussian that the residual is smoothed with. Of 0.25 to 0.5 Å this one correlates best
#: with the gradients of amounts of oxygen: 0.987.
SMOOTH_A = 0.3
#: Where it ends, in standard deviations.
CUT = 4.0
#: Most voxels about sites that are smoothed at once.
MOST_VOXELS = 6_000_000


class AmountGradient:
    """The gradient of U with respect to an amount of an atom: minus ``scale`` times the smoothed ``volume``.

    Parameters
    ----------
    volume : (Z, X, Y)
        Back-projected residual of a pass, or a change of it.
    voxel_A : float
        Edge of a voxel in Å.
    scale : float
        What turns the smoothed residual into the gradient at an atom of the lightest element.
    """

    def __init__(self, volume: np.ndarray, voxel_A: float, scale: float) -> None:
        self.volume, self._voxel_A, self._scale = volume, voxel_A, scale

    def about(self, positions_A: np.ndarray) -> np.ndarray:
        """Return it (P, O) at the offsets :data:`PLACES_A` from positions x, y, z (P, 3)."""
        return self._in_parts(positions_A, ALONG_A)[:, 0].reshape(len(positions_A), -1)[:, WITHIN_REACH]

    def at(self, positions_A: np.ndarray) -> np.ndarray:
        """Return it and its derivatives by x, y, z in 1/Å, together (P, 4), at positions x, y, z (P, 3)."""
        return self._in_parts(positions_A, np.zeros(1), derivatives=True).reshape(len(positions_A), 4)

    def follow(self, positions_A: np.ndarray, amounts: np.ndarray, response: np.ndarray) -> None:
        """Change the volume by atoms that come with the amounts (P,), or go, if these are negative.

        ``response`` is that of :func:`measure_response`.
        """
        shape = self.volume.shape
        index = (positions_A / self._voxel_A)[:, [2, 0, 1]] + (np.array(shape) - 1) / 2
        lower = np.floor(index).astype(np.int64)
        came = np.zeros(shape, np.float32)
        for offset in np.ndindex(4, 4, 4):
            at = lower + offset - 1
            share = amounts * np.prod(_cubic_spline(np.abs(index - at)), axis=1)
            inside = ((at >= 0) & (at < shape)).all(axis=1)
            np.add.at(came, tuple(at[inside].T), share[inside].astype(np.float32))
        spectrum = scipy.fft.rfftn(came, workers=n_threads(), overwrite_x=True)
        spectrum *= response
        self.volume += scipy.fft.irfftn(spectrum, shape, workers=n_threads(), overwrite_x=True)

    def since(self, volume: np.ndarray) -> AmountGradient:
        """Return how the gradient has changed since its volume was ``volume``."""
        return AmountGradient(self.volume - volume, self._voxel_A, self._scale)

    def _in_parts(self, positions_A: np.ndarray, along_A: np.ndarray, *, derivatives: bool = False) -> np.ndarray:
        """Return it (P, 1, O, O, O), or with its derivatives (P, 4, O, O, O), at offsets ``along_A`` of each axis."""
        reach = (float(np.abs(along_A).max()) + CUT * SMOOTH_A) / self._voxel_A
        n_along = math.floor(2 * reach) + 1
        n_at_once = max(MOST_VOXELS // n_along**3, 1)
        return np.concatenate([
            self._near(positions_A[first:first + n_at_once], along_A, reach, np.arange(n_along), derivatives)
            for first in range(0, max(len(positions_A), 1), n_at_once)])

    def _near(self, positions_A: np.ndarray, along_A: np.ndarray, reach: float, cells: np.ndarray,
              derivatives: bool) -> np.ndarray:
        """Return it at few positions, from cubes of voxels, ``cells`` along each axis, that begin ``reach`` before."""
        width, shape = SMOOTH_A / self._voxel_A, np.array(self.volume.shape)[[1, 2, 0]]
        centre = positions_A / self._voxel_A + (shape - 1) / 2
        index = np.ceil(centre - reach).astype(np.int64)[:, :, None] + cells
        apart = (centre[:, :, None] + along_A / self._voxel_A)[..., None] - index[:, :, None]
        weight = np.exp(-0.5 * (apart / width) ** 2) / (math.sqrt(2 * math.pi) * width)
        inside = np.clip(index, 0, shape[:, None] - 1)
        weight *= (index == inside)[:, :, None]  # nothing outside the volume
        x, y, z = inside[:, 0], inside[:, 1], inside[:, 2]
        cubes = self.volume[z[:, None, None, :], x[:, :, None, None], y[:, None, :, None]].astype(np.float64)
        parts = []
        for by in (None, 0, 1, 2)[:4 if derivatives else 1]:
            values = cubes
            for axis in (2, 1, 0):  # the last axis becomes the first one, of offsets
                own = weight[:, axis] * (-apart[:, axis] / (width * SMOOTH_A) if axis == by else 1.0)
                values = np.einsum("pabv,pov->poab", values, own, optimize=True)
            parts.append(values)
        return -self._scale * np.stack(parts, axis=1)


def _cubic_spline(distance: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline at distances in voxels."""
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, far - 4 / 6 * np.maximum(1 - distance, 0) ** 3, far)


def half_box_A(model: AtomModel) -> np.ndarray:
    """Return half the edges x, y, z (3,) of the volume in Å."""
    return 0.5 * model.voxel_A * np.array(model.shape_zxy)[[1, 2, 0]]


def residual_of(model: AtomModel, poses: Poses) -> ResidualVolume:
    """Return an empty residual volume of a pass of the model."""
    return ResidualVolume(model.shape_zxy, model.n_layers_per_slice, poses, model.voxel_A)


def measure_response(model: AtomModel, sites: Sites, poses: Poses, kind: int) -> np.ndarray:
    """Return the Fourier transform of the response of the residual to an atom of ``kind`` at the origin; two passes.

    In its unit the smoothed residual changes by -1 at the atom, on average over its places between the voxels. It is
    real, has the shape of :func:`scipy.fft.rfftn`, and is divided by the transform of the cubic spline that
    spreads atoms over the voxels.
    """
    shape = model.shape_zxy
    voxel = np.array(shape) // 2
    place_A = (voxel - (np.array(shape) - 1) / 2)[[1, 2, 0]] * model.voxel_A
    volumes = []
    for here in (sites, join(sites, Sites(place_A[None], np.ones(1), np.array([kind])))):
        residual = residual_of(model, poses)
        for _ in model.gradients(here, poses, on_slices=residual.add):
            pass
        volumes.append(residual.volume)
    change = volumes[1]
    change -= volumes[0]
    change /= -gaussian_filter(change, SMOOTH_A / model.voxel_A, mode="wrap", truncate=CUT)[tuple(voxel)]
    spectrum = scipy.fft.rfftn(np.roll(change, tuple(-voxel), axis=(0, 1, 2)), workers=n_threads())
    response = np.ascontiguousarray(spectrum.real)
    along = [np.sinc(scipy.fft.fftfreq(n)) ** -4 for n in shape]
    for axis, factor in enumerate((along[0], along[1], along[2][:response.shape[2]])):
        response *= factor.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    return response
