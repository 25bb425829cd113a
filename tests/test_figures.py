"""Figures: their data, what they show, and that nothing is cut off."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.image import AxesImage
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text
from PIL import Image

from aetlab.core.physics import wavelength_A
from aetlab.reporting.figures.accuracy import error_over_sigma, main_pair, plot_accuracy
from aetlab.reporting.figures.atoms import ShownAtoms, outlines, read_atoms, species_thresholds
from aetlab.reporting.figures.bound import PlanCurve, plot_bound
from aetlab.reporting.figures.convergence import (
    axial_bound_A,
    plot_binning,
    plot_convergence,
    reconstruction_seconds,
    timed_together,
)
from aetlab.reporting.figures.depth import plot_depths
from aetlab.reporting.figures.geometry import on_page, plot_geometry
from aetlab.reporting.figures.images import plot_images
from aetlab.reporting.figures.kinds import FigureTask, keep_drawable
from aetlab.reporting.figures.panels import plot_panels
from aetlab.reporting.figures.slices import average_slab, fitting_high_V, in_slab, square_root_ticks, thickest_y_A
from aetlab.reporting.figures.style import round_length_A, save_figure, style, web_image
from aetlab.reporting.figures.vacancies import plot_vacancies, removed_positions_A
from aetlab.reporting.stored_run import StoredRun, read_runs
from aetlab.store.record import History
from tests.fake_records import fake_spec, write_fake_paper, write_fake_record

TETRAHEDRON = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict[str, StoredRun]:
    outputs = tmp_path_factory.mktemp("figures")
    folders = write_fake_paper(outputs, 32)
    runs = {run.identity: run for run in read_runs(outputs)[0]}
    return {name: runs[folder.name] for name, folder in folders.items()}


def doses(paper):
    return [paper[name] for name in ("fig4a", "fig4b", "fig4c")], ["infinite dose", "50 000 e/Å²", "7 000 e/Å²"]


FIGURES = {
    "geometry": lambda paper: plot_geometry(paper["fig4c"]),
    "geometry_9_defoci": lambda paper: plot_geometry(paper["fig6a"]),
    "images": lambda paper: plot_images(paper["fig4c"]),
    "depths": lambda paper: plot_depths(*doses(paper)),
    "panels": lambda paper: plot_panels(*doses(paper)),
    "one_panel": lambda paper: plot_panels([paper["fig7c"]], ["tilts over 120°"]),
    "accuracy": lambda paper: plot_accuracy(*doses(paper)),
    "convergence": lambda paper: plot_convergence(*doses(paper)),
    "many_lines": lambda paper: plot_convergence(list(paper.values()), [f"a long label of {name}" for name in paper]),
    "vacancies": lambda paper: plot_vacancies(paper["fig4b"], paper["fig9_vacancies"]),
    "binning": lambda paper: plot_binning([run for name, run in paper.items() if name.startswith("fig10")]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_letters_are_readable(paper, name):
    figure = FIGURES[name](paper)
    assert figure.get_figwidth() in (3.4, 7.0)
    with style():
        figure.draw_without_rendering()
        used_in = figure.get_tightbbox(figure.canvas.get_renderer())
    slack_in = 0.02
    assert used_in.x0 >= -slack_in and used_in.x1 <= figure.get_figwidth() + slack_in
    assert used_in.y0 >= -slack_in and used_in.y1 <= figure.get_figheight() + slack_in
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
    assert min(sizes) >= 6.0 and max(sizes) <= 9.0


def test_saved_files_are_print_quality_and_equal_each_time(paper, tmp_path):
    first = save_figure(plot_convergence(*doses(paper)), tmp_path / "a", "figure")
    second = save_figure(plot_convergence(*doses(paper)), tmp_path / "b", "figure")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with Image.open(first[0]) as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert picture.width == round(3.4 * 300)
    assert first[1].read_bytes().startswith(b"%PDF")
    web, width, height = web_image(first[0], 500)
    assert width == 500 and web[8:12] == b"WEBP" and 0.5 < width / height < 2


def test_panels_mark_every_atom_of_the_cut(paper):
    run = paper["fig4c"]
    figure = plot_panels([run], ["7 000 e/Å²"])
    atoms = read_atoms(run)
    truth = atoms.truth
    y_A = thickest_y_A(atoms.scored_A)
    axes = figure.axes[2]
    assert len(figure.axes[0].findobj(AxesImage)) == 1
    points = [collection.get_offsets() for collection in axes.collections if isinstance(collection, PathCollection)]
    groups = (atoms.positions_A[truth.traced], truth.positions_A[truth.missing], atoms.positions_A[truth.false])
    assert len(points) == 3
    for shown, positions_A in zip(points, groups, strict=True):
        expected = positions_A[in_slab(positions_A, "y", y_A)]
        np.testing.assert_allclose(shown, expected[:, [2, 0]], rtol=1e-5)
    assert len(points[0]) > 3
    polygons = next(collection for collection in axes.collections if isinstance(collection, PolyCollection))
    assert len(polygons.get_paths()) == in_slab(atoms.positions_A[atoms.tetrahedra[:, 0]], "y", y_A).sum()


def test_slices_show_z_to_the_right_and_x_upwards(paper):
    run = paper["fig4a"]
    figure = plot_panels([run], ["infinite"], high_V=80)
    image = figure.axes[0].findobj(AxesImage)[0]
    assert image.norm(80) == 1 and image.norm(20) == pytest.approx(0.5) and image.norm(0) == 0
    volume = run.array("volume/potential_V")
    y_A = thickest_y_A(read_atoms(run).scored_A)
    np.testing.assert_allclose(image.get_array(), average_slab(volume, 0.5, "y", y_A).T, rtol=1e-6)
    assert image.get_extent() == [-8, 8, -8, 8] and image.origin == "lower"


def test_a_tetrahedron_has_an_outline_of_its_corners():
    polygon = outlines(1.6 * TETRAHEDRON, np.arange(5)[None], (2, 0))[0]
    # Seen along y the four corners lie on a square of side 2 × 1.6 / √3 Å.
    assert polygon.shape == (4, 2)
    np.testing.assert_allclose(np.abs(polygon), 1.6 / math.sqrt(3), rtol=1e-6)


def test_the_cut_goes_where_most_scored_atoms_are():
    rng = np.random.default_rng(0)
    y_A = np.concatenate([rng.uniform(-20, 20, 200), rng.uniform(6.8, 7.2, 60), rng.uniform(-12, -11.8, 500)])
    positions_A = np.column_stack([np.zeros_like(y_A), y_A, np.zeros_like(y_A)])
    assert thickest_y_A(positions_A[:260]) == pytest.approx(7.0, abs=0.4)
    assert thickest_y_A(positions_A) == pytest.approx(-11.9, abs=0.4)
    assert thickest_y_A(np.empty((0, 3))) == 0.0


def test_species_thresholds_lie_between_the_species_given():
    signal, numbers = np.array([1.0, 2.0, 5.0, 6.0, 9.0]), np.array([8, 8, 14, 14, 79])
    positions_A = np.zeros((5, 3))
    assert species_thresholds(ShownAtoms(positions_A, numbers, signal, None)) == [3.5, 7.5]
    assert species_thresholds(ShownAtoms(positions_A, np.array([8, 14, 8, 14, 14]), signal, None)) == []


def test_cuts_average_the_layers_about_their_centre():
    volume = np.arange(8 * 10 * 12, dtype=np.float32).reshape(8, 10, 12)
    np.testing.assert_array_equal(average_slab(volume, 0.5, "z", 0.0), volume[3:5].mean(0))
    np.testing.assert_array_equal(average_slab(volume, 0.5, "x", 1.0), volume[:, 6:8].mean(1))
    np.testing.assert_array_equal(average_slab(volume, 0.5, "y", -99.0), volume[:, :, :2].mean(2))
    np.testing.assert_array_equal(average_slab(volume, 0.5, "y", 99.0), volume[:, :, -2:].mean(2))
    np.testing.assert_array_equal(average_slab(volume, 1.5, "z", 0.75), volume[4])
    assert average_slab(volume, 0.25, "y", 0.0).shape == (8, 10)


def test_bound_on_slices_is_that_of_the_paper():
    spec = fake_spec()
    aperture = wavelength_A(300) / 0.5
    assert axial_bound_A(spec) == pytest.approx(wavelength_A(300) / (1 - math.sqrt(1 - aperture**2)), rel=1e-9)
    assert axial_bound_A(spec) == pytest.approx(25.4, abs=0.05)


def test_time_saved_is_relative_to_the_finest_slices(paper):
    runs = [paper["fig10_nb16"], paper["fig10_nb1"], paper["fig10_nb4"]]
    figure = plot_binning(runs)
    left, right = figure.axes
    saved = left.lines[0].get_xydata()
    seconds = [run.environment["seconds_by_stage"]["reconstruct"] for run in (runs[1], runs[2], runs[0])]
    np.testing.assert_allclose(saved, np.column_stack([[1, 4, 16], 100 * (1 - np.array(seconds) / seconds[0])]))
    np.testing.assert_allclose(
        right.lines[0].get_ydata(), [100 * run.metrics["potential_error"] for run in (runs[1], runs[2], runs[0])]
    )


def test_an_iteration_that_compiles_does_not_count(tmp_path):
    run = read_runs(write_fake_record(tmp_path, fake_spec(n_voxels=24)).parents[1])[0][0]
    vars(run)["history"] = History(np.ones(10), np.array([30.0, *[0.5] * 8, 2.0]))
    assert reconstruction_seconds(run) == 0.5


def test_runs_timed_together_are_detected(paper):
    runs = [paper["fig4a"], paper["fig4b"]]
    assert timed_together(runs)
    later = runs[1].record.environment | {
        "started": "2026-01-02T00:00:00+00:00",
        "finished": "2026-01-02T00:01:00+00:00",
    }
    assert not timed_together([runs[0], StoredRun(_with_environment(runs[1], later))])
    following = later | {"started": str(runs[0].environment["finished"]).replace(".000", "")}
    assert not timed_together([runs[0], StoredRun(_with_environment(runs[1], following))])


def _with_environment(run, environment):
    import dataclasses

    return dataclasses.replace(run.record, environment=environment)


def test_removed_atoms_are_those_that_the_other_sample_lacks(paper):
    removed_A = removed_positions_A(paper["fig4b"], paper["fig9_vacancies"])
    n_whole, n_left = (len(paper[name].array("truth/numbers")) for name in ("fig4b", "fig9_vacancies"))
    assert len(removed_A) == n_whole - n_left > 0


def test_oblique_view_keeps_y_level_and_z_downwards():
    np.testing.assert_allclose(on_page(np.array([[0, 2.0, 3.0]])), [[2.0, -3.0]])
    assert (on_page(np.array([[1.0, 0, 0]])) > 0).all()


@pytest.mark.parametrize(("length_A", "expected"), [(12.0, 10.0), (9.99, 5.0), (2.0, 2.0), (0.07, 0.05), (60.0, 50.0)])
def test_scale_bars_have_round_lengths(length_A, expected):
    assert round_length_A(length_A) == pytest.approx(expected)


def test_figures_take_a_run_that_found_nothing(tmp_path):
    folder = write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=7e3), found_nothing=True)
    run = read_runs(tmp_path)[0][0]
    assert run.folder == folder and run.metrics["n_found"] == 0
    save_figure(plot_panels([run], ["nothing"]), tmp_path, "nothing")


def test_error_bars_are_plotted_against_the_errors_of_the_found_atoms(paper):
    run = paper["fig4c"]
    ratio = error_over_sigma(run)
    assert ratio.shape == (len(run.array("match/traced")), 3) and 0.8 < np.sqrt((ratio**2).mean()) < 1.2
    assert main_pair(run) == "Si-O"
    figure = plot_accuracy([run], ["7 000 e/Å²"])
    stairs = figure.axes[0].patches[0].get_data()
    np.testing.assert_allclose(stairs.values * np.diff(stairs.edges) * ratio.size,
                               np.histogram(ratio, stairs.edges)[0])
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(math.sqrt(2 / math.pi))


def test_accuracy_of_a_run_that_found_nothing_has_no_empty_panel(tmp_path):
    write_fake_record(tmp_path, fake_spec(n_voxels=24), found_nothing=True)
    figure = plot_accuracy([read_runs(tmp_path)[0][0]], ["nothing"])
    figure.draw_without_rendering()
    assert "|error| / standard error" not in [axes.get_xlabel() for axes in figure.axes]
    assert all(axes.has_data() for axes in figure.axes)


def test_a_few_atoms_have_no_figure_of_distributions(paper):
    """Of five atoms nearly all panels would be blank; a run that found few of many is drawn."""
    whole = paper["fig4b"]

    def of(n_true, n_traced):
        return StoredRun(dataclasses.replace(
            whole.record, metrics={**whole.metrics, "n_true": n_true, "n_atoms_traced": n_traced}))

    tasks = [FigureTask("name", "accuracy", "Title", (of(*counts),), ("label",)) for counts in ((5, 4), (40, 2))]
    kept, lines = keep_drawable(tasks)
    assert kept == tasks[1:]
    assert lines == [f"Title: left out: record {whole.identity} has 5 atoms; distributions need 10"]


def with_arrays(run, **values):
    """Return ``run`` with other arrays; their names are written with two underscores for a slash."""
    stored = {name.replace("__", "/"): value for name, value in values.items()}

    class Changed(StoredRun):
        def array(self, name):
            return stored[name] if name in stored else run.array(name)

    return Changed(run.record)


def test_panels_without_content_are_left_out(paper):
    run = paper["fig4b"]
    r_A = np.arange(0.05, 4, 0.1)
    shell = np.exp(-(((r_A - 2.9) / 0.1) ** 2)) * (r_A > 2.6)
    changed = with_arrays(
        run,
        profiles__axis__found_percent=np.full(4, 100.0),  # the same everywhere
        profiles__surface__found_percent=np.array([90.0, np.nan, np.nan, np.nan]),  # one point
        structure__pair_distribution__r_A=r_A,
        structure__pair_distribution__g_true=shell,  # one shell
        structure__pair_distribution__g_traced=shell,
    )
    labels = [axes.get_ylabel() for axes in plot_accuracy([run], ["whole"]).axes]
    assert labels.count("found (%)") == 2 and "pair distribution g(r)" in labels
    figure = plot_accuracy([changed], ["small"])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "found (%)" not in labels and "pair distribution g(r)" not in labels and len(labels) == 6


def test_counts_of_neighbours_have_whole_ticks_and_shares_end_at_100_percent(paper):
    figure = plot_accuracy([paper["fig4c"]], ["7 000 e/Å²"])
    figure.draw_without_rendering()
    ticks = next(axes.get_xticks() for axes in figure.axes if axes.get_xlabel().startswith("O bonded"))
    np.testing.assert_array_equal(ticks, np.round(ticks))
    found = [axes.get_ylim()[1] for axes in figure.axes if axes.get_ylabel() == "found (%)"]
    assert found == [100, 100]


def test_colour_scale_and_histogram_fit_the_data(paper):
    run = paper["fig4b"]
    volume = run.array("volume/potential_V")
    bright = with_arrays(run, volume__potential_V=6 * volume, traced__signal=6 * run.array("traced/signal"))
    image = plot_panels([bright], ["bright"]).axes[0].findobj(AxesImage)[0]
    peak_V = np.percentile(bright_slice := np.asarray(image.get_array()), 99.8)
    assert peak_V <= image.norm.vmax * 1.001 and image.norm.vmax <= 1.7 * peak_V and bright_slice.size > 100
    axes = next(axes for axes in plot_panels([bright], ["bright"]).axes if axes.get_xlabel().startswith("site"))
    low, high = axes.get_xlim()
    signal = 6 * run.array("traced/signal")
    assert low > 0.3 * signal.min() and signal.max() * 0.95 <= high <= 1.4 * signal.max()
    assert fitting_high_V([np.array([80.0])]) == 80 and fitting_high_V([np.zeros(4)]) == 1
    assert square_root_ticks(80) == [0, 5, 20, 45, 80]


def test_slices_end_at_the_faces_of_the_volume(paper):
    run = paper["fig4b"]  # 32 voxels of 0.5 Å in slices of 10: three of 5 Å and one of 1 Å
    axes = plot_geometry(run).subfigs[0].axes[0]
    corners = [patch.get_xy() for patch in axes.patches if isinstance(patch, Polygon)]
    heights_A = sorted({round(-float(xy[:4, 1].mean()), 6) for xy in corners})[:5]
    assert heights_A == [-8, -3, 2, 7, 8]
    assert any("4 slices\nof 5 Å,\nthe last 1 Å" in text.get_text() for text in axes.texts)


def test_marks_of_a_slice_cover_no_atom(paper):
    figure = plot_panels([paper["fig4c"]], ["7 000 e/Å²"])
    figure.draw_without_rendering()
    axes = figure.axes[2]
    lowest = min(collection.get_offsets()[:, 1].min() for collection in axes.collections
                 if isinstance(collection, PathCollection) and len(collection.get_offsets()))
    patch = next(artist for artist in axes.patches if isinstance(artist, Rectangle) and artist.get_alpha() is not None)
    top = axes.transData.inverted().transform(axes.transAxes.transform((0, patch.get_y() + patch.get_height())))[1]
    assert top < lowest


def test_a_bound_of_one_element_has_one_panel():
    dose = np.geomspace(1e3, 1e6, 7)
    one = PlanCurve("60 tilts", dose, 1e4 / np.sqrt(dose), np.full(7, np.nan))
    two = PlanCurve("20 tilts", dose, 2e4 / np.sqrt(dose), 1e5 / dose)
    assert len(plot_bound([one]).axes) == 1
    assert len(plot_bound([one, two]).axes) == 2
    figure = plot_bound([PlanCurve(f"{i} tilts", dose, dose, dose) for i in range(9)])
    assert len({line.get_color() for line in figure.axes[0].lines}) == 9
