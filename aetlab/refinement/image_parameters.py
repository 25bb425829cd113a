"""Defocus, brightness and shift of every single image, and contrast and magnifications that they share.

The sites are fixed, and the amplitudes of the images are fitted by least squares over their pixels, again from where
that led (Gauss-Newton). An image whose vacuum has the intensity b = s² and whose plane lies δ further along the beam
than recorded has the amplitude a ≈ s (|ψ| + δ ∂|ψ|/∂δ), which is linear in s and s·δ. The derivative is a central
difference of images at three planes, which share the exit wave. On request the image is shifted by d as well,
-d·∇|ψ|.

Two unknowns belong to many images, and those of single images are eliminated from their equations. The contrast c
multiplies the modulation of all images, m = mean + c (K |ψ|² - mean). The magnification μ of a plane of the defocus
moves a feature from r to μ r, -r·∇|ψ| for its change; the measured images are reduced by what is found. The sites hold
the size of the sample, so that only ratios of magnifications are found: their mean stays 1.

The next fit of the sites removes errors that both leave in each other. Pixels count by their weights; missing images
keep the brightness 1, the defocus 0 and no shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from aetlab.core.grid import coordinates_A
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import NOISE_FREE_ELECTRONS
from aetlab.spec import RefineSpec

#: Half the distance in Å of the planes of the central difference with respect to the defocus.
STEP_A = 2.0
#: Largest changes in one step: of the defocus and of the shift in Å, of the contrast and of a magnification.
LONGEST_STEP_A, LONGEST_SHIFT_A, CONTRAST_STEP, MAGNIFICATION_STEP = 20.0, 0.5, 0.2, 0.01
#: Fraction of the power of an image below which a change of an unknown has no effect on it.
LEAST_SLOPE = 1e-14
#: Bounds of the contrast, and the changes of contrast and magnification below which they are found.
CONTRAST_BOUNDS, CONTRAST_FOUND, MAGNIFICATION_FOUND = (0.2, 1.5), 2e-3, 2e-5


@dataclass(frozen=True)
class Calibration:
    """Poses and model after a step, and what it changed.

    ``change`` is the root mean square of the changes of defocus and shift in standard errors. ``contrast_change`` and
    ``magnification_change`` are the largest changes, and ``contrast_error`` and ``magnification_error`` the standard
    errors of contrast and of the ratio of a magnification to their mean; 0 if they are not fitted.
    """

    poses: Poses
    model: AtomModel
    change: float
    contrast_change: float = 0.0
    contrast_error: float = 0.0
    magnification_change: float = 0.0
    magnification_error: float = 0.0

    def found(self, tolerance: float) -> bool:
        """Return whether the changes are small: those of defocus and shift below ``tolerance`` standard errors."""
        return (self.change < tolerance and abs(self.contrast_change) < CONTRAST_FOUND
                and self.magnification_change < MAGNIFICATION_FOUND)

    def describe(self, spec: RefineSpec) -> str:
        """Return a line for the log of a refinement with ``spec``."""
        shift = ", shift" if spec.image_shifts else ""
        detail = f"defocus{shift} and brightness of images, by {self.change:.3g} standard errors"
        if spec.contrast:
            detail += f", contrast {self.model.contrast:.3f}"
        if spec.magnification:
            detail += f", magnifications {', '.join(f'{each:.5f}' for each in self.poses.magnification)}"
        return detail


def calibrate_images(model: AtomModel, sites: Sites, poses: Poses, spec: RefineSpec) -> Calibration:
    """Take one step of brightness and defocus of each image towards the measured ones; one forward pass.

    ``spec`` may ask for a step of the shift of each image, of the contrast that all images share, and of the
    magnification of each plane as well. Noise-free data are assumed to have
    :data:`aetlab.refinement.naming.NOISE_FREE_ELECTRONS` a pixel.
    """
    planes = model.n_defoci if spec.magnification and model.n_defoci > 1 else 0
    sums = _products(model, sites, poses, shifts=spec.image_shifts, magnification=planes > 0)
    n_own = 4 if spec.image_shifts else 2
    power = sums[..., 0, 0]
    used = model.data.present & (power > 0)
    # Eliminate the scale of each image from all other equations.
    scaled = sums[..., 0, 1:] / np.where(used, power, 1)[..., None]
    rest = np.where(used[..., None, None], sums[..., 1:, 1:] - scaled[..., None] * sums[..., None, 0, 1:], 0)
    own, target = slice(0, n_own - 1), -1
    seen = np.diagonal(rest, axis1=2, axis2=3)[..., own] > LEAST_SLOPE * power[..., None]
    inverse = _inverse_of_seen(rest[..., own, own], seen)
    electrons = min(model.data.mean_electrons(poses), NOISE_FREE_ELECTRONS)
    shared, shared_error = _shared_step(rest, inverse, n_own - 1, planes, spec.contrast, electrons)
    low, high = (bound - model.contrast for bound in CONTRAST_BOUNDS)
    shared[0] = np.clip(shared[0], max(low, -CONTRAST_STEP), min(high, CONTRAST_STEP))
    shared[1:] = np.clip(shared[1:], -MAGNIFICATION_STEP, MAGNIFICATION_STEP)
    by_image = np.full((*used.shape, 1), shared[0])
    if planes:
        by_image = np.concatenate([by_image, np.broadcast_to(shared[1:, None], (*used.shape, 1))], axis=-1)
    slope = rest[..., own, target] - np.einsum("tfij,tfj->tfi", rest[..., own, n_own - 1:target], by_image)
    step = np.einsum("tfij,tfj->tfi", inverse, slope)
    scale = (np.where(used, sums[..., 0, -1] / np.where(used, power, 1), 1) - (scaled[..., own] * step).sum(-1)
             - (scaled[..., n_own - 1:target] * by_image).sum(-1))
    scale = np.where(used, scale, 1)
    limits = np.array([LONGEST_STEP_A, LONGEST_SHIFT_A, LONGEST_SHIFT_A])[:n_own - 1]
    step = np.clip(step / scale[..., None], -limits, limits)
    moved = replace(poses, brightness=poses.brightness * scale**2, defocus_A=poses.defocus_A + step[..., 0])
    if spec.image_shifts:
        moved = replace(moved, image_shift_A=poses.image_shift_A + step[..., 1:])
    if planes:
        magnification = poses.magnification * (1 + shared[1:])
        moved = replace(moved, magnification=magnification / magnification.mean())
        model = model.at_magnification(moved.magnification)
    if spec.contrast:
        model = model.with_contrast(model.contrast + float(shared[0]))
    square = np.einsum("tfi,tfij,tfj->tf", step, rest[..., own, own], step) / (n_own - 1)
    change = math.sqrt(4 * min(model.data.mean_electrons(moved), NOISE_FREE_ELECTRONS)
                       * float(square[model.data.present].mean()))
    return Calibration(moved, model, change, float(shared[0]), float(shared_error[0]),
                       float(np.abs(shared[1:] - shared[1:].mean()).max()) if planes else 0.0,
                       float(shared_error[1:].max()) if planes else 0.0)


def _inverse_of_seen(matrices: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return inverses of ``matrices`` (T, F, P, P) for the unknowns (T, F, P) that are ``seen``, 0 for the others."""
    both = seen[..., :, None] & seen[..., None, :]
    scale = np.where(seen, 1 / np.sqrt(np.where(seen, np.diagonal(matrices, axis1=2, axis2=3), 1)), 0)
    return np.asarray(np.linalg.pinv(np.where(both, matrices, 0) * scale[..., :, None] * scale[..., None, :],
                                     rcond=1e-9, hermitian=True) * scale[..., :, None] * scale[..., None, :])


def _shared_step(rest: np.ndarray, inverse: np.ndarray, n_own: int, n_planes: int, contrast: bool,
                 electrons: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps (1 + n_planes,) of contrast and magnifications and their standard errors, 0 if not fitted.

    ``rest`` (T, F, P, P) are the equations of each image without its scale: of its own unknowns, contrast,
    magnification and the measured amplitudes. A common change of all magnifications is left out.
    """
    step, error = np.zeros(1 + n_planes), np.zeros(1 + n_planes)
    if not contrast and not n_planes:
        return step, error
    with_own = rest[..., n_own:, :n_own]
    left = rest[..., n_own:, n_own:] - np.einsum("tfij,tfjk,tflk->tfil", with_own, inverse, with_own)
    by_plane = left.sum(axis=0)
    normal, slope = np.zeros((1 + n_planes, 1 + n_planes)), np.zeros(1 + n_planes)
    normal[0, 0], slope[0] = by_plane[:, 0, 0].sum(), by_plane[:, 0, -1].sum()
    for j in range(n_planes):
        normal[0, 1 + j] = normal[1 + j, 0] = by_plane[j, 0, 1]
        normal[1 + j, 1 + j], slope[1 + j] = by_plane[j, 1, 1], by_plane[j, 1, -1]
    # Fitted directions: the contrast, and magnifications whose mean stays.
    directions = np.zeros((1 + n_planes, 1 + n_planes))
    directions[0, 0] = float(contrast)
    if n_planes:
        directions[1:, 1:] = np.eye(n_planes) - 1 / n_planes
    scale = 1 / np.sqrt(np.maximum(np.diagonal(normal), 1e-300))
    scale[1:] = scale[1:].mean() if n_planes else 1
    fitted = directions @ (normal * scale[:, None] * scale) @ directions
    covariance = np.linalg.pinv(fitted, rcond=1e-9, hermitian=True) * scale[:, None] * scale
    return covariance @ slope, np.sqrt(np.maximum(np.diagonal(covariance), 0) / (4 * electrons))


def _products(model: AtomModel, sites: Sites, poses: Poses, *, shifts: bool, magnification: bool) -> np.ndarray:
    """Return sums (T, F, P, P) over the pixels of each image of products of its planes; one forward pass.

    They are the amplitude of the model, its derivatives with respect to the defocus, on request to the shift along x
    and y, to the contrast, on request to the magnification, and last the measured amplitude.
    """
    x_A, y_A = (coordinates_A(n, model.voxel_A) for n in model.shape_zxy[1:])
    n_planes = 4 + 2 * shifts + magnification
    products = np.zeros((*poses.brightness.shape, n_planes, n_planes))
    for i_tilt, images in enumerate(model.focal_images(sites, poses, (-STEP_A, 0.0, STEP_A))):
        below, here, above = np.sqrt(images.astype(np.float64))
        planes = [here, (above - below) / (2 * STEP_A)]
        if shifts or magnification:
            by_x, by_y = _gradient(here, model.voxel_A)
        if shifts:
            planes += [-by_x, -by_y]
        mean = (here**2).mean(axis=(1, 2), keepdims=True)
        planes.append((here**2 - mean) / (2 * model.contrast * here))
        if magnification:
            planes.append(-(x_A[:, None] * by_x + y_A * by_y))
        planes.append(model.data.amplitude(poses, i_tilt).astype(np.float64))
        weights = model.data.weights_of(i_tilt)
        stack = np.stack(planes, axis=1)
        if weights is not None:
            stack *= np.sqrt(weights)[:, None]
        flat = stack.reshape(*stack.shape[:2], -1)
        products[i_tilt] = flat @ flat.transpose(0, 2, 1)
    return products


def _gradient(images: np.ndarray, pixel_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives of images (F, X, Y) along x and y in 1/Å, by their Fourier series."""
    spectrum = scipy.fft.rfft2(images)
    n_x, n_y = images.shape[-2:]
    q_x, q_y = np.fft.fftfreq(n_x, pixel_A), np.fft.rfftfreq(n_y, pixel_A)
    return tuple(scipy.fft.irfft2(2j * np.pi * q * spectrum, s=(n_x, n_y)) for q in (q_x[:, None], q_y))


def take_common(poses: Poses, present: np.ndarray) -> Poses:
    """Return poses of the same images, with the mean defocus and shift of each tilt turned into its height and shift.

    The mean is that of the images that are ``present`` (T, F); the others keep the defocus 0 and no shift.
    """
    n_images = np.maximum(present.sum(axis=1, keepdims=True), 1)
    own = np.concatenate([poses.image_shift_A, -poses.defocus_A[..., None]], axis=2)
    mean_A = np.where(present[..., None], own, 0).sum(axis=1) / n_images
    rest = np.where(present[..., None], own - mean_A[:, None], 0)
    return replace(poses, image_shift_A=rest[..., :2], defocus_A=-rest[..., 2], shift_A=poses.shift_A + mean_A)


def at_usual_occupancy(sites: Sites, information: np.ndarray) -> Sites:
    """Return the sites with their occupancies divided by the usual one.

    Occupancies and the contrast of all images scale the same modulation. An atom's occupancy is 1: the median of the
    sites, weighted by their ``information`` (N, 4, 4), is the contrast's, which the next calibration finds.
    """
    order = np.argsort(sites.occupancy)
    weight = np.cumsum(np.sqrt(np.maximum(information[order, 3, 3], 0)))
    if not weight[-1] > 0:
        return sites
    usual = float(sites.occupancy[order[np.searchsorted(weight, 0.5 * weight[-1])]])
    return replace(sites, occupancy=sites.occupancy / usual) if usual > 0 else sites
