r"""Fisher information of the images about each atom, and standard errors from it.

Counts are Poisson with mean n |ψ|², so that the information about parameters θ is Σ (∂n|ψ|²)²/(n|ψ|²) =
4n Σ ∂|ψ|/∂θ ∂|ψ|/∂θ' over all pixels: in the amplitudes the noise is white with variance 1/(4n), whatever the image.
With J = ∂|ψ|/∂θ this is 4n JᵀJ. If images or pixels have weights w, J is √w ∂|ψ|/∂θ: images of n_j electrons have
w = n_j/n, n their mean, and 4n JᵀJ is their information; a missing image has none. Its blocks are estimated without
forming J: for white noise w of variance 1, E[(Jᵀw)(Jᵀw)ᵀ] = JᵀJ (Hutchinson's estimator, Commun. Stat. Simul. 18, 1059,
1989), and Jᵀw is one pass of the model's adjoint for all atoms at once, multiple scattering included. Each tilt is a
separate sample: K passes over T tilts give K·T samples of rank one, and a relative error of √(2/(K·T)) of a diagonal
element. The noise of the measurement adds a fraction of 1/(4n).

The error of one atom with all others known follows from its own block. The others are not known: overlap in the
projections raises the variance. The factor is measured by solving the whole problem for one draw of the noise, by
conjugate gradients on JᵀJ, whose products are differences of gradients (:func:`variance_factors`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.geometry import pose_gradient
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import RefineSpec

#: RMS displacement in Å for differences of gradients: in the linear range, and far above single precision.
STEP_A = 0.01
#: Multiple of the median variance of its element beyond which the images hardly determine a parameter of an atom.
POORLY = 10.0
#: Median of χ² of one degree of freedom.
CHI_SQUARE_MEDIAN = 0.4549
#: Samples, one for each tilt and pass, of the information on an atom in a round, and for its standard errors.
SAMPLES, SAMPLES_LAST = 30, 120
#: Passes at most that measure how the atoms overlap.
N_OVERLAP = 12
#: Fewest tilts whose spread tells an error.
LEAST_TILTS = 8


def information_passes(spec: RefineSpec, n_tilts: int) -> tuple[int, int]:
    """Return the passes that sample the information in a round, and for the standard errors, of ``n_tilts`` tilts.

    By the rule they give :data:`SAMPLES` and :data:`SAMPLES_LAST` samples.
    """
    few, many = (asked if isinstance(asked, int) else math.ceil(n_samples / n_tilts) for asked, n_samples in
                 ((spec.n_information, SAMPLES), (spec.n_information_last, SAMPLES_LAST)))
    return few, many


def sample_information(model: AtomModel, sites: Sites, poses: Poses, n_passes: int, seed: int, *,
                       tried: Sequence[int | None] = (None,), thermal: bool = False) -> np.ndarray:
    """Estimate JᵀJ of each site, (N, P, P): x, y, z in 1/Å, and the amounts of the K tables ``tried``.

    An amount adds atoms of a table at the site: of the own table (None, the default, where the last parameter is the
    occupancy), or of each of the tables, which then hold every kind of site. With ``thermal`` the thermal factor of the
    site (1/Å²) is the last parameter.
    """
    n, k = len(sites), len(tried)
    information = np.zeros((n, 3 + k + thermal, 3 + k + thermal))
    # The own table of a site is either None, or one of those that are tried.
    own = np.full(n, tried.index(None)) if None in tried else np.array([tried.index(k) for k in sites.kinds], int)
    for child in np.random.SeedSequence(seed).spawn(n_passes):
        for tilt in model.gradients(sites, poses, tried=tried, noise=child, thermal=thermal):
            parts = [tilt.gradient[own, np.arange(n), :3] @ poses.rotation(tilt.i_tilt), tilt.gradient[:, :, 3].T]
            if tilt.by_thermal is not None:
                parts.append(tilt.by_thermal[:, None])
            sample = np.concatenate(parts, axis=1)
            information += sample[:, :, None] * sample[:, None, :]
    return information / n_passes


def try_elements(model: AtomModel, sites: Sites, poses: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient (N, K) with respect to the amounts of all K elements at each site; one pass over the data.

    The second array is the gradient (T, N, 4) of each tilt with respect to position and own amount.
    """
    n, tables = len(sites), tuple(range(len(model.elements)))
    by_amount, by_tilt = np.zeros((n, len(tables))), np.zeros((model.n_tilts, n, 4))
    for tilt in model.gradients(sites, poses, tried=tables):
        by_amount += tilt.gradient[:, :, 3].T
        by_tilt[tilt.i_tilt] = own = tilt.gradient[sites.kinds, np.arange(n)]
        by_tilt[tilt.i_tilt, :, :3] = own[:, :3] @ poses.rotation(tilt.i_tilt)
    return by_amount, by_tilt


def sample_pose_information(model: AtomModel, sites: Sites, poses: Poses, n_passes: int, seed: int) -> np.ndarray:
    """Return the mean over the tilts of JᵀJ of turn (degrees) and shift (Å), (6, 6), with all sites as one body."""
    information = np.zeros((6, 6))
    for child in np.random.SeedSequence(seed).spawn(n_passes):
        for tilt in model.gradients(sites, poses, noise=child):
            sample = pose_gradient(tilt.placed_A, tilt.gradient[0, :, :3], poses.turn_deg[tilt.i_tilt],
                                   poses.shift_A[tilt.i_tilt])
            information += np.outer(sample, sample)
    return information / (n_passes * model.n_tilts)


def standard_errors(information: np.ndarray, electrons_per_pixel: float, variance_factor: np.ndarray | float = 1.0,
                    occupancy: np.ndarray | float = 1.0) -> np.ndarray:
    """Return standard errors (N, P) from JᵀJ (N, P, P): √diag ``variance_factor`` (4n JᵀJ)⁻¹; 0 without noise.

    The first three parameters are the position, on which JᵀJ is proportional to the square of the ``occupancy`` (N,).
    An occupancy above 1 is noise: such an atom's position is known as that of a whole one, and no better.
    """
    if math.isinf(electrons_per_pixel):
        return np.zeros(information.shape[:2])
    variance = np.diagonal(invert_blocks(information), axis1=1, axis2=2) / (4 * electrons_per_pixel)
    errors: np.ndarray = np.sqrt(variance_factor * variance)
    errors[:, :3] *= np.maximum(np.atleast_1d(occupancy), 1)[:, None]
    return errors


def invert_blocks(information: np.ndarray, damping: float = 0.0) -> np.ndarray:
    """Return the inverses of positive blocks (N, P, P), scaled to a unit diagonal to which ``damping`` is added.

    A parameter without information (a diagonal of 0) keeps a large, finite variance.
    """
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    floor = 1e-6 * np.maximum(diagonal.mean(axis=0), 1e-300)
    scale = 1 / np.sqrt(np.maximum(diagonal, floor))
    unit = information * scale[:, :, None] * scale[:, None, :]
    unit = unit + (damping + 1e-9) * np.eye(information.shape[1])
    return np.linalg.inv(unit) * scale[:, :, None] * scale[:, None, :]


def separate_thermal(information: np.ndarray) -> np.ndarray:
    """Return the information (N,) on the thermal factor of each site, from JᵀJ (N, 5, 5); the rest is unknown."""
    across = information[:, :4, 4]
    return information[:, 4, 4] - np.einsum("ni,nij,nj->n", across, invert_blocks(information[:, :4, :4]), across)


def unbiased_thermal(thermal_A2: np.ndarray, information: np.ndarray, kinds: np.ndarray, errors: np.ndarray,
                     electrons_per_pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the thermal factor of each element without the bias of its fit, and its standard error, (K,) each in Å².

    A fit whose positions follow the noise with the variance σ² along each axis finds B too small by 8π²σ²: the bias of
    least squares is -½ (JᵀJ)⁻¹ Jᵀ tr(H Cov) (Box, J. R. Stat. Soc. B 33, 171, 1971). H are the second derivatives,
    which for positions sum to twice the derivative with respect to ⟨u²⟩. The bias is added to B.

    Parameters
    ----------
    thermal_A2, information : (K,)
        Fitted B in Å², and its JᵀJ in 1/Å⁴ with positions and occupancies eliminated, 0 for an element without sites.
    kinds, errors : (N,), (N, 4)
        Element of each site, and the standard errors of its position in Å and of its occupancy.
    electrons_per_pixel : float
        n, the electrons of a vacuum pixel.
    """
    known = np.where(information > 0, information, np.inf)
    counts = np.maximum(np.bincount(kinds, minlength=len(thermal_A2)), 1)
    variance_A2 = np.bincount(kinds, (errors[:, :3] ** 2).mean(axis=1), len(thermal_A2)) / counts
    return thermal_A2 + 8 * math.pi**2 * variance_A2, 1 / np.sqrt(4 * electrons_per_pixel * known)


def variance_factors(model: AtomModel, sites: Sites, poses: Poses, information: np.ndarray, seed: int, *,
                     n_passes: int = N_OVERLAP, tolerance: float = 0.03) -> np.ndarray:
    """Return the factors by which the other atoms raise the variance of each parameter, (K, 4) by element.

    One draw of noise w gives b = Jᵀw at all sites. JᵀJ x = b is solved to ``tolerance`` by conjugate gradients in at
    most ``n_passes`` passes, so that x has the covariance (JᵀJ)⁻¹. The median of x² over the atoms of an element, in
    units of the variance from their own blocks, is compared with the median of χ²₁. ``sites`` must be fitted.

    Atoms that the images hardly determine (:data:`POORLY`), such as those at the border of the volume, stay where they
    are: conjugate gradients would need many more passes for them, and do not affect the median.
    """
    n = len(sites)
    own = invert_blocks(information)
    determined = ~hardly_determined(own, sites.kinds)
    # For images made by the model itself the Hessian is JᵀJ; the noise of the measurement could make it indefinite.
    ideal = model.with_images(model.images(sites, poses))
    rotations = [poses.rotation(i) for i in range(model.n_tilts)]

    def carried(at: Sites, noise: np.random.SeedSequence | None) -> np.ndarray:
        total = np.zeros((n, 4))
        for tilt in ideal.gradients(at, poses, noise=noise):
            total[:, :3] += tilt.gradient[0, :, :3] @ rotations[tilt.i_tilt]
            total[:, 3] += tilt.gradient[0, :, 3]
        return total * determined[:, None]

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
        chosen = determined & (sites.kinds == kind)
        if chosen.any():
            ratio = np.median(solution[chosen] ** 2 / expected[chosen], axis=0)
            factors[kind] = np.maximum(ratio / CHI_SQUARE_MEDIAN, 1.0)
    return factors


def hardly_determined(own: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the atoms (N,) with a parameter whose variance, of ``own`` (N, 4, 4), exceeds what is usual by far."""
    variance = np.diagonal(own, axis1=1, axis2=2)
    hardly = np.zeros(len(own), bool)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        hardly[chosen] = (variance[chosen] > POORLY * np.median(variance[chosen], axis=0)).any(axis=1)
    return hardly


def spread_of_tilts(gradients: np.ndarray) -> np.ndarray:
    """Return the sum over tilts of outer products, (N, 4, 4), of the gradients (T, N, 4) less their mean."""
    off = gradients - gradients.mean(axis=0)
    return np.einsum("tni,tnj->nij", off, off)


def tilt_factors(information: np.ndarray, spread: np.ndarray, kinds: np.ndarray, n_kinds: int, electrons: float,
                 n_tilts: int) -> np.ndarray:
    """Return the factors by which tilts differ more than counts explain, (K, 4) by element, at least 1.

    At the minimum the gradients g_t of a site's tilts sum to 0; their spread gives its covariance without a model of
    the noise, T/(T - 1) H⁻¹ Σ g_t g_tᵀ H⁻¹ with H = JᵀJ: the infinitesimal jackknife over the tilts (White,
    Econometrica 48, 817, 1980). Everything that differs from tilt to tilt is in it: vibration caught in a few images,
    errors of poses, drift. Errors that all tilts share are not. The ratio to (4n JᵀJ)⁻¹ has the median of a χ² of T - 1
    degrees of freedom over them without such errors.

    Parameters
    ----------
    information, spread : (N, 4, 4)
        JᵀJ of each site, and :func:`spread_of_tilts` of its gradient.
    kinds, n_kinds : (N,), int
        Element of each site, and their number.
    electrons : float
        n, the electrons of a vacuum pixel.
    n_tilts : int
        T, the tilts with an image.
    """
    factors = np.ones((n_kinds, 4))
    if n_tilts < LEAST_TILTS or not len(kinds) or math.isinf(electrons):
        return factors
    inverse = invert_blocks(information)
    variance = np.diagonal(inverse @ spread @ inverse, axis1=1, axis2=2) * n_tilts / (n_tilts - 1)
    ratio = 4 * electrons * variance / np.diagonal(inverse, axis1=1, axis2=2)
    median = (1 - 2 / (9 * (n_tilts - 1))) ** 3
    for kind in np.unique(kinds):
        factors[kind] = np.maximum(np.median(ratio[kinds == kind], axis=0) / median, 1.0)
    return factors


def neighbour_correlation(information: np.ndarray, gradients: np.ndarray) -> float:
    """Return the correlation along the tilt axis of what neighbouring tilts ask of a site, the median over the sites.

    Tilt t asks for the displacement H⁻¹ g_t of a site. Without common errors those of different tilts are independent,
    and the correlation of neighbours is about -1/T, lower where poses are fitted. Along the axis y all tilts tell the
    same of a site: atoms that move during a series, whose neighbours in angle are near in time as well, and what the
    model lacks in all images make it positive. NaN with fewer than :data:`LEAST_TILTS` tilts or without sites.

    Parameters
    ----------
    information, gradients : (N, 4, 4) and (T, N, 4)
        JᵀJ of each site, and its gradients at the minimum, tilts in the order of their angles.
    """
    if len(gradients) < LEAST_TILTS or not len(information):
        return math.nan
    asked = np.einsum("nj,tnj->tn", invert_blocks(information)[:, 1], gradients - gradients.mean(axis=0))
    return float(np.median((asked[1:] * asked[:-1]).sum(axis=0) / np.maximum((asked**2).sum(axis=0), 1e-300)))


def own_information(full: np.ndarray, kinds: np.ndarray, position_factor: np.ndarray) -> np.ndarray:
    """Return JᵀJ (N, 4, 4) of positions and occupancy from that with the amounts of all elements (N, 3 + K, 3 + K).

    ``position_factor`` (N,) scales the strength of the site in the elements of its position.
    """
    rows = np.concatenate([np.tile(np.arange(3), (len(kinds), 1)), 3 + kinds[:, None]], axis=1)
    own = full[np.arange(len(kinds))[:, None, None], rows[:, :, None], rows[:, None, :]]
    scale = np.ones((len(kinds), 4))
    scale[:, :3] = position_factor[:, None]
    return own * scale[:, :, None] * scale[:, None, :]
