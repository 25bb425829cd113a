"""Refined atoms beside traced ones: position errors, errors against standard errors, occupancies.

Each record is one colour. Without a truth, standard errors of refined and traced atoms are compared, and elements are
those that the refinement assigned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import cKDTree

from aetlab.reporting.figures.accuracy import RATIO_EDGES, draw_half_normal
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import BLACK, CYCLE, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun

#: Records of one figure; black is kept for the lines of all records.
MAX_RECORDS = len(CYCLE) - 1
_N_BINS = 12
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":")
_EXPECTED: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 0.9}


def has_refined(run: StoredRun) -> bool:
    """Return whether the record holds refined atoms."""
    return "refined/positions_A" in run.array_names


def position_error_pm(run: StoredRun, kind: str) -> np.ndarray:
    """Return the 3D errors (P,) in pm of the matched atoms, ``kind`` traced or refined."""
    if kind == "refined":
        return np.linalg.norm(errors_with_bounds(run)[0], axis=1)
    found, true = run.array("match/traced"), run.array("match/true")
    return 100 * np.linalg.norm(run.array("traced/positions_A")[found] - run.array("truth/positions_A")[true], axis=1)


def errors_with_bounds(run: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and standard errors (P, 3) in pm of the matched refined atoms.

    Where the record holds the motion that takes refined positions to the frame of the true atoms, it is applied.
    """
    found, true = run.array("refined_match/traced"), run.array("refined_match/true")
    positions_A = run.array("refined/positions_A")[found]
    if "refined_match/rotation" in run.array_names:
        positions_A = positions_A @ run.array("refined_match/rotation").T + run.array("refined_match/shift_A")
    error_A = positions_A - run.array("truth/positions_A")[true]
    return 100 * error_A, 100 * run.array("refined/position_error_A")[found]


def plot_refined(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Draw four panels: position errors, errors against standard errors, their ratio, occupancy by true element.

    Where a record has no truth the panels are: standard errors, distance from refined to traced atoms, occupancy by
    assigned element, and probability of the assigned element.
    """
    with_truth = all(run.has_truth for run in runs)
    black = "traced (a), correct standard errors (b, c)" if with_truth else "traced (a)"
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.8)
        grid = figure.subplots(2, 2)
        for run, colour in zip(runs, CYCLE, strict=False):
            if with_truth:
                _draw_errors(grid[0, 0], run, colour)
                _draw_against_bound(grid[0, 1], run, colour)
                _draw_ratio(grid[1, 0], run, colour)
                _draw_occupancy(grid[1, 1], run, colour, *_occupancies_by_true_element(run))
            else:
                _draw_sigmas(grid[0, 0], run, colour)
                _draw_moves(grid[0, 1], run, colour)
                _draw_occupancy(grid[1, 0], run, colour, run.array("refined/occupancy"), run.array("refined/numbers"))
                _draw_probabilities(grid[1, 1], run, colour)
        if with_truth:
            _finish_errors(grid)
        _finish_occupancies(grid[1, 1] if with_truth else grid[1, 0])
        for axes, letter in zip(grid.flat, "abcd", strict=True):
            panel_letter(axes, f"({letter})")
        handles: list[Any] = [Line2D([], [], color=colour, label=label)
                              for label, colour in zip(labels, CYCLE, strict=False)]
        handles.append(Line2D([], [], color=BLACK, linestyle="--", label=black))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _draw_errors(axes: Axes, run: StoredRun, colour: str) -> None:
    traced, refined = position_error_pm(run, "traced"), position_error_pm(run, "refined")
    top = float(np.percentile(np.concatenate([traced, refined, [1.0]]), 98))
    edges = np.linspace(0, top, 41)
    _draw_densities(axes, {"--": traced, "-": refined}, edges, colour)


def _draw_against_bound(axes: Axes, run: StoredRun, colour: str) -> None:
    error, sigma = (values.ravel() for values in errors_with_bounds(run))
    good = (sigma > 0) & (np.abs(error) < 6 * sigma)
    if good.sum() < _N_BINS:
        return
    order = np.argsort(sigma[good])
    parts = np.array_split(order, _N_BINS)
    at = [float(sigma[good][part].mean()) for part in parts]
    seen = [float(np.sqrt((error[good][part] ** 2).mean())) for part in parts]
    axes.plot(at, seen, "o-", color=colour, markersize=3, linewidth=0.8)


def _draw_ratio(axes: Axes, run: StoredRun, colour: str) -> None:
    error, sigma = errors_with_bounds(run)
    ratio = np.abs(error[sigma > 0] / sigma[sigma > 0])
    if ratio.size:
        share = np.histogram(ratio, RATIO_EDGES)[0] / ratio.size / np.diff(RATIO_EDGES)
        axes.stairs(share, RATIO_EDGES, color=colour, linewidth=1.0)


def _occupancies_by_true_element(run: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    occupancy = run.array("refined/occupancy")[run.array("refined_match/traced")]
    return occupancy, run.array("truth/numbers")[run.array("refined_match/true")]


def _draw_occupancy(axes: Axes, run: StoredRun, colour: str, occupancy: np.ndarray, numbers: np.ndarray) -> None:
    edges = np.linspace(0, 2, 61)
    for number, line in zip(np.unique(numbers), _LINES, strict=False):
        own = occupancy[numbers == number]
        axes.stairs(np.histogram(own, edges)[0] / len(own) / np.diff(edges), edges, color=colour, linestyle=line,
                    linewidth=1.0, label=element_name(int(number)))


def _draw_sigmas(axes: Axes, run: StoredRun, colour: str) -> None:
    """Draw the standard errors of the positions, root mean square over x, y, z: refined solid, traced dashed."""
    sigmas = {}
    for kind, line in (("traced", "--"), ("refined", "-")):
        sigma_pm = 100 * np.sqrt((run.array(f"{kind}/position_error_A") ** 2).mean(axis=1))
        sigmas[line] = sigma_pm[np.isfinite(sigma_pm) & (sigma_pm > 0)]
    top = float(np.percentile(np.concatenate([*sigmas.values(), [1.0]]), 98))
    _draw_densities(axes, sigmas, np.linspace(0, top, 41), colour)
    axes.set_xlabel("standard error of position (pm)")
    axes.set_ylabel("density (1/pm)")


def _draw_moves(axes: Axes, run: StoredRun, colour: str) -> None:
    """Draw the distance from each refined atom to the nearest traced atom."""
    traced_A, refined_A = run.array("traced/positions_A"), run.array("refined/positions_A")
    distance_pm = 100 * cKDTree(traced_A).query(refined_A)[0] if len(traced_A) and len(refined_A) else np.empty(0)
    top = float(np.percentile(np.concatenate([distance_pm, [1.0]]), 98))
    _draw_densities(axes, {"-": distance_pm}, np.linspace(0, top, 41), colour)
    axes.set_xlabel("distance from refined to nearest traced atom (pm)")
    axes.set_ylabel("density (1/pm)")


def _draw_probabilities(axes: Axes, run: StoredRun, colour: str) -> None:
    probability = run.array("refined/probability")
    edges = np.linspace(0, 1, 51)
    counts = np.histogram(probability, edges)[0]
    axes.stairs(np.where(counts > 0, counts, np.nan), edges, color=colour, linewidth=1.0)
    axes.set_yscale("log")
    axes.set_xlabel("probability of the assigned element")
    axes.set_ylabel("atoms")


def _draw_densities(axes: Axes, groups: Mapping[str, np.ndarray], edges: np.ndarray, colour: str) -> None:
    """Draw the density of each group of values; ``groups`` are by line style."""
    for line, values in groups.items():
        if values.size:
            share = np.histogram(values, edges)[0] / values.size / np.diff(edges)
            axes.stairs(share, edges, color=colour, linestyle=line, linewidth=1.0)


def _finish_errors(grid: np.ndarray) -> None:
    """Label the panels of errors, and draw what correct standard errors give."""
    grid[0, 0].set_xlabel("position error (pm)")
    grid[0, 0].set_ylabel("density (1/pm)")
    grid[0, 1].set_xlabel("standard error (pm)")
    grid[0, 1].set_ylabel("RMS error (pm)")
    low, high = grid[0, 1].get_xlim()
    grid[0, 1].plot([max(low, 0), high], [max(low, 0), high], **_EXPECTED)
    draw_half_normal(grid[1, 0], _EXPECTED)


def _finish_occupancies(axes: Axes) -> None:
    axes.set_xlabel("occupancy")
    axes.set_ylabel("density")
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if entries:
        lines = [Line2D([], [], color=BLACK, linestyle=line) for line in _LINES]
        axes.legend(lines[:len(entries)], list(entries), loc="upper left")
