"""Figure 1 of the paper: the experiment, drawn from one run's own atoms and images.

(a) is an oblique view: the tilt axis y runs to the right, the beam z downwards, x into the page; the distance to the
defocused planes is not to scale. (b) shows images of the tilts that the record keeps at each defocus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Polygon
from matplotlib.transforms import Affine2D

from aetlab.core.grid import n_slices, rotation_matrix
from aetlab.core.physics import SYMBOLS
from aetlab.reporting.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    axis_arrows,
    extent_A,
    marker_area,
    new_figure,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun

#: How x is drawn: shortened and at this angle to the right and upwards.
_DEPTH, _ANGLE_RAD = 0.5, math.radians(38)
_SHEAR = np.array([_DEPTH * math.cos(_ANGLE_RAD), _DEPTH * math.sin(_ANGLE_RAD)])
#: Tilt at which the needle is drawn, in degrees, and how many slices are outlined at most.
_TILT_DEG = 20.0
_SLICES_DRAWN = 7
_COLOURS = (SKY, ORANGE, GREEN, VERMILION)


def on_page(positions_A: np.ndarray) -> np.ndarray:
    """Positions (N, 3) in Å to the page (N, 2): y to the right, z downwards, x obliquely."""
    x, y, z = positions_A.T
    return np.column_stack([y + _SHEAR[0] * x, -z + _SHEAR[1] * x])


def plot_geometry(run: StoredRun) -> Figure:
    """Multislice geometry of ``run`` (a), and its images at the kept tilts and all defoci, at most three (b)."""
    # Of the first kept tilt.
    defocus_nm = run.array("tilt_series/defocus_nm")[run.array("tilt_series/kept_tilts")[0]]
    shown = np.unique(np.linspace(0, len(defocus_nm) - 1, min(3, len(defocus_nm))).round().astype(int))
    images = run.array("tilt_series/ideal_of_kept_tilts")[:, shown]
    tilt_deg = run.array("tilt_series/tilt_deg")[run.array("tilt_series/kept_tilts")]
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.4)
        halves = np.asarray(figure.subfigures(1, 2, width_ratios=[0.9, 1]))
        axes = halves[0].subplots()
        _draw_experiment(axes, run, images[0], defocus_nm[shown])
        panel_letter(axes, "(a)", "one tilt: multislice and defocused planes")
        _draw_images(halves[1], run, images, tilt_deg, defocus_nm[shown])
    return figure


def _limits(images: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(images, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _draw_experiment(axes: Axes, run: StoredRun, images: np.ndarray, defocus_nm: Sequence[float]) -> None:
    n_z, n_x, n_y = run.spec.scale.shape_zxy
    voxel_A = run.voxel_A
    half_z, half_x, half_y = n_z * voxel_A / 2, n_x * voxel_A / 2, n_y * voxel_A / 2
    slices = n_slices(n_z, run.spec.binning.n_layers)
    n_drawn = min(slices, _SLICES_DRAWN)
    edges_A = np.linspace(-half_z, half_z, n_drawn + 1)
    numbers = run.array("truth/numbers")
    atoms_A = run.array("truth/positions_A") @ rotation_matrix(_TILT_DEG).T
    kinds = {int(number): _COLOURS[i % len(_COLOURS)] for i, number in enumerate(np.unique(numbers))}
    spacing = 1.45 * half_z
    bottom = -half_z - spacing * len(images) - 0.55 * half_x
    axes.set_xlim(-half_y - 1.35 * half_x, half_y + 1.5 * half_x)
    axes.set_ylim(bottom, half_z + 1.6 * half_x)
    axes.set_aspect("equal")
    axes.axis("off")
    for height in edges_A:
        _sheet(axes, half_x, half_y, height, edgecolor="0.6", facecolor="none")
    order = np.argsort(-atoms_A[:, 0], kind="stable")
    page = on_page(atoms_A[order])
    axes.scatter(
        page[:, 0],
        page[:, 1],
        s=marker_area(3.0, 2 * half_y + 2.85 * half_x, 1.6),
        linewidths=0.1,
        edgecolors="0.25",
        c=[kinds[int(number)] for number in numbers[order]],
        zorder=3,
        rasterized=True,
    )
    for share in (-0.75, 0.0, 0.75):
        top = (share * half_y, half_z + 1.15 * half_x)
        axes.add_patch(
            FancyArrowPatch(
                top, (top[0], half_z + 0.5 * half_x), arrowstyle="-|>", mutation_scale=8, color=BLACK, linewidth=1.0
            )
        )
    axes.text(0, half_z + 1.2 * half_x, "incident plane wave (z)", ha="center", va="bottom")
    _draw_tilt_axis(axes, half_x, half_y)
    thickness_A = run.spec.binning.n_layers * voxel_A
    axes.text(half_y + 0.55 * half_x, half_z * 0.55, f"{slices} slices\nof {thickness_A:g} Å", ha="left", va="center")
    low, high = _limits(images)
    for i, (image, plane_nm) in enumerate(zip(images, defocus_nm, strict=True)):
        height = half_z + spacing * (i + 0.75)
        transform = Affine2D.from_values(1, 0, _SHEAR[0], _SHEAR[1], 0, -height) + axes.transData
        axes.imshow(
            image,
            origin="lower",
            extent=extent_A(n_y, n_x, voxel_A),
            cmap="gray",
            vmin=low,
            vmax=high,
            transform=transform,
            zorder=2,
            interpolation="bilinear",
        )
        _sheet(axes, half_x, half_y, height, edgecolor=BLUE, facecolor="none", zorder=4)
        axes.text(half_y + 0.55 * half_x, -height, f"Δf = {plane_nm:g} nm", ha="left", va="center", color=BLUE)
    axes.add_patch(
        FancyArrowPatch(
            (-half_y - 0.7 * half_x, -half_z * 0.2),
            (-half_y - 0.7 * half_x, bottom + 0.3 * half_x),
            arrowstyle="-|>",
            mutation_scale=8,
            color=BLUE,
            linewidth=0.9,
        )
    )
    axes.text(
        -half_y - 0.8 * half_x,
        (bottom - half_z) / 2,
        "defocus (not to scale)",
        rotation=90,
        ha="right",
        va="center",
        color=BLUE,
    )
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color=colour,
            markeredgecolor="0.25",
            markeredgewidth=0.3,
            markersize=5,
            label=SYMBOLS[number],
        )
        for number, colour in kinds.items()
    ]
    axes.legend(handles=handles, loc="upper left", borderaxespad=0, handletextpad=0.2)


def _sheet(
    axes: Axes, half_x: float, half_y: float, height: float, *, edgecolor: str, facecolor: str, zorder: float = 1
) -> None:
    """Outline of a plane across the beam at depth z = ``height`` in Å."""
    corners = np.array(
        [[-half_x, -half_y, height], [-half_x, half_y, height], [half_x, half_y, height], [half_x, -half_y, height]]
    )
    axes.add_patch(
        Polygon(on_page(corners), closed=True, edgecolor=edgecolor, facecolor=facecolor, linewidth=0.6, zorder=zorder)
    )


def _draw_tilt_axis(axes: Axes, half_x: float, half_y: float) -> None:
    end = half_y + 0.95 * half_x
    axes.add_patch(
        FancyArrowPatch(
            (-half_y - 0.45 * half_x, 0),
            (end, 0),
            arrowstyle="-|>",
            mutation_scale=8,
            color=VERMILION,
            linewidth=0.9,
            linestyle="--",
            zorder=5,
        )
    )
    axes.text(end + 0.04 * half_x, 0, "tilt axis (y)", color=VERMILION, ha="left", va="center")
    radius = 0.3 * half_x
    turn = FancyArrowPatch(
        (-half_y - 0.35 * half_x, radius),
        (-half_y - 0.35 * half_x, -radius),
        arrowstyle="-|>",
        connectionstyle="arc3,rad=0.7",
        mutation_scale=7,
        color=VERMILION,
        linewidth=0.9,
        zorder=6,
    )
    axes.add_patch(turn)
    axes.text(-half_y - 0.42 * half_x, 1.25 * radius, "θ", color=VERMILION, ha="right", va="bottom")


def _draw_images(
    figure: SubFigure, run: StoredRun, images: np.ndarray, tilt_deg: np.ndarray, defocus_nm: Sequence[float]
) -> None:
    grid = figure.subplots(len(defocus_nm), len(tilt_deg), squeeze=False)
    low, high = _limits(images)
    width_A = images.shape[2] * run.voxel_A
    for i, plane_nm in enumerate(defocus_nm):
        for j, angle_deg in enumerate(tilt_deg):
            axes = grid[i, j]
            show_plane(axes, images[j, i], run.voxel_A, low=low, high=high)
            if i == 0:
                panel_letter(axes, "(b)" if j == 0 else "", f"θ = {angle_deg:g}°")
            if j == 0:
                axes.set_ylabel(f"Δf = {plane_nm:g} nm")
    scale_bar(grid[-1, 0], width_A)
    axis_arrows(grid[-1, 0], "x", "y")
