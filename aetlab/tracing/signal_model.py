"""Names from the known ratios of signals: a mixture that knows how strongly each element scatters.

The logarithm of the signal of an atom of element k is normal about

    mean_k = a + g · log(expected_k / reference) + d_k

with a common factor exp(a), a power g near 1 (a prior of the reconstruction shrinks weak peaks more) and a deviation
d_k of a few percent. Which elements have atoms is unknown as well: every subset of the elements is a hypothesis, and so
is every factor at which its means meet the signals. The posterior probability of a name is its mean over the hypotheses
by their evidence (Laplace's approximation of the marginal likelihood; MacKay, Neural Computation 4, 415 (1992)). Where
several fit, no name is probable: the images do not tell.

A class is only nearly normal. The evidence of thousands of sites would tell two halves of one skewed mode apart, so all
sites together count as no more than :data:`SITES_THAT_COUNT`. Expectation maximisation finds the parameters of each
hypothesis from several starts. An element that is expected below the faintest sites may have atoms that are not found,
the more probably the fainter it is; one above has none if no site is its.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

#: As many sites all sites together count as, at most.
SITES_THAT_COUNT = 60.0
#: Mean and standard deviation of a, where the volume is in V and where its unit is not known, and of g.
FACTOR_IN_VOLTS, FACTOR_ELSE, POWER = (-0.05, 0.4), (0.0, 3.0), (1.1, 0.15)
#: Signal in V voxel at which the power does not change the factor.
REFERENCE = 100.0
#: Standard deviation of d; usual standard deviation of the logarithm of the signals of an element, and how many sites
#: it counts as.
DEVIATION, SPREAD, SPREAD_COUNT = 0.08, 0.07, 4.0
#: Probability that an element of the list has atoms, and that a site is of no class.
PRESENT, ODD = 0.85, 0.01
#: The logarithm of the least signal that is found is taken to lie anywhere in this range below the faintest site.
LIMIT_RANGE = float(np.log(10))
#: Most bins of the signals; most elements of which all subsets are tried, and of which classes are left out in turn.
N_BINS, ALL_SUBSETS, SOME_SUBSETS = 80, 6, 10
#: Starts of the factor and of the power; steps of the first and of the final fits, and how many starts the latter take.
N_FACTORS, POWERS, STEPS, N_BEST = 14, (0.95, 1.2), (8, 60), 80
#: Starts whose means differ by less are one.
SAME = 0.02


@dataclass(frozen=True)
class SignalModel:
    """Classes of K elements: ``posterior`` (N, K); ``mean``, ``std`` of the signal, NaN without atoms; ``share``."""

    posterior: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class _Fits:
    """Fits of one subset from C starts: (C, m) arrays of its m classes, ``line`` (C, 2) of a and g.

    ``score`` (C,) is the logarithm of the evidence.
    """

    classes: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray
    line: np.ndarray
    score: np.ndarray

    def select(self, chosen: np.ndarray) -> _Fits:
        """Return the fits of the ``chosen`` starts."""
        return _Fits(self.classes, self.mean[chosen], self.std[chosen], self.share[chosen], self.line[chosen],
                     self.score[chosen])


def fit_signals(signal: np.ndarray, expected: np.ndarray, *, in_volts: bool) -> SignalModel:
    """Return the posterior probability of each element for each site.

    Parameters
    ----------
    signal : (N,)
        N > 0 signals, of which at least one is positive.
    expected : (K,) positive
        Expected signal of each element, in V voxel if ``in_volts``, else up to a factor.
    in_volts : bool
        Whether the factor is near 1.
    """
    positive = signal[signal > 0]
    log_signal = np.log(np.maximum(signal, 1e-3 * np.median(positive)) / REFERENCE)
    place, count = _bin(log_signal)
    count *= min(1.0, SITES_THAT_COUNT / len(signal))
    relative = np.log(expected) - (np.log(REFERENCE) if in_volts else np.log(expected).mean())
    data = _Data(place, count, len(signal) / count.sum(), relative,
                 FACTOR_IN_VOLTS if in_volts else (float(np.average(place, weights=count)), FACTOR_ELSE[1]))
    first = _fit_subsets(data, len(expected))
    least = np.sort(np.concatenate([fits.score for fits in first]))[::-1][:N_BEST][-1]
    final = []
    for fits in first:
        kept = fits.select(fits.score >= least)
        if len(kept.score):
            final.append(_drop_equal(data.fit(kept, STEPS[1])))
    return _average(final, log_signal, len(expected), float(np.ptp(place)) + 1.0)


def _bin(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places and counts: those of a histogram of many values, else the values themselves."""
    if len(values) <= N_BINS:
        return np.sort(values), np.ones(len(values))
    low, high = np.quantile(values, [0.002, 0.998])
    counts, edges = np.histogram(np.clip(values, low, high), bins=N_BINS)
    seen = counts > 0
    return 0.5 * (edges[:-1] + edges[1:])[seen], counts[seen].astype(np.float64)


@dataclass(frozen=True)
class _Data:
    """Places (B,) of the logarithms of the signals, how many sites each counts as, and the sites that one stands for.

    ``relative`` (K,) are logarithms of the expected signals, ``factor`` the mean and standard deviation of a.
    """

    place: np.ndarray
    count: np.ndarray
    stands_for: float
    relative: np.ndarray
    factor: tuple[float, float]

    def start(self, subset: tuple[int, ...]) -> _Fits:
        """Return what the fits of a subset start from."""
        relative = self.relative[list(subset)]
        low = max(self.place[0] - POWER[0] * relative.max(), self.factor[0] - 3 * self.factor[1])
        high = min(self.place[-1] - POWER[0] * relative.min(), self.factor[0] + 3 * self.factor[1])
        if low > high:
            low = high = float(np.clip(0.5 * (low + high), self.factor[0] - 3 * self.factor[1],
                                       self.factor[0] + 3 * self.factor[1]))
        line = np.array(list(itertools.product(np.linspace(low, high, N_FACTORS), POWERS)))
        mean = line[:, :1] + line[:, 1:] * relative
        return _Fits(subset, mean, np.full(mean.shape, 1.5 * SPREAD), np.full(mean.shape, 1 / mean.shape[1]), line,
                     np.zeros(len(mean)))

    def fit(self, start: _Fits, n_steps: int) -> _Fits:
        """Return the fits after ``n_steps`` of expectation maximisation, with their scores."""
        subset, mean, std, share, line = start.classes, start.mean, start.std, start.share, start.line
        relative = self.relative[list(subset)]
        prior_line, width_line = np.array([self.factor[0], POWER[0]]), np.array([self.factor[1], POWER[1]])
        design = np.column_stack([np.ones(len(relative)), relative])
        odd = ODD / (np.ptp(self.place) + 1.0)
        pooled = std[:, 0]
        for step in range(n_steps + 1):
            weight = _densities(self.place, mean[:, None, :], std[:, None, :], share[:, None, :])
            total = weight.sum(axis=2) + odd
            weight *= (self.count / total)[:, :, None]
            n = weight.sum(axis=1)
            information = np.einsum("ck,ki,kj->cij", 1 / (DEVIATION**2 + std**2 / np.maximum(n, 1e-9)), design, design)
            if step == n_steps:
                break
            average = (weight * self.place[:, None]).sum(axis=1) / np.maximum(n, 1e-9)
            precision = 1 / (DEVIATION**2 + std**2 / np.maximum(n, 1e-9))
            right = np.einsum("ck,ki->ci", precision * average, design) + prior_line / width_line**2
            line = np.linalg.solve(information + np.diag(1 / width_line**2), right[:, :, None])[:, :, 0]
            predicted = line @ design.T
            mean = (n / std**2 * average + predicted / DEVIATION**2) / (n / std**2 + 1 / DEVIATION**2)
            squares = (weight * (self.place[:, None] - mean[:, None, :]) ** 2).sum(axis=1)
            pooled = np.sqrt((SPREAD_COUNT * SPREAD**2 + squares.sum(axis=1)) / (SPREAD_COUNT + n.sum(axis=1)))
            std = np.sqrt((SPREAD_COUNT * pooled[:, None] ** 2 + squares) / (SPREAD_COUNT + n))
            share = (n + 0.3) / (n + 0.3).sum(axis=1, keepdims=True)
        score = (np.log(total) * self.count).sum(axis=1) - 0.5 * (((line - prior_line) / width_line) ** 2).sum(axis=1)
        score -= 0.5 * ((mean - line @ design.T) ** 2).sum(axis=1) / DEVIATION**2
        score -= _misfit(pooled, SPREAD) + _misfit(std, pooled[:, None]).sum(axis=1)
        # The smaller the part of a parameter's prior that is left, the less is the evidence.
        score -= 0.5 * np.log(1 + n * DEVIATION**2 / std**2).sum(axis=1)
        score -= 0.5 * np.log(1 + 2 * n / SPREAD_COUNT).sum(axis=1) + 0.5 * np.log(1 + n).sum(axis=1)
        score -= 0.5 * np.linalg.slogdet(np.eye(2) + information * width_line**2)[1]
        score += self._log_presence(subset, n, line)
        return _Fits(subset, mean, std, share, line, score)

    def _log_presence(self, subset: tuple[int, ...], n: np.ndarray, line: np.ndarray) -> np.ndarray:
        """Return the logarithm of the prior probability that the elements of ``subset`` and no others are seen."""
        faintest = self.place[np.searchsorted(np.cumsum(self.count), 0.01 * self.count.sum())]
        log_prior = np.full(len(line), len(subset) * np.log(PRESENT))
        for other in set(range(len(self.relative))) - set(subset):
            depth = faintest - line[:, 0] - line[:, 1] * self.relative[other]
            seen = 1 - np.clip(depth / LIMIT_RANGE, 0, 1)
            log_prior += np.log(1 - PRESENT * seen)
        empty = (n * self.stands_for < 0.5).any(axis=1)
        return log_prior - 1e3 * empty


def _densities(place: np.ndarray, mean: np.ndarray, std: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the densities (…, B, m) of m classes at ``place`` (B,); the other arrays end in (m,)."""
    scaled = (place[:, None] - mean) / std
    return np.asarray(share * (1 - ODD) / (np.sqrt(2 * np.pi) * std) * np.exp(-0.5 * scaled**2))


def _misfit(std: np.ndarray, usual: np.ndarray | float) -> np.ndarray:
    """Return minus the logarithm of the prior of a standard deviation, 0 at its maximum."""
    ratio = (usual / std) ** 2
    return 0.5 * SPREAD_COUNT * (ratio - 1 - np.log(ratio))


def _fit_subsets(data: _Data, n: int) -> list[_Fits]:
    """Return first fits of all subsets of n classes if these are few.

    Of more classes the subsets are those of one, all, and what is left when one class after the other is left out, each
    time the one without which the evidence is greatest. If there are many, those with the most sites are left first.
    """
    def fit(subset: tuple[int, ...]) -> _Fits:
        return data.fit(data.start(subset), STEPS[0])

    if n <= ALL_SUBSETS:
        return [fit(subset) for m in range(1, n + 1) for subset in itertools.combinations(range(n), m)]
    fits = [fit((k,)) for k in range(n)]
    whole = fit(tuple(range(n)))
    left = tuple(np.sort(np.argsort(-whole.share[np.argmax(whole.score)], kind="stable")[:SOME_SUBSETS]).tolist())
    fits += [whole] + ([fit(left)] if len(left) < n else [])
    while len(left) > 2:
        tried = [fit(left[:k] + left[k + 1 :]) for k in range(len(left))]
        fits += tried
        left = max(tried, key=lambda one: float(one.score.max())).classes
    return fits


def _drop_equal(fits: _Fits) -> _Fits:
    """Return fits without those that came from other starts to the means of a better one."""
    order = np.argsort(-fits.score, kind="stable")
    kept: list[int] = []
    for i in order:
        if all(np.abs(fits.mean[i] - fits.mean[j]).max() >= SAME for j in kept):
            kept.append(int(i))
    return fits.select(np.array(kept))


def _average(all_fits: list[_Fits], log_signal: np.ndarray, n_classes: int, extent: float) -> SignalModel:
    """Return the mean of the fits by their evidence."""
    best = max(float(fits.score.max()) for fits in all_fits)
    posterior = np.zeros((len(log_signal), n_classes))
    moments = np.zeros((3, n_classes))
    odd = total = 0.0
    for fits in all_fits:
        for i in np.flatnonzero(fits.score > best - 12):
            evidence = np.exp(fits.score[i] - best)
            mean, std, share = fits.mean[i], fits.std[i], fits.share[i]
            density = _densities(log_signal, mean, std, share)
            own = np.full(len(log_signal), ODD / extent)
            whole = density.sum(axis=1) + own
            posterior[:, list(fits.classes)] += evidence * density / whole[:, None]
            odd = odd + evidence * own / whole
            moments[:, list(fits.classes)] += evidence * share * np.stack([np.ones(len(mean)), mean, mean**2 + std**2])
            total += evidence
    # Of what fits no class nothing is known.
    posterior = (posterior + np.asarray(odd)[:, None] / n_classes) / total
    share, first, second = moments / total
    shown = np.where(share > 1e-3, share, np.nan)
    mean = REFERENCE * np.exp(first / shown)
    return SignalModel(posterior, mean, mean * np.sqrt(np.maximum(second / shown - (first / shown) ** 2, 0)), share)
