"""How far traced atoms can be trusted: error bars against errors, scores against place, structure against the true one.

One line a run; black dashes show what the error bars promise, and the true structure of the first run's sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aetlab.reporting.figures.style import BLACK, CYCLE, LINES, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun

#: Range and bins of error over standard error.
_RATIO_EDGES = np.linspace(0.0, 4.0, 33)
_TRUE: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 0.9, "zorder": 4}


def plot_accuracy(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Nine panels: errors over standard errors, scores against distance from axis and surface, bonds and their like."""
    looks: list[dict[str, Any]] = [{"color": CYCLE[i % len(CYCLE)], "linestyle": LINES[i // len(CYCLE) % len(LINES)]}
                                   for i in range(len(runs))]
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 5.7)
        grid = figure.subplots(3, 3)
        _draw_ratios(grid[0, 0], runs, looks)
        for column, (place, name) in enumerate((("axis", "distance from axis (Å)"), ("surface", "depth (Å)"))):
            _draw_profile(grid[0, 1 + column], runs, looks, place, "position_error_pm", "position error (pm)", name)
            _draw_profile(grid[1, column], runs, looks, place, "found_percent", "found (%)", name)
        pair = main_pair(runs[0])
        centre, end = pair.split("-")
        _draw_counts(grid[1, 2], runs, looks, f"{pair}/length", f"{pair}/length_edges_A", f"{pair} bond (Å)")
        angle = f"{end}-{centre}-{end} angle (°)"
        _draw_counts(grid[2, 0], runs, looks, f"{pair}/angle", "angle_edges_deg", angle)
        _draw_coordination(grid[2, 1], runs, looks, pair)
        _draw_pair_distribution(grid[2, 2], runs, looks)
        for axes, letter in zip(grid.flat, "abcdefghi", strict=True):
            panel_letter(axes, f"({letter})")
        handles = [Line2D([], [], label=label, **look) for label, look in zip(labels, looks, strict=True)]
        handles.append(Line2D([], [], label="calibrated (a), true (f to i)", **_TRUE))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def error_over_sigma(run: StoredRun) -> np.ndarray:
    """|error| / standard error of the found atoms along each axis, (P, 3); atoms without a standard error left out."""
    traced, true = run.array("match/traced"), run.array("match/true")
    error_A = run.array("traced/positions_A")[traced] - run.array("truth/positions_A")[true]
    sigma_A = run.array("traced/position_error_A")[traced]
    known = (np.isfinite(sigma_A) & (sigma_A > 0)).all(axis=1)
    return np.abs(error_A[known]) / sigma_A[known]


def main_pair(run: StoredRun) -> str:
    """The pair of elements whose bonds are shown: of two elements if there are such, with most angles between bonds."""
    pairs = [name.split("/")[1] for name in run.array_names if name.startswith("structure/") and "/length_true" in name]
    if not pairs:
        raise KeyError("the record holds no structure")
    return max(pairs, key=lambda pair: (len(set(pair.split("-"))), run.array(f"structure/{pair}/angle_true").sum()))


def _draw_ratios(axes: Axes, runs: Sequence[StoredRun], looks: Sequence[dict[str, Any]]) -> None:
    for run, look in zip(runs, looks, strict=True):
        ratio = error_over_sigma(run).ravel()
        if ratio.size:
            share = np.histogram(ratio, _RATIO_EDGES)[0] / ratio.size / np.diff(_RATIO_EDGES)
            axes.stairs(share, _RATIO_EDGES, linewidth=1.0, **look)
    x = np.linspace(0, _RATIO_EDGES[-1], 100)
    axes.plot(x, math.sqrt(2 / math.pi) * np.exp(-0.5 * x**2), **_TRUE)
    axes.set_xlabel("|error| / standard error")
    axes.set_ylabel("density")
    axes.set_xlim(0, _RATIO_EDGES[-1])
    axes.set_ylim(bottom=0)


def _draw_profile(axes: Axes, runs: Sequence[StoredRun], looks: Sequence[dict[str, Any]], place: str, score: str,
                  name: str, place_name: str) -> None:
    """A score with its confidence interval against a distance; nothing where the records hold no such profile."""
    for run, look in zip(runs, looks, strict=True):
        if f"profiles/{place}/edges_A" not in run.array_names:
            continue
        edges_A = run.array(f"profiles/{place}/edges_A")
        middle_A = 0.5 * (edges_A[:-1] + edges_A[1:])
        low, value, high = (run.array(f"profiles/{place}/{score}{bound}") for bound in ("_low", "", "_high"))
        axes.plot(middle_A, value, marker="o", markersize=2, **look)
        axes.fill_between(middle_A, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set_xlabel(place_name)
    axes.set_ylabel(name)
    axes.set_xlim(left=0)


def _draw_counts(axes: Axes, runs: Sequence[StoredRun], looks: Sequence[dict[str, Any]], name: str, edges: str,
                 label: str) -> None:
    for run, look in zip(runs, looks, strict=True):
        axes.stairs(run.array(f"structure/{name}_traced"), run.array(f"structure/{edges}"), linewidth=1.0, **look)
    axes.stairs(runs[0].array(f"structure/{name}_true"), runs[0].array(f"structure/{edges}"), **_TRUE)
    axes.set_xlabel(label)
    axes.set_ylabel("count")
    axes.set_ylim(bottom=0)


def _draw_coordination(axes: Axes, runs: Sequence[StoredRun], looks: Sequence[dict[str, Any]], pair: str) -> None:
    name = f"structure/{pair}/coordination"
    edges = np.arange(14) - 0.5
    for run, look in zip(runs, looks, strict=True):
        axes.stairs(run.array(f"{name}_traced"), edges, linewidth=1.0, **look)
    true = runs[0].array(f"{name}_true")
    axes.stairs(true, edges, **_TRUE)
    centre, end = pair.split("-")
    axes.set_xlabel(f"{end} bonded to one {centre}")
    axes.set_ylabel(f"{centre} atoms")
    largest = max((int(np.flatnonzero(run.array(f"{name}_traced")).max(initial=0)) for run in runs), default=0)
    axes.set_xlim(-0.5, max(largest, int(np.flatnonzero(true).max(initial=0))) + 0.5)
    axes.set_ylim(bottom=0)


def _draw_pair_distribution(axes: Axes, runs: Sequence[StoredRun], looks: Sequence[dict[str, Any]]) -> None:
    name = "structure/pair_distribution"
    held = [(run, look) for run, look in zip(runs, looks, strict=True) if f"{name}/r_A" in run.array_names]
    for run, look in held:
        axes.plot(run.array(f"{name}/r_A"), run.array(f"{name}/g_traced"), linewidth=0.9, **look)
    for run, _ in held[:1]:
        axes.plot(run.array(f"{name}/r_A"), run.array(f"{name}/g_true"), **_TRUE)
    axes.set_xlabel("r (Å)")
    axes.set_ylabel("pair distribution g(r)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
