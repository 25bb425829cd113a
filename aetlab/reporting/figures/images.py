"""Figure 2 of the paper: from atoms to images, at the tilts of its figure."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aetlab.core.physics import SYMBOLS
from aetlab.reporting.figures.atoms import in_cut
from aetlab.reporting.figures.style import (
    GREEN,
    ORANGE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    axis_arrows,
    bare,
    colour_bar,
    marker_area,
    new_figure,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import COLUMNS, StoredRun
from aetlab.spec import dose_per_image_e_A2

X, Y = COLUMNS["x"], COLUMNS["y"]
_COLOURS = (SKY, ORANGE, GREEN, VERMILION)
#: Thickness of the slice of atoms in (a), in Å: one period of silicon.
_SLICE_A = 5.4


def plot_images(run: StoredRun) -> Figure:
    """Atoms (a), projected potentials (b, c), images at the greatest defocus, ideal (d, e) and recorded (f, g)."""
    tilt_deg = run.array("views/tilt_deg")
    projected, ideal, images = (run.array(f"views/{name}") for name in ("projected_V_A", "ideal", "recorded"))
    defocus_nm = run.attribute("views/ideal", "defocus_nm")
    dose = dose_per_image_e_A2(run.spec)
    noisy = "no noise" if math.isinf(dose) else f"{dose:.3g} e/Å²"
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.15)
        grid = figure.subplot_mosaic([["a", "b", "d", "f"], ["a", "c", "e", "g"]], width_ratios=[1.15, 1, 1, 1])
        _draw_atoms(grid["a"], run)
        panel_letter(grid["a"], "(a)", f"{_SLICE_A:g} Å slice of atoms")
        high_V_A = float(np.percentile(projected, 99.7))
        low, high = (float(value) for value in np.percentile(ideal, [0.3, 99.7]))
        for i, (top, middle, bottom) in enumerate((("b", "d", "f"), ("c", "e", "g"))):
            potential = show_plane(grid[top], projected[i], run.voxel_A, low=0, high=high_V_A, square_root=True)
            picture = show_plane(grid[middle], ideal[i], run.voxel_A, low=low, high=high)
            show_plane(grid[bottom], images[i], run.voxel_A, low=low, high=high)
            panel_letter(grid[top], f"({top})", f"potential, {tilt_deg[i]:g}°")
            panel_letter(grid[middle], f"({middle})", f"ideal, {defocus_nm:g} nm")
            panel_letter(grid[bottom], f"({bottom})", noisy)
        width_A = projected.shape[1] * run.voxel_A
        scale_bar(grid["c"], width_A)
        scale_bar(grid["e"], width_A)
        scale_bar(grid["g"], width_A)
        axis_arrows(grid["c"], "x", "y")
        ticks = [0.0, *(float(f"{high_V_A * share:.1g}") for share in (1 / 16, 1 / 4, 9 / 16))]
        for names, image, label, at in (
            ("bc", potential, "projected potential (V Å)", ticks),
            ("defg", picture, "intensity (vacuum 1)", None),
        ):
            colour_bar(figure, image, label, beside=[grid[name] for name in names], ticks=at, location="bottom")
    return figure


def _draw_atoms(axes: Axes, run: StoredRun) -> None:
    positions_A, numbers = run.array("truth/positions_A"), run.array("truth/numbers")
    near = in_cut(positions_A, "z", 0.0, _SLICE_A)
    _, n_x, n_y = run.spec.scale.shape_zxy
    width_A, height_A = n_x * run.voxel_A, n_y * run.voxel_A
    order = np.argsort(positions_A[near, COLUMNS["z"]], kind="stable")
    points, kinds = positions_A[near][order], numbers[near][order]
    colours = {int(number): _COLOURS[i % len(_COLOURS)] for i, number in enumerate(np.unique(numbers))}
    axes.scatter(
        points[:, X],
        points[:, Y],
        s=marker_area(1.75, width_A, 1.4),
        edgecolors="0.2",
        linewidths=0.15,
        c=[colours[int(number)] for number in kinds],
        rasterized=len(points) > 5000,
    )
    axes.set_aspect("equal", anchor="N")
    axes.set_xlim(-width_A / 2, width_A / 2)
    axes.set_ylim(-height_A / 2, height_A / 2)
    bare(axes)
    scale_bar(axes, width_A, "black")
    axis_arrows(axes, "x", "y", "black")
    axes.legend(
        handles=[
            Line2D(
                [],
                [],
                linestyle="",
                marker="o",
                color=colour,
                markeredgecolor="0.2",
                markeredgewidth=0.3,
                markersize=4,
                label=SYMBOLS[number],
            )
            for number, colour in colours.items()
        ],
        loc="upper right",
        handletextpad=0.1,
        borderaxespad=0.2,
    )
