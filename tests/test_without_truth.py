"""Records without a truth: tables, figures and page show the rest, and state what is left out and why."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aetlab.core.metrics import HEADLINES, find_metric
from aetlab.report import main
from aetlab.reporting.columns import describe_columns
from aetlab.reporting.figures.kinds import KINDS, FigureTask, keep_drawable, matches
from aetlab.reporting.figures.style import style
from aetlab.reporting.page_validation import measured_frame
from aetlab.reporting.page_viewer import pack_atoms
from aetlab.reporting.stored_run import StoredRun, read_runs
from aetlab.reporting.studies import find_studies
from aetlab.reporting.tables import fold_seeds, load_records, reader_frame, summary_frame
from tests.fake_records import OF_THE_TRUTH, fake_spec, write_fake_record

#: Kinds of figures that need the truth, by the records that the task is drawn from.
NEED_TRUTH = {"binning", "quality", "seams", "vacancies"}
#: Kinds of figures of one validation.
VALIDATION = {"fit", "residuals", "halves", "chemistry"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[StoredRun]]:
    """Two records with and two without a truth, all with refined atoms."""
    read = {}
    for truth in (True, False):
        outputs = tmp_path_factory.mktemp("records")
        for spec in (fake_spec(n_voxels=24, dose_e_A2=7e3), fake_spec(n_voxels=24, n_layers=4, vacancies=0.1)):
            write_fake_record(outputs, spec, truth=truth, refined=True, validated=True, seams=True)
        read[truth], problems = read_runs(outputs)
        assert problems == [] and [run.has_truth for run in read[truth]] == [truth, truth]
    return read


def make_task(kind: str, runs: list[StoredRun]) -> FigureTask:
    if kind in ("geometry", "images", *VALIDATION):
        return FigureTask("name", kind, "Title", (runs[0],))
    if kind == "vacancies":
        return FigureTask("name", kind, "Title", tuple(sorted(runs, key=lambda run: len(run.spec.sample.vacancies))))
    return FigureTask("name", kind, "Title", tuple(runs), ("first", "second"),
                      ("a", "b") if kind in ("panels", "depths") else ())


class Watched(dict):
    """Metrics that note which of them are read."""

    def __init__(self, values: dict[str, float], read: set[str]) -> None:
        super().__init__(values)
        self.read = read

    def __getitem__(self, name: str) -> float:
        self.read.add(f"metrics/{name}")
        return super().__getitem__(name)


def without(run: StoredRun, need: str) -> StoredRun:
    """Return ``run`` without the arrays and metrics that ``need`` names."""
    metrics = {name: value for name, value in run.metrics.items() if not matches(f"metrics/{name}", need)}
    changed = StoredRun(dataclasses.replace(run.record, metrics=metrics))
    changed.__dict__["array_names"] = tuple(name for name in run.array_names if not matches(name, need))
    return changed


def test_fake_records_without_a_truth_hold_nothing_of_it(records: dict[bool, list[StoredRun]]) -> None:
    run = records[False][0]
    assert not [name for name in run.array_names if name.startswith(OF_THE_TRUTH)]
    assert run.metrics and not [name for name in run.metrics if find_metric(name).needs_truth]
    assert {"traced/positions_A", "refined/positions_A", "volume/potential_V"} <= set(run.array_names)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_figures_read_the_arrays_they_declare_and_nothing_is_cut_off(
    records: dict[bool, list[StoredRun]], kind: str, truth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(kind, records[truth])
    needs = KINDS[kind].needs
    assert (needs.without_truth is None) == (kind in NEED_TRUTH)
    if not truth and kind in NEED_TRUTH:
        assert task.obstacle() == (
            f"it needs a truth, and record {', '.join(run.identity for run in task.runs)} has none")
        return
    if not truth and kind == "accuracy":  # the store keeps local structure beside that of the true atoms only
        assert "structure/*/length_traced" in task.obstacle()
        return
    assert task.obstacle() == ""
    read: set[str] = set()
    whole_array = StoredRun.array

    def array(run: StoredRun, name: str) -> Any:
        read.add(name)
        return whole_array(run, name)

    monkeypatch.setattr(StoredRun, "array", array)
    monkeypatch.setattr(StoredRun, "metrics", property(lambda run: Watched(run.record.metrics, read)))
    figure = task.make()
    stored = set(task.runs[0].array_names)
    declared = needs.names(truth=truth)
    optional = [name for name in needs.where_stored if any(matches(held, name) for held in stored)]
    assert [name for name in read if not any(matches(name, need) for need in (*declared, *optional))] == []
    assert [need for need in (*declared, *optional) if not any(matches(name, need) for name in read)] == []
    for axes in figure.axes:
        assert axes.has_data() or axes.images or axes.collections, f"{kind} has an empty panel"
    with style():
        figure.draw_without_rendering()
        used_in = figure.get_tightbbox(figure.canvas.get_renderer())
    slack_in = 0.02
    assert used_in.x0 >= -slack_in and used_in.x1 <= figure.get_figwidth() + slack_in
    assert used_in.y0 >= -slack_in and used_in.y1 <= figure.get_figheight() + slack_in


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_that_lacks_one_array_is_left_out_and_says_which(
    records: dict[bool, list[StoredRun]], kind: str
) -> None:
    for truth in (True, False):
        if not truth and KINDS[kind].needs.without_truth is None:
            continue
        for need in KINDS[kind].needs.names(truth=truth):
            runs = [without(run, need) for run in records[truth]]
            task = make_task(kind, runs)
            kept, lines = keep_drawable([task])
            assert kept == []
            assert lines[0].startswith("Title: left out: record ") and need in lines[0]
            assert task.runs[0].identity in lines[0]


def test_metrics_that_figures_read_state_whether_they_need_the_truth() -> None:
    for kind in KINDS.values():
        for name in kind.needs.with_truth:
            if name.startswith("metrics/"):
                assert find_metric(name.removeprefix("metrics/")).needs_truth
        for name in (*kind.needs.always, *(kind.needs.without_truth or ())):
            assert not name.startswith("metrics/") and not name.startswith(("truth/", "match/", "views/"))


def test_columns_of_the_truth_vanish_where_no_record_has_one(records: dict[bool, list[StoredRun]]) -> None:
    frame = load_records(records[False][0].folder.parents[1])
    assert not describe_columns(frame)["needs_truth"].any()
    results = frame.drop(columns=[name for name in frame if "." in name])  # a setting may be empty
    assert "final_cost" in frame and results.notna().all(axis=None)
    assert not {score.heading for score in HEADLINES} & set(reader_frame(frame).columns)
    assert not [name for name in fold_seeds(frame) if name.startswith(("found_percent", "position_error_pm"))]


def test_a_record_without_a_truth_has_empty_cells_in_a_mixed_table(records: dict[bool, list[StoredRun]]) -> None:
    for runs in ([*records[True], *records[False]], [*records[False], *records[True]]):
        frame = summary_frame(runs)
        given = frame["data"].str.startswith("given")
        assert given.sum() == 2 and frame.loc[given, "found_percent"].isna().all()
        assert frame.loc[~given, "found_percent"].notna().all()
        shown = reader_frame(frame)
        assert (shown.loc[given.to_numpy(), "found (%)"] == "").all()
        assert (shown.loc[~given.to_numpy(), "found (%)"] != "").all()
        assert list(frame.columns) == list(summary_frame(records[True]).columns)


def test_seeds_with_and_without_a_truth_are_not_averaged(records: dict[bool, list[StoredRun]]) -> None:
    frame = summary_frame([records[True][0], records[False][0]]).drop(columns="data")
    assert fold_seeds(frame)["n_seeds"].tolist() == [1, 1]


def test_a_given_series_answers_no_experiment(records: dict[bool, list[StoredRun]]) -> None:
    experiments = {f"fig{i}": run.spec for i, run in enumerate(records[True])}
    studies = find_studies([*records[True], *records[False]], experiments, fake_spec(n_voxels=24))
    assert [run.has_truth for study in studies for run in study.runs] == [True, True]


def test_the_3d_view_holds_traced_atoms_where_there_is_no_truth(records: dict[bool, list[StoredRun]]) -> None:
    run = records[False][0]
    packed = pack_atoms(run)
    assert packed["source"] == "refined"
    assert packed["counts"] == [None, None, None, len(run.array("refined/numbers"))]
    sigmas_pm = 0.1 * np.frombuffer(base64.b64decode(packed["sigmas"]), "<u2")
    expected_A = np.sqrt((run.array("refined/position_error_A").astype(float) ** 2).mean(axis=1))
    np.testing.assert_allclose(sigmas_pm, 100 * expected_A, atol=0.051)
    assert set(np.frombuffer(base64.b64decode(packed["errors"]), "<u2")) == {65535}  # no error without a truth
    assert packed["speciesNames"] == ["O", "Si"]


def test_measured_series_have_a_table_of_images_atoms_and_error_bars(records: dict[bool, list[StoredRun]]) -> None:
    run = records[False][0]
    row = measured_frame([run]).iloc[0]
    positions_A = run.array("refined/positions_A")
    distance_A = np.linalg.norm(positions_A[:, None] - positions_A[None], axis=2)
    np.fill_diagonal(distance_A, np.inf)
    assert row["images"] == str(60 * 3) and row["tilts"].startswith("60, ") and row["positions"] == "refined"
    assert sum(int(word) for word in row["atoms"].replace(",", "").split() if word.isdigit()) == len(positions_A)
    assert float(row["nearest neighbours (Å)"]) == pytest.approx(np.median(distance_A.min(axis=0)), abs=0.006)
    bars_pm = [float(word) for word in row["error bar x, y, z (pm)"].split(",")]
    np.testing.assert_allclose(bars_pm, 100 * np.median(run.array("refined/position_error_A"), axis=0), atol=0.06)


@pytest.mark.slow(15)
@pytest.mark.usefixtures("coarse_figures")
@pytest.mark.parametrize("mixed", [False, True])
def test_report_of_records_without_a_truth(
    tmp_path: Path, mixed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aetlab.report._experiments", dict)
    measured = write_fake_record(tmp_path, fake_spec(n_voxels=24), truth=False, refined=True, validated=mixed).name
    if mixed:
        write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=7e3))
    main(["--outputs", str(tmp_path), "--processes", "1"])
    printed = capsys.readouterr().out
    report = tmp_path / "report"
    page = (report / "report.html").read_text(encoding="utf-8")
    names = {path.stem for path in (report / "figures").glob("*.png")}
    own = {name.split("_")[2] for name in names if name.startswith("series_") and name.endswith(measured[:8])}
    assert own == {"panels", "depths", "geometry", "images", "refined", "convergence", *(VALIDATION if mixed else ())}
    validation = page[page.index('<section id="validation"'):]
    validation = re.sub("<[^>]+>", " ", validation[:validation.index("</section>")])
    assert ("was not validated" in validation) != mixed and "record " + measured in validation
    if mixed:  # the numbers of the fake record
        for told in ("4.12 %", "1.25 Å", "50 atoms were found in both halves, 17.5 pm apart", "8.2 pm", "97.53",
                     "too near", "1.07", "much worse than the others: 0° at 45 nm."):
            assert told in validation, told
    assert "left out" not in printed  # local structure is compared with a truth: nothing is missing without one
    assert not re.search(r">[^<]*\bnan\b[^<]*<", page.split("<script")[0], re.IGNORECASE)
    assert not re.search("not drawn|not used|Traceback", printed)
    summary = pd.read_csv(report / "summary.csv")
    assert ("found_percent" in summary) == mixed and ("found (%)" in printed) == mixed
    assert "Scores need a truth" in page
