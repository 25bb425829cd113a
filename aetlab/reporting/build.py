"""Write the tables, figures and page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from aetlab.core.inert import one_line
from aetlab.reporting.columns import describe_columns
from aetlab.reporting.drawn import choose_drawn, describe_choice
from aetlab.reporting.figures.choose import (
    accuracy_tasks,
    common_tasks,
    quality_tasks,
    refined_tasks,
    seam_tasks,
    validation_tasks,
)
from aetlab.reporting.figures.kinds import FigureTask, keep_drawable
from aetlab.reporting.figures.labels import run_labels
from aetlab.reporting.figures.make import MadeFigure, make_figures
from aetlab.reporting.figures.paper import paper_tasks
from aetlab.reporting.folder import ReportFolder
from aetlab.reporting.page import build_page
from aetlab.reporting.report_contents import Report
from aetlab.reporting.selection import unknown_column
from aetlab.reporting.stored_run import StoredRun, check_arrays
from aetlab.reporting.studies import Study, find_studies
from aetlab.reporting.table_files import write_table
from aetlab.reporting.table_one import table_one, table_one_text
from aetlab.reporting.tables import MEANS, fold_seeds, means_frame, reader_frame, summary_frame
from aetlab.spec import RunSpec

#: Experiments with this prefix are rows of the paper's table with the atoms prior: atoms4b is row fig4b.
ATOMS = "atoms"
T = TypeVar("T")


@dataclass(frozen=True)
class Content:
    """Contents of a report before anything is written.

    ``frame`` is the table of all ``runs``, ``drawn`` are the records that figures show. ``missing`` are lines on
    figures that are left out.
    """

    runs: Sequence[StoredRun]
    frame: pd.DataFrame
    studies: Sequence[Study]
    drawn: Sequence[StoredRun]
    tasks: Sequence[FigureTask]
    missing: Sequence[str]
    default: RunSpec
    experiments: Mapping[str, RunSpec]


def choose_content(
    runs: Sequence[StoredRun],
    experiments: Mapping[str, RunSpec],
    default: RunSpec,
    by: str,
    n_drawn: int | None,
    memory: Path,
) -> tuple[Content, list[str]]:
    """Return what a report of ``runs`` shows, and one line on each record whose arrays are damaged.

    ``by`` is the column by which the table is sorted, ``memory`` a file that holds the stamps of unchanged files.
    Raise :class:`SelectError` if there is no column ``by``.
    """
    problems: list[str] = []
    while True:
        frame = _sorted_frame(runs, by)
        place = {identity: i for i, identity in enumerate(frame["record"])} if len(frame) else {}
        runs = sorted(runs, key=lambda run: place[run.identity])
        studies = [study for study in find_studies(runs, experiments, default) if study.answers]
        drawn = choose_drawn(runs, studies, n_drawn)
        broken = check_arrays(drawn, memory)
        if not broken:
            break
        problems += broken.values()
        runs = [run for run in runs if run.identity not in broken]
    tasks, missing = _tasks(drawn, frame, studies, experiments, by)
    return Content(runs, frame, studies, drawn, tasks, missing, default, experiments), problems


def build_report(
    content: Content,
    problems: Sequence[str],
    folder: ReportFolder,
    *,
    paper: Mapping[str, Any],
    remake: Mapping[str, Sequence[str]],
    n_processes: int | None = None,
) -> list[MadeFigure]:
    """Write a report, put it in its place, and return its figures.

    ``paper`` holds the paper's own numbers, ``remake`` the arguments of the command that repeats each drawn run.
    """
    tables = _write_tables(content.frame, content.studies, content.experiments, paper, folder.partial)
    figures = _make_figures(content.tasks, folder, n_processes)
    report = Report(
        runs=content.drawn,
        frame=content.frame,
        folded=fold_seeds(content.frame),
        labels=run_labels(content.frame),
        tables_one=tables,
        figures=figures,
        problems=problems,
        missing=content.missing,
        default=content.default,
        remake=remake,
        choice=describe_choice(len(content.drawn), len(content.runs)),
    )
    (folder.partial / "report.html").write_text(build_page(report), encoding="utf-8")
    folder.finish({figure.task.name: figure for figure in figures})
    return figures


def _sorted_frame(runs: Sequence[StoredRun], by: str) -> pd.DataFrame:
    """Return the table of ``runs``, sorted by the column ``by`` unless by default."""
    frame = summary_frame(runs)
    if frame.empty:
        return frame
    if by not in frame.columns:
        raise unknown_column(by, list(map(str, frame.columns)))
    return frame if by == "dose_e_A2" else frame.sort_values(by, kind="stable", ignore_index=True)


def _make_figures(tasks: Sequence[FigureTask], folder: ReportFolder, n_processes: int | None) -> list[MadeFigure]:
    """Take over the figures of the last report that show the same, and draw the others."""
    unchanged = {task.name: figure for task in tasks if (figure := folder.unchanged(task)) is not None}
    new = make_figures([task for task in tasks if task.name not in unchanged], folder.partial / "figures", n_processes)
    figures = []
    for task in tasks:
        figure = unchanged.get(task.name) or next(new)
        figures.append(figure)
        state = " (unchanged)" if task.name in unchanged else ""
        name = folder.final / "figures" / f"{task.name}.png"
        print(one_line(figure.problem) or f"figure {len(figures)}/{len(tasks)}: {name}{state}", flush=True)
    return figures


def _with_atoms(by_experiment: Mapping[str, T]) -> dict[str, T]:
    """Return what belongs to experiments with the atoms prior, by the names of the rows of the paper's table."""
    return {name.replace(ATOMS, "fig"): value for name, value in by_experiment.items() if name.startswith(ATOMS)}


def _tasks(
    drawn: Sequence[StoredRun], frame: pd.DataFrame, studies: Sequence[Study], experiments: Mapping[str, RunSpec],
    by: str
) -> tuple[list[FigureTask], list[str]]:
    """Return the figures of the paper for each study, those of all drawn records, and a line on each one left out."""
    tasks: list[FigureTask] = []
    missing: list[str] = []
    identities = {run.identity for run in drawn}
    frame = frame[frame["record"].isin(identities)].reset_index(drop=True) if len(frame) else frame
    for i, study in enumerate(studies):
        made, absent = paper_tasks(_only(study, identities), experiments, f"_{study.name}" if i else "")
        tasks += made
        missing += absent
    shown = {frozenset(run.identity for run in task.runs) for task in tasks if task.kind == "panels"}
    shown |= {frozenset([run.identity]) for task in tasks if task.kind not in ("geometry", "images")
              for run in task.runs}
    tasks += common_tasks(drawn, frame, shown if by == "dose_e_A2" else set(), by)
    tasks, left_out = keep_drawable([*tasks, *accuracy_tasks(drawn, frame), *refined_tasks(drawn),
                                      *seam_tasks(drawn), *quality_tasks(drawn), *validation_tasks(drawn)])
    return tasks, missing + left_out


def _only(study: Study, identities: set[str]) -> Study:
    """Return ``study`` without the records that are not among ``identities``."""
    answers = {name: tuple(run for run in runs if run.identity in identities) for name, runs in study.answers.items()}
    return replace(study, answers={name: runs for name, runs in answers.items() if runs})


def _write_tables(frame: pd.DataFrame, studies: Sequence[Study], experiments: Mapping[str, RunSpec],
                  paper: Mapping[str, Any], folder: Path) -> list[tuple[str, pd.DataFrame]]:
    """Write the summary and Table I of each study that answers one of its rows; return the latter with their titles."""
    if frame.empty:
        return []
    write_table(frame, reader_frame(frame), folder, "summary", "All records.")
    columns = describe_columns(frame)
    write_table(columns, columns, folder, "summary_columns", "Columns of the summary.")
    folded = fold_seeds(frame)
    means = means_frame(folded)
    if len(means):
        write_table(folded, means, folder, "summary_seeds", f"{MEANS}.")
    tables = []
    for i, study in enumerate(studies):
        if set(study.answers) & set(paper["rows"]):
            tables += _write_tables_one(study, experiments, paper, folder, f"_{study.name}" if i else "")
    return tables


def _write_tables_one(
    study: Study, experiments: Mapping[str, RunSpec], paper: Mapping[str, Any], folder: Path, suffix: str
) -> list[tuple[str, pd.DataFrame]]:
    """Write Table I of ``study`` and, where records answer it, that with the atoms prior; return both with titles."""
    table = table_one(study.answers, paper, experiments)
    caption = "Table I of the paper: its numbers, ours, and the difference."
    write_table(table, table_one_text(table), folder, f"table_one{suffix}", caption)
    tables = [(study.name, table)]
    table = table_one(_with_atoms(study.answers), paper, _with_atoms(experiments), reg="atoms")
    table = table[table["n_runs"] > 0].reset_index(drop=True)
    if len(table):
        caption = (
            "Table I of the paper with the atoms prior: the paper's numbers for its own regulariser, ours with "
            "reg=atoms, and the difference."
        )
        write_table(table, table_one_text(table), folder, f"table_one_atoms{suffix}", caption)
        tables.append((f"{study.name}, with reg=atoms instead of the paper's regulariser", table))
    return tables
