"""Browse volumes and tilt series in a notebook: sliders of ipywidgets and a picture that follows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from aetlab.core.backend import to_numpy
from aetlab.core.errors import AetlabError
from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Atoms, Reconstruction, RefinedAtoms, TiltSeries, TracedAtoms, Volume
from aetlab.reporting.figures.sections import Sites, common_high_V, plot_sections
from aetlab.reporting.figures.slices import AXES
from aetlab.reporting.figures.style import ONE_COLUMN_IN, number_label, style
from aetlab.reporting.figures.tilt_image import common_range, plot_tilt_image

if TYPE_CHECKING:
    import ipywidgets

_DPI = 120


class Viewer:
    """A picture below its sliders; a notebook shows it where a cell ends with it.

    Front ends without widgets, such as a web page of a notebook, show the picture as it was last.

    Attributes
    ----------
    sliders : dict
        The sliders by name: ``"x"``, ``"y"``, ``"z"`` in Å, or ``"tilt"`` (index) and ``"image"`` (from 1). Setting
        ``value`` of one draws the picture again.
    widget : ipywidgets.VBox
        Sliders and picture, to be placed in other widgets.
    """

    def __init__(self, draw: Callable[[Mapping[str, Any]], Figure], sliders: Mapping[str, Any]) -> None:
        import ipywidgets

        self._draw = draw
        self.sliders = dict(sliders)
        # Without an alignment of its own the picture would be stretched to the width of the page, beyond its pixels.
        self._picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain",
                                                                                align_self="flex-start"))
        self.widget: ipywidgets.VBox = ipywidgets.VBox([*self.sliders.values(), self._picture])
        for slider in self.sliders.values():
            slider.observe(self._redraw, names="value")
        self._redraw()

    @property
    def png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        return bytes(self._picture.value)

    def figure(self) -> Figure:
        """Return the picture as a figure of matplotlib, for example to save it as PDF."""
        return self._draw({name: slider.value for name, slider in self.sliders.items()})

    def _redraw(self, change: object = None) -> None:
        buffer = io.BytesIO()
        with style():
            self.figure().savefig(buffer, dpi=_DPI)
        self._picture.value = buffer.getvalue()

    def _repr_mimebundle_(self, include: Collection[str] | None = None,
                          exclude: Collection[str] | None = None) -> dict[str, Any]:
        return {**(self.widget._repr_mimebundle_() or {}), "image/png": base64.b64encode(self.png).decode()}


def view(thing: Volume | Reconstruction | TiltSeries, atoms: Atoms | TracedAtoms | RefinedAtoms | None = None, *,
         slab_A: float = 1.0, high_V: float | None = None, width_in: float | None = None) -> Viewer:
    """Return a viewer for notebooks: slices of a volume with atoms, or the images of a tilt series.

    A volume is shown as slabs normal to x, y and z with a slider each, in Å from its centre, and one colour scale from
    0 V for all slabs. Dashed lines mark the other two slabs. Atoms within a slab are drawn on it as rings, a colour
    and a shape for each element. A tilt series is browsed by tilt, in the order of the angles, and by defocus, with
    one grey scale for all images. The extra ``notebook`` of the package is needed.

    The viewer has ``sliders`` (a mapping; setting the ``value`` of one draws again), ``widget`` to place it in other
    widgets, ``png`` (bytes) and ``figure()``, which returns the picture as a figure of matplotlib.

    Parameters
    ----------
    thing : Volume, Reconstruction or TiltSeries
        A volume or a tilt series.
    atoms : Atoms, TracedAtoms or RefinedAtoms, optional
        Atoms to draw on slabs of the volume.
    slab_A : float
        Thickness in Å of the slabs; the potential is averaged over it.
    high_V : float, optional
        Upper limit of the colour scale in V; by default one that fits the peaks.
    width_in : float, optional
        Width of the picture in inches, 3.4 to 30; by default 7 for a volume and 5 for a tilt series.

    Raises
    ------
    AetlabError
        For objects of other types, for numbers out of range, for atoms on a tilt series, and without ipywidgets.
    """
    if isinstance(thing, Reconstruction):
        thing = thing.volume
    for name, value, least, greatest in (("slab_A", slab_A, 0.0, np.inf), ("high_V", high_V, 0.0, np.inf),
                                         ("width_in", width_in, ONE_COLUMN_IN, 30.0)):
        if value is not None and not (least <= value <= greatest and 0 < value < np.inf):
            raise AetlabError(f"view: {name}={value:g} cannot be used, wanted " + (
                "a number greater than 0" if least == 0 else f"{least:g} to {greatest:g}"))
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        raise AetlabError("view needs ipywidgets, which is not installed: pip install 'aetlab[notebook]'") from None
    if isinstance(thing, TiltSeries):
        if atoms is not None or high_V is not None or slab_A != 1.0:
            raise AetlabError("view: atoms, slab_A and high_V are for a volume, and a TiltSeries was given")
        return _view_series(thing, width_in or 5.0)
    sites = None if atoms is None else Sites(np.asarray(atoms.numbers), np.asarray(atoms.positions_A))
    return _view_volume(to_numpy(thing.potential_V), float(thing.voxel_A), sites, slab_A, high_V, width_in or 7.0)


def _view_volume(potential_V: np.ndarray, voxel_A: float, sites: Sites | None, slab_A: float, high_V: float | None,
                 width_in: float) -> Viewer:
    import ipywidgets

    scale_V = high_V or common_high_V(potential_V, voxel_A, slab_A)
    sliders: dict[str, Any] = {}
    for axis in "zxy":
        centres_A = coordinates_A(potential_V.shape[AXES[axis]], voxel_A)
        sliders[axis] = ipywidgets.FloatSlider(
            value=centres_A[len(centres_A) // 2], min=centres_A[0], max=centres_A[-1], step=voxel_A,
            description=f"{axis} (Å)", readout_format=".2f", layout=ipywidgets.Layout(width="28em"))
    return Viewer(lambda centre_A: plot_sections(potential_V, voxel_A, centre_A, high_V=scale_V, atoms=sites,
                                                 slab_A=slab_A, width_in=width_in), sliders)


def _view_series(series: TiltSeries, width_in: float) -> Viewer:
    import ipywidgets

    limits = common_range(series)
    by_angle = [int(i) for i in np.argsort(series.tilt_deg, kind="stable")]
    nearest = min(by_angle, key=lambda i: (series.weight[i].max() == 0, abs(series.tilt_deg[i])))
    wide = ipywidgets.Layout(width="28em")
    sliders = {
        "tilt": ipywidgets.SelectionSlider(
            options=[(f"{number_label(series.tilt_deg[i])}°", i) for i in by_angle], value=nearest,
            description="tilt", layout=wide),
        "image": ipywidgets.IntSlider(value=1, min=1, max=series.n_defoci, description="defocus",
                                      disabled=series.n_defoci == 1, layout=wide),
    }
    return Viewer(lambda at: plot_tilt_image(series, at["tilt"], at["image"] - 1, limits, width_in), sliders)
