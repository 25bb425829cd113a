"""Figures 4, 6, 7 and 8 of the paper and similar ones: one column for each record, so that a setting's effect shows.

From top to bottom: a 1 Å slice normal to the tilt axis (square root of the potential);
the traced atoms of the slice with tetrahedra; histograms of site intensities with the threshold between species;
position errors. Without a truth, atoms are grouped by the element assigned instead of found, missing and false, and
standard errors take the place of position errors.
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
from aetlab.reporting.figures.atoms import ShownAtoms, element_name, outlines, read_atoms, species_thresholds
from aetlab.reporting.figures.slices import (
    COLUMNS,
    fitting_high_V,
    in_slab,
    slice_V,
    square_root_ticks,
    thickest_y_A,
)
from aetlab.reporting.figures.style import (
    BLACK,
    BLUE,
    FALSE,
    FOUND,
    GREEN,
    MISSING,
    ONE_COLUMN_IN,
    TWO_COLUMNS_IN,
    VERMILION,
    YELLOW,
    axis_arrows,
    colour_bar,
    element_colours,
    marker_area,
    new_figure,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun

#: Columns of one figure; more records are drawn in several figures.
MAX_COLUMNS = 4
Z, X = COLUMNS["z"], COLUMNS["x"]
#: Margin around the atoms of a slice in Å.
_MARGIN_A = 2.5
#: Height of the strip below a slice that holds its scale bar, over half the side of the slice.
_STRIP = 0.36
#: How standard errors along each axis are drawn.
_AXIS_LINES: dict[str, dict[str, Any]] = {
    "x": {"color": BLUE, "linestyle": "-"},
    "y": {"color": GREEN, "linestyle": "--"},
    "z": {"color": VERMILION, "linestyle": "-."},
}


@dataclass(frozen=True)
class Column:
    """One record of a figure with its title, its atoms, and the slice at height ``y_A``.

    ``sigma_A`` (N, 3) are the standard errors of the traced positions, None where the atoms have a truth.
    """

    run: StoredRun
    title: str
    atoms: ShownAtoms
    sigma_A: np.ndarray | None
    slice_V: np.ndarray
    y_A: float


def read_columns(runs: Sequence[StoredRun], titles: Sequence[str]) -> list[Column]:
    """Return the records with their atoms and a slice at one height for all, where the first sample is thickest.

    The truth is read only where all records have one.
    """
    with_truth = all(run.has_truth for run in runs)
    atoms = [read_atoms(run, with_truth=with_truth) for run in runs]
    y_A = thickest_y_A(atoms[0].scored_A)
    return [
        Column(run, title, shown, None if with_truth else run.array("traced/position_error_A"), slice_V(run, "y", y_A),
               y_A)
        for run, title, shown in zip(runs, titles, atoms, strict=True)
    ]


def plot_panels(
    runs: Sequence[StoredRun], titles: Sequence[str], letters: Sequence[str] = "abcd", high_V: float | None = None
) -> Figure:
    """Draw one column for each record (at most :data:`MAX_COLUMNS`), headed by ``letters`` and ``titles``.

    ``high_V`` is the upper limit of the colour scale of the slices, by default one that fits them.
    """
    columns = read_columns(runs, titles)
    high_V = high_V or fitting_high_V([column.slice_V for column in columns])
    n = len(columns)
    width_in = ONE_COLUMN_IN if n == 1 else TWO_COLUMNS_IN
    picture_in = (width_in - 1.05) / n
    with style():
        height_in = (1 + _STRIP / 2) * picture_in
        figure = new_figure(width_in, 2 * height_in + 3.25)
        grid = figure.subplots(
            4, n + 1, height_ratios=[height_in, height_in, 1.05, 1.05], width_ratios=[picture_in] * n + [0.12]
        )
        for axes in grid[1:, n]:
            axes.remove()
        half_A = _half_width_A(columns)
        for i, column in enumerate(columns):
            image = show_slice(grid[0, i], column, half_A, high_V)
            panel_letter(grid[0, i], f"({letters[i]})", column.title)
            show_atoms(grid[1, i], column, _elements(columns), half_A, picture_in, high_V)
        colour_bar(figure, image, "potential (V)", inside=grid[0, n], ticks=square_root_ticks(high_V))
        _species_histograms(list(grid[2, :n]), columns)
        if columns[0].atoms.truth is not None:
            _error_histograms(list(grid[3, :n]), columns)
        else:
            _sigma_histograms(list(grid[3, :n]), columns)
        _legend(figure, columns)
    return figure


def _half_width_A(columns: Sequence[Column]) -> float:
    """Return half the side in Å of the square that slices are shown in: all atoms of the slice, and a margin."""
    atoms_A = [(c.atoms.sample_A, c.y_A) for c in columns]
    reach = [np.abs(points[in_slab(points, "y", y_A)][:, [Z, X]]).max(initial=0.0) for points, y_A in atoms_A]
    volume = min(max(c.slice_V.shape) * c.run.voxel_A / 2 for c in columns)
    return float(min(max(max(reach) + _MARGIN_A, 4.0), volume))


def show_slice(axes: Axes, column: Column, half_A: float, high_V: float) -> AxesImage:
    """Show the slice on a square root scale up to ``high_V``, with a scale bar and the directions of the axes."""
    image = show_plane(axes, column.slice_V, column.run.voxel_A, low=0, high=high_V, square_root=True)
    _frame(axes, half_A, "white")
    return image


def show_atoms(
    axes: Axes, column: Column, elements: Sequence[tuple[int, str]], half_A: float, width_in: float, high_V: float
) -> None:
    """Show the atoms of the slice and the tetrahedra of traced atoms over a faint image of the slice."""
    atoms = column.atoms
    show_plane(axes, column.slice_V, column.run.voxel_A, low=0, high=4 * high_V, cmap="gray_r", square_root=True)
    centres = in_slab(atoms.positions_A[atoms.tetrahedra[:, 0]], "y", column.y_A)
    axes.add_collection(
        PolyCollection(
            outlines(atoms.positions_A, atoms.tetrahedra[centres], (Z, X)),
            facecolors=GREEN,
            edgecolors=GREEN,
            alpha=0.35,
            linewidths=0.4,
            zorder=3,
        )
    )
    area = marker_area(width_in, 2 * half_A, 1.0)
    for name, positions_A, marker in _groups(atoms, elements):
        points = positions_A[in_slab(positions_A, "y", column.y_A)]
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


def _groups(atoms: ShownAtoms, elements: Sequence[tuple[int, str]]) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Return name, positions and marker of each group of atoms; ``elements`` are numbers with their colours."""
    truth = atoms.truth
    if truth is None:
        return [
            (
                element_name(number),
                atoms.positions_A[atoms.numbers == number],
                {"marker": "o", "face": colour, "edge": BLACK, "line": 0.3, "scale": 1.0},
            )
            for number, colour in elements
        ]
    return [
        (
            "found",
            atoms.positions_A[truth.traced],
            {"marker": "o", "face": FOUND, "edge": "white", "line": 0.2, "scale": 1.0},
        ),
        (
            "missing",
            truth.positions_A[truth.missing],
            {"marker": "X", "face": MISSING, "edge": "white", "line": 0.3, "scale": 2.6},
        ),
        (
            "false positive",
            atoms.positions_A[truth.false],
            {"marker": "^", "face": YELLOW, "edge": FALSE, "line": 0.6, "scale": 2.2},
        ),
    ]


def _frame(axes: Axes, half_A: float, colour: str) -> None:
    axes.set_xlim(-half_A, half_A)
    axes.set_ylim(-(1 + _STRIP) * half_A, half_A)
    axes.set_facecolor("black" if colour == "white" else "white")
    scale_bar(axes, 2 * half_A, colour)
    axis_arrows(axes, "z", "x", colour)


def _species_histograms(axes: Sequence[Axes], columns: Sequence[Column]) -> None:
    """Draw site intensities by element: true element of the found atoms, or element assigned without a truth."""
    low, high = _signal_range(columns)
    edges = np.linspace(low, high, 61)
    tallest = 0
    for ax, column in zip(axes, columns, strict=True):
        atoms, truth = column.atoms, column.atoms.truth
        signal = atoms.signal if truth is None else atoms.signal[truth.traced]
        numbers = atoms.numbers if truth is None else truth.numbers[truth.true]
        for number, colour in _elements(columns):
            tallest = max(tallest, _fill(ax, signal[numbers == number], edges, colour))
        if truth is not None:
            ax.stairs(np.histogram(atoms.signal[truth.false], edges)[0], edges, color=BLACK, linewidth=0.8)
        for threshold in _thresholds(column):
            ax.axvline(threshold, color=BLACK, linestyle="--", linewidth=0.9)
        ax.set_xlabel("site intensity I·s (V voxel)")
        ax.set_xlim(low, high)
    _same_height(axes, tallest)


def _signal_range(columns: Sequence[Column]) -> tuple[float, float]:
    """Return the range of nearly all site intensities and of the thresholds, with a margin, in V voxel."""
    signals = np.concatenate([*(c.atoms.signal for c in columns), *(_thresholds(c) for c in columns)])
    if not len(signals):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(signals, [0.2, 99.8]))
    margin = max(0.12 * (high - low), 0.02 * abs(high), 1e-6)
    return max(low - margin, 0.0), high + margin


def _error_histograms(axes: Sequence[Axes], columns: Sequence[Column]) -> None:
    """Draw the 3D position errors of the found atoms, with the standard deviation of the errors along each axis."""
    errors_pm = [100 * np.linalg.norm(c.atoms.error_A, axis=1) for c in columns]
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
    _same_height(axes, tallest, 1.4)  # leaves room for the text


def _sigma_histograms(axes: Sequence[Axes], columns: Sequence[Column]) -> None:
    """Draw the standard errors of the traced positions along each axis, with their medians."""
    sigmas_pm = [100 * np.empty((0, 3)) if c.sigma_A is None else 100 * c.sigma_A for c in columns]
    sigmas_pm = [sigma[(np.isfinite(sigma) & (sigma > 0)).all(axis=1)] for sigma in sigmas_pm]
    high = max((float(np.percentile(sigma, 99)) for sigma in sigmas_pm if len(sigma)), default=10.0)
    edges = np.linspace(0, 1.1 * high, 51)
    tallest = 0
    for ax, sigma_pm in zip(axes, sigmas_pm, strict=True):
        lines = []
        for i, (axis, look) in enumerate(_AXIS_LINES.items()):
            counts = np.histogram(sigma_pm[:, i], edges)[0]
            ax.stairs(counts, edges, linewidth=1.0, **look)
            tallest = max(tallest, int(counts.max()))
            lines.append(f"median {axis}: {np.median(sigma_pm[:, i]):.1f} pm" if len(sigma_pm) else "")
        text = "\n".join(lines) if len(sigma_pm) else "no atom has a standard error"
        ax.text(0.97, 0.95, text, transform=ax.transAxes, ha="right", va="top", fontsize=7)
        ax.set_xlabel("standard error of position (pm)")
        ax.set_xlim(0, edges[-1])
    _same_height(axes, tallest, 1.7)  # leaves room for the text


def _fill(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str) -> int:
    """Draw the filled histogram of ``values`` and return its largest count."""
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


def _elements(columns: Sequence[Column]) -> list[tuple[int, str]]:
    """Return the atomic numbers of all true atoms (traced atoms without a truth) with their colours, light first."""
    found = [c.atoms.numbers if c.atoms.truth is None else c.atoms.truth.numbers for c in columns]
    return list(element_colours(number for own in found for number in np.unique(own)).items())


def _thresholds(column: Column) -> list[float]:
    """Return the signals that separate the species; empty where species were not classified."""
    thresholds = column.run.species.get("threshold") or species_thresholds(column.atoms)
    return [threshold for threshold in thresholds if threshold is not None]


def _legend(figure: Figure, columns: Sequence[Column]) -> None:
    elements = _elements(columns)
    with_truth = columns[0].atoms.truth is not None
    drawn = {
        name for c in columns for name, positions_A, _ in _groups(c.atoms, elements)
        if in_slab(positions_A, "y", c.y_A).any()
    }
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
        for name, _, look in _groups(columns[0].atoms, elements)
        if name in drawn
    ]
    if any(len(column.atoms.tetrahedra) for column in columns):
        handles.append(Patch(facecolor=GREEN, alpha=0.35, edgecolor=GREEN, label="tetrahedra"))
    if with_truth:
        handles += [
            Patch(facecolor=colour, alpha=0.6, edgecolor=colour, label=f"true {SYMBOLS[number]}")
            for number, colour in elements
        ]
        if any(c.atoms.truth is not None and len(c.atoms.truth.false) for c in columns):
            handles.append(Line2D([], [], color=BLACK, linewidth=0.8, label="false positives (histogram)"))
    if any(_thresholds(column) for column in columns):
        handles.append(Line2D([], [], color=BLACK, linestyle="--", linewidth=0.9, label="species threshold"))
    if not with_truth:
        handles += [
            Line2D([], [], linewidth=1.0, label=f"standard error, {axis}", **look)
            for axis, look in _AXIS_LINES.items()
        ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4 if len(columns) > 1 else 2,
        handletextpad=0.5,
        columnspacing=1.2,
    )
