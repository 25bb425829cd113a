"""Style of all figures: sizes, colours that colour-blind readers can tell apart, scale bars, panel letters, saving.

Colours are those of Okabe and Ito (2008). Markers and line styles differ as well, so that colour is never the only cue.
Figures do not use the global state of pyplot, and saving a figure twice gives identical files.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image

from aetlab.reporting.figures.small_font import font_settings

#: Widths of one and of two columns of a journal, in inches.
ONE_COLUMN_IN = 3.4
TWO_COLUMNS_IN = 7.0
PNG_DPI = 300

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
#: Colours and line styles of the lines of one plot, in order.
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINES: tuple[Any, ...] = ("-", "--", "-.", ":")
#: Colours of elements, the lightest first; those of found and missing atoms come last.
ELEMENT_CYCLE = (SKY, ORANGE, PURPLE, GREEN, YELLOW, BLACK, BLUE, VERMILION)
#: Opacity of the patch behind a scale bar or the directions of the axes.
_BEHIND_ALPHA = 0.5

#: Found, missing and false atoms: colour and marker.
FOUND, MISSING, FALSE = BLUE, VERMILION, BLACK

_RC: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.direction": "out",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "pdf.fonttype": 42,
    "image.interpolation": "nearest",
    "path.simplify": True,
}


def new_figure(width_in: float, height_in: float, gap_in: float = 0.03) -> Figure:
    """Return an empty figure with a layout that prevents overlaps, and ``gap_in`` above and below each panel."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=gap_in, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(width_in, height_in), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def line_colours(n: int, cycle: Sequence[str] = CYCLE) -> list[str]:
    """Return ``n`` colours that differ: those of ``cycle``, or of the map viridis where there are more."""
    if n <= len(cycle):
        return list(cycle[:n])
    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 0.95, n))]


def element_colours(numbers: Iterable[int]) -> dict[int, str]:
    """Return a colour for each of the atomic ``numbers``, in their order."""
    known = sorted({int(number) for number in numbers})
    return dict(zip(known, line_colours(len(known), ELEMENT_CYCLE), strict=True))


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all figures within a context, over matplotlib's defaults and not the user's settings."""
    defaults: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
    with mpl.rc_context({**defaults, **_RC, **font_settings()}):
        yield


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Save as ``name.png`` at 300 dpi and ``name.pdf``, without dates so that equal records give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    with style():
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine(None)  # keep the positions; an engine would run again for each file
        figure.savefig(png, dpi=PNG_DPI, metadata={"Software": "aetlab"})
        figure.savefig(pdf, dpi=PNG_DPI, metadata={"Creator": "aetlab", "Producer": "aetlab", "CreationDate": None})
    return png, pdf


def web_image(png: Path, width_px: int = 1400) -> tuple[bytes, int, int]:
    """Return the picture as WebP bytes of at most ``width_px``, with its width and height in pixels."""
    with Image.open(png) as image:
        picture = image.convert("RGB")
    if picture.width > width_px:
        picture = picture.resize((width_px, round(picture.height * width_px / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, method=2)
    return buffer.getvalue(), picture.width, picture.height


def panel_letter(axes: Axes, letter: str, title: str = "") -> None:
    """Write the letter of a panel in bold and its title above the panel, flush left."""
    axes.set_title(rf"$\bf{{{letter}}}$" + (f"  {title}" if title else ""), loc="left", pad=3)


def number_label(value: float) -> str:
    """Return ``value`` to one decimal, without a trailing zero, with a minus sign."""
    return f"{round(value, 1) + 0.0:g}".replace("-", "\N{MINUS SIGN}")


def extent_A(n_horizontal: int, n_vertical: int, voxel_A: float) -> tuple[float, float, float, float]:
    """Return the edges in Å of a picture centred on 0: left, right, bottom, top."""
    width, height = n_horizontal * voxel_A / 2, n_vertical * voxel_A / 2
    return -width, width, -height, height


def show_plane(
    axes: Axes,
    plane: np.ndarray,
    voxel_A: float,
    *,
    low: float,
    high: float,
    cmap: str = "gray",
    square_root: bool = False,
    transpose: bool = True,
) -> AxesImage:
    """Show a plane (horizontal, vertical) in Å about its centre, with the second coordinate upwards."""
    picture = plane.T if transpose else plane
    norm = PowerNorm(0.5, low, high, clip=True) if square_root else None
    image = axes.imshow(
        picture,
        origin="lower",
        extent=extent_A(picture.shape[1], picture.shape[0], voxel_A),
        cmap=cmap,
        norm=norm,
        vmin=None if square_root else low,
        vmax=None if square_root else high,
        interpolation="nearest",
    )
    bare(axes)
    return image


def bare(axes: Axes) -> None:
    """Remove the ticks and draw a thin frame, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)


def dots(colours: Mapping[str, Any]) -> list[Line2D]:
    """Return legend entries of dots: one of each colour by its label."""
    return [
        Line2D([], [], linestyle="", marker="o", color=colour, markeredgecolor="0.25", markeredgewidth=0.3,
               markersize=5, label=label)
        for label, colour in colours.items()
    ]


def scale_bar(axes: Axes, width_A: float, colour: str = "white") -> None:
    """Draw a scale bar of a round length, about a quarter of ``width_A``, in the lower left corner of a picture."""
    length_A = round_length_A(width_A / 4)
    bottom, top = axes.get_ylim()
    bar = AnchoredSizeBar(
        axes.transData,
        length_A,
        f"{length_A / 10:g} nm" if length_A >= 10 else f"{length_A:g} Å",
        "lower left",
        pad=0.25,
        borderpad=0.3,
        sep=1.5,
        label_top=True,
        color=colour,
        size_vertical=0.012 * (top - bottom),
        fontproperties=FontProperties(size=6.5),
    )
    bar.patch.set(facecolor=_behind(colour), alpha=_BEHIND_ALPHA, edgecolor="none")
    bar.set_zorder(9)
    axes.add_artist(bar)


def _behind(colour: str) -> str:
    """Return the colour of a patch that keeps marks of ``colour`` readable on any picture."""
    return "black" if colour == "white" else "white"


def outlined(colour: str) -> list[patheffects.AbstractPathEffect]:
    """Return the effect of a thin rim in the opposite colour, which keeps marks readable on any picture."""
    return [patheffects.withStroke(linewidth=1.6, foreground=_behind(colour))]


def round_length_A(length_A: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that does not exceed ``length_A``."""
    power = 10.0 ** math.floor(math.log10(length_A))
    return max(step * power for step in (1, 2, 5) if step * power <= length_A * 1.0001)


def axis_arrows(axes: Axes, horizontal: str, vertical: str, colour: str = "white") -> None:
    """Draw two small arrows in the lower right corner that name the axes of a picture."""
    style_ = {
        "arrowstyle": "-|>,head_width=0.12,head_length=0.25",
        "color": colour,
        "lw": 0.7,
        "shrinkA": 0,
        "shrinkB": 0,
        "path_effects": outlined(colour),
    }
    x, y, length = 0.83, 0.06, 0.1
    axes.add_patch(Rectangle((x - 0.05, 0.015), 1 - x + 0.035, y + length + 0.07, transform=axes.transAxes, zorder=8,
                             facecolor=_behind(colour), alpha=_BEHIND_ALPHA, edgecolor="none"))
    for end, name, align in (
        ((x + length, y), horizontal, ("left", "center")),
        ((x, y + length), vertical, ("center", "bottom")),
    ):
        axes.annotate("", end, (x, y), xycoords="axes fraction", arrowprops=style_, zorder=9)
        axes.annotate(
            name,
            (end[0] + 0.01 * (name == horizontal), end[1]),
            xycoords="axes fraction",
            color=colour,
            fontsize=6.5,
            ha=align[0],
            va=align[1],
            zorder=9,
            path_effects=outlined(colour),
        )


def colour_bar(
    figure: Figure,
    image: AxesImage,
    label: str,
    *,
    beside: Sequence[Axes] = (),
    inside: Axes | None = None,
    ticks: Sequence[float] | None = None,
    location: str = "right",
) -> None:
    """Draw a colour bar with a label that states the unit, in the axes ``inside`` or next to those ``beside``."""
    if inside is not None:
        across = location in ("top", "bottom")
        bar = figure.colorbar(image, cax=inside, ticks=ticks, orientation="horizontal" if across else "vertical")
    else:
        bar = figure.colorbar(
            image, ax=list(beside), location=location, fraction=0.05, aspect=26, pad=0.015, ticks=ticks
        )
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    bar.minorticks_off()


def marker_area(axes_width_in: float, width_A: float, diameter_A: float) -> float:
    """Return the area in points² of a marker of ``diameter_A`` on axes that show ``width_A`` over ``axes_width_in``."""
    return max((diameter_A / width_A * axes_width_in * 72) ** 2, 0.5)
