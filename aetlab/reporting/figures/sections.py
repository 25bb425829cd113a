"""Three perpendicular slices of a potential through one point, with the atoms that lie in them.

The panels have one scale. Panels in a column share the horizontal axis and panels in a row the vertical one, so that a
point is found in the others along straight lines. The layout depends on the volume only: nothing moves while a slice
is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.slices import (
    AXES,
    COLUMNS,
    average_slab,
    fitting_high_V,
    in_slab,
    square_root_ticks,
)
from aetlab.reporting.figures.style import (
    BLACK,
    colour_bar,
    element_colours,
    marker_area,
    show_plane,
    style,
)

#: Panels: the axis normal to the slab, the horizontal axis and the vertical axis.
_PANELS = (("z", "x", "y"), ("x", "z", "y"), ("y", "x", "z"))
#: Inches left of, below and right of the panels, between columns, between rows, and above each row.
_LEFT_IN, _BOTTOM_IN, _RIGHT_IN, _BETWEEN_IN, _ROWS_IN, _ABOVE_IN = 0.48, 0.42, 0.1, 0.14, 0.42, 0.22
#: Least width and height of the corner that holds the colour bar and the legend, in inches.
_KEY_IN = (1.5, 1.05)
#: Greatest height of the figure over its width.
_TALLEST = 1.25
#: Shapes of the rings around atoms, by element; their diameter in Å.
_RINGS = ("o", "s", "D", "^", "v", "p", "h")
_RING_A = 1.5


@dataclass(frozen=True)
class Sites:
    """Atoms to draw: ``numbers`` (N,) atomic numbers (0: unknown) and ``positions_A`` (N, 3) x, y, z in Å."""

    numbers: np.ndarray
    positions_A: np.ndarray


def common_high_V(potential_V: np.ndarray, voxel_A: float, slab_A: float) -> float:
    """Return the upper limit in V of one colour scale for all slabs of a volume (Z, X, Y).

    It fits the greatest potential over z of slabs of ``slab_A``.
    """
    n_layers = min(max(round(slab_A / voxel_A), 1), len(potential_V))
    brightest = np.full(potential_V.shape[1:], -np.inf, np.float32)
    for first in range(0, len(potential_V) - n_layers + 1, max(n_layers // 2, 1)):
        np.maximum(brightest, potential_V[first:first + n_layers].mean(axis=0), out=brightest)
    return fitting_high_V([brightest])


def plot_sections(potential_V: np.ndarray, voxel_A: float, centre_A: Mapping[str, float], *, high_V: float,
                  atoms: Sites | None = None, slab_A: float = 1.0, width_in: float = 7.0) -> Figure:
    """Draw slabs normal to z, x and y at ``centre_A``, on a square root scale from 0 to ``high_V``.

    Parameters
    ----------
    potential_V : (Z, X, Y)
        Potential in V.
    voxel_A : float
        Voxel in Å.
    centre_A : mapping
        Position in Å of the slab normal to each axis, by ``"x"``, ``"y"``, ``"z"``.
    high_V : float
        Upper limit of the colour scale in V.
    atoms : Sites, optional
        Atoms; those within a slab are drawn as rings on it, a colour and shape for each element of all atoms.
    slab_A : float
        Thickness of the slabs in Å.
    width_in : float
        Greatest width of the figure in inches.
    """
    length_A = {axis: potential_V.shape[i] * voxel_A for axis, i in AXES.items()}
    colours = element_colours(atoms.numbers) if atoms else {}
    with style():
        layout = _Layout.fitting(length_A, width_in)
        figure = Figure(figsize=layout.size_in)
        FigureCanvasAgg(figure)
        for normal, horizontal, vertical in _PANELS:
            size_in = length_A[horizontal] * layout.in_per_A, length_A[vertical] * layout.in_per_A
            axes = layout.add_axes(figure, *layout.corner_in(normal), *size_in)
            plane = average_slab(potential_V, voxel_A, normal, centre_A[normal], slab_A)
            image = show_plane(axes, plane.T if normal == "y" else plane, voxel_A, low=0, high=high_V,
                               square_root=True)
            _label(axes, normal, horizontal, vertical, centre_A, size_in)
            if atoms:
                inside = in_slab(atoms.positions_A, normal, centre_A[normal], slab_A)
                _draw_rings(axes, atoms.numbers[inside], atoms.positions_A[inside][:, [COLUMNS[horizontal],
                            COLUMNS[vertical]]], colours, _RING_A * layout.in_per_A)
        left, bottom, width, height = layout.key_in
        bar = layout.add_axes(figure, left, bottom + height - 0.14, min(width, 2.2), 0.1)
        colour_bar(figure, image, f"potential (V), mean of {slab_A:g} Å", inside=bar, ticks=square_root_ticks(high_V),
                   location="bottom")
        if colours:
            figure.legend(handles=_legend(colours), loc="upper left", ncols=min(len(colours), 3), borderaxespad=0,
                          bbox_to_anchor=layout.share(left, bottom + height - 0.58), handletextpad=0.2,
                          columnspacing=0.9)
    return figure


@dataclass(frozen=True)
class _Layout:
    """Places of the panels in inches from the lower left corner of the figure."""

    in_per_A: float
    size_in: tuple[float, float]
    rows_in: tuple[float, float]
    key_in: tuple[float, float, float, float]

    @classmethod
    def fitting(cls, length_A: Mapping[str, float], width_in: float) -> _Layout:
        """Return the layout of the greatest scale that ``width_in`` and the corner of the colour bar allow."""
        x_A, y_A, z_A = length_A["x"], length_A["y"], length_A["z"]
        room_in = width_in - _LEFT_IN - _BETWEEN_IN - _RIGHT_IN
        between_in = _BOTTOM_IN + _ROWS_IN + 2 * _ABOVE_IN
        scale = min(room_in / (x_A + z_A), (room_in - _KEY_IN[0]) / x_A,
                    (_TALLEST * width_in - between_in) / (y_A + z_A))
        column_in, row_in = max(z_A * scale, _KEY_IN[0]), max(z_A * scale, _KEY_IN[1])
        width = _LEFT_IN + x_A * scale + _BETWEEN_IN + column_in + _RIGHT_IN
        upper_in = _BOTTOM_IN + row_in + _ABOVE_IN + _ROWS_IN
        key_in = (_LEFT_IN + x_A * scale + _BETWEEN_IN, _BOTTOM_IN, column_in, row_in)
        return cls(scale, (width, upper_in + y_A * scale + _ABOVE_IN),
                   (upper_in, _BOTTOM_IN + row_in - z_A * scale), key_in)

    def corner_in(self, normal: str) -> tuple[float, float]:
        """Return left and bottom of the panel of the slab normal to an axis."""
        return self.key_in[0] if normal == "x" else _LEFT_IN, self.rows_in[normal == "y"]

    def share(self, *lengths_in: float) -> tuple[float, ...]:
        """Return horizontal and vertical lengths, in turn, as shares of the figure."""
        return tuple(length / self.size_in[i % 2] for i, length in enumerate(lengths_in))

    def add_axes(self, figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return new axes at this place."""
        x, y, share_x, share_y = self.share(left, bottom, width, height)
        return figure.add_axes((x, y, share_x, share_y))


def _label(axes: Axes, normal: str, horizontal: str, vertical: str, centre_A: Mapping[str, float],
           size_in: tuple[float, float]) -> None:
    """Write ticks in Å on outer axes and the position above, and mark the two other slabs."""
    axes.set_title(f"{normal} = {centre_A[normal]:.2f} Å".replace("-", "\N{MINUS SIGN}"), loc="left", pad=3)
    for axis, inches in zip((axes.xaxis, axes.yaxis), size_in, strict=True):
        axis.set_major_locator(MaxNLocator(min(max(round(2.5 * inches), 1), 8), steps=[1, 2, 5, 10], min_n_ticks=1,
                                           prune="both"))
    axes.set_xlabel(f"{horizontal} (Å)", labelpad=1)
    if normal == "x":
        axes.tick_params(labelleft=False)
    else:
        axes.set_ylabel(f"{vertical} (Å)", labelpad=1)
    marked: dict[str, Any] = {"color": "white", "alpha": 0.45, "linewidth": 0.6, "linestyle": (0, (4, 4))}
    axes.axvline(centre_A[horizontal], **marked)
    axes.axhline(centre_A[vertical], **marked)


def _draw_rings(axes: Axes, numbers: np.ndarray, points_A: np.ndarray, colours: Mapping[int, str],
                diameter_in: float) -> None:
    line = min(max(0.2 * diameter_in * 72, 0.5), 1.3)
    for ring, (number, colour) in zip(_rings(len(colours)), colours.items(), strict=True):
        own = points_A[numbers == number]
        axes.scatter(own[:, 0], own[:, 1], s=marker_area(1.0, 1.0, diameter_in), marker=ring, facecolors="none",
                     edgecolors=colour, linewidths=line, path_effects=[withStroke(linewidth=line + 0.7,
                     foreground=_rim(colour))], gid=f"atoms {number}")


def _legend(colours: Mapping[int, str]) -> list[Line2D]:
    return [Line2D([], [], linestyle="", marker=ring, markerfacecolor="none", markeredgecolor=colour, markersize=6,
                   markeredgewidth=1.3, path_effects=[withStroke(linewidth=1.7, foreground=_rim(colour))],
                   label=element_name(number))
            for ring, (number, colour) in zip(_rings(len(colours)), colours.items(), strict=True)]


def _rings(n: int) -> list[str]:
    return [_RINGS[i % len(_RINGS)] for i in range(n)]


def _rim(colour: str) -> str:
    return "white" if colour == BLACK else "black"
