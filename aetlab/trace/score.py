"""Figures made of matched atoms, each with a confidence interval.

Every figure is a ratio of sums over atoms (or a root or a standard deviation made of such), and the atoms of a volume
are not independent: neighbours share noise and artefacts. The bootstrap therefore draws whole cubes of space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aetlab.data import Atoms, Match, TracedAtoms
from aetlab.physics import SYMBOLS

#: The bootstrap cuts the scored atoms into about this many cubes of space.
N_BLOCKS = 200
#: Two-sided confidence of the intervals.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scored:
    """Pairs (P,) inside the scoring region, what is left over, and ``displacement_A`` (P, 3), traced minus true."""

    traced: np.ndarray
    true: np.ndarray
    unmatched_traced: np.ndarray
    unmatched_true: np.ndarray
    displacement_A: np.ndarray


def score_metrics(paper: Scored, strict: Scored, traced: TracedAtoms, atoms: Atoms, *, n_resamples: int,
                  seed: int) -> dict[str, float]:
    """Scores by name, NaN where there is nothing to divide by; ``NAME_low`` and ``NAME_high`` bound the interval.

    Paper: ``found_percent`` and ``false_positive_percent`` of the true atoms, ``correct_species_percent`` of the found;
    ``position_error_pm`` is the mean 3D distance and ``sigma_*_pm`` the standard deviation along an axis. Strict:
    ``strict_precision``, ``strict_recall``, ``strict_f1``, ``strict_rmsd_pm``, and ``strict_species_percent`` of all
    true atoms. By element (``*_Si``): found, error and species as in the paper. Counts: ``n_true``, ``n_traced``,
    ``n_found``.
    """
    scored_true = np.concatenate([paper.true, paper.unmatched_true])
    numbers = np.unique(atoms.numbers[scored_true])
    columns = _per_atom_terms(paper, strict, traced, atoms, numbers)
    totals = columns.values.sum(axis=0, keepdims=True)
    metrics = {name: float(value[0]) for name, value in _figures(totals, columns.names, numbers).items()}
    if n_resamples:
        sums = _block_sums(columns)
        # Drawing blocks with replacement is drawing how often each one occurs.
        drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), n_resamples)
        resampled = _figures(drawn @ sums, columns.names, numbers)
        tail = 50 * (1 - CONFIDENCE)
        for name, values in resampled.items():
            finite = values[np.isfinite(values)]
            bounds = np.percentile(finite, [tail, 100 - tail]) if len(finite) else (np.nan, np.nan)
            metrics[f"{name}_low"], metrics[f"{name}_high"] = float(bounds[0]), float(bounds[1])
    pairs, false = len(paper.traced), len(paper.unmatched_traced)
    return metrics | {"n_true": float(len(scored_true)), "n_traced": float(pairs + false), "n_found": float(pairs)}


@dataclass(frozen=True)
class _Terms:
    """Terms (rows, columns) whose sums make the figures, one row a scored atom, at ``positions_A``."""

    names: tuple[str, ...]
    values: np.ndarray
    positions_A: np.ndarray


def _per_atom_terms(paper: Scored, strict: Scored, traced: TracedAtoms, atoms: Atoms, numbers: np.ndarray) -> _Terms:
    rows: list[np.ndarray] = []
    places: list[np.ndarray] = []
    base = ("found", "missing", "false", "distance", "x", "y", "z", "xx", "yy", "zz", "correct")
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
    add(atoms.positions_A[paper.true], found=1.0, distance=distance, x=d[:, 0], y=d[:, 1], z=d[:, 2], xx=d[:, 0] ** 2,
        yy=d[:, 1] ** 2, zz=d[:, 2] ** 2, correct=correct, **by_element)
    missing = atoms.numbers[paper.unmatched_true]
    add(atoms.positions_A[paper.unmatched_true], missing=1.0, **{f"true_{n}": missing == n for n in numbers})
    add(traced.positions_A[paper.unmatched_traced], false=1.0)
    add(atoms.positions_A[strict.true], pairs=1.0, strict_square=(strict.displacement_A**2).sum(axis=1),
        strict_correct=traced.numbers[strict.traced] == atoms.numbers[strict.true])
    add(atoms.positions_A[strict.unmatched_true], strict_missing=1.0)
    add(traced.positions_A[strict.unmatched_traced], strict_false=1.0)
    return _Terms(names, np.concatenate(rows), np.concatenate(places))


def _block_sums(terms: _Terms) -> np.ndarray:
    """Sums (blocks, columns) of the terms over cubes of space, about :data:`N_BLOCKS` of them."""
    if not len(terms.values):
        return np.zeros((1, terms.values.shape[1]))
    low, high = terms.positions_A.min(axis=0), terms.positions_A.max(axis=0)
    side = max((np.prod(np.maximum(high - low, 1.0)) / N_BLOCKS) ** (1 / 3), 1e-3)
    cell = np.floor((terms.positions_A - low) / side).astype(np.int64)
    _, block = np.unique(cell, axis=0, return_inverse=True)
    sums = np.zeros((block.max() + 1, terms.values.shape[1]))
    np.add.at(sums, block.ravel(), terms.values)
    return sums


def _figures(sums: np.ndarray, names: tuple[str, ...], numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Figures (rows,) from sums (rows, columns)."""
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
            "strict_species_percent": 100 * s["strict_correct"] / strict_true}
        for number in numbers:
            symbol, own = SYMBOLS[number], s[f"found_{number}"]
            figures |= {f"found_percent_{symbol}": 100 * own / s[f"true_{number}"],
                        f"position_error_pm_{symbol}": 100 * s[f"distance_{number}"] / own,
                        f"correct_species_percent_{symbol}": 100 * s[f"correct_{number}"] / own}
    return figures


def count_confusion(strict: Scored, traced: TracedAtoms, atoms: Atoms, numbers: np.ndarray) -> np.ndarray:
    """Counts (K + 1, K + 1) of true elements (rows) by given names (columns); last: no atom, see :class:`Match`."""
    row = {int(number): k for k, number in enumerate(numbers)}
    confusion = np.zeros((len(numbers),) * 2, dtype=np.int64)
    missing, false = strict.unmatched_true, strict.unmatched_traced
    true = [atoms.numbers[strict.true], atoms.numbers[missing], np.zeros(len(false), dtype=np.int64)]
    given = [traced.numbers[strict.traced], np.zeros(len(missing), dtype=np.int64), traced.numbers[false]]
    index = [np.array([row[int(n)] for n in np.concatenate(part)], dtype=np.int64) for part in (true, given)]
    np.add.at(confusion, tuple(index), 1)
    return confusion


def score_against(distance_true_A: np.ndarray, distance_traced_A: np.ndarray, edges_A: np.ndarray, match: Match,
                  traced: TracedAtoms, atoms: Atoms) -> dict[str, np.ndarray]:
    """The paper's scores in bins of some distance of the atoms, for example from the axis or from the surface.

    Parameters
    ----------
    distance_true_A, distance_traced_A : (M,) and (N,)
        That distance of every true and every traced atom.
    edges_A : (B + 1,)
        Rising edges of the bins, each with its lower edge.
    match, traced, atoms : Match, TracedAtoms, Atoms

    Returns
    -------
    dict
        Arrays (B,): ``n_true``, ``found_percent``, ``false_positive_percent`` (both of the bin's true atoms; false
        positives where they are), ``position_error_pm`` and ``correct_species_percent`` of the found; NaN for empty
        bins.
    """
    def count(distances: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        index = np.searchsorted(edges_A, distances, side="right") - 1
        inside = (index >= 0) & (index < len(edges_A) - 1)
        weights = None if weights is None else weights[inside]
        return np.bincount(index[inside], weights, minlength=len(edges_A) - 1).astype(np.float64)

    place = distance_true_A[match.true]
    error_A = np.linalg.norm(traced.positions_A[match.traced] - atoms.positions_A[match.true], axis=1)
    correct = (traced.numbers[match.traced] == atoms.numbers[match.true]).astype(np.float64)
    found = count(place)
    true = found + count(distance_true_A[match.unmatched_true])
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"n_true": true, "found_percent": 100 * found / true,
                "false_positive_percent": 100 * count(distance_traced_A[match.unmatched_traced]) / true,
                "position_error_pm": 100 * count(place, error_A) / found,
                "correct_species_percent": 100 * count(place, correct) / found}


def distance_from_axis_A(positions_A: np.ndarray) -> np.ndarray:
    """Distance in Å (N,) from the tilt axis y through the volume's centre."""
    return np.hypot(positions_A[:, 0], positions_A[:, 2])
