"""Traced atoms against true ones: the paper's scores and strict scores.

Paper: traced atoms in the order of falling intensity each take the nearest true atom that is still free within
``max_distance_A``. Strict: the one-to-one assignment within that distance with the most pairs, and among those the one
with the least sum of squared distances.

Sites that the tracing named "no atom" (number 0) do not take part. Pairs are formed from all atoms; a pair counts if
its true atom is inside the scoring region. An atom whose traced position is just across the region's border is
therefore neither missing nor a false positive.

Each score has a confidence interval. Every score is a ratio of sums over atoms, or a root or a standard deviation of
such ratios. The atoms of a volume are not independent: neighbours share noise and artefacts. The bootstrap therefore
draws whole cubes of space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.core.nouns import Atoms, Match, TracedAtoms
from aetlab.core.pairing import assign_optimally, list_pairs
from aetlab.core.physics import SYMBOLS

#: Approximate number of cubes of space of the bootstrap.
N_BLOCKS = 200
#: Two-sided confidence of the intervals.
CONFIDENCE = 0.95


def match_atoms(traced: TracedAtoms, atoms: Atoms, *, traced_inside: np.ndarray, true_inside: np.ndarray,
                max_distance_A: float, n_resamples: int = 1000, seed: int = 0) -> Match:
    """Pair traced with true atoms and score the tracing. Needs the truth.

    Parameters
    ----------
    traced : TracedAtoms
        N atoms.
    atoms : Atoms
        M true atoms.
    traced_inside, true_inside : (N,) and (M,) bool
        Masks of the atoms inside the scoring region.
    max_distance_A : float
        Largest distance of a pair in Å.
    n_resamples : int
        Bootstrap resamples for the confidence intervals; 0 for no intervals.
    seed : int
        Seed of the resampling.

    Returns
    -------
    Match
        Metrics as in :func:`aetlab.scoring.match.score_metrics`.

    Raises
    ------
    ValueError
        If a mask does not have the length of its atoms.
    """
    traced_inside, true_inside = np.asarray(traced_inside, dtype=bool), np.asarray(true_inside, dtype=bool)
    if traced_inside.shape != (len(traced),) or true_inside.shape != (len(atoms),):
        raise ValueError(f"masks of shape {traced_inside.shape} and {true_inside.shape} do not fit {len(traced)} "
                         f"traced and {len(atoms)} true atoms")
    claimed = (traced.numbers > 0) | (0 in traced.species.get("elements", ()))
    traced_inside = traced_inside & claimed
    i_traced, i_true, distance_A = list_pairs(traced.positions_A, atoms.positions_A, max_distance_A)
    pairs = claimed[i_traced]
    i_traced, i_true, distance_A = i_traced[pairs], i_true[pairs], distance_A[pairs]
    paper = _take_nearest(i_traced, i_true, distance_A, -traced.intensity_V, len(atoms))
    strict = assign_optimally(i_traced, i_true, distance_A, len(traced), len(atoms))
    scored = [_keep_inside(pairs, traced, atoms, traced_inside, true_inside) for pairs in (paper, strict)]
    numbers = np.union1d(atoms.numbers, traced.numbers)
    numbers = np.append(numbers[numbers > 0], 0)
    return Match(
        traced=scored[0].traced, true=scored[0].true, unmatched_traced=scored[0].unmatched_traced,
        unmatched_true=scored[0].unmatched_true, strict_traced=scored[1].traced, strict_true=scored[1].true,
        metrics=score_metrics(scored[0], scored[1], traced, atoms, n_resamples=n_resamples, seed=seed),
        confusion=count_confusion(scored[1], traced, atoms, numbers), confusion_numbers=numbers)


def _take_nearest(i_traced: np.ndarray, i_true: np.ndarray, distance_A: np.ndarray, rank: np.ndarray,
                  n_true: int) -> tuple[np.ndarray, np.ndarray]:
    """Let traced atoms by rising rank take the nearest free true atom; return pairs in the order of the traced."""
    order = np.lexsort((i_true, distance_A, i_traced, rank[i_traced]))
    free, taken = np.ones(n_true, dtype=bool), {}
    for traced, true in zip(i_traced[order].tolist(), i_true[order].tolist(), strict=True):
        if free[true] and traced not in taken:
            free[true] = False
            taken[traced] = true
    pairs = np.array(sorted(taken.items()), dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _keep_inside(pairs: tuple[np.ndarray, np.ndarray], traced: TracedAtoms, atoms: Atoms, traced_inside: np.ndarray,
                 true_inside: np.ndarray) -> Scored:
    keep = true_inside[pairs[1]]
    unmatched_traced = traced_inside.copy()
    unmatched_traced[pairs[0]] = False
    unmatched_true = true_inside.copy()
    unmatched_true[pairs[1]] = False
    return Scored(traced=pairs[0][keep], true=pairs[1][keep], unmatched_traced=np.flatnonzero(unmatched_traced),
                  unmatched_true=np.flatnonzero(unmatched_true),
                  displacement_A=traced.positions_A[pairs[0][keep]] - atoms.positions_A[pairs[1][keep]])


@dataclass(frozen=True)
class Scored:
    """Pairs (P,) inside the scoring region, unmatched atoms, and ``displacement_A`` (P, 3), traced minus true."""

    traced: np.ndarray
    true: np.ndarray
    unmatched_traced: np.ndarray
    unmatched_true: np.ndarray
    displacement_A: np.ndarray


def score_metrics(paper: Scored, strict: Scored, traced: TracedAtoms, atoms: Atoms, *, n_resamples: int,
                  seed: int) -> dict[str, float]:
    """Return scores by name, NaN for 0/0; ``NAME_low`` and ``NAME_high`` bound the confidence interval.

    All need the truth; :mod:`aetlab.core.metrics` describes each. Paper: ``found_percent`` and
    ``false_positive_percent`` of the true atoms, ``correct_species_percent`` of the found; ``position_error_pm`` is the
    mean 3D distance and ``sigma_*_pm`` the standard deviation along an axis. Strict: ``strict_precision``,
    ``strict_recall``, ``strict_f1``, ``strict_rmsd_pm``, and ``strict_species_percent`` of all true atoms. By element
    (``*_Si``): found, error and species as in the paper. ``error_over_sigma_*`` is the root mean square of error over
    standard error along an axis, ``within_sigma_percent`` the share of these ratios below 1; they are 1 and 68.3 % if
    the error bars are right. Counts: ``n_true``, ``n_traced``, ``n_found``.
    """
    scored_true = np.concatenate([paper.true, paper.unmatched_true])
    numbers = np.unique(atoms.numbers[scored_true])
    columns = _per_atom_terms(paper, strict, traced, atoms, numbers)
    totals = columns.values.sum(axis=0, keepdims=True)
    metrics = {name: float(value[0]) for name, value in _figures(totals, columns.names, numbers).items()}
    if n_resamples:
        drawn = resample(block_sums(columns.positions_A, columns.values), n_resamples, seed)
        resampled = _figures(drawn, columns.names, numbers)
        tail = 50 * (1 - CONFIDENCE)
        for name, values in resampled.items():
            finite = values[np.isfinite(values)]
            bounds = np.percentile(finite, [tail, 100 - tail]) if len(finite) else (np.nan, np.nan)
            metrics[f"{name}_low"], metrics[f"{name}_high"] = float(bounds[0]), float(bounds[1])
    pairs, false = len(paper.traced), len(paper.unmatched_traced)
    return metrics | {"n_true": float(len(scored_true)), "n_traced": float(pairs + false), "n_found": float(pairs)}


@dataclass(frozen=True)
class _Terms:
    """Terms (rows, columns) whose sums give the scores, one row for each scored atom, at ``positions_A``."""

    names: tuple[str, ...]
    values: np.ndarray
    positions_A: np.ndarray


def _per_atom_terms(paper: Scored, strict: Scored, traced: TracedAtoms, atoms: Atoms, numbers: np.ndarray) -> _Terms:
    rows: list[np.ndarray] = []
    places: list[np.ndarray] = []
    base = ("found", "missing", "false", "distance", "x", "y", "z", "xx", "yy", "zz", "correct", "with_sigma",
            "ratio_x", "ratio_y", "ratio_z", "within")
    names = (*base, "pairs", "strict_missing", "strict_false", "strict_square", "strict_correct",
             *(f"{term}_{number}" for number in numbers for term in ("true", "found", "distance", "correct")))
    at = {name: k for k, name in enumerate(names)}

    def add(positions: np.ndarray, **terms: np.ndarray | float) -> None:
        block = np.zeros((len(positions), len(names)))
        for name, value in terms.items():
            block[:, at[name]] = value
        rows.append(block)
        places.append(positions)

    d = paper.displacement_A
    distance = np.linalg.norm(d, axis=1)
    true_numbers = atoms.numbers[paper.true]
    correct = traced.numbers[paper.traced] == true_numbers
    by_element: dict[str, np.ndarray | float] = {}
    for number in numbers:
        own = true_numbers == number
        by_element |= {f"true_{number}": own, f"found_{number}": own, f"distance_{number}": own * distance,
                       f"correct_{number}": own & correct}
    ratio2, known = _error_over_sigma(d, traced.position_error_A[paper.traced])
    add(atoms.positions_A[paper.true], found=1.0, distance=distance, x=d[:, 0], y=d[:, 1], z=d[:, 2], xx=d[:, 0] ** 2,
        yy=d[:, 1] ** 2, zz=d[:, 2] ** 2, correct=correct, with_sigma=known, ratio_x=ratio2[:, 0], ratio_y=ratio2[:, 1],
        ratio_z=ratio2[:, 2], within=known * (ratio2 < 1).mean(axis=1), **by_element)
    missing = atoms.numbers[paper.unmatched_true]
    add(atoms.positions_A[paper.unmatched_true], missing=1.0, **{f"true_{n}": missing == n for n in numbers})
    add(traced.positions_A[paper.unmatched_traced], false=1.0)
    add(atoms.positions_A[strict.true], pairs=1.0, strict_square=(strict.displacement_A**2).sum(axis=1),
        strict_correct=traced.numbers[strict.traced] == atoms.numbers[strict.true])
    add(atoms.positions_A[strict.unmatched_true], strict_missing=1.0)
    add(traced.positions_A[strict.unmatched_traced], strict_false=1.0)
    return _Terms(names, np.concatenate(rows), np.concatenate(places))


def _error_over_sigma(error_A: np.ndarray, sigma_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squared ratios (P, 3), 0 for atoms without a standard error, and the mask of atoms with one, (P,)."""
    known = np.asarray(np.isfinite(sigma_A).all(axis=1) & (sigma_A > 0).all(axis=1))
    return np.where(known[:, None], error_A / np.where(known[:, None], sigma_A, 1.0), 0.0) ** 2, known


def block_sums(positions_A: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sums (blocks, ...) of ``values`` (rows, ...) over about :data:`N_BLOCKS` cubes of space."""
    if not len(values):
        return np.zeros((1, *values.shape[1:]))
    low, high = positions_A.min(axis=0), positions_A.max(axis=0)
    side = max((np.prod(np.maximum(high - low, 1.0)) / N_BLOCKS) ** (1 / 3), 1e-3)
    cell = np.floor((positions_A - low) / side).astype(np.int64)
    _, block = np.unique(cell, axis=0, return_inverse=True)
    sums = np.zeros((block.max() + 1, *values.shape[1:]))
    np.add.at(sums, block.ravel(), values)
    return sums


def resample(sums: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Return sums (resamples, ...) over blocks drawn with replacement from ``sums`` (blocks, ...)."""
    # Drawing blocks with replacement is equal to drawing how often each one occurs.
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), n_resamples)
    return np.tensordot(drawn, sums, axes=1)


def _figures(sums: np.ndarray, names: tuple[str, ...], numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores (rows,) from sums (rows, columns)."""
    s = dict(zip(names, sums.T.astype(np.float64), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        true, found = s["found"] + s["missing"], s["found"]
        strict_true, strict_traced = s["pairs"] + s["strict_missing"], s["pairs"] + s["strict_false"]
        figures = {"position_error_pm": 100 * s["distance"] / found}
        for axis in "xyz":
            variance = s[2 * axis] / found - (s[axis] / found) ** 2
            figures[f"sigma_{axis}_pm"] = 100 * np.sqrt(np.maximum(variance, 0))
        figures |= {
            "found_percent": 100 * found / true, "false_positive_percent": 100 * s["false"] / true,
            "correct_species_percent": 100 * s["correct"] / found, "strict_precision": s["pairs"] / strict_traced,
            "strict_recall": s["pairs"] / strict_true, "strict_f1": 2 * s["pairs"] / (strict_true + strict_traced),
            "strict_rmsd_pm": 100 * np.sqrt(s["strict_square"] / s["pairs"]),
            "strict_species_percent": 100 * s["strict_correct"] / strict_true,
            "within_sigma_percent": 100 * s["within"] / s["with_sigma"],
            **{f"error_over_sigma_{axis}": np.sqrt(s[f"ratio_{axis}"] / s["with_sigma"]) for axis in "xyz"}}
        for number in numbers:
            symbol, own = SYMBOLS[number], s[f"found_{number}"]
            figures |= {f"found_percent_{symbol}": 100 * own / s[f"true_{number}"],
                        f"position_error_pm_{symbol}": 100 * s[f"distance_{number}"] / own,
                        f"correct_species_percent_{symbol}": 100 * s[f"correct_{number}"] / own}
    return figures


def count_confusion(strict: Scored, traced: TracedAtoms, atoms: Atoms, numbers: np.ndarray) -> np.ndarray:
    """Count true elements (rows) by given names (columns), (K + 1, K + 1); last: no atom, see :class:`Match`."""
    row = {int(number): k for k, number in enumerate(numbers)}
    confusion = np.zeros((len(numbers),) * 2, dtype=np.int64)
    missing, false = strict.unmatched_true, strict.unmatched_traced
    true = [atoms.numbers[strict.true], atoms.numbers[missing], np.zeros(len(false), dtype=np.int64)]
    given = [traced.numbers[strict.traced], np.zeros(len(missing), dtype=np.int64), traced.numbers[false]]
    index = [np.array([row[int(n)] for n in np.concatenate(part)], dtype=np.int64) for part in (true, given)]
    np.add.at(confusion, tuple(index), 1)
    return confusion
