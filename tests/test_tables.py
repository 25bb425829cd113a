"""Tables of records, choosing rows of them, and the paper's values beside ours."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aetlab.core.metrics import HEADLINES
from aetlab.reporting.columns import SETTINGS, describe_columns, sample_name, settings_columns
from aetlab.reporting.compare import compare_text, compared_results, differing_settings, find_run
from aetlab.reporting.selection import SelectError, select_rows
from aetlab.reporting.stored_run import read_runs
from aetlab.reporting.studies import find_studies
from aetlab.reporting.table_files import to_latex, to_markdown, write_table
from aetlab.reporting.table_one import read_paper_values, table_one, table_one_text
from aetlab.reporting.tables import fold_seeds, half_width_95, interval_95, load_records, reader_frame, summary_frame
from aetlab.spec import SampleSpec
from aetlab.spec.folders import experiments_folder
from tests.fake_records import fake_spec, write_fake_record

HEADLINE_NAMES = [score.name for score in HEADLINES]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("tables")
    for spec in (
        fake_spec(n_voxels=24),
        fake_spec(n_voxels=24, seed=1),
        fake_spec(n_voxels=24, seed=2),
        fake_spec(n_voxels=24, reg="lasso"),
        fake_spec(n_voxels=24, dose_e_A2=math.inf),
        fake_spec(n_voxels=24, missing_deg=30.0, vacancies=0.3),
    ):
        write_fake_record(outputs, spec)
    found, problems = read_runs(outputs)
    assert not problems
    return found


@pytest.fixture(scope="module")
def frame(runs):
    return summary_frame(runs)


def test_summary_has_one_tidy_row_for_each_run(runs, frame):
    assert sorted(frame["record"]) == sorted(run.identity for run in runs)
    assert set(HEADLINE_NAMES) <= set(frame.columns)
    row = frame[frame["vacancies"] != "none"].iloc[0]
    assert (row["n_tilts"], row["tilt_span_deg"], row["missing_wedge_deg"]) == (50, 150.0, 30.0)
    assert row["vacancies"] == "all:0.3"
    run = next(run for run in runs if run.identity == row["record"])
    assert row["position_error_pm"] == run.metrics["position_error_pm"]
    assert row["seconds_total"] == pytest.approx(sum(run.environment["seconds_by_stage"].values()))


def test_summary_of_nothing_is_empty():
    assert summary_frame([]).empty
    assert fold_seeds(pd.DataFrame()).empty


def test_every_column_is_described(frame):
    described = describe_columns(fold_seeds(frame)).set_index("column")
    assert described["meaning"].str.len().min() > 0 and not described["meaning"].str.contains("unknown to this").any()
    assert described.loc["found_percent"].tolist()[:3] == ["%", "higher", True]
    assert described.loc["position_error_pm_low95"].tolist()[:3] == ["pm", "lower", True]
    assert not described.loc["final_cost", "needs_truth"]
    assert described.loc["seconds_total", "unit"] == "s"


def test_load_records_is_the_tidy_table_with_its_columns_explained(runs, frame):
    read = load_records(runs[0].folder.parents[1])
    pd.testing.assert_frame_equal(read, frame)
    assert list(read.attrs["columns"]) == list(frame.columns) and read.attrs["problems"] == []
    assert "e/Å²" in read.attrs["columns"]["dose_e_A2"]


def test_every_setting_column_is_known(frame):
    assert settings_columns(frame)[:len(SETTINGS)] == [column.name for column in SETTINGS]
    assert settings_columns(frame)[len(SETTINGS) - 1] == "seed"
    assert "position_error_pm" not in settings_columns(frame)


def test_structures_of_one_file_have_names_of_their_own():
    spec = fake_spec(n_voxels=24)
    samples = [SampleSpec(kind="file", path="a/two.xyz", digest="0" * 64, frame=frame) for frame in (0, 2)]
    assert [sample_name(dataclasses.replace(spec, sample=sample)) for sample in samples] == ["two.xyz", "two[2].xyz"]


def test_seeds_fold_into_mean_and_interval(frame):
    folded = fold_seeds(frame)
    assert len(folded) == len(frame) - 2
    row = folded[folded["n_seeds"] == 3].iloc[0]
    values = frame[(frame["reg"] == "tv") & (frame["dose_e_A2"] == 5e4) & (frame["vacancies"] == "none")][
        "found_percent"
    ]
    assert row["found_percent"] == pytest.approx(values.mean())
    # Student's t for 2 degrees of freedom at 97.5 %: 4.302653
    half = 4.302653 * values.std() / math.sqrt(3)
    assert row["found_percent_low95"] == pytest.approx(values.mean() - half, rel=1e-6)
    assert row["found_percent_high95"] == pytest.approx(min(values.mean() + half, 100.0), rel=1e-6)
    assert folded.loc[folded["n_seeds"] == 1, ["found_percent_low95", "found_percent_high95"]].isna().all(axis=None)


def test_an_interval_stays_within_the_range_of_its_score():
    """Two seeds; Student's t for 1 degree of freedom at 97.5 % is 12.7062."""
    found = np.array([99.9, 100.0])
    assert interval_95(found, "found_percent") == pytest.approx((99.95 - 12.7062 * 0.05, 100.0), rel=1e-6)
    assert interval_95(found, "refined_found_percent")[1] == 100.0
    assert interval_95(np.array([0.0, 0.1]), "false_positive_percent") == pytest.approx((0.0, 0.05 + 12.7062 * 0.05))
    assert interval_95(np.array([-1.0, 1.0]), "change") == pytest.approx((-12.7062, 12.7062), rel=1e-5)
    assert np.isnan(interval_95(np.array([99.9]), "found_percent")).all()


def test_half_width_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(3)
    hits = sum(abs(sample.mean()) <= half_width_95(sample) for sample in rng.normal(size=(2000, 4)))
    assert 0.93 < hits / 2000 < 0.97
    assert math.isnan(half_width_95(np.array([1.0])))


@pytest.mark.parametrize(
    ("expression", "keep"),
    [
        ('reg in ("tv", "lasso") and dose_e_A2 == 5e4', lambda row: row.dose_e_A2 == 5e4),
        ("dose_e_A2 == inf", lambda row: math.isinf(row.dose_e_A2)),
        ("not reg == 'tv'", lambda row: row.reg != "tv"),
        ("0 < seed <= 1 or missing_wedge_deg > -1 and n_tilts < 60", lambda row: row.seed == 1 or row.n_tilts < 60),
        ("seed not in [0, 1]", lambda row: row.seed == 2),
        ("vacancies != 'none'", lambda row: row.vacancies != "none"),
    ],
)
def test_select_keeps_what_the_expression_says(frame, expression, keep):
    expected = [keep(row) for row in frame.itertuples()]
    assert any(expected) and not all(expected)
    assert select_rows(frame, expression).tolist() == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "reg.__class__ == 1",
        "reg[0] == 't'",
        "(lambda: 1)() == 1",
        "[x for x in reg] == 1",
        "f'{reg}' == 'tv'",
        "(reg := 'tv') == 'tv'",
        "@frame.eval('1') == 1",
        "seed ** 99999999 == 1",
        "dose == 5e4",
        "reg",
        "reg == ",
        "reg in 'tv'",
        "reg is 'tv'",
        "reg < 3",
        "",
        "(" * 500 + "seed == 1" + ")" * 500,
    ],
)
def test_select_refuses_everything_else_in_one_line(frame, expression):
    with pytest.raises(SelectError) as caught:
        select_rows(frame, expression)
    assert "\n" not in str(caught.value)


def test_paper_values_are_those_of_table_one():
    rows = read_paper_values(experiments_folder() / "paper_values.toml")["rows"]
    assert [row["figure"] for row in rows.values()] == (
        ["4(a)", "4(b)", "4(c)", "6(a)", "6(b)", "6(c)", "7(a)", "7(b)", "7(c)", "8(a)", "8(b)", "8(c)"]
    )
    equal = [
        {key: value for key, value in rows[name].items() if key != "figure"}
        for name in ("fig4b", "fig6b", "fig7a", "fig8c")
    ]
    assert all(row == equal[0] for row in equal)
    printed = {
        "fig4a": (12.51, 99.98, 0.035, 98.63),
        "fig4b": (13.91, 99.94, 0.181, 96.44),
        "fig4c": (21.62, 95.24, 9.583, 79.79),
        "fig6a": (19.11, 72.48, 1.191, 82.71),
        "fig6c": (14.30, 99.97, 0.812, 91.15),
        "fig7b": (14.34, 99.75, 0.450, 94.67),
        "fig7c": (15.84, 99.02, 1.960, 90.50),
        "fig8a": (18.65, 97.81, 1.647, 46.81),
        "fig8b": (14.17, 99.78, 0.729, 92.53),
    }
    assert {name: tuple(rows[name][column] for column in HEADLINE_NAMES) for name in printed} == printed
    assert all((experiments_folder() / f"{name}.yaml").is_file() for name in rows)


def test_table_one_puts_paper_ours_and_difference_side_by_side(runs):
    paper = read_paper_values(experiments_folder() / "paper_values.toml")
    experiments = {
        "fig4b": fake_spec(n_voxels=24),
        "fig6b": fake_spec(n_voxels=24),
        "fig4a": fake_spec(n_voxels=24, dose_e_A2=math.inf),
    }
    study = find_studies(runs, experiments, fake_spec(n_voxels=24))[0]
    table = table_one(study.answers, paper, experiments).set_index("figure")
    ours = np.mean([run.metrics["found_percent"] for run in study.answers["fig4b"]])
    assert len(study.answers["fig4b"]) == 3
    assert table.loc["4(b)", "found_percent_ours"] == pytest.approx(ours)
    assert table.loc["4(b)", "found_percent_difference"] == pytest.approx(ours - 99.94)
    assert table.loc["4(b)", "n_runs"] == 3
    assert table.loc["4(b)", "found_percent_low95"] < ours < table.loc["4(b)", "found_percent_high95"]
    assert table.loc["6(b)"].drop("n_runs").equals(table.loc["4(b)"].drop("n_runs"))
    assert math.isnan(table.loc["8(b)", "found_percent_ours"])
    shown = table_one_text(table.reset_index()).set_index("figure")
    assert shown.loc["8(b)", "found (%): ours"] == "–" and shown.loc["8(b)", "found (%): paper"] == "99.78"
    assert shown.loc["4(b)", "found (%): ours"].startswith(f"{ours:.2f} (")
    assert shown.loc["4(b)", "other settings (the experiment's)"] == "seeds 0, 1, 2 (0)"
    other = table_one(study.answers, paper, experiments, reg="atoms").set_index("figure")
    assert other.loc["4(b)", "reg"] == "TV; atoms"


def test_tables_are_written_in_four_formats_that_agree(frame, tmp_path):
    csv, parquet, markdown, latex = write_table(frame, reader_frame(frame), tmp_path, "summary", "All runs & more.")
    from_csv, from_parquet = pd.read_csv(csv), pd.read_parquet(parquet)
    pd.testing.assert_frame_equal(from_parquet.fillna(np.nan), frame.fillna(np.nan))  # Parquet has one missing value
    pd.testing.assert_series_equal(from_csv["position_error_pm"], frame["position_error_pm"])
    assert np.isinf(from_csv["dose_e_A2"]).sum() == 1
    assert len(Path(markdown).read_text(encoding="utf-8").splitlines()) == len(frame) + 2
    text = Path(latex).read_text(encoding="utf-8")
    assert text.count(r"\\") == len(frame) + 1 and r"\& more" in text and r"\AA{}" in text
    assert "false positives (\\%)" in text


def test_special_characters_are_escaped():
    odd = pd.DataFrame({"a_b": ["50 %", "x|y", "{#}"]})
    assert "x\\|y" in to_markdown(odd)
    assert r"50 \%" in to_latex(odd, "c") and r"\{\#\}" in to_latex(odd, "c") and r"a\_b" in to_latex(odd, "c")


def test_columns_of_one_group_share_a_head_in_latex():
    table = pd.DataFrame({"row": ["4(a)"], "found (%): paper": [99.5], "found (%): ours": ["-1.5"]})
    lines = to_latex(table, "c").splitlines()
    assert lines[4:6] == [r" & \multicolumn{2}{c}{found (\%)} \\", r"row & paper & ours \\"]
    assert lines[7] == r"4(a) & 99.5 & $-$1.5 \\"


def test_two_runs_are_compared_in_spec_and_result(runs):
    first = next(run for run in runs if run.spec.reg.kind == "lasso")
    second = next(run for run in runs if math.isinf(run.spec.dose.total_e_A2))
    different = differing_settings(first, second).set_index("setting")
    assert different.loc["reg.kind"].tolist() == ["lasso", "tv"]
    assert different.loc["dose.total_e_A2"].tolist() == [5e4, "inf"]
    assert len(different) == 2
    results = compared_results(first, second).set_index("result")
    assert results.loc["found_percent", "change"] == second.metrics["found_percent"] - first.metrics["found_percent"]
    assert "reg.kind" in compare_text(first, second)
    assert "No setting differs" in compare_text(first, first)
    assert find_run(runs, first.identity[:8]) is first
    with pytest.raises(SelectError, match="matches 0 records"):
        find_run(runs, "nothing")
