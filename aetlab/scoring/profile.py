"""Scores as functions of the distance from the tilt axis and of the depth below the sample's surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aetlab.core.nouns import Atoms, Match, TracedAtoms
from aetlab.core.structure import depth_below_surface
from aetlab.core.tiling import distance_to_nearest
from aetlab.scoring.match import CONFIDENCE, block_sums, resample

#: Width of the bins in Å; they are wider if there would be more than N_BINS_MAX.
BIN_A = 2.0
N_BINS_MAX = 12
#: Edges in Å of the bins of the distance from a seam, finer near it.
SEAM_EDGES_A = np.array([0.0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 1e5])


def profile_scores(match: Match, traced: TracedAtoms, atoms: Atoms, *, n_resamples: int = 1000,
                   seed: int = 0, seams_A: Sequence[float] = ()) -> dict[str, dict[str, np.ndarray]]:
    """Return the paper's scores by distance from the axis (``axis``) and depth below the surface (``surface``).

    With ``seams_A``, the y of the seams between tiles, also by the distance from the nearest one (``seam``), in bins of
    :data:`SEAM_EDGES_A`. Needs the truth. The surface is the convex hull of the true atoms; atoms outside have depth 0.
    ``surface`` is missing if the true atoms span no volume. Each value holds the arrays of :func:`score_against`.
    """
    distances = {"axis": (distance_from_axis_A(atoms.positions_A), distance_from_axis_A(traced.positions_A))}
    depth_A = depth_below_surface(atoms.positions_A, atoms.positions_A)
    if len(atoms) and np.isfinite(depth_A).all():
        outside_A = depth_below_surface(traced.positions_A, atoms.positions_A)
        distances["surface"] = (np.maximum(depth_A, 0.0), np.maximum(outside_A, 0.0))
    scored = np.concatenate([match.true, match.unmatched_true])
    profiles = {}
    for name, (true_A, traced_A) in distances.items():
        largest_A = float(true_A[scored].max(initial=BIN_A / 2))
        n_bins = int(min(np.ceil(largest_A / BIN_A), N_BINS_MAX))
        # The last edge lies beyond the last atom.
        edges_A = np.linspace(0.0, largest_A * (1 + 1e-9), n_bins + 1)
        profiles[name] = score_against(true_A, traced_A, edges_A, match, traced, atoms, n_resamples=n_resamples,
                                       seed=seed)
    if len(seams_A):
        seams = np.asarray(seams_A, float)
        true_A, traced_A = (distance_to_nearest(positions_A[:, 1], seams)
                            for positions_A in (atoms.positions_A, traced.positions_A))
        n_edges = np.searchsorted(SEAM_EDGES_A, true_A[scored].max(initial=SEAM_EDGES_A[1]), side="right") + 1
        profiles["seam"] = score_against(true_A, traced_A, SEAM_EDGES_A[:n_edges], match, traced, atoms,
                                         n_resamples=n_resamples, seed=seed)
    return profiles


def score_against(distance_true_A: np.ndarray, distance_traced_A: np.ndarray, edges_A: np.ndarray, match: Match,
                  traced: TracedAtoms, atoms: Atoms, *, n_resamples: int = 0,
                  seed: int = 0) -> dict[str, np.ndarray]:
    """Return the paper's scores in bins of a distance of the atoms. Needs the truth.

    Parameters
    ----------
    distance_true_A, distance_traced_A : (M,) and (N,)
        The distance of every true and every traced atom.
    edges_A : (B + 1,)
        Rising edges of the bins; a bin includes its lower edge.
    match, traced, atoms : Match, TracedAtoms, Atoms
    n_resamples, seed : int
        Bootstrap resamples for the confidence intervals, as in :func:`aetlab.scoring.match.match_atoms`; 0 for none.

    Returns
    -------
    dict
        ``edges_A`` and arrays (B,): ``n_true``, ``found_percent`` and ``false_positive_percent``, both of the bin's
        true atoms, ``position_error_pm`` and ``correct_species_percent`` of the found; NaN for empty bins. A false
        positive counts in the bin of its own distance. With resamples also the bounds ``*_low`` and ``*_high`` of each
        but ``n_true``, of the resamples in which it is finite.
    """
    n_bins = len(edges_A) - 1
    error_A = np.linalg.norm(traced.positions_A[match.traced] - atoms.positions_A[match.true], axis=1)
    correct = traced.numbers[match.traced] == atoms.numbers[match.true]
    # One row for each found, missing and false atom; columns found, missing, false, error, correct species.
    groups = ((match.true, atoms.positions_A, distance_true_A, {0: 1.0, 3: error_A, 4: correct}),
              (match.unmatched_true, atoms.positions_A, distance_true_A, {1: 1.0}),
              (match.unmatched_traced, traced.positions_A, distance_traced_A, {2: 1.0}))
    rows, places = [], []
    for chosen, positions_A, distance_A, terms in groups:
        place = np.searchsorted(edges_A, distance_A[chosen], side="right") - 1
        inside = (place >= 0) & (place < n_bins)
        block = np.zeros((len(chosen), n_bins, 5))
        for column, value in terms.items():
            block[np.flatnonzero(inside), place[inside], column] = (value[inside] if isinstance(value, np.ndarray)
                                                                    else value)
        rows.append(block)
        places.append(positions_A[chosen])
    values = np.concatenate(rows)
    result = {"edges_A": np.asarray(edges_A, dtype=np.float64), **_scores(values.sum(axis=0))}
    if n_resamples:
        drawn = _scores(resample(block_sums(np.concatenate(places), values), n_resamples, seed))
        for name in set(drawn) - {"n_true"}:
            bounds = np.full((2, n_bins), np.nan)
            for k in range(n_bins):
                finite = drawn[name][np.isfinite(drawn[name][:, k]), k]
                if len(finite):
                    bounds[:, k] = np.percentile(finite, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
            result[f"{name}_low"], result[f"{name}_high"] = bounds
    return result


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores (...) of sums (..., 5)."""
    found, missing, false, error_A, correct = np.moveaxis(sums, -1, 0)
    true = found + missing
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"n_true": true, "found_percent": 100 * found / true, "false_positive_percent": 100 * false / true,
                "position_error_pm": 100 * error_A / found, "correct_species_percent": 100 * correct / found}


def distance_from_axis_A(positions_A: np.ndarray) -> np.ndarray:
    """Return the distance in Å (N,) from the tilt axis y through the volume's centre."""
    return np.hypot(positions_A[:, 0], positions_A[:, 2])
