"""Records that answer an experiment, a row or a figure of a report, and the labels of runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from aetlab.reporting.figures.choose import accuracy_tasks, common_tasks, quality_tasks
from aetlab.reporting.figures.labels import run_labels
from aetlab.reporting.figures.paper import paper_tasks
from aetlab.reporting.figures.style import line_colours
from aetlab.reporting.stored_run import StoredRun, read_runs
from aetlab.reporting.studies import find_studies
from aetlab.reporting.table_one import read_paper_values, table_one
from aetlab.reporting.tables import summary_frame
from aetlab.spec.folders import experiments_folder
from tests.fake_records import fake_spec, tiny, write_fake_record


def test_studies_separate_scales_and_find_every_experiment(tmp_path, experiments, default):
    scales = [fake_spec(n_voxels=n).scale for n in (24, 28)]
    for scale in scales:
        for name in ("fig4a", "fig4b", "fig8a"):
            write_fake_record(tmp_path, dataclasses.replace(experiments[name], scale=scale))
    odd = dataclasses.replace(experiments["fig8a"], scale=scales[0])
    shorter = dataclasses.replace(
        odd, engine=dataclasses.replace(odd.engine, n_iterations=7), dose=experiments["fig4c"].dose
    )
    write_fake_record(tmp_path, shorter)
    runs, _ = read_runs(tmp_path)
    studies = find_studies(runs, experiments, default)
    assert sorted(len(study.runs) for study in studies) == [3, 4]
    for study in studies:
        assert {"fig4a", "fig4b", "fig6b", "fig7a", "fig8a", "fig8c", "fig9b"} == set(study.answers)
        assert study.one("fig4b") is study.one("fig8c")
        assert study.one("fig8a").spec.engine.n_iterations == experiments["fig8a"].engine.n_iterations
        assert study.one("fig4c") is None


def test_a_run_with_fewer_iterations_is_used_with_a_note(tmp_path, experiments, default):
    spec = tiny(experiments["fig8a"])
    write_fake_record(tmp_path, dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_iterations=3)))
    write_fake_record(tmp_path, tiny(experiments["fig8b"]))
    study = find_studies(read_runs(tmp_path)[0], experiments, default)[0]
    tasks, missing = paper_tasks(study, experiments, "")
    notes = next(task.notes for task in tasks if task.name == "figure_08")
    assert notes == ("fig8a: engine.n_iterations is 3 instead of 60",)
    assert any("fig8c" in line for line in missing)


def test_a_run_traced_with_the_default_thresholds_is_used_with_a_note(tmp_path, experiments, default):
    spec = tiny(dataclasses.replace(experiments["fig4c"], trace=default.trace))
    write_fake_record(tmp_path, spec)
    write_fake_record(tmp_path, tiny(experiments["fig4b"]))
    study = find_studies(read_runs(tmp_path)[0], experiments, default)[0]
    task = next(task for task in paper_tasks(study, experiments, "")[0] if task.name == "figure_04")
    assert task.notes == ("fig4c: trace.min_intensity_V is 30.0 instead of 20.0",
                          "fig4c: trace.min_significance is 6.5 instead of 5.0")


def test_panels_keep_the_letters_of_the_paper(tmp_path, experiments, default):
    for name in ("fig8a", "fig8c"):
        write_fake_record(tmp_path, tiny(experiments[name]))
    study = find_studies(read_runs(tmp_path)[0], experiments, default)[0]
    task = next(task for task in paper_tasks(study, experiments, "")[0] if task.name == "figure_08")
    assert task.letters == ("a", "c") and task.labels == ("real, positive", "total variation")


def test_dose_figures_hold_every_run_once(tmp_path):
    for dose in (math.inf, 5e4, 7e3):
        for reg in ("tv", "lasso", "pos"):
            write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=dose, reg=reg))
    runs = read_runs(tmp_path)[0]
    tasks = [task for task in common_tasks(runs, summary_frame(runs), set(), "dose_e_A2") if task.kind == "panels"]
    assert len(tasks) == 3
    assert all(task.labels == ("infinite dose", "50 000 e/Å²", "7 000 e/Å²") for task in tasks)
    assert sorted(run.identity for task in tasks for run in task.runs) == sorted(run.identity for run in runs)
    assert len({task.name for task in tasks}) == 3
    labels = run_labels(summary_frame(runs))
    assert len(set(labels.values())) == 9 and "no noise, tv" in labels.values()


def test_more_runs_than_columns_make_more_figures(tmp_path):
    for dose in (1e3, 2e3, 3e3, 4e3, 5e3):
        write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=dose))
    runs = read_runs(tmp_path)[0]
    tasks = [task for task in common_tasks(runs, summary_frame(runs), set(), "dose_e_A2") if task.kind == "panels"]
    assert [len(task.runs) for task in tasks] == [3, 2]


def test_paper_figures_and_tables_are_for_the_papers_experiments_alone(tmp_path, experiments, default):
    structure = tmp_path / "au ico.xyz"
    structure.write_text("1\n\nAu 0 0 0\n", encoding="utf-8")
    own = dataclasses.replace(default.sample, kind="file", path=str(structure), digest="ab" * 32)
    needle = tiny(experiments["fig4b"])
    specs = [needle]
    for dose in ("fig4a", "fig4b"):
        specs.append(dataclasses.replace(tiny(experiments[dose]), sample=own))
    specs.append(dataclasses.replace(needle, microscope=dataclasses.replace(needle.microscope, Cs_mm=1.2)))
    specs.append(dataclasses.replace(needle, align=dataclasses.replace(needle.align, enabled=True)))
    folders = [write_fake_record(tmp_path, spec) for spec in specs]
    runs = read_runs(tmp_path)[0]
    studies = find_studies(runs, experiments, default)
    assert [[run.identity for run in study.runs] for study in studies] == [[folders[0].name]]
    tasks = [task for task in common_tasks(runs, summary_frame(runs), set(), "dose_e_A2")
             if {folders[1].name, folders[2].name} & {run.identity for run in task.runs}]
    assert {task.kind for task in tasks} == {"images", "convergence", "panels"}
    assert all(task.title.startswith("au ico.xyz: ") and task.name.startswith("au_ico_") for task in tasks)
    panels = next(task for task in tasks if task.kind == "panels")
    assert len(panels.runs) == 2 and panels.high_V is None  # its colour scale fits the data
    labels = run_labels(summary_frame(runs))
    assert labels[folders[1].name].startswith("au ico.xyz, no noise") and labels[folders[0].name].startswith("needle, ")


def test_a_comparison_of_the_paper_needs_two_records(tmp_path, experiments, default):
    for name in ("fig4a", "fig4b", "fig4c"):  # 4(b) is 6(b), 7(a), 8(c) and 9(b) as well
        write_fake_record(tmp_path, tiny(experiments[name]))
    study = find_studies(read_runs(tmp_path)[0], experiments, default)[0]
    tasks = paper_tasks(study, experiments, "")[0]
    assert [task.name for task in tasks] == ["figure_01", "figure_02", "figure_04", "figure_05"]
    assert all(task.high_V == 80 for task in tasks)


def test_lines_of_one_figure_of_convergence_have_colours_of_their_own(tmp_path):
    for i in range(9):
        write_fake_record(tmp_path, fake_spec(n_voxels=24, n_tilts=30 + i))
    runs = read_runs(tmp_path)[0]
    tasks = [task for task in common_tasks(runs, summary_frame(runs), set(), "dose_e_A2") if task.kind == "convergence"]
    assert [len(task.runs) for task in tasks] == [5, 4]
    assert [task.title for task in tasks] == ["Convergence (1 of 2)", "Convergence (2 of 2)"]
    for n in (3, 7, 8, 27):
        assert len(set(line_colours(n))) == n


def test_labels_hold_no_names_of_settings(tmp_path):
    for dose, n_layers in ((5e4, 10), (7e3, 10), (5e4, 4)):
        write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=dose, n_layers=n_layers))
    labels = run_labels(summary_frame(read_runs(tmp_path)[0]))
    assert sorted(labels.values()) == ["50 000 e/Å², tv", "50 000 e/Å², tv, 4 layers per slice", "7 000 e/Å², tv"]


def test_accuracy_is_compared_within_one_sample_and_size(tmp_path):
    for n_voxels in (24, 28):
        for dose in (math.inf, 5e4, 7e3, 1e3):
            write_fake_record(tmp_path, fake_spec(n_voxels=n_voxels, dose_e_A2=dose))
    for reg in ("lasso", "pos", "none"):
        write_fake_record(tmp_path, fake_spec(n_voxels=24, reg=reg))
    runs = read_runs(tmp_path)[0]
    tasks = accuracy_tasks(runs, summary_frame(runs))
    assert sorted(len(task.runs) for task in tasks) == [1, 4, 6]
    assert all(len({run.spec.scale.name for run in task.runs}) == 1 for task in tasks)
    assert len({task.name for task in tasks}) == 3


def test_a_row_states_the_settings_that_differ_from_its_experiment(tmp_path, experiments, default):
    """A record of the exact settings is used before others, whatever their number or age."""
    paper = read_paper_values(experiments_folder() / "paper_values.toml")
    usual = dataclasses.replace(experiments["fig4c"], trace=default.trace)
    for seed in (0, 7):
        write_fake_record(tmp_path, dataclasses.replace(tiny(usual), seed=seed))

    def row() -> str:
        study = find_studies(read_runs(tmp_path)[0], experiments, default)[0]
        return table_one(study.answers, paper, experiments).set_index("figure").loc["4(c)", "differences"]

    assert row() == ("scale fake24 (small); trace.min_intensity_V 30.0 (20.0); trace.min_significance 6.5 (5.0); "
                     "seeds 0, 7 (0)")
    write_fake_record(tmp_path, tiny(experiments["fig4c"]))
    assert row() == "scale fake24 (small)"


def _timed(run: StoredRun, each_s: float) -> StoredRun:
    """Return ``run`` with iterations of ``each_s`` seconds, the first ten times as slow."""
    seconds = np.full(run.spec.engine.n_iterations, each_s)
    seconds[0] *= 10
    run.__dict__["history"] = dataclasses.replace(run.history, seconds=seconds)
    return run


def test_quality_is_drawn_for_records_that_differ_in_their_iterations(tmp_path):
    """One line for each method with three numbers of iterations, its label the settings that make it."""
    for reg, step_decay in (("tv", 0.7), ("tv", 1.0), ("lasso", 0.7)):
        for n_iterations in (20, 5, 10) if reg == "tv" else (5, 10):
            spec = fake_spec(reg=reg, n_iterations=n_iterations)
            write_fake_record(tmp_path, dataclasses.replace(
                spec, engine=dataclasses.replace(spec.engine, step_decay=step_decay)))
    write_fake_record(tmp_path, fake_spec(dose_e_A2=7e3))
    task, = quality_tasks([_timed(run, 0.5 * run.spec.engine.step_decay) for run in read_runs(tmp_path)[0]])
    assert [run.spec.engine.n_iterations for run in task.runs] == [5, 10, 20, 5, 10, 20]
    assert sorted(set(task.labels)) == ["reg=tv engine.step_decay=0.7", "reg=tv engine.step_decay=1.0"]
    assert not task.obstacle()
    first, second = task.make().axes[0].lines
    np.testing.assert_allclose(first.get_xdata(), 0.5 * task.runs[0].spec.engine.step_decay * np.array([5, 10, 20]))
    np.testing.assert_allclose(second.get_xdata(), 0.5 * task.runs[-1].spec.engine.step_decay * np.array([5, 10, 20]))


def test_a_short_record_gives_the_time_of_a_disturbed_one(tmp_path, experiments, default):
    """The time of an iteration is the least of records that differ in their number of iterations."""
    for name in ("fig10_nb1", "fig10_nb4"):
        spec = tiny(experiments[name])
        write_fake_record(tmp_path, spec)
        write_fake_record(tmp_path, dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_iterations=3)))
    runs = [_timed(run, 100.0 if run.spec.engine.n_iterations > 3 else 1.0) for run in read_runs(tmp_path)[0]]
    study = find_studies(runs, experiments, default)[0]
    task = next(task for task in paper_tasks(study, experiments, "")[0] if task.kind == "binning")
    assert [run.spec.engine.n_iterations for run in task.runs] == [80, 80]
    assert [run.spec.engine.n_iterations for run in task.timed] == [3, 3]
