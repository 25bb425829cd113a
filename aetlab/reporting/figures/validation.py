"""Figures of a validation without a truth: fit to each image, worst residuals, two halves, chemistry."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aetlab.reporting.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    LINES,
    ONE_COLUMN_IN,
    TWO_COLUMNS_IN,
    VERMILION,
    bare,
    colour_bar,
    new_figure,
    number_label,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun

#: Residuals are shown up to this many standard deviations of the counting noise.
_SIGMAS = 5.0
#: Images of a contact sheet in one row.
_SHEET_COLUMNS = 4
_MARKERS = "osD^v<>"
#: Names of the directions of the shell correlation.
_DIRECTIONS = {"all": "all directions", "axis": "along the tilt axis", "wedge": "along the missing wedge",
               "across": "across both"}
_MODELS = ("atoms", "volume")


def plot_fit(run: StoredRun) -> Figure:
    """Draw how each image fits the final model (a), and the shift (b) and defocus (c) found for it."""
    tilt_deg = run.array("tilt_series/tilt_deg")
    weight, held = run.array("tilt_series/weight"), run.array("validation/images/held_out").astype(bool)
    poses = next((name for name in ("refined", "alignment") if f"{name}/shift_A" in run.array_names), "")
    with style():
        figure = new_figure(TWO_COLUMNS_IN if poses else ONE_COLUMN_IN, 2.3)
        panels = figure.subplots(1, 3 if poses else 1, squeeze=False, width_ratios=[1.3, 1, 1] if poses else [1])[0]
        _draw_images(panels[0], run, tilt_deg, held)
        panel_letter(panels[0], "(a)", "fit of each image")
        if poses:
            shift_A, change_A = run.array(f"{poses}/shift_A"), run.array(f"{poses}/defocus_A")
            own_A = run.array(f"{poses}/image_shift_A") if f"{poses}/image_shift_A" in run.array_names else 0.0
            of_images_A = np.where(weight[..., None] > 0, shift_A[:, None, :2] + own_A, np.nan)
            for axis, colour, marker in ((0, BLUE, "o"), (1, VERMILION, "s")):
                lines = panels[1].plot(tilt_deg, of_images_A[..., axis], marker, color=colour, markersize=2.5)
                lines[0].set_label("xy"[axis])
            panels[1].set_ylabel("shift (Å)")
            panels[1].legend(ncols=2, loc="best", handletextpad=0.1, columnspacing=0.8)
            panel_letter(panels[1], "(b)", "position")
            moved_nm = np.where(weight > 0, (change_A - shift_A[:, 2:]) / 10, np.nan)
            for j, (marker, colour) in enumerate(zip(cycle(_MARKERS), moved_nm.T, strict=False)):
                panels[2].plot(tilt_deg, colour, marker, color=CYCLE[j % len(CYCLE)], markersize=2.5,
                               label=_plane_label(run, j))
            panels[2].set_ylabel("change of the defocus (nm)")
            panel_letter(panels[2], "(c)", "defocus")
        for axes in panels:
            axes.set_xlabel("tilt angle (°)")
    return figure


def _draw_images(axes: Axes, run: StoredRun, tilt_deg: np.ndarray, held: np.ndarray) -> None:
    quantity = "chi_square" if math.isfinite(run.metrics.get("chi_square_volume", math.nan)) else "r_factor"
    stored = [model for model in _MODELS if f"validation/images/{quantity}_{model}" in run.array_names]
    for model, filled in zip(stored, (True, False), strict=False):
        values = run.array(f"validation/images/{quantity}_{model}") * (100 if quantity == "r_factor" else 1)
        for j, marker in zip(range(values.shape[1]), cycle(_MARKERS)):
            colour = CYCLE[j % len(CYCLE)]
            axes.plot(tilt_deg, values[:, j], marker, color=colour, markersize=2.6 if filled else 3,
                      markerfacecolor=colour if filled else "none", markeredgewidth=0.5, alpha=1 if filled else 0.6,
                      label=_plane_label(run, j) if filled else None)
            out = held[:, j]
            axes.plot(tilt_deg[out], values[out, j], "o", color=BLACK, markerfacecolor="none", markersize=6,
                      markeredgewidth=0.7)
    if quantity == "chi_square":
        axes.axhline(1, color=BLACK, linewidth=0.6, linestyle="--")
    axes.set_ylabel("χ² per value" if quantity == "chi_square" else "R factor (%)")
    axes.legend(loc="best", ncols=2, handletextpad=0.1, columnspacing=0.8)


def _plane_label(run: StoredRun, j: int) -> str:
    defocus_nm, weight = run.array("tilt_series/defocus_nm")[:, j], run.array("tilt_series/weight")[:, j]
    own = defocus_nm[weight > 0]
    return f"{number_label(float(own.mean() if len(own) else defocus_nm.mean()))} nm"


def plot_residuals(run: StoredRun) -> Figure:
    """Draw the images that fit worst, the worst first: each as measured, and its residual below."""
    worst = run.array("validation/images/worst")
    measured, residual = run.array("validation/images/worst_measured"), run.array("validation/images/worst_residual")
    tilt_deg, defocus_nm = run.array("tilt_series/tilt_deg"), run.array("tilt_series/defocus_nm")
    model = next(name for name in _MODELS if f"validation/images/chi_square_{name}" in run.array_names)
    chi_square, r_factor = (run.array(f"validation/images/{name}_{model}") for name in ("chi_square", "r_factor"))
    counted = math.isfinite(float(np.nanmax(chi_square))) if np.isfinite(chi_square).any() else False
    n_columns = min(_SHEET_COLUMNS, len(worst))
    n_rows = -(-len(worst) // n_columns)
    low, high = (float(value) for value in np.nanpercentile(measured, [0.3, 99.7]))
    reach = _SIGMAS if counted else float(np.nanpercentile(np.abs(residual), 99.7))
    ratio = measured.shape[2] / measured.shape[1]
    with style():
        side_in = (TWO_COLUMNS_IN - 0.1) / _SHEET_COLUMNS
        figure = new_figure(n_columns * side_in + 0.1, n_rows * (2 * side_in * ratio + 0.3) + 0.6, gap_in=0.02)
        grid = figure.subplots(2 * n_rows, n_columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_visible(False)
        for k, (i_tilt, j) in enumerate(worst.tolist()):
            row, column = divmod(k, n_columns)
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            above.set_visible(True)
            below.set_visible(True)
            picture = show_plane(above, measured[k], run.voxel_A, low=low, high=high)
            off = show_plane(below, residual[k], run.voxel_A, low=-reach, high=reach, cmap="RdBu_r")
            value = f"χ² {chi_square[i_tilt, j]:.2f}" if counted else f"R {100 * r_factor[i_tilt, j]:.2f} %"
            above.set_title(f"{number_label(tilt_deg[i_tilt])}°, {number_label(defocus_nm[i_tilt, j])} nm: {value}",
                            loc="left", pad=2, fontsize=7)
            bare(above)
            bare(below)
        scale_bar(grid[0, 0], float(np.ptp(grid[0, 0].get_xlim())))
        label = "residual (σ of counts)" if counted else "residual (amplitude)"
        half = -(-n_columns // 2)
        # Both bars stand below the sheet, each below half of its columns; a single column has them side by side.
        below = (grid[-1, :half], grid[-1, half:]) if n_columns > 1 else (grid[-1], grid[-1])
        colour_bar(figure, picture, "measured amplitude (vacuum 1)", beside=list(below[0]), location="bottom")
        colour_bar(figure, off, label, beside=list(below[1]), location="bottom")
    return figure


def plot_halves(run: StoredRun) -> Figure:
    """Draw the Fourier shell correlation of two halves (a) and the distances of the atoms that both found (b)."""
    q = run.array("validation/fsc/frequency_per_A")
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 2.8)
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        for (name, label), colour, line in zip(_DIRECTIONS.items(), (BLACK, *CYCLE), cycle(LINES)):
            left.plot(q, run.array(f"validation/fsc/{name}"), color=colour, linestyle=line, label=label,
                      linewidth=1.4 if name == "all" else 1.0)
        left.plot(q, run.array("validation/fsc/half_bit"), color="0.5", linewidth=0.7, label="half-bit curve")
        for value in (0.143, 0.5):
            left.axhline(value, color="0.5", linewidth=0.6, linestyle=":")
            left.text(0.99 * q[-1], value - 0.015, f"{value:g}", ha="right", va="top", fontsize=6.5, color="0.35")
        lowest = min(float(np.nanmin(run.array(f"validation/fsc/{name}"))) for name in _DIRECTIONS)
        left.set_ylim(min(-0.05, lowest), 1.04)
        left.set_xlim(0, q[-1])
        left.set_xlabel("spatial frequency (1/Å)")
        left.set_ylabel("Fourier shell correlation")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, fontsize=6.5)
        panel_letter(left, "(a)", "two halves of the data")
        difference_pm = 100 * run.array("validation/halves/difference_A")
        if len(difference_pm):
            reach_pm = float(np.percentile(np.abs(difference_pm), 99))
            n_bins = int(np.clip(np.sqrt(len(difference_pm)), 9, 41))
            edges = np.linspace(-reach_pm, reach_pm, n_bins)
            for k, (colour, line) in enumerate(zip((BLUE, VERMILION, CYCLE[2]), LINES, strict=False)):
                share = np.histogram(difference_pm[:, k], edges)[0] / len(difference_pm) / np.diff(edges)
                right.stairs(share, edges, color=colour, linestyle=line, linewidth=1.0,
                             label=f"{'xyz'[k]}, σ {np.sqrt((difference_pm[:, k] ** 2).mean()):.1f} pm")
            right.legend(loc="best")
        right.set_xlabel("position in half 2 less that in half 1 (pm)")
        right.set_ylabel("density (1/pm)")
        panel_letter(right, "(b)", f"{len(difference_pm)} atoms of both halves")
    return figure


def plot_chemistry(run: StoredRun) -> Figure:
    """Draw the distances of pairs of elements (a), the coordination (b) and, where it reaches, g(r) (c)."""
    edges = run.array("validation/chemistry/distance_edges_A")
    pairs = sorted(name for name in run.array_names if name.startswith("validation/chemistry/distances/"))
    elements = sorted(name for name in run.array_names if name.startswith("validation/chemistry/coordination/"))
    has_g = "validation/chemistry/pair_distribution/g" in run.array_names
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 2.3)
        panels = figure.subplots(1, 3 if has_g else 2)
        for name, colour, line in zip(pairs, cycle(CYCLE), cycle(LINES)):
            counts = run.array(name)
            if counts.any():
                panels[0].stairs(counts, edges, color=colour, linestyle=line, linewidth=1.0, label=name.split("/")[-1])
        panels[0].set_xlabel("distance (Å)")
        panels[0].set_ylabel("pairs")
        panels[0].set_xlim(0, edges[-1])
        panels[0].legend(loc="upper left")
        panel_letter(panels[0], "(a)", "distances")
        width, most = 0.8 / max(len(elements), 1), 0
        for k, (name, colour) in enumerate(zip(elements, cycle(CYCLE))):
            counts = run.array(name)
            most = max(most, int(np.flatnonzero(counts).max(initial=0)))
            panels[1].bar(np.arange(len(counts)) + (k - (len(elements) - 1) / 2) * width, counts, width, color=colour,
                          label=name.split("/")[-1])
        panels[1].set_xlabel("bonds of an atom")
        panels[1].set_ylabel("atoms")
        panels[1].set_xlim(-0.6, most + 0.6)
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].legend(loc="best")
        panel_letter(panels[1], "(b)", "coordination")
        if has_g:
            panels[2].plot(run.array("validation/chemistry/pair_distribution/r_A"),
                           run.array("validation/chemistry/pair_distribution/g"), color=BLUE, linewidth=0.9)
            panels[2].axhline(1, color="0.6", linewidth=0.6, linestyle=":")
            panels[2].set_xlabel("r (Å)")
            panels[2].set_ylabel("g(r)")
            panel_letter(panels[2], "(c)", "pair distribution")
    return figure
