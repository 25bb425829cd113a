"""Figure 1 of the paper: the experiment, drawn from the atoms and images of one record.

(a) is an oblique view: the tilt axis y points to the right, the beam z downwards, x into the page; the distance to the
defocused planes is not to scale. (b) shows images of the tilts that the record keeps at each defocus. Atoms are the
true ones and images are noise-free where the record holds them, else the traced atoms and the recorded images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, Polygon
from matplotlib.transforms import Affine2D

from aetlab.core.grid import n_slices, rotation_matrix
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import (
    BLACK,
    BLUE,
    TWO_COLUMNS_IN,
    VERMILION,
    axis_arrows,
    dots,
    element_colours,
    extent_A,
    marker_area,
    new_figure,
    number_label,
    panel_letter,
    scale_bar,
    show_plane,
    style,
)
from aetlab.reporting.stored_run import StoredRun

#: x is drawn shortened by this factor, at this angle to the right and upwards.
_DEPTH, _ANGLE_RAD = 0.5, math.radians(38)
_SHEAR = np.array([_DEPTH * math.cos(_ANGLE_RAD), _DEPTH * math.sin(_ANGLE_RAD)])
#: Tilt in degrees at which the sample is drawn, and the largest number of slices that are outlined one by one.
_TILT_DEG = 20.0
_SLICES_DRAWN = 8


@dataclass(frozen=True)
class _Box:
    """Half the sides of the volume in Å; the ``spacing_A`` of the defocused planes below it, and their ``bottom_A``."""

    half_x: float
    half_y: float
    half_z: float
    spacing_A: float
    bottom_A: float


def on_page(positions_A: np.ndarray) -> np.ndarray:
    """Project positions (N, 3) in Å to the page (N, 2): y to the right, z downwards, x obliquely."""
    x, y, z = positions_A.T
    return np.column_stack([y + _SHEAR[0] * x, -z + _SHEAR[1] * x])


def plot_geometry(run: StoredRun) -> Figure:
    """Draw the multislice geometry of ``run`` (a), and its images at the kept tilts and at most three defoci (b)."""
    kept = run.array("tilt_series/kept_tilts")
    tilt_deg, defocus_nm, weight = (run.array(f"tilt_series/{name}")[kept] for name in ("tilt_deg", "defocus_nm",
                                                                                       "weight"))
    n_defoci = defocus_nm.shape[1]
    shown = np.unique(np.linspace(0, n_defoci - 1, min(3, n_defoci)).round().astype(int))
    atoms = "truth" if run.has_truth else "traced"
    noise_free = "tilt_series/ideal_of_kept_tilts"
    stored = noise_free if noise_free in run.array_names else "tilt_series/images_of_kept_tilts"
    images = np.where(weight[:, shown, None, None] > 0, run.array(stored)[:, shown], np.nan)
    with style():
        figure = new_figure(TWO_COLUMNS_IN, max(1.45 * len(shown), 3.2))
        halves = np.asarray(figure.subfigures(1, 2, width_ratios=[0.9, 1]))
        axes = halves[0].subplots()
        _draw_experiment(axes, run, atoms, images[0], defocus_nm[0, shown])
        panel_letter(axes, "(a)", "one tilt: multislice and defocused planes")
        _draw_images(halves[1], run, images, tilt_deg, defocus_nm[:, shown])
    return figure


def _limits(images: np.ndarray) -> tuple[float, float]:
    """Return the limits of a grey scale for ``images``, of which missing ones are NaN."""
    known = images[np.isfinite(images)]
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def _draw_experiment(
    axes: Axes, run: StoredRun, atoms: str, images: np.ndarray, defocus_nm: Sequence[float]
) -> None:
    """Draw the slices, the ``atoms`` (truth or traced), the beam, the tilt axis, and ``images`` on their planes."""
    box = _make_box(run, len(images))
    axes.set_xlim(-box.half_y - 1.35 * box.half_x, box.half_y + 1.5 * box.half_x)
    axes.set_ylim(box.bottom_A, box.half_z + 1.6 * box.half_x)
    axes.set_aspect("equal")
    axes.axis("off")
    _draw_slices(axes, run, box)
    _draw_atoms(axes, box, run.array(f"{atoms}/numbers"), run.array(f"{atoms}/positions_A"))
    _draw_beam(axes, box)
    _draw_tilt_axis(axes, box.half_x, box.half_y)
    _draw_planes(axes, run.voxel_A, box, images, defocus_nm)
    _draw_defocus_arrow(axes, box)


def _make_box(run: StoredRun, n_planes: int) -> _Box:
    half_z, half_x, half_y = (n * run.voxel_A / 2 for n in run.spec.scale.shape_zxy)
    spacing_A = 1.45 * half_z
    return _Box(half_x, half_y, half_z, spacing_A, -half_z - spacing_A * n_planes - 0.55 * half_x)


def _draw_slices(axes: Axes, run: StoredRun, box: _Box) -> None:
    """Outline the boundaries of the slices, of every second or third where there are many, and write their number."""
    n_voxels, n_layers = run.spec.scale.shape_zxy[0], run.spec.binning.n_layers
    slices = n_slices(n_voxels, n_layers)
    step = -(-slices // _SLICES_DRAWN)
    for first in [*range(0, n_voxels, step * n_layers), n_voxels]:
        _outline_plane(axes, box, first * run.voxel_A - box.half_z, edgecolor="0.6")
    text = f"{slices} slices\nof {n_layers * run.voxel_A:.3g} Å"
    rest = n_voxels - (slices - 1) * n_layers
    if rest < n_layers:
        text += f",\nthe last {rest * run.voxel_A:.3g} Å"
    if step > 1:
        text += f"\n(one in {step} drawn)"
    axes.text(box.half_y + 0.75 * box.half_x, 1.1 * box.half_z + 0.5 * box.half_x, text, ha="left", va="top")


def _draw_atoms(axes: Axes, box: _Box, numbers: np.ndarray, positions_A: np.ndarray) -> None:
    """Draw the atoms of the tilted sample with the nearest last, and a legend of the elements."""
    atoms_A = positions_A @ rotation_matrix(_TILT_DEG).T
    kinds = element_colours(numbers)
    order = np.argsort(-atoms_A[:, 0], kind="stable")
    page = on_page(atoms_A[order])
    axes.scatter(
        page[:, 0],
        page[:, 1],
        s=marker_area(3.0, 2 * box.half_y + 2.85 * box.half_x, 1.6),
        linewidths=0.1,
        edgecolors="0.25",
        c=[kinds[int(number)] for number in numbers[order]],
        zorder=3,
        rasterized=True,
    )
    axes.legend(handles=dots({element_name(number): colour for number, colour in kinds.items()}), loc="upper left",
                borderaxespad=0, handletextpad=0.2)


def _draw_beam(axes: Axes, box: _Box) -> None:
    for share in (-0.75, 0.0, 0.75):
        start = (share * box.half_y, box.half_z + 1.15 * box.half_x)
        end = (start[0], box.half_z + 0.5 * box.half_x)
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=BLACK, linewidth=1.0))
    axes.text(0, box.half_z + 1.2 * box.half_x, "incident plane wave (z)", ha="center", va="bottom")


def _draw_planes(
    axes: Axes, voxel_A: float, box: _Box, images: np.ndarray, defocus_nm: Sequence[float]
) -> None:
    """Draw the images (F, X, Y) of one tilt as sheared planes below the sample."""
    low, high = _limits(images)
    for i, (image, plane_nm) in enumerate(zip(images, defocus_nm, strict=True)):
        height = box.half_z + box.spacing_A * (i + 0.75)
        transform = Affine2D.from_values(1, 0, _SHEAR[0], _SHEAR[1], 0, -height) + axes.transData
        axes.imshow(
            image,
            origin="lower",
            extent=extent_A(image.shape[1], image.shape[0], voxel_A),
            cmap="gray",
            vmin=low,
            vmax=high,
            transform=transform,
            zorder=2,
            interpolation="bilinear",
        )
        _outline_plane(axes, box, height, edgecolor=BLUE, zorder=4)
        label = f"Δf = {number_label(plane_nm)} nm"
        axes.text(box.half_y + 0.55 * box.half_x, -height, label, ha="left", va="center", color=BLUE)


def _draw_defocus_arrow(axes: Axes, box: _Box) -> None:
    x = -box.half_y - 0.7 * box.half_x
    end = (x, box.bottom_A + 0.3 * box.half_x)
    axes.add_patch(
        FancyArrowPatch((x, -box.half_z * 0.2), end, arrowstyle="-|>", mutation_scale=8, color=BLUE, linewidth=0.9)
    )
    axes.text(
        -box.half_y - 0.8 * box.half_x,
        (box.bottom_A - box.half_z) / 2,
        "defocus (not to scale)",
        rotation=90,
        ha="right",
        va="center",
        color=BLUE,
    )


def _outline_plane(axes: Axes, box: _Box, height: float, *, edgecolor: str, zorder: float = 1) -> None:
    """Outline the plane normal to the beam at depth z = ``height`` in Å."""
    half_x, half_y = box.half_x, box.half_y
    corners = np.array(
        [[-half_x, -half_y, height], [-half_x, half_y, height], [half_x, half_y, height], [half_x, -half_y, height]]
    )
    axes.add_patch(
        Polygon(on_page(corners), closed=True, edgecolor=edgecolor, facecolor="none", linewidth=0.6, zorder=zorder)
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
    figure: SubFigure, run: StoredRun, images: np.ndarray, tilt_deg: np.ndarray, defocus_nm: np.ndarray
) -> None:
    """Draw the images (T, F, X, Y) of the kept tilts, one row for each defocus (T, F); missing images are NaN."""
    n_tilts, n_defoci = defocus_nm.shape
    grid: Any = figure.subplots(n_defoci, n_tilts, squeeze=False)
    low, high = _limits(images)
    width_A = images.shape[2] * run.voxel_A
    for i, j in np.ndindex(n_defoci, n_tilts):
        axes = grid[i, j]
        show_plane(axes, images[j, i], run.voxel_A, low=low, high=high)
        if not np.isfinite(images[j, i]).any():
            axes.text(0.5, 0.5, "missing image", transform=axes.transAxes, ha="center", va="center")
        if i == 0:
            panel_letter(axes, "(b)" if j == 0 else "", f"θ = {number_label(float(tilt_deg[j]))}°")
        if j == 0 or defocus_nm[j, i] != defocus_nm[0, i]:
            axes.set_ylabel(f"Δf = {number_label(float(defocus_nm[j, i]))} nm")
    scale_bar(grid[-1, 0], width_A)
    axis_arrows(grid[-1, 0], "x", "y")
