"""Species from signals: a sum of Gaussians fitted to the histogram, with thresholds where neighbours cross.

The signal of an atom is I·s (V · voxel). The paper's rule is one Gaussian for each of two elements. It holds where the
Gaussians are two modes of the histogram and the ratio of their means is that of the elements. Elsewhere, and for more
elements, names come from the known ratios of signals (:mod:`aetlab.tracing.signal_model`): the histogram alone cannot
show which of the elements has no atoms or is not seen, or whether two of them are one mode.

If the histogram has more peaks than there are elements, the weakest peak may be sites that are no atoms, artefacts of
the reconstruction. It becomes a class of its own if the ratios of the other means fit those of the elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares
from scipy.special import ndtr

from aetlab.tracing.bright import classes_below_bright
from aetlab.tracing.signal_model import FACTOR_IN_VOLTS, fit_signals

#: Fewest atoms per class for a fit of the histogram.
ATOMS_PER_CLASS_MIN = 10
#: Least share of the atoms of a fitted component, which must also have at least 3 atoms.
SHARE_MIN = 2e-3
#: Number of a site that is no atom.
NO_ATOM = 0
#: Power of the atomic number with which signals grow where no expected signals are given.
SIGNAL_EXPONENT = 0.7
#: The logarithm of the ratio of two means lies between these (factor, constant) of the expected one.
RATIO_LOW, RATIO_HIGH = (0.8, -0.1), (1.3, 0.15)
#: Greatest common area in percent of two Gaussians that are two modes, and how many standard deviations of its prior
#: the factor of a volume in V may differ from its mean.
OVERLAP_MAX_PERCENT, FACTOR_STDS = 35.0, 3.0
#: Two Gaussians are two modes if their log-likelihood exceeds those of one normal and one log-normal class by this, and
#: can be those of two elements if the expected ratio is at least this.
GAIN_MIN, RATIO_MIN = 8.0, 1.15
#: Names of a lower probability are counted as not decided.
DECIDED = 0.9


@dataclass(frozen=True)
class Species:
    """Names of N sites of K elements.

    ``numbers`` (N,) are atomic numbers, 0 for no atom; ``posterior`` (N, K) and ``not_atom`` (N,) the probabilities,
    which sum to 1. ``summary`` holds ``elements``; ``classes`` (the elements, after 0 if some sites are no atoms); the
    ``rule`` (``gaussians``, ``ratios`` or ``bright``); ``mean``, ``std`` and ``share`` of each class, NaN without
    atoms; ``threshold`` between each class and the next, NaN if there is none, and their ``overlap_percent`` (the
    common area of two unit Gaussians); ``expected_percent``, the share of the row's class that is named as the
    column's; ``n_undecided``, the names of a probability below :data:`DECIDED`; the histogram, ``bin_edges`` and
    ``counts``.
    """

    numbers: np.ndarray
    posterior: np.ndarray
    not_atom: np.ndarray
    summary: dict

    @property
    def probability(self) -> np.ndarray:
        """Return the probability of the given name, (N,)."""
        table = np.column_stack([self.not_atom, self.posterior])
        column = np.where(self.numbers == NO_ATOM, 0, 1 + np.searchsorted(self.summary["elements"], self.numbers))
        if self.summary["elements"] == (NO_ATOM,):
            column = np.ones_like(column)
        return table[np.arange(len(self.numbers)), column]


def name_species(signal: np.ndarray, elements: tuple[int, ...], expected_signal: Mapping[int, float] | None = None, *,
                 in_volts: bool = False) -> Species:
    """Name sites by their signals.

    Two elements are named by the thresholds of two Gaussians if these are two modes whose ratio is that of the
    elements. All others are named by :func:`aetlab.tracing.signal_model.fit_signals`; of equally probable elements the
    one of the largest atomic number is given. Few bright sites correct a naming that leaves no element for them
    (:mod:`aetlab.tracing.bright`).

    Parameters
    ----------
    signal : (N,) finite
    elements : tuple of int
        Different atomic numbers that may occur; (0,) if they are not known.
    expected_signal : mapping, optional
        Signal of an isolated atom of each element, up to a factor and a power; a power of the atomic number by default.
    in_volts : bool
        Whether signals and expected signals are in V voxel, so that the factor is near 1.

    Raises
    ------
    ValueError
        If there are no elements, one occurs twice, 0 is given with others, or an element has no expected signal.
    """
    elements = tuple(sorted(elements))
    if not elements or len(set(elements)) < len(elements) or (NO_ATOM in elements and len(elements) > 1):
        raise ValueError(f"elements={elements} cannot be separated: give at least one, each once, and 0 alone")
    if expected_signal is not None and not {*elements} <= {NO_ATOM, *expected_signal}:
        raise ValueError(f"expected signals of {sorted(expected_signal)} are not those of elements={elements}")
    signal = np.asarray(signal, dtype=np.float64)
    expected = np.array([expected_signal[z] if expected_signal and z else max(z, 1) ** SIGNAL_EXPONENT
                         for z in elements])
    named = _name_sites(signal, elements, expected, in_volts=in_volts and expected_signal is not None)
    classes = classes_below_bright(signal, named.numbers == elements[int(expected.argmax())], expected)
    if classes is None:
        return named
    histogram = {key: named.summary[key] for key in ("elements", "bin_edges", "counts")}
    corrected = _name(signal, elements, *classes, histogram)
    return replace(corrected, summary=corrected.summary | {"rule": "bright"})


def _name_sites(signal: np.ndarray, elements: tuple[int, ...], expected: np.ndarray, *, in_volts: bool) -> Species:
    """Name sites by two Gaussians, by classes with one more of no atoms, or by ratios."""
    counts, edges = _histogram(signal)
    histogram: dict = {"elements": elements, "bin_edges": edges, "counts": counts}
    scale = expected if in_volts else None
    known = scale is not None and len(elements) == 1
    if NO_ATOM not in elements and not known and _count_peaks(counts) > len(elements):
        fitted = _fit_gaussians(counts, edges, signal, len(elements) + 1)
        threshold = _crossings(fitted, len(signal))
        if np.isfinite(threshold).all() and _is_weakest_no_atom(fitted[:, 1], expected):
            return _name(signal, (NO_ATOM, *elements), fitted, threshold, histogram)
    if scale is not None and known and len(signal) >= 2 * ATOMS_PER_CLASS_MIN:
        fitted = _fit_gaussians(counts, edges, signal, 2)
        threshold = _crossings(fitted, len(signal))
        if np.isfinite(threshold).all() and _are_noise_and_atoms(fitted, float(scale[0]), signal):
            return _name(signal, (NO_ATOM, *elements), fitted, threshold, histogram)
    if len(elements) == 1:
        mean, std = (signal.mean(), signal.std()) if len(signal) else (0.0, 0.0)
        return _name(signal, elements, np.array([[1.0, mean, std]]), np.zeros(0), histogram)
    if len(elements) == 2 and len(signal) >= ATOMS_PER_CLASS_MIN * len(elements) and len(np.unique(signal)) > 1:
        fitted = _fit_gaussians(counts, edges, signal, len(elements))
        threshold = _crossings(fitted, len(signal))
        if (np.isfinite(threshold).all() and _are_modes_of_elements(fitted, expected, scale)
                and _gain_of_two(signal, fitted) > GAIN_MIN):
            return _name(signal, elements, fitted, threshold, histogram)
    return _name_by_ratios(signal, elements, expected, in_volts, histogram)


def _has_ratios(means: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether the ratios of rising ``means`` are those of the ``expected`` signals."""
    steps, usual = np.diff(np.log(np.maximum(means, 1e-12))), np.diff(np.log(expected))
    return bool((steps >= RATIO_LOW[0] * usual + RATIO_LOW[1]).all()
                and (steps <= RATIO_HIGH[0] * usual + RATIO_HIGH[1]).all() and (usual > 0).all())


def _is_weakest_no_atom(means: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether the ratios of the upper K of K + 1 means are those expected of the elements' signals.

    For one element the weakest mean must be less than half of its signal.
    """
    return bool(means[1] > 2 * means[0]) if len(expected) == 1 else _has_ratios(means[1:], expected)


def _are_modes_of_elements(components: np.ndarray, expected: np.ndarray, scale: np.ndarray | None) -> bool:
    """Return whether two components are two modes, and have the ratio of the elements and, if given, their ``scale``.
    """
    if expected[1] < RATIO_MIN * expected[0] or not _has_ratios(components[:, 1], expected):
        return False
    if _overlap_percent(*components) > OVERLAP_MAX_PERCENT:
        return False
    if scale is None:
        return True
    factor = np.log(components[:, 1] / scale).mean()
    return bool(abs(factor - FACTOR_IN_VOLTS[0]) <= FACTOR_STDS * FACTOR_IN_VOLTS[1])


def _are_noise_and_atoms(components: np.ndarray, scale: float, signal: np.ndarray) -> bool:
    """Return whether the upper of two components has the signal of the only element, and the lower one is no atoms.

    They must be two modes, the upper one nearer to ``scale``, the expected signal, by a factor of more than two. At low
    dose there may be many more sites of noise than atoms, so that no peak of the atoms stands out of the histogram.
    """
    lower, upper = np.log(np.maximum(components[:, 1], 1e-12) / scale) - FACTOR_IN_VOLTS[0]
    if upper <= lower + np.log(2) or abs(upper) >= min(abs(lower), FACTOR_STDS * FACTOR_IN_VOLTS[1]):
        return False
    return _overlap_percent(*components) <= OVERLAP_MAX_PERCENT and _gain_of_two(signal, components) > GAIN_MIN


def _gain_of_two(signal: np.ndarray, components: np.ndarray) -> float:
    """Return the log-likelihood of two Gaussians minus that of one normal or log-normal class, the better one.

    The outermost signals do not count, as in the histogram.
    """
    low, high = np.quantile(signal, [0.002, 0.998])
    inner = signal[(signal >= low) & (signal <= high) & (signal > 0)]
    share, mean, std = components.T
    both = (share / (np.sqrt(2 * np.pi) * std) * np.exp(-0.5 * ((inner[:, None] - mean) / std) ** 2)).sum(axis=1)
    logarithm = np.log(inner)
    one = [0.5 * len(inner) * (np.log(2 * np.pi * values.var() + 1e-300) + 1) for values in (inner, logarithm)]
    return float(np.log(both + 1e-300).sum() + min(one[0], one[1] + logarithm.sum()))


def _count_peaks(counts: np.ndarray) -> int:
    """Count the peaks of a histogram that exceed their valleys by a quarter and by four standard deviations."""
    width = max(len(counts) / 40, 1.0)
    smooth = gaussian_filter1d(counts.astype(np.float64), width, mode="constant")
    # Counts are Poisson distributed; smoothing divides their variance.
    noise = 1 / (2 * np.sqrt(np.pi) * width)

    def stands_out(peak: float, valley: float) -> bool:
        return peak - valley > max(0.25 * peak, 4 * np.sqrt(noise * (peak + valley)))

    n_peaks, rising, extreme = 0, True, 0.0
    for height in np.append(smooth, 0.0):
        if rising and stands_out(extreme, height):
            n_peaks, rising, extreme = n_peaks + 1, False, height
        elif not rising and stands_out(height, extreme):
            rising, extreme = True, height
        else:
            extreme = max(extreme, height) if rising else min(extreme, height)
    return n_peaks


def _histogram(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the histogram of all but the outermost signals, with 2√N bins within 10 … 200."""
    if not len(signal):
        return np.zeros(1, dtype=np.int64), np.array([0.0, 1.0])
    low, high = np.quantile(signal, [0.002, 0.998])
    margin = 0.05 * (high - low) + 1e-9 * abs(high) + 1e-12
    n_bins = int(np.clip(2 * np.sqrt(len(signal)), 10, 200))
    return np.histogram(signal, bins=n_bins, range=(low - margin, high + margin))


def _k_means(signal: np.ndarray, n_classes: int) -> np.ndarray:
    """Return rows (share, mean, std) of the best of several k-means partitions, by rising mean."""
    ordered = np.sort(signal)
    starts = [np.quantile(ordered, (np.arange(n_classes) + 0.5) / n_classes),
              ordered[0] + (ordered[-1] - ordered[0]) * (np.arange(n_classes) + 0.5) / n_classes]
    best, best_spread = np.zeros((0, 3)), np.inf
    for centres in starts:
        for _ in range(200):
            cuts = np.searchsorted(ordered, 0.5 * (centres[:-1] + centres[1:]))
            parts = np.split(ordered, cuts)
            moved = np.array([part.mean() if len(part) else centre
                              for part, centre in zip(parts, centres, strict=True)])
            if np.array_equal(moved, centres):
                break
            centres = moved
        spread = sum(float(((part - part.mean()) ** 2).sum()) for part in parts if len(part))
        spread += np.inf if min(len(part) for part in parts) == 0 else 0.0
        if spread < best_spread or not len(best):
            best_spread = spread
            best = np.array([[len(part) / len(ordered), centre, part.std() if len(part) else 0.0]
                             for part, centre in zip(parts, centres, strict=True)])
    return best


def _fit_gaussians(counts: np.ndarray, edges: np.ndarray, signal: np.ndarray, n_classes: int) -> np.ndarray:
    """Fit K Gaussians to a histogram by least squares; return rows (share, mean, std) by rising mean."""
    centres = 0.5 * (edges[:-1] + edges[1:])
    bin_width, extent = edges[1] - edges[0], edges[-1] - edges[0]
    height = max(counts.max(), 1)

    def residual(parameters: np.ndarray) -> np.ndarray:
        peak, mean, std = parameters.reshape(3, n_classes, 1)
        model = (peak * np.exp(-0.5 * ((centres - mean) / std) ** 2)).sum(axis=0)
        # The square root of a Poisson count has the same standard deviation for all counts.
        return np.sqrt(model + 1 / height) - np.sqrt((counts + 1) / height)

    low = np.repeat([0.0, edges[0], 0.5 * bin_width], n_classes)
    high = np.repeat([2.0, edges[-1], extent], n_classes)
    scale = np.repeat([1.0, extent, extent / 10], n_classes)
    least_cost, best = np.inf, low
    for start in _starts(signal, n_classes):
        share, mean, std = start.T
        std = np.clip(std, bin_width, extent / 2)
        peak = share * len(signal) * bin_width / (np.sqrt(2 * np.pi) * std * height)
        point = np.concatenate([np.clip(peak, 1e-3, 1.9), np.clip(mean, edges[0], edges[-1]), std])
        fit = least_squares(residual, np.clip(point, low, high), bounds=(low, high), x_scale=scale)
        if fit.cost < least_cost:
            least_cost, best = fit.cost, fit.x
    peak, mean, std = best.reshape(3, n_classes)
    area = peak * std
    order = np.argsort(mean, kind="stable")
    return np.stack([area / max(area.sum(), 1e-300), mean, std], axis=1)[order]


def _starts(signal: np.ndarray, n_classes: int) -> list[np.ndarray]:
    """Return partitions of the signals to start from: k-means, and cuts at several quantiles."""
    ordered = np.sort(signal)
    starts = [_k_means(signal, n_classes)]
    for tilt in (0.4, 1.0, 2.5):
        cuts = np.linspace(0, 1, n_classes + 1)[1:-1] ** tilt
        parts = np.split(ordered, np.round(cuts * len(ordered)).astype(int))
        if min(len(part) for part in parts) > 1:
            starts.append(np.array([[len(part) / len(ordered), part.mean(), part.std()] for part in parts]))
    return starts


def _log_ratio(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return (c2, c1, c0) of the logarithm of the upper over the lower component, a parabola in the signal."""
    def parabola(component: np.ndarray) -> np.ndarray:
        share, mean, std = component
        return np.array([-0.5 / std**2, mean / std**2, np.log(share / std) - 0.5 * (mean / std) ** 2])
    return parabola(upper) - parabola(lower)


def _crossings(components: np.ndarray, n_sites: int) -> np.ndarray:
    """Return signals (K - 1,) where neighbours cross between their means; NaN if they do not, or if one is empty."""
    thresholds = np.full(len(components) - 1, np.nan)
    if components[:, 0].min() < max(SHARE_MIN, 3 / n_sites):
        return thresholds
    for k in range(len(components) - 1):
        c2, c1, c0 = _log_ratio(components[k], components[k + 1])
        roots = np.roots([c2, c1, c0] if abs(c2) > 1e-12 * abs(c1) else [c1, c0])
        real = roots[np.isreal(roots)].real
        between = real[(real > components[k, 1]) & (real < components[k + 1, 1])]
        if len(between) == 1:
            thresholds[k] = between[0]
    return thresholds


def _name_by_ratios(signal: np.ndarray, elements: tuple[int, ...], expected: np.ndarray, in_volts: bool,
                    histogram: dict) -> Species:
    n_classes = len(elements)
    if (signal > 0).any():
        model = fit_signals(signal, expected, in_volts=in_volts)
        posterior, mean, std, share = model.posterior, model.mean, model.std, model.share
    else:
        posterior = np.full((len(signal), n_classes), 1 / n_classes)
        mean = std = np.full(n_classes, np.nan)
        share = posterior[0] if len(signal) else np.full(n_classes, 1 / n_classes)
    column = n_classes - 1 - np.argmax(posterior[:, ::-1], axis=1)
    threshold, overlap = np.full(n_classes - 1, np.nan), np.full(n_classes - 1, np.nan)
    for k in range(n_classes - 1):
        lower, upper = signal[column == k], signal[column == k + 1]
        if len(lower) and len(upper) and lower.max() < upper.min():
            threshold[k] = 0.5 * (lower.max() + upper.min())
        if np.isfinite(mean[k : k + 2]).all():
            overlap[k] = _overlap_percent(*np.stack([share, mean, std], axis=1)[k : k + 2])
    named = np.eye(n_classes)[column]
    sums = posterior.sum(axis=0)[:, None]
    expected_percent = np.divide(100 * posterior.T @ named, sums, out=np.full((n_classes,) * 2, np.nan), where=sums > 0)
    summary = histogram | {"classes": elements, "rule": "ratios", "share": share, "mean": mean, "std": std,
                           "threshold": threshold, "overlap_percent": overlap, "expected_percent": expected_percent,
                           "n_undecided": int((posterior.max(axis=1, initial=0.0) < DECIDED).sum())}
    return Species(np.asarray(elements)[column], posterior, np.zeros(len(signal)), summary)


def _name(signal: np.ndarray, classes: tuple[int, ...], components: np.ndarray, threshold: np.ndarray,
          histogram: dict) -> Species:
    numbers = np.asarray(classes)[np.searchsorted(threshold, signal, side="right")]
    # A component may not be narrower than a part in 10^6 of the distances, or the logarithms overflow.
    floor = 1e-6 * max(float(np.ptp(components[:, 1])), 1e-6 * float(np.abs(components[:, 1]).max(initial=0.0)), 1e-12)
    safe = np.maximum(components, [1e-12, -np.inf, floor])
    logarithm = np.zeros((len(signal), len(classes)))
    overlap = np.zeros(len(classes) - 1)
    for k in range(len(classes) - 1):
        logarithm[:, k + 1] = logarithm[:, k] + _monotone_log_ratio(signal, safe[k], safe[k + 1], threshold[k])
        overlap[k] = _overlap_percent(safe[k], safe[k + 1])
    logarithm -= logarithm.max(axis=1, keepdims=True)
    posterior = np.exp(logarithm)
    posterior /= posterior.sum(axis=1, keepdims=True)
    cuts = np.concatenate([[-np.inf], threshold, [np.inf]])
    below = ndtr((cuts[None, :] - safe[:, 1, None]) / safe[:, 2, None])
    summary = histogram | {"classes": classes, "rule": "gaussians", "share": components[:, 0], "mean": components[:, 1],
                           "std": components[:, 2], "threshold": threshold, "overlap_percent": overlap,
                           "expected_percent": 100 * np.diff(below, axis=1),
                           "n_undecided": int((posterior.max(axis=1, initial=0.0) < DECIDED).sum())}
    if classes == histogram["elements"]:
        return Species(numbers, posterior, np.zeros(len(signal)), summary)
    return Species(numbers, posterior[:, 1:], posterior[:, 0], summary)


def _monotone_log_ratio(signal: np.ndarray, lower: np.ndarray, upper: np.ndarray, threshold: float) -> np.ndarray:
    """Return the log of upper over lower, constant beyond its vertex: it never falls with the signal."""
    c2, c1, c0 = _log_ratio(lower, upper)
    if c2 != 0:
        vertex = -c1 / (2 * c2)
        signal = np.minimum(signal, vertex) if c2 < 0 else np.maximum(signal, vertex)
    ratio = (c2 * signal + c1) * signal + c0
    # The threshold of k-means is not where its components cross: shift so that the odds are even at the threshold.
    return ratio - ((c2 * threshold + c1) * threshold + c0)


def _overlap_percent(lower: np.ndarray, upper: np.ndarray) -> float:
    """Return the common area in percent of two components, each scaled to an area of 1."""
    low = min(lower[1] - 8 * lower[2], upper[1] - 8 * upper[2])
    high = max(lower[1] + 8 * lower[2], upper[1] + 8 * upper[2])
    x = np.linspace(low, high, 20001)
    densities = [np.exp(-0.5 * ((x - mean) / std) ** 2) / (np.sqrt(2 * np.pi) * std) for _, mean, std in (lower, upper)]
    least = np.minimum(*densities)
    return float(100 * np.sum(np.diff(x) * (least[1:] + least[:-1]) / 2.0))
