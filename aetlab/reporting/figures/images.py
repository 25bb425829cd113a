"""Figure 2 of the paper: from atoms to images, at two tilts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.slices import AXES, COLUMNS, in_slab
from aetlab.reporting.figures.style import (
    TWO_COLUMNS_IN,
    axis_arrows,
    bare,
    colour_bar,
    dots,
    element_colours,
    marker_area,
    new_figure,
    number_label,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import dose_per_image_e_A2

X, Y = COLUMNS["x"], COLUMNS["y"]
#: Thickness of the slice of atoms in (a), in Å: one period of silicon.
_SLICE_A = 5.4
#: Margin around the atoms of (a) in Å.
_MARGIN_A = 1.5


def plot_images(run: StoredRun) -> Figure:
    """Draw atoms (a), projected potentials (b, c), ideal images (d, e) and recorded images (f, g) of two tilts.

    Images are those of the greatest defocus. Without a truth there are no ideal images: (b) and (c) are projections of
    the reconstructed potential along z and x, and (d) and (e) are recorded images of the two tilts that are kept.
    """
    return _plot_simulated(run) if run.has_truth else _plot_measured(run)


def _plot_simulated(run: StoredRun) -> Figure:
    tilt_deg = run.array("views/tilt_deg")
    projected, ideal, images = (run.array(f"views/{name}") for name in ("projected_V_A", "ideal", "recorded"))
    defocus_nm = run.attribute("views/ideal", "defocus_nm")
    dose = dose_per_image_e_A2(run.spec)
    recorded = "no noise" if math.isinf(dose) else f"{dose:.3g} e/Å²"
    potentials = [(plane, f"potential, {number_label(angle_deg)}°")
                  for plane, angle_deg in zip(projected, tilt_deg, strict=True)]
    rows = [
        ((ideal[i], f"ideal, {number_label(defocus_nm)} nm"), (images[i], recorded)) for i in range(len(potentials))
    ]
    low, high = (float(value) for value in np.percentile(ideal, [0.3, 99.7]))
    return _plot(run, "truth", potentials, rows, (low, high))


def _plot_measured(run: StoredRun) -> Figure:
    kept = run.array("tilt_series/kept_tilts")
    tilt_deg, defocus_nm, weight = (run.array(f"tilt_series/{name}")[kept] for name in ("tilt_deg", "defocus_nm",
                                                                                       "weight"))
    i_plane = np.where(weight > 0, np.abs(defocus_nm), -1.0).argmax(axis=1)  # of those that are not missing
    i_tilt = np.arange(len(kept))
    images = run.array("tilt_series/images_of_kept_tilts")[i_tilt, i_plane]
    volume = np.asarray(run.array("volume/potential_V"), np.float32)
    potentials = [
        (run.voxel_A * volume.sum(axis=AXES[axis]), f"reconstruction along {axis}") for axis in ("z", "x")
    ]
    rows = [
        ((image, f"θ = {number_label(angle_deg)}°, {number_label(defocus)} nm"),)
        for image, angle_deg, defocus in zip(images, tilt_deg, defocus_nm[i_tilt, i_plane], strict=True)
    ]
    low, high = (float(value) for value in np.nanpercentile(images, [0.3, 99.7]))
    return _plot(run, "traced", potentials, rows, (low, high))


def _plot(
    run: StoredRun,
    atoms: str,
    potentials: Sequence[tuple[np.ndarray, str]],
    rows: Sequence[Sequence[tuple[np.ndarray, str]]],
    limits: tuple[float, float],
) -> Figure:
    """Draw ``atoms`` (truth or traced) beside two rows of a projected potential and of images with their titles."""
    n_images = len(rows[0])
    letters = "bcdefg"[: 2 + 2 * n_images]
    mosaic: list[Any] = [["a", *letters[::2]], ["a", *letters[1::2]]]
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.15 if n_images == 2 else 5.5, gap_in=0.06)
        grid = figure.subplot_mosaic(mosaic, width_ratios=[1.15] + [1] * (1 + n_images))
        _draw_atoms(grid["a"], run, atoms)
        panel_letter(grid["a"], "(a)", f"{_SLICE_A:g} Å slice of {'' if atoms == 'truth' else 'traced '}atoms")
        high_V_A = float(np.percentile(np.concatenate([plane.ravel() for plane, _ in potentials]), 99.7))
        for row, (plane, title), shown in zip(mosaic, potentials, rows, strict=True):
            potential = show_plane(grid[row[1]], plane, run.voxel_A, low=0, high=high_V_A, square_root=True)
            panel_letter(grid[row[1]], f"({row[1]})", title)
            for name, (image, image_title) in zip(row[2:], shown, strict=True):
                picture = show_plane(grid[name], image, run.voxel_A, low=limits[0], high=limits[1])
                panel_letter(grid[name], f"({name})", image_title)
        for name in mosaic[1][1:]:
            scale_bar(grid[name], float(np.ptp(grid[name].get_xlim())))
        axis_arrows(grid["c"], "x" if atoms == "truth" else "z", "y")
        if atoms == "traced":
            axis_arrows(grid["b"], "x", "y")
        ticks = [0.0, *(float(f"{high_V_A * share:.1g}") for share in (1 / 16, 1 / 4, 9 / 16))]
        for names, bar, label, at in (
            (letters[:2], potential, "projected potential (V Å)", ticks),
            (letters[2:], picture, "intensity (vacuum 1)", None),
        ):
            colour_bar(figure, bar, label, beside=[grid[name] for name in names], ticks=at, location="bottom")
    return figure


def _draw_atoms(axes: Axes, run: StoredRun, atoms: str) -> None:
    positions_A, numbers = run.array(f"{atoms}/positions_A"), run.array(f"{atoms}/numbers")
    near = in_slab(positions_A, "z", 0.0, _SLICE_A)
    half_A = float(np.abs(positions_A[:, [X, Y]]).max(initial=2.0)) + _MARGIN_A
    order = np.argsort(positions_A[near, COLUMNS["z"]], kind="stable")
    points, kinds = positions_A[near][order], numbers[near][order]
    colours = element_colours(numbers)
    axes.scatter(
        points[:, X],
        points[:, Y],
        s=marker_area(1.75, 2 * half_A, 1.4),
        edgecolors="0.2",
        linewidths=0.15,
        c=[colours[int(number)] for number in kinds],
        rasterized=len(points) > 5000,
    )
    axes.set_aspect("equal", anchor="N")
    axes.set_xlim(-half_A, half_A)
    axes.set_ylim(-1.45 * half_A, half_A)  # room for the scale bar below the atoms
    bare(axes)
    scale_bar(axes, 2 * half_A, "black")
    axis_arrows(axes, "x", "y", "black")
    axes.legend(
        handles=dots({element_name(number): colour for number, colour in colours.items()}),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=3,
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0.2,
    )
