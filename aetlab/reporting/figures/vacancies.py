"""Figure 9 of the paper: vacancies in the true potential and in reconstructions, along and across the tilt axis."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from aetlab.reporting.figures.slices import COLUMNS, PAPER_HIGH_V, average_slab, in_slab, square_root_ticks
from aetlab.reporting.figures.style import (
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
from aetlab.reporting.stored_run import StoredRun

#: Atoms of two samples that are closer than this in Å are the same atom.
SAME_ATOM_A = 0.05
#: Thickness in Å of the slab whose removed atoms have a ring: a slice of 1 Å shows atoms up to 0.5 Å beyond its faces.
_SEEN_A = 2.0
#: The slices: normal axis, horizontal axis, vertical axis.
_SLICES = (("x", "z", "y"), ("y", "z", "x"))


def removed_positions_A(whole: StoredRun, with_vacancies: StoredRun) -> np.ndarray:
    """Return the positions (N, 3) in Å of the atoms of ``whole`` that the sample with vacancies lacks."""
    positions_A = whole.array("truth/positions_A")
    distance_A, _ = cKDTree(with_vacancies.array("truth/positions_A")).query(positions_A)
    return positions_A[distance_A > SAME_ATOM_A]


def plot_vacancies(whole: StoredRun, with_vacancies: StoredRun) -> Figure:
    """Draw the true potential with vacancies, and reconstructions without and with them; rings mark removed atoms."""
    removed_A = removed_positions_A(whole, with_vacancies)
    voxel_A = with_vacancies.voxel_A
    volumes = [whole.array("volume/potential_V"), with_vacancies.array("volume/potential_V")]
    positions_A = whole.array("truth/positions_A")
    half_A = np.minimum(np.abs(positions_A).max(axis=0) + 2.5, 0.5 * voxel_A * np.array(volumes[0].shape)[[1, 2, 0]])
    share = 100 * len(removed_A) / len(positions_A)
    titles = ("true potential", "none removed", f"{share:.0f} % removed")
    picture_in = (TWO_COLUMNS_IN - 0.85) / 3
    ratios = [half_A[COLUMNS[vertical]] / half_A[COLUMNS[horizontal]] for _, horizontal, vertical in _SLICES]
    with style():
        figure = new_figure(TWO_COLUMNS_IN, picture_in * sum(ratios) + 0.45)
        grid = figure.subplots(2, 3, height_ratios=ratios)
        for row, (normal, horizontal, vertical) in zip(grid, _SLICES, strict=True):
            true_slice = with_vacancies.array(f"truth/potential_{horizontal}{vertical}_V")
            planes = (true_slice, *(average_slab(volume, voxel_A, normal, 0.0) for volume in volumes))
            for i, (axes, plane) in enumerate(zip(row, planes, strict=True)):
                image = show_plane(axes, plane, voxel_A, low=0, high=PAPER_HIGH_V, square_root=True)
                limits = (half_A[COLUMNS[horizontal]], half_A[COLUMNS[vertical]])
                axes.set_xlim(-limits[0], limits[0])
                axes.set_ylim(-limits[1], limits[1])
                near_A = removed_A[in_slab(removed_A, normal, 0.0, _SEEN_A)]
                _ring(axes, near_A, (horizontal, vertical), picture_in, 2 * limits[0])
                if normal == "x":
                    panel_letter(axes, f"({'abc'[i]})", titles[i])
                if i == 0:
                    scale_bar(axes, 2 * limits[0])
                    axis_arrows(axes, horizontal, vertical)
        colour_bar(figure, image, "potential (V)", beside=list(grid.flat), ticks=square_root_ticks(PAPER_HIGH_V))
    return figure


def _ring(axes: Axes, positions_A: np.ndarray, names: tuple[str, str], width_in: float, width_A: float) -> None:
    axes.scatter(
        positions_A[:, COLUMNS[names[0]]],
        positions_A[:, COLUMNS[names[1]]],
        s=marker_area(width_in, width_A, 1.8),
        marker="o",
        facecolors="none",
        edgecolors=YELLOW,
        linewidths=0.7,
        zorder=5,
    )
