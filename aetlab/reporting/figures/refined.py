"""Refined atoms beside traced ones: errors, how they meet the bound, and amounts by true element.

One colour a run; traced atoms are dashed, refined ones solid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aetlab.core.physics import SYMBOLS
from aetlab.reporting.experiments import group_repeats
from aetlab.reporting.figures.choose import FigureTask, run_labels
from aetlab.reporting.figures.style import BLACK, CYCLE, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import summary_frame

_RATIO_EDGES = np.linspace(0.0, 4.0, 33)
_N_BINS = 12


def has_refined(run: StoredRun) -> bool:
    """Whether a record holds refined atoms."""
    return "refined/positions_A" in run.array_names


def position_error_pm(run: StoredRun, kind: str) -> np.ndarray:
    """3D errors (P,) in pm of the found atoms, ``kind`` traced or refined."""
    match = "match" if kind == "traced" else "refined_match"
    found, true = run.array(f"{match}/traced"), run.array(f"{match}/true")
    return 100 * np.linalg.norm(run.array(f"{kind}/positions_A")[found] - run.array("truth/positions_A")[true], axis=1)


def errors_with_bounds(run: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    """Errors and standard errors (P, 3) in pm of the found refined atoms."""
    found, true = run.array("refined_match/traced"), run.array("refined_match/true")
    error_A = run.array("refined/positions_A")[found] - run.array("truth/positions_A")[true]
    return 100 * error_A, 100 * run.array("refined/position_error_A")[found]


def plot_refined(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Four panels: distribution of errors, error against standard error, their ratio, occupancy by true element."""
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.8)
        grid = figure.subplots(2, 2)
        for run, colour in zip(runs, CYCLE, strict=False):
            _draw_errors(grid[0, 0], run, colour)
            _draw_against_bound(grid[0, 1], run, colour)
            _draw_ratio(grid[1, 0], run, colour)
            _draw_occupancy(grid[1, 1], run, colour)
        _finish(grid)
        handles: list[Any] = [Line2D([], [], color=colour, label=label)
                              for label, colour in zip(labels, CYCLE, strict=False)]
        handles.append(Line2D([], [], color=BLACK, linestyle="--", label="traced (a), expected (b, c)"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def refined_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """One figure for the runs of each sample and size that have refined atoms."""
    groups: dict[tuple[str, str, str], list[StoredRun]] = {}
    for run in (group[0] for group in group_repeats([run for run in runs if has_refined(run)])):
        groups.setdefault((run.spec.sample.kind, run.spec.sample.path, run.spec.scale.name), []).append(run)
    tasks = []
    for group in groups.values():
        labels = run_labels(summary_frame(group))
        part = group[:len(CYCLE) - 1]
        tasks.append(FigureTask(
            name=f"refined_{part[0].identity[:8]}", title="Atoms refined against the images, beside the traced ones",
            caption="Position errors of the found atoms, traced (dashed) and refined (a). Root mean square error of "
            "the refined atoms along each axis against their standard errors from the Fisher information of the "
            "images, in bins of equally many; on the dashed line error and bound agree (b). |error| over standard "
            "error with the half-normal density (c). Occupancy by true element (d).",
            draw=plot_refined, runs=tuple(part), labels=tuple(labels[run.identity] for run in part), columns=True))
    return tasks


def _draw_errors(axes: Axes, run: StoredRun, colour: str) -> None:
    traced, refined = position_error_pm(run, "traced"), position_error_pm(run, "refined")
    top = float(np.percentile(np.concatenate([traced, refined, [1.0]]), 98))
    edges = np.linspace(0, top, 41)
    for values, line in ((traced, "--"), (refined, "-")):
        if values.size:
            share = np.histogram(values, edges)[0] / values.size / np.diff(edges)
            axes.stairs(share, edges, color=colour, linestyle=line, linewidth=1.0)


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
        share = np.histogram(ratio, _RATIO_EDGES)[0] / ratio.size / np.diff(_RATIO_EDGES)
        axes.stairs(share, _RATIO_EDGES, color=colour, linewidth=1.0)


def _draw_occupancy(axes: Axes, run: StoredRun, colour: str) -> None:
    occupancy = run.array("refined/occupancy")[run.array("refined_match/traced")]
    numbers = run.array("truth/numbers")[run.array("refined_match/true")]
    edges = np.linspace(0, 2, 61)
    for number, line in zip(np.unique(numbers), ("-", "--", "-.", ":"), strict=False):
        own = occupancy[numbers == number]
        axes.stairs(np.histogram(own, edges)[0] / len(own) / np.diff(edges), edges, color=colour, linestyle=line,
                    linewidth=1.0, label=SYMBOLS[int(number)])


def _finish(grid: np.ndarray) -> None:
    grid[0, 0].set_xlabel("position error (pm)")
    grid[0, 0].set_ylabel("density (1/pm)")
    grid[0, 1].set_xlabel("standard error (pm)")
    grid[0, 1].set_ylabel("RMS error (pm)")
    low, high = grid[0, 1].get_xlim()
    grid[0, 1].plot([max(low, 0), high], [max(low, 0), high], color=BLACK, linestyle="--", linewidth=0.9)
    x = np.linspace(0, _RATIO_EDGES[-1], 100)
    grid[1, 0].plot(x, math.sqrt(2 / math.pi) * np.exp(-0.5 * x**2), color=BLACK, linestyle="--", linewidth=0.9)
    grid[1, 0].set_xlabel("|error| / standard error")
    grid[1, 0].set_ylabel("density")
    grid[1, 1].set_xlabel("occupancy")
    grid[1, 1].set_ylabel("density")
    entries = dict(zip(*reversed(grid[1, 1].get_legend_handles_labels()), strict=True))
    if entries:
        lines = [Line2D([], [], color=BLACK, linestyle=line) for line in ("-", "--", "-.", ":")]
        grid[1, 1].legend(lines[:len(entries)], list(entries), loc="upper left")
    for axes, letter in zip(grid.flat, "abcd", strict=True):
        panel_letter(axes, f"({letter})")
