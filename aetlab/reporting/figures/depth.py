"""Figure 3 of the paper: slices of the reconstruction at several depths along the beam, one row for each record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aetlab.reporting.figures.atoms import read_atoms
from aetlab.reporting.figures.slices import COLUMNS, average_slab, fitting_high_V, square_root_ticks, thickest_y_A
from aetlab.reporting.figures.style import (
    TWO_COLUMNS_IN,
    axis_arrows,
    colour_bar,
    new_figure,
    outlined,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun

N_DEPTHS = 5
_MARGIN_A = 2.5


def plot_depths(runs: Sequence[StoredRun], titles: Sequence[str], letters: Sequence[str] = "abc",
                high_V: float | None = None) -> Figure:
    """Draw 1 Å slices normal to the beam at five depths, with the tilt axis vertical.

    Arrows mark the height of the slice that :func:`~aetlab.reporting.figures.panels.plot_panels` shows.
    Depths and limits follow the true atoms of the first record, or its traced atoms where it has no truth. ``high_V``
    is the upper limit of the colour scale, by default one that fits the slices.
    """
    atoms = read_atoms(runs[0])
    atoms_A = atoms.sample_A if len(atoms.sample_A) else np.zeros((1, 3))
    y_slice_A = thickest_y_A(atoms.scored_A)
    reach_A = np.percentile(np.abs(atoms_A[:, COLUMNS["z"]]), 99)
    depths_A = np.linspace(-0.8, 0.8, N_DEPTHS) * reach_A
    voxel_A = runs[0].voxel_A
    _, n_x, n_y = runs[0].spec.scale.shape_zxy
    half_x_A = min(np.abs(atoms_A[:, COLUMNS["x"]]).max() + _MARGIN_A, n_x * voxel_A / 2)
    low_y_A = max(atoms_A[:, COLUMNS["y"]].min() - _MARGIN_A, -n_y * voxel_A / 2)
    high_y_A = min(atoms_A[:, COLUMNS["y"]].max() + _MARGIN_A, n_y * voxel_A / 2)
    picture_in = (TWO_COLUMNS_IN - 0.85) / N_DEPTHS
    height_in = picture_in * (high_y_A - low_y_A) / (2 * half_x_A)
    with style():
        figure = new_figure(TWO_COLUMNS_IN, len(runs) * (height_in + 0.25) + 0.1)
        grid = figure.subplots(len(runs), N_DEPTHS, squeeze=False)
        planes = [[average_slab(volume, voxel_A, "z", depth_A) for depth_A in depths_A]
                  for volume in (run.array("volume/potential_V") for run in runs)]
        high_V = high_V or fitting_high_V([plane for own in planes for plane in own])
        for row, own, title, letter in zip(grid, planes, titles, letters, strict=False):
            for axes, plane, depth_A in zip(row, own, depths_A, strict=True):
                image = show_plane(axes, plane, voxel_A, low=0, high=high_V, square_root=True)
                axes.set_xlim(-half_x_A, half_x_A)
                axes.set_ylim(low_y_A, high_y_A)
                _mark_height(axes, y_slice_A)
                _write_depth(axes, depth_A)
            panel_letter(row[0], f"({letter})", title)
            scale_bar(row[0], 2 * half_x_A)
            axis_arrows(row[-1], "x", "y")
        colour_bar(figure, image, "potential (V)", beside=list(grid.flat), ticks=square_root_ticks(high_V))
    return figure


def _mark_height(axes: Axes, y_A: float) -> None:
    """Draw an arrow from the left edge at height ``y_A``."""
    axes.annotate(
        "",
        (0.13, y_A),
        (0.0, y_A),
        zorder=8,
        xycoords=("axes fraction", "data"),
        textcoords=("axes fraction", "data"),
        arrowprops={
            "arrowstyle": "-|>,head_width=0.18,head_length=0.3",
            "color": "white",
            "lw": 0.8,
            "shrinkA": 0,
            "shrinkB": 0,
            "path_effects": outlined("white"),
        },
    )


def _write_depth(axes: Axes, depth_A: float) -> None:
    axes.text(
        0.96,
        0.97,
        f"z = {round(depth_A / 10, 1) + 0.0:.1f} nm".replace("-", "\N{MINUS SIGN}"),
        transform=axes.transAxes,
        color="white",
        ha="right",
        va="top",
        fontsize=6.5,
        path_effects=outlined("white"),
    )
