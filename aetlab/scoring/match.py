"""Traced atoms against true ones: the paper's scores and strict scores.

Paper: traced atoms in the order of falling intensity each take the nearest true atom that is still free within
``max_distance_A``. Strict: the one-to-one assignment within that distance with the most pairs, and among those the one
with the least sum of squared distances.

Sites that the tracing named "no atom" (number 0) do not take part. Pairs are formed from all atoms; a pair counts if
its true atom is inside the scoring region. An atom whose traced position is just across the region's border is
therefore neither missing nor a false positive.
"""

from __future__ import annotations

import numpy as np

from aetlab.core.nouns import Atoms, Match, TracedAtoms
from aetlab.core.pairing import assign_optimally, list_pairs
from aetlab.scoring.match_metrics import Scored, count_confusion, score_metrics


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
        Metrics as in :func:`aetlab.scoring.match_metrics.score_metrics`.

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
