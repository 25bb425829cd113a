"""The viewer of notebooks: sliders move the slices, atoms lie on their slab, a tilt series says what each image is."""

from __future__ import annotations

import base64
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import aetlab
from aetlab.reporting.figures.sections import Sites, plot_sections
from aetlab.reporting.figures.tilt_image import describe_image, plot_tilt_image

POTENTIAL_V = np.random.default_rng(1).random((8, 10, 12)).astype(np.float32) * 50
VOLUME = aetlab.Volume(POTENTIAL_V, 0.5)
MIDDLE = {"x": 0.0, "y": 0.0, "z": 0.0}


def drawn(figure: Figure, panel: int) -> dict[int, np.ndarray]:
    """Return the positions (horizontal, vertical) of the rings of each element on a panel."""
    return {int(str(rings.get_gid()).split()[1]): np.asarray(rings.get_offsets())
            for rings in figure.axes[panel].collections if str(rings.get_gid()).startswith("atoms")}


@pytest.fixture
def series() -> aetlab.TiltSeries:
    images = 1 + 0.1 * np.random.default_rng(2).standard_normal((3, 2, 6, 8)).astype(np.float32)
    weight = np.array([[1, 1], [1, 0], [0.5, 1]])
    images[1, 1] = np.nan
    by_pixel = np.ones(images.shape, np.float32)
    by_pixel[0, 0, 2, 5:7] = 0
    return aetlab.TiltSeries(images, np.array([40.0, -30.0, 0.5]), np.array([-305.0, 400.0]), 0.5, 50.0, weight,
                             by_pixel)


def test_panels_show_the_mean_over_the_slab_at_each_position() -> None:
    figure = plot_sections(POTENTIAL_V, 0.5, {"z": 1.0, "x": -1.5, "y": 2.0}, high_V=50)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]
    # A slab of 1 Å holds two layers: those whose common face lies at the position.
    np.testing.assert_allclose(shown[0], POTENTIAL_V[5:7].mean(axis=0).T)
    np.testing.assert_allclose(shown[1], POTENTIAL_V[:, 1:3].mean(axis=1).T)
    np.testing.assert_allclose(shown[2], POTENTIAL_V[:, :, 9:11].mean(axis=2))
    assert figure.axes[0].get_xlabel() == "x (Å)" and figure.axes[1].get_xlabel() == "z (Å)"
    assert figure.axes[0].get_xlim() == (-2.5, 2.5) and figure.axes[0].get_ylim() == (-3, 3)
    assert figure.axes[3].get_xlabel() == "potential (V), mean of 1 Å"


def test_only_atoms_within_a_slab_are_drawn_on_it() -> None:
    atoms = Sites(np.array([14, 14, 8]), np.array([[0.1, 1.0, 0.4], [2.0, -2.0, 0.6], [-1.0, 0.3, -0.5]]))
    figure = plot_sections(POTENTIAL_V, 0.5, MIDDLE, high_V=50, atoms=atoms)
    of_z, of_x, of_y = (drawn(figure, panel) for panel in range(3))
    np.testing.assert_allclose(of_z[14], [[0.1, 1.0]])
    np.testing.assert_allclose(of_z[8], [[-1.0, 0.3]])
    np.testing.assert_allclose(of_x[14], [[0.4, 1.0]])
    assert of_x[8].size == 0
    np.testing.assert_allclose(of_y[8], [[-1.0, -0.5]])
    assert of_y[14].size == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["O", "Si"]


def test_a_slider_moves_one_slab_and_the_picture_with_it() -> None:
    viewer = aetlab.view(VOLUME)
    assert {name: (slider.min, slider.max) for name, slider in viewer.sliders.items()} == {
        "z": (-1.75, 1.75), "x": (-2.25, 2.25), "y": (-2.75, 2.75)}
    before = viewer.png
    viewer.sliders["y"].value = 1.25
    assert viewer.png != before
    assert [axes.get_title(loc="left") for axes in viewer.figure().axes[:3]] == ["z = 0.25 Å", "x = 0.25 Å",
                                                                                "y = 1.25 Å"]
    viewer.sliders["y"].value = 0.25
    assert viewer.png == before


def test_a_page_without_widgets_shows_the_picture() -> None:
    before = dict(mpl.rcParams)
    viewer = aetlab.view(VOLUME, aetlab.Atoms(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, int)), width_in=4)
    bundle = viewer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == viewer.png and viewer.png.startswith(b"\x89PNG")
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == viewer.widget.model_id
    assert viewer.widget.children[-1].layout.align_self == "flex-start"  # it has its own size, however wide the page
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_tilt_series_is_browsed_in_the_order_of_its_angles(series: aetlab.TiltSeries) -> None:
    viewer = aetlab.view(series)
    tilt, image = viewer.sliders["tilt"], viewer.sliders["image"]
    assert tilt.options == (("−30°", 1), ("0.5°", 2), ("40°", 0)) and tilt.value == 2
    before = viewer.png
    tilt.value, image.value = 0, 2
    assert viewer.png != before
    shown = viewer.figure().axes[0].images[0]
    np.testing.assert_array_equal(np.asarray(shown.get_array()), series.images[0, 1].T)


def test_the_title_of_an_image_says_what_was_recorded(series: aetlab.TiltSeries) -> None:
    assert describe_image(series, 0, 0) == ("tilt 40° (1 of 3),  defocus −30.5 nm (1 of 2)",
                                            "50 electrons per pixel, 200 per Å²,  2 pixels left out")
    assert describe_image(series, 1, 1)[1] == "left out of every fit (weight 0)"
    assert describe_image(series, 2, 0)[1] == "50 electrons per pixel, 200 per Å²,  weight 0.5"
    figure = plot_tilt_image(series, 0, 0, (0.5, 1.5))
    mask = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
    assert list(zip(*np.nonzero(mask.T), strict=True)) == [(2, 5), (2, 6)]
    assert np.ma.getmaskarray(plot_tilt_image(series, 1, 1, (0.5, 1.5)).axes[0].images[0].get_array()).all()


@pytest.mark.parametrize(("words", "complaint"), [
    ((POTENTIAL_V,), r"aetlab.view: thing is an array of float32 with shape .* wanted Volume or Reconstruction or"),
    ((VOLUME, [1, 2]), r"aetlab.view: atoms is \[1, 2\] \(list\); wanted Atoms or TracedAtoms or"),
    ((VOLUME, None, 0.0), "view: slab_A=0 cannot be used, wanted a number greater than 0"),
    ((VOLUME, None, 1.0, float("nan")), "view: high_V=nan cannot be used"),
    ((VOLUME, None, 1.0, None, 1.0), "view: width_in=1 cannot be used, wanted 3.4 to 30"),
])
def test_what_cannot_be_shown_is_refused_in_one_line(words: tuple[object, ...], complaint: str) -> None:
    thing, atoms, slab_A, high_V, width_in = (*words, *(None, 1.0, None, None)[len(words) - 1:])
    with pytest.raises(aetlab.AetlabError, match=complaint):
        aetlab.view(thing, atoms, slab_A=slab_A, high_V=high_V, width_in=width_in)


def test_atoms_on_a_tilt_series_are_refused(series: aetlab.TiltSeries) -> None:
    with pytest.raises(aetlab.AetlabError, match="are for a volume, and a TiltSeries was given"):
        aetlab.view(series, aetlab.Atoms(np.array([8]), np.zeros((1, 3)), np.zeros(1, int)))


def test_without_ipywidgets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(aetlab.AetlabError, match=r"^view needs ipywidgets.*pip install 'aetlab\[notebook\]'$"):
        aetlab.view(VOLUME)
