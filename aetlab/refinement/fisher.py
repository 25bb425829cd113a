r"""What the images can tell of each atom: its Fisher information, and standard errors made of it.

Counts are Poisson with mean n |ψ|², so that the information about parameters θ is Σ (∂n|ψ|²)²/(n|ψ|²) =
4n Σ ∂|ψ|/∂θ ∂|ψ|/∂θ' over all pixels: in the amplitudes the noise is white with variance 1/(4n), whatever the image.
With J = ∂|ψ|/∂θ this is 4n JᵀJ. Where images or
pixels have weights w, J is √w ∂|ψ|/∂θ: images of n_j electrons have w = n_j/n, n their mean, and 4n JᵀJ is their
information; a missing image has none. Its blocks are estimated without forming J: for white noise w of variance 1,
E[(Jᵀw)(Jᵀw)ᵀ] = JᵀJ (Hutchinson's estimator, Commun. Stat. Simul. 18, 1059, 1989), and Jᵀw is one pass of the model's
adjoint for all atoms at once. Multiple scattering is in it as in the images. Each tilt is a sample of its own: K passes
over T tilts give K·T samples of rank one, and a relative error of √(2/(K·T)) of a diagonal element. The noise of the
measurement itself adds a part of 1/(4n).

The error of one atom with all others known follows from its own block. The others are not known: overlap in the
projections raises the variance. How much is measured by solving the whole problem for one draw of the noise, by
conjugate gradients on JᵀJ, whose products are differences of gradients (:func:`variance_factors`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.geometry import pose_gradient
from aetlab.refinement.model import AtomModel, Sites

#: RMS move in Å over which differences of gradients are taken: linear, and far above single precision.
STEP_A = 0.01
#: Median of χ² of one degree of freedom.
CHI_SQUARE_MEDIAN = 0.4549


def sample_information(model: AtomModel, sites: Sites, poses: Poses, n_passes: int, seed: int, *,
                       tried: Sequence[int | None] = (None,), thermal: bool = False) -> np.ndarray:
    """Estimate of JᵀJ of each site, (N, P, P): x, y, z in 1/Å, and the amounts of the K tables ``tried``.

    Positions move the site as it is; an amount adds so many atoms of a table at the site: of its own (None, the
    default, where the last parameter is the occupancy), or of each of tables that hold every kind of site. With
    ``thermal`` the site's own thermal factor (1/Å²) comes after them.
    """
    n, k = len(sites), len(tried)
    information = np.zeros((n, 3 + k + thermal, 3 + k + thermal))
    # A site's own table is either asked for as such, or one of those that are tried.
    own = np.full(n, tried.index(None)) if None in tried else np.array([tried.index(kind) for kind in sites.kinds])
    for child in np.random.SeedSequence(seed).spawn(n_passes):
        for tilt in model.gradients(sites, poses, tried=tried, noise=child, thermal=thermal):
            parts = [tilt.gradient[own, np.arange(n), :3] @ poses.rotation(tilt.i_tilt), tilt.gradient[:, :, 3].T]
            if tilt.by_thermal is not None:
                parts.append(tilt.by_thermal[:, None])
            sample = np.concatenate(parts, axis=1)
            information += sample[:, :, None] * sample[:, None, :]
    return information / n_passes


def sample_pose_information(model: AtomModel, sites: Sites, poses: Poses, n_passes: int, seed: int) -> np.ndarray:
    """Mean over the tilts of JᵀJ of their turn (degrees) and shift (Å), (6, 6), all sites moved as one body."""
    information = np.zeros((6, 6))
    for child in np.random.SeedSequence(seed).spawn(n_passes):
        for tilt in model.gradients(sites, poses, noise=child):
            sample = pose_gradient(tilt.placed_A, tilt.gradient[0, :, :3], poses.turn_deg[tilt.i_tilt],
                                   poses.shift_A[tilt.i_tilt])
            information += np.outer(sample, sample)
    return information / (n_passes * model.n_tilts)


def standard_errors(information: np.ndarray, electrons_per_pixel: float,
                    variance_factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Standard errors (N, P) from JᵀJ (N, P, P): √diag (4n JᵀJ)⁻¹, raised by ``variance_factor``; 0 without noise."""
    if math.isinf(electrons_per_pixel):
        return np.zeros(information.shape[:2])
    variance = np.diagonal(invert_blocks(information), axis1=1, axis2=2) / (4 * electrons_per_pixel)
    return np.sqrt(variance_factor * variance)


def invert_blocks(information: np.ndarray, damping: float = 0.0) -> np.ndarray:
    """Inverses of positive blocks (N, P, P), each scaled to a unit diagonal first, which ``damping`` is added to.

    What an atom says nothing of (a diagonal of 0) keeps a large, finite variance.
    """
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    floor = 1e-6 * np.maximum(diagonal.mean(axis=0), 1e-300)
    scale = 1 / np.sqrt(np.maximum(diagonal, floor))
    unit = information * scale[:, :, None] * scale[:, None, :]
    unit = unit + (damping + 1e-9) * np.eye(information.shape[1])
    return np.linalg.inv(unit) * scale[:, :, None] * scale[:, None, :]


def separate_thermal(information: np.ndarray) -> np.ndarray:
    """Information (N,) on each site's own thermal factor, position and occupancy unknown, from JᵀJ (N, 5, 5)."""
    across = information[:, :4, 4]
    return information[:, 4, 4] - np.einsum("ni,nij,nj->n", across, invert_blocks(information[:, :4, :4]), across)


def variance_factors(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, seed: int, *,
                     n_passes: int = 12, tolerance: float = 0.03) -> np.ndarray:
    """By how much ignorance of all other atoms raises the variance of each parameter of an atom, (K, 4) by element.

    One draw of noise w is carried to all sites, b = Jᵀw, and JᵀJ x = b solved to ``tolerance`` by conjugate gradients
    in at most ``n_passes`` passes: x has the covariance (JᵀJ)⁻¹, and the median of x² over the atoms of an element, in
    units of what their own blocks give, is compared with that of χ²₁. ``sites`` must be where the images put them.
    """
    n = len(sites)
    own = invert_blocks(information)
    # Around images that the model itself makes the Hessian is JᵀJ; the measurement's noise would make it indefinite.
    ideal = model.with_images(model.images(sites, poses))
    rotations = [poses.rotation(i) for i in range(model.n_tilts)]

    def carried(at: Sites, noise: np.random.SeedSequence | None) -> np.ndarray:
        total = np.zeros((n, 4))
        for tilt in ideal.gradients(at, poses, noise=noise):
            total[:, :3] += tilt.gradient[0, :, :3] @ rotations[tilt.i_tilt]
            total[:, 3] += tilt.gradient[0, :, 3]
        return total

    rest = carried(sites, None)
    residual = carried(sites, np.random.SeedSequence(seed)) - rest
    solution, target = np.zeros((n, 4)), float(np.linalg.norm(residual))
    direction = np.zeros((n, 4))
    before = 1.0
    for _ in range(n_passes - 2):
        conditioned = np.einsum("nij,nj->ni", own, residual)
        now = float((residual * conditioned).sum())
        direction = conditioned + now / before * direction if np.any(direction) else conditioned
        before = now
        step = STEP_A / max(float(np.sqrt(np.mean(direction[:, :3] ** 2))), 1e-300)
        moved = Sites(sites.positions_A + step * direction[:, :3], sites.occupancy + step * direction[:, 3],
                      sites.kinds)
        product = (carried(moved, None) - rest) / step
        curvature = float((direction * product).sum())
        if curvature <= 0:
            break
        length = now / curvature
        solution += length * direction
        residual -= length * product
        if np.linalg.norm(residual) < tolerance * target:
            break
    expected = np.diagonal(own, axis1=1, axis2=2)
    factors = np.ones((len(model.elements), 4))
    for kind in range(len(model.elements)):
        chosen = sites.kinds == kind
        if chosen.any():
            ratio = np.median(solution[chosen] ** 2 / expected[chosen], axis=0)
            factors[kind] = np.maximum(ratio / CHI_SQUARE_MEDIAN, 1.0)
    return factors
