"""Figures 4, 6, 7 and 8 of the paper and their like: one column a run, so that a setting's effect is seen at a glance.

From top to bottom: a 1 Å slice across the tilt axis (square root of the potential from 0 to 80 V, as in the paper);
the traced atoms on it, found, missing and false, with tetrahedra; site intensities by true species with the threshold
that told the species; 3D position errors with σx, σy, σz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from aetlab.core.physics import SYMBOLS
from aetlab.reporting.figures.atoms import (
    Scored,
    in_cut,
    outlines,
    read_scored,
    slice_V,
    species_thresholds,
    thickest_y_A,
)
from aetlab.reporting.figures.style import (
    BLACK,
    FALSE,
    FOUND,
    GREEN,
    MISSING,
    ONE_COLUMN_IN,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS_IN,
    YELLOW,
    axis_arrows,
    colour_bar,
    marker_area,
    new_figure,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import COLUMNS, StoredRun

#: Greatest potential of the slices' scale in V (the paper, figure 3).
SLICE_HIGH_V = 80.0
SLICE_TICKS_V = (0, 5, 20, 45, 80)
#: Columns of one figure; more runs make more figures.
MAX_COLUMNS = 4
Z, X = COLUMNS["z"], COLUMNS["x"]
_SPECIES_COLOURS = (SKY, ORANGE, PURPLE, YELLOW, GREEN)
#: What is left free around the atoms of a cut, in Å.
_MARGIN_A = 2.5


@dataclass(frozen=True)
class Column:
    """One run of a figure with its title and what is drawn of it."""

    run: StoredRun
    title: str
    scored: Scored
    slice_V: np.ndarray
    y_A: float


def read_columns(runs: Sequence[StoredRun], titles: Sequence[str]) -> list[Column]:
    """The runs with their atoms and a cut at one height for all: where the first is thickest."""
    scored = [read_scored(run) for run in runs]
    y_A = thickest_y_A(scored[0])
    return [
        Column(run, title, atoms, slice_V(run, "y", y_A), y_A)
        for run, title, atoms in zip(runs, titles, scored, strict=True)
    ]


def plot_panels(runs: Sequence[StoredRun], titles: Sequence[str], letters: Sequence[str] = "abcd") -> Figure:
    """One column a run (at most :data:`MAX_COLUMNS`), headed by ``letters`` and ``titles``."""
    columns = read_columns(runs, titles)
    n = len(columns)
    width_in = ONE_COLUMN_IN if n == 1 else TWO_COLUMNS_IN
    picture_in = (width_in - 1.05) / n
    with style():
        figure = new_figure(width_in, 2 * picture_in + 3.25)
        grid = figure.subplots(
            4, n + 1, height_ratios=[picture_in, picture_in, 1.05, 1.05], width_ratios=[picture_in] * n + [0.12]
        )
        for axes in grid[1:, n]:
            axes.remove()
        half_A = _half_width_A(columns)
        for i, column in enumerate(columns):
            image = show_slice(grid[0, i], column, half_A)
            panel_letter(grid[0, i], f"({letters[i]})", column.title)
            show_atoms(grid[1, i], column, half_A, picture_in)
        colour_bar(figure, image, "potential (V)", inside=grid[0, n], ticks=SLICE_TICKS_V)
        _species_histograms(list(grid[2, :n]), columns)
        _error_histograms(list(grid[3, :n]), columns)
        _legend(figure, columns)
    return figure


def _half_width_A(columns: Sequence[Column]) -> float:
    """Half the side in Å of the square that all cuts are shown in: all true atoms of the cut, and a margin."""
    reach = [np.abs(c.scored.true_A[in_cut(c.scored.true_A, "y", c.y_A)][:, [Z, X]]).max(initial=0.0) for c in columns]
    volume = min(max(c.slice_V.shape) * c.run.voxel_A / 2 for c in columns)
    return float(min(max(max(reach) + _MARGIN_A, 4.0), volume))


def show_slice(axes: Axes, column: Column, half_A: float) -> AxesImage:
    """The slice on a square root scale with bar and axes."""
    image = show_plane(axes, column.slice_V, column.run.voxel_A, low=0, high=SLICE_HIGH_V, square_root=True)
    _frame(axes, half_A, "white")
    return image


def show_atoms(axes: Axes, column: Column, half_A: float, width_in: float) -> None:
    """The traced atoms of the cut on a faint slice: found, missing, false, tetrahedra."""
    scored = column.scored
    show_plane(axes, column.slice_V, column.run.voxel_A, low=0, high=4 * SLICE_HIGH_V, cmap="gray_r", square_root=True)
    centres = in_cut(scored.traced_A[scored.tetrahedra[:, 0]], "y", column.y_A)
    axes.add_collection(
        PolyCollection(
            outlines(scored.traced_A, scored.tetrahedra[centres], (Z, X)),
            facecolors=GREEN,
            edgecolors=GREEN,
            alpha=0.35,
            linewidths=0.4,
            zorder=3,
        )
    )
    area = marker_area(width_in, 2 * half_A, 1.0)
    for name, positions_A, marker in _groups(scored):
        points = positions_A[in_cut(positions_A, "y", column.y_A)]
        axes.scatter(
            points[:, Z],
            points[:, X],
            s=area * marker["scale"],
            marker=marker["marker"],
            facecolors=marker["face"],
            edgecolors=marker["edge"],
            linewidths=marker["line"],
            zorder=5,
            label=name,
        )
    _frame(axes, half_A, "black")


def _groups(scored: Scored) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    return [
        (
            "found",
            scored.traced_A[scored.match_traced],
            {"marker": "o", "face": FOUND, "edge": "white", "line": 0.2, "scale": 1.0},
        ),
        (
            "missing",
            scored.true_A[scored.missing],
            {"marker": "X", "face": MISSING, "edge": "white", "line": 0.3, "scale": 2.6},
        ),
        (
            "false positive",
            scored.traced_A[scored.false],
            {"marker": "^", "face": YELLOW, "edge": FALSE, "line": 0.6, "scale": 2.2},
        ),
    ]


def _frame(axes: Axes, half_A: float, colour: str) -> None:
    axes.set_xlim(-half_A, half_A)
    axes.set_ylim(-half_A, half_A)
    scale_bar(axes, 2 * half_A, colour)
    axis_arrows(axes, "z", "x", colour)


def _species_histograms(axes: Sequence[Axes], columns: Sequence[Column]) -> None:
    high = 1.05 * max(np.percentile(c.scored.signal, 99.8) if len(c.scored.signal) else 1.0 for c in columns)
    edges = np.linspace(0, high, 61)
    tallest = 0
    for ax, column in zip(axes, columns, strict=True):
        scored = column.scored
        true_numbers = scored.true_numbers[scored.match_true]
        for number, colour in _species(columns):
            tallest = max(tallest, _fill(ax, scored.signal[scored.match_traced[true_numbers == number]], edges, colour))
        ax.stairs(np.histogram(scored.signal[scored.false], edges)[0], edges, color=BLACK, linewidth=0.8)
        for threshold in column.run.species.get("threshold") or species_thresholds(scored):
            if threshold is not None:  # nothing was told of the species
                ax.axvline(threshold, color=BLACK, linestyle="--", linewidth=0.9)
        ax.set_xlabel("site intensity I·s (V voxel)")
        ax.set_xlim(0, high)
    _same_height(axes, tallest)


def _error_histograms(axes: Sequence[Axes], columns: Sequence[Column]) -> None:
    errors_pm = [100 * np.linalg.norm(c.scored.error_A, axis=1) for c in columns]
    high = 5 * np.ceil(max(max((np.percentile(e, 99) for e in errors_pm if len(e)), default=10.0), 10.0) / 5)
    edges = np.linspace(0, high, 51)
    tallest = 0
    for ax, column, error_pm in zip(axes, columns, errors_pm, strict=True):
        tallest = max(tallest, _fill(ax, error_pm, edges, FOUND))
        lines = [rf"$\sigma_{axis}$ = {column.run.metrics[f'sigma_{axis}_pm']:.1f} pm" for axis in "xyz"]
        n_beyond = int((error_pm > high).sum())
        lines += [f"{n_beyond} beyond {high:g} pm"] if n_beyond else []
        ax.text(0.97, 0.95, "\n".join(lines), transform=ax.transAxes, ha="right", va="top", fontsize=7)
        ax.set_xlabel("3D position error (pm)")
        ax.set_xlim(0, high)
    _same_height(axes, tallest, 1.4)  # room for the text beside the peak


def _fill(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> int:
    """Draw the histogram of ``values`` filled; gives its tallest count."""
    counts = np.histogram(values, edges)[0]
    axes.stairs(counts, edges, fill=True, facecolor=colour, alpha=0.6, linewidth=0)
    axes.stairs(counts, edges, color=colour, linewidth=1.0)
    return int(counts.max())


def _same_height(axes: Sequence[Axes], tallest: int, room: float = 1.08) -> None:
    for i, ax in enumerate(axes):
        ax.set_ylim(0, max(room * tallest, 1.0))
        if i:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel("atoms")


def _species(columns: Sequence[Column]) -> list[tuple[int, str]]:
    """Atomic numbers of all true atoms with their colours, light first."""
    numbers = sorted({int(number) for c in columns for number in np.unique(c.scored.true_numbers)})
    return [(number, _SPECIES_COLOURS[i % len(_SPECIES_COLOURS)]) for i, number in enumerate(numbers)]


def _legend(figure: Figure, columns: Sequence[Column]) -> None:
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=look["marker"],
            markerfacecolor=look["face"],
            markeredgecolor=look["edge"],
            markeredgewidth=look["line"],
            markersize=5,
            label=name,
        )
        for name, _, look in _groups(columns[0].scored)
    ]
    handles.append(Patch(facecolor=GREEN, alpha=0.35, edgecolor=GREEN, label="tetrahedra"))
    handles += [
        Patch(facecolor=colour, alpha=0.6, edgecolor=colour, label=f"true {SYMBOLS[number]}")
        for number, colour in _species(columns)
    ]
    handles += [
        Line2D([], [], color=BLACK, linewidth=0.8, label="false (histogram)"),
        Line2D([], [], color=BLACK, linestyle="--", linewidth=0.9, label="species threshold"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4 if len(columns) > 1 else 3,
        handletextpad=0.5,
        columnspacing=1.2,
    )
