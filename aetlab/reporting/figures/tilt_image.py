"""One image of a tilt series with what was recorded of it."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aetlab.core.nouns import TiltSeries
from aetlab.reporting.figures.style import VERMILION, colour_bar, new_figure, number_label, show_plane, style

#: Pixels that give the limits of the common grey scale, at most.
_MOST_PIXELS = 1_000_000


def common_range(series: TiltSeries) -> tuple[float, float]:
    """Return the limits of one grey scale for all images: the 0.2th and 99.8th percentile where the weight is not 0."""
    kept = np.asarray(series.images)[series.weight > 0]
    pixels = kept.reshape(-1)[::max(kept.size // _MOST_PIXELS, 1)]
    low, high = (float(value) for value in np.percentile(pixels[np.isfinite(pixels)], (0.2, 99.8)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def describe_image(series: TiltSeries, i_tilt: int, i_image: int) -> tuple[str, str]:
    """Return two lines: tilt and defocus with their places in the series; electrons, weight, pixels left out."""
    weight, electrons = float(series.weight[i_tilt, i_image]), float(series.electrons_per_pixel[i_tilt, i_image])
    first = (f"tilt {number_label(series.tilt_deg[i_tilt])}° ({i_tilt + 1} of {series.n_tilts}),  defocus "
             f"{number_label(series.defocus_A[i_tilt, i_image] / 10)} nm ({i_image + 1} of {series.n_defoci})")
    if weight == 0:
        return first, "left out of every fit (weight 0)"
    parts = ["without noise" if np.isinf(electrons) else
             f"{_short(electrons)} electrons per pixel, {_short(electrons / series.pixel_A**2)} per Å²"]
    if weight != 1:
        parts.append(f"weight {weight:.3g}")
    if series.pixel_weight is not None and (n_bad := int((series.pixel_weight[i_tilt, i_image] == 0).sum())):
        parts.append(f"{n_bad} pixels left out")
    return first, ",  ".join(parts)


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def plot_tilt_image(series: TiltSeries, i_tilt: int, i_image: int, limits: tuple[float, float],
                    width_in: float = 5.0) -> Figure:
    """Draw one image between ``limits`` (intensity, vacuum 1), x to the right and y upwards, in Å.

    Pixels of weight 0 and pixels that are not finite are coloured.
    """
    picture = np.ma.masked_invalid(np.asarray(series.images[i_tilt, i_image]))
    if series.pixel_weight is not None:
        picture = np.ma.masked_where(series.pixel_weight[i_tilt, i_image] == 0, picture)
    first, second = describe_image(series, i_tilt, i_image)
    n_x, n_y = picture.shape
    with style():
        figure = new_figure(width_in, min((width_in - 1.1) * n_y / n_x, 1.5 * width_in) + 0.8)
        axes = figure.subplots()
        image = show_plane(axes, picture, series.pixel_A, low=limits[0], high=limits[1])
        image.set_cmap(colormaps["gray"].with_extremes(bad=VERMILION))
        for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
            axis.set_label_text(f"{name} (Å)")
        colour_bar(figure, image, "intensity (vacuum 1)", beside=[axes])
        axes.set_title(f"{first}\n{second}", loc="left", pad=4,
                       color=VERMILION if series.weight[i_tilt, i_image] == 0 else "black")
    return figure
