"""Standard errors and flags of fitted sites.

Notation: a fit has residuals r (data minus model) of its n voxels, their Jacobian J, and noise of covariance ``v R``,
R being the correlation of two voxels by their offset. Least squares then has the covariance

    v (JᵀJ)⁻¹ JᵀRJ (JᵀJ)⁻¹

(White, Econometrica 48, 817 (1980): the sandwich), where ``E[rᵀr] = v tr(PR)`` with ``P = 1 - J(JᵀJ)⁻¹Jᵀ``. Voxels of
a reconstruction are correlated. R is estimated from the residuals of all fits: the products of residuals at each offset
have expectations linear in R. A fit has few voxels, so its variance v is shrunk towards that of all fits by empirical
Bayes (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 3 (2004)).
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from aetlab.spec import TraceSpec
from aetlab.tracing import kernels_numba
from aetlab.tracing.sites import gather_fits, share_sites

#: Most blocks of fits, fits of a block and fewest fits from which the noise correlation is estimated.
N_BLOCKS, FITS_PER_BLOCK, FITS_MIN = 16, 512, 30
#: Parts of the fits whose spread gives the error of the correlation.
N_PARTS = 10
#: Stride of the fits whose voxel geometry is averaged.
GEOMETRY_STRIDE = 8
#: Largest squared offset in voxels at which voxels are correlated.
SQUARED_OFFSET_MAX = 6
#: Degrees of freedom that count as infinitely many.
FREEDOM_MAX = 1e6


class Flag(enum.IntFlag):
    """Reasons to doubt a site; 0 is a sound fit."""

    FEW_VOXELS = 1  #: not fitted: too few finite voxels around it
    AT_BOUND = 2  #: the last fit ended at a bound of its parameters
    NOT_CONVERGED = 4  #: the last fit did not converge
    CUT = 8  #: voxels of the fit are missing or outside the volume
    CLOSE = 16  #: another site is nearer than 1.25 merge distances
    POOR_FIT = 32  #: the residual is greater than a quarter of the intensity
    NOT_ATOM = 64  #: its signal is more probably that of no atom


@dataclass(frozen=True)
class SiteErrors:
    """Per site: ``std`` (N, 5) standard errors of (z, x, y, I, s), ``residual_V`` (N,), ``flag`` (N,) uint8."""

    std: np.ndarray
    residual_V: np.ndarray
    flag: np.ndarray


@dataclass(frozen=True)
class _Fits:
    """Fits at their last parameters, n fits of at most m voxels.

    ``offset`` (n, m, 3) int, ``residual`` (n, m), ``jacobian`` (n, m, 5) and ``n_voxels`` (n,), the voxels in use.
    """

    offset: np.ndarray
    residual: np.ndarray
    jacobian: np.ndarray
    n_voxels: np.ndarray

    def look_up(self, table: np.ndarray, beyond: float) -> np.ndarray:
        """Return the values (n, m, m) of a ``table`` (2c + 1,)*3 at the offset of each two voxels of a fit.

        They are ``beyond`` where the offset exceeds c along an axis. The place of a difference of two offsets is the
        difference of their places in a table of twice their size.
        """
        far, reach = 2 * int(np.abs(self.offset).max(initial=0)), table.shape[0] // 2
        side = 2 * far + 1
        wide = np.full((side,) * 3, beyond, table.dtype)
        inner, kept = (slice(max(0, a - b), a + b + 1) for a, b in ((far, reach), (reach, far)))
        wide[inner, inner, inner] = table[kept, kept, kept]
        place = self.offset @ np.array([side * side, side, 1])
        return wide.ravel()[place[:, :, None] - place[:, None, :] + wide.size // 2]

    def inverse_normal(self) -> np.ndarray:
        """Return (JᵀJ)⁻¹, (n, 5, 5); NaN where the voxels do not determine the fit."""
        normal = self.jacobian.transpose(0, 2, 1) @ self.jacobian
        scale = np.sqrt(np.einsum("njj->nj", normal))
        scaled = normal / np.maximum(scale[:, :, None] * scale[:, None, :], 1e-300)
        usable = (self.n_voxels > kernels_numba.N_PARAMETERS) & (scale.min(axis=1) > 0)
        usable[usable] = np.linalg.eigvalsh(scaled[usable])[:, 0] > 1e-9
        inverse = np.full(normal.shape, np.nan)
        inverse[usable] = np.linalg.inv(scaled[usable]) / (scale[usable, :, None] * scale[usable, None, :])
        return inverse


def estimate_errors(potential_V: np.ndarray, sites: np.ndarray, status: np.ndarray, spec: TraceSpec) -> SiteErrors:
    """Return standard errors, residuals and flags of sites fitted to ``potential_V`` minus their neighbours.

    Parameters
    ----------
    potential_V : (Z, X, Y) float32
    sites : (N, 5)
        In canonical order.
    status : (N,) uint8
        Status of the last fit.
    spec : TraceSpec

    Returns
    -------
    SiteErrors
        Errors are NaN where the voxels do not determine the fit.
    """
    n_sites = len(sites)
    if n_sites == 0:
        return SiteErrors(np.zeros((0, 5)), np.zeros(0), np.zeros(0, dtype=np.uint8))
    data = gather_fits(potential_V, sites, spec, clip=spec.clip_at_zero)

    def linearise(low: int, high: int) -> _Fits:
        n_box = (2 * int(np.ceil(spec.fit_radius)) + 1) ** 3
        fits = _Fits(np.zeros((high - low, n_box, 3), dtype=np.int64), np.zeros((high - low, n_box)),
                     np.zeros((high - low, n_box, 5)), np.zeros(high - low, dtype=np.int64))
        kernels_numba.linearise_fits(data, low, high, fits.offset, fits.residual, fits.jacobian, fits.n_voxels)
        m = max(int(fits.n_voxels.max()), 1)
        return _Fits(fits.offset[:, :m], fits.residual[:, :m], fits.jacobian[:, :m], fits.n_voxels)

    correlation = np.ones((1, 1, 1))
    if n_sites >= FITS_MIN:
        starts = range(0, n_sites, max(FITS_PER_BLOCK, -(-n_sites // N_BLOCKS)))
        correlation = _estimate_correlation([linearise(low, min(low + FITS_PER_BLOCK, n_sites)) for low in starts])

    def describe(low: int, high: int) -> tuple[np.ndarray, ...]:
        return _sandwich(linearise(low, high), correlation)

    unit_variance, variance, freedom, n_voxels = (
        np.concatenate(part) for part in zip(*share_sites(n_sites, describe), strict=True))
    shrunk = _shrink_variances(variance, freedom)
    flag = _flag(data, status, n_voxels, variance, spec)
    return SiteErrors(np.sqrt(unit_variance * shrunk[:, None]), np.sqrt(variance), flag)


def _sandwich(fits: _Fits, correlation: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return for each fit the variances (n, 5) of its parameters at v = 1, v, degrees of freedom and voxels used."""
    used = np.arange(fits.residual.shape[1])[None, :] < fits.n_voxels[:, None]
    matrix = fits.look_up(correlation, 0.0) * (used[:, :, None] & used[:, None, :])
    inverse = fits.inverse_normal()
    jacobian = fits.jacobian
    middle = jacobian.transpose(0, 2, 1) @ (matrix @ jacobian)
    covariance = inverse @ middle @ inverse
    projector = np.eye(jacobian.shape[1]) * used[:, None, :] - jacobian @ inverse @ jacobian.transpose(0, 2, 1)
    product = projector @ matrix
    trace = np.einsum("nii->n", product)
    square = np.einsum("nij,nji->n", product, product)
    variance = (fits.residual**2).sum(axis=1) / trace
    return np.einsum("njj->nj", covariance), variance, trace**2 / square, fits.n_voxels


def _estimate_correlation(blocks: list[_Fits]) -> np.ndarray:
    """Return the correlation of noise by offset, (2c + 1,)*3; only the centre if there are too few fits."""
    reach = int(np.sqrt(SQUARED_OFFSET_MAX))
    steps = [step for step in itertools.product(range(-reach, reach + 1), repeat=3)
             if np.square(step).sum() <= SQUARED_OFFSET_MAX]
    groups = sorted({tuple(np.abs(step)) for step in steps})
    numbers = np.full((2 * reach + 1,) * 3, len(groups))
    for step in steps:
        numbers[tuple(np.add(step, reach))] = groups.index(tuple(np.abs(step)))
    products, seen = np.zeros((N_PARTS, len(groups) + 1)), np.zeros((len(groups),) * 2)
    n_fits = n_seen = 0
    for fits in blocks:
        inverse = fits.inverse_normal()
        square = (fits.residual**2).sum(axis=1)
        usable = np.flatnonzero((fits.n_voxels > 2 * kernels_numba.N_PARAMETERS) & (square > 0)
                                & np.isfinite(inverse).all(axis=(1, 2)))
        group = fits.look_up(numbers, len(groups))[usable]
        used = np.arange(group.shape[1]) < fits.n_voxels[usable, None]
        group[~(used[:, :, None] & used[:, None, :])] = len(groups)
        scaled = fits.residual[usable] * np.sqrt(fits.n_voxels[usable] / square[usable])[:, None]
        weights = scaled[:, :, None] * scaled[:, None, :]
        part = (n_fits + np.arange(len(usable))) % N_PARTS
        place = group + (len(groups) + 1) * part[:, None, None]
        products += np.bincount(place.ravel(), weights.ravel(), products.size).reshape(products.shape)
        n_fits += len(usable)
        # The geometry differs little from fit to fit, so some of them give its mean.
        for row in range(0, len(usable), GEOMETRY_STRIDE):
            n = fits.n_voxels[usable[row]]
            jacobian = fits.jacobian[usable[row], :n]
            projector = np.eye(n) - jacobian @ inverse[usable[row]] @ jacobian.T
            members = (group[row, :n, :n] == np.arange(len(groups))[:, None, None]).astype(np.float64)
            through = projector @ members @ projector
            seen += members.reshape(len(groups), -1) @ through.reshape(len(groups), -1).T
            n_seen += 1
    if n_fits < FITS_MIN:
        return np.ones((1, 1, 1))
    parts = np.linalg.lstsq(seen / n_seen, products[:, :-1].T * (N_PARTS / n_fits), rcond=1e-6)[0]
    covariance, squared_error = parts.mean(axis=1), parts.var(axis=1, ddof=1) / N_PARTS
    # Covariances below their error become 0, and those little above are shrunk.
    covariance[1:] *= np.maximum(0, 1 - squared_error[1:] / np.maximum(covariance[1:] ** 2, 1e-300))
    return _make_valid(covariance, groups, reach)


def _make_valid(covariance: np.ndarray, groups: list[tuple[int, ...]], reach: int) -> np.ndarray:
    """Return a correlation by offset whose power spectrum is not negative."""
    side = 4 * reach + 1
    table = np.zeros((side,) * 3)
    for group, value in zip(groups, covariance, strict=True):
        for signs in itertools.product((-1, 1), repeat=3):
            table[tuple(np.multiply(group, signs))] = value
    if table[0, 0, 0] <= 0:
        return np.ones((1, 1, 1))
    spectrum = np.maximum(np.fft.fftn(table).real, 0)
    table = np.fft.fftshift(np.fft.ifftn(spectrum).real)
    table /= table[2 * reach, 2 * reach, 2 * reach]
    return table


def _shrink_variances(variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Return variances shrunk towards their common value, times ν/(ν - 2), the variance of Student's t."""
    usable = np.isfinite(variance) & (variance > 0) & np.isfinite(freedom)
    if usable.sum() < FITS_MIN:
        total = np.maximum(freedom, 3.0)
        return variance * total / (total - 2)
    own = np.median(freedom[usable])
    logarithm = np.log(variance[usable])
    logarithm = np.clip(logarithm, *np.quantile(logarithm, [0.01, 0.99])) - digamma(own / 2) + np.log(own / 2)
    excess = logarithm.var() - polygamma(1, own / 2)
    common = FREEDOM_MAX
    if excess > polygamma(1, FREEDOM_MAX / 2):
        common = 2 * brentq(lambda half: polygamma(1, half) - excess, 1e-3, FREEDOM_MAX / 2) if excess < 1e5 else 0.0
    level = np.exp(logarithm.mean() + (digamma(common / 2) - np.log(common / 2) if common > 0 else 0.0))
    total = common + own
    return (common * level + own * variance) / total * max(total, 3.0) / (max(total, 3.0) - 2)


def _flag(data: kernels_numba.FitInput, status: np.ndarray, n_voxels: np.ndarray, variance: np.ndarray,
          spec: TraceSpec) -> np.ndarray:
    """Return the flags (N,) of the sites from the status, voxel counts and residual variances of their last fits."""
    sites = data.sites
    flag = status.astype(np.uint8).copy()
    box = np.array(list(itertools.product(range(-int(spec.fit_radius) - 1, int(spec.fit_radius) + 2), repeat=3)))
    for low in range(0, len(sites), 8192):
        part = slice(low, low + 8192)
        beyond = sites[part, None, :3] - np.round(sites[part, None, :3]) - box[None]
        whole = ((beyond**2).sum(axis=2) <= spec.fit_radius**2).sum(axis=1)
        flag[part] |= np.where(n_voxels[part] < whole, Flag.CUT, 0).astype(np.uint8)
    owner = np.repeat(np.arange(len(sites)), np.diff(data.first_neighbour))
    distance = np.linalg.norm(sites[owner, :3] - sites[data.neighbours, :3], axis=1)
    flag[owner[distance < 1.25 * spec.merge_distance]] |= np.uint8(Flag.CLOSE)
    flag[np.sqrt(np.nan_to_num(variance)) > 0.25 * sites[:, 3]] |= np.uint8(Flag.POOR_FIT)
    return flag

