"""``python -m aetlab.report``: write tables, figures and one HTML page of all records under an outputs folder.

Only records are read; nothing is simulated, reconstructed or traced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from aetlab.cli.compose import compose_jobs, compose_spec
from aetlab.cli.reproduce import reproducing_overrides
from aetlab.core.files import StorageError, make_folder, write_text
from aetlab.reporting.columns import describe_columns
from aetlab.reporting.compare import compare_text, find_run
from aetlab.reporting.figures.choose import accuracy_tasks, common_tasks, refined_tasks
from aetlab.reporting.figures.kinds import FigureTask, keep_drawable
from aetlab.reporting.figures.labels import run_labels
from aetlab.reporting.figures.make import MadeFigure, make_figures
from aetlab.reporting.figures.paper import paper_tasks
from aetlab.reporting.page import Report, build_page
from aetlab.reporting.selection import SelectError, select_rows
from aetlab.reporting.stored_run import StoredRun, read_runs
from aetlab.reporting.studies import Study, find_studies
from aetlab.reporting.table_files import to_markdown, write_table
from aetlab.reporting.table_one import read_paper_values, table_one, table_one_text
from aetlab.reporting.tables import fold_seeds, reader_frame, summary_frame
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.folders import experiments_folder

_EXAMPLES = """examples:
  python -m aetlab.report
  python -m aetlab.report --select 'reg in ("tv", "lasso") and dose_e_A2 == 5e4' --by reg
  python -m aetlab.report --compare 3f2a 91bc          compare two records, by the first digits of their names
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m aetlab.report``."""
    arguments = _parser().parse_args(argv)
    outputs = Path(arguments.outputs)
    try:
        if not outputs.is_dir():
            raise StorageError(f"--outputs={arguments.outputs} cannot be used: the folder does not exist")
        runs, problems = read_runs(outputs)
        if arguments.compare:
            print(compare_text(find_run(runs, arguments.compare[0]), find_run(runs, arguments.compare[1])), end="")
            return
        write_report(outputs, runs, problems, select=arguments.select, by=arguments.by, n_processes=arguments.processes)
    except (StorageError, SelectError, SpecError) as error:
        sys.exit(f"aetlab: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aetlab.report",
        description=__doc__.split("\n")[0].split(": ", 1)[1],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--outputs", default="outputs", help="folder that holds the records (default: outputs)")
    parser.add_argument(
        "--select",
        metavar="EXPR",
        default="",
        help="report only records for which EXPR is true; names are columns of summary.csv",
    )
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        default="dose_e_A2",
        help="setting in which the columns of one figure differ, and by which the table is sorted (default: dose_e_A2)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="ID",
        help="print the settings that differ between two records and their results, and exit",
    )
    parser.add_argument("--processes", type=int, default=None, help="processes that draw figures (default: all cores)")
    return parser


def write_report(
    outputs: Path,
    runs: Sequence[StoredRun],
    problems: Sequence[str],
    *,
    select: str = "",
    by: str = "dose_e_A2",
    n_processes: int | None = None,
) -> Path:
    """Write tables, figures and page under ``outputs/report``, and return the path of the page.

    Raises
    ------
    SelectError
        If ``select`` or ``by`` cannot be evaluated.
    StorageError
        If there is no record, or a file cannot be written.
    """
    if not runs and not problems:
        raise StorageError(f"{outputs / 'records'} holds no records: run python -m aetlab.run first")
    frame, runs = _choose(runs, select, by)
    folder = make_folder(outputs / "report")
    experiments = _experiments()
    default = compose_spec()
    studies = [study for study in find_studies(runs, experiments, default) if study.answers]
    tasks, missing = _tasks(runs, frame, studies, experiments, by)
    tables = _write_tables(frame, studies, folder)
    figures: list[MadeFigure] = []
    for figure in make_figures(tasks, folder / "figures", n_processes):
        figures.append(figure)
        print(figure.problem or f"figure {len(figures)}/{len(tasks)}: {figure.png}", flush=True)
    report = Report(
        runs=runs,
        frame=frame,
        folded=fold_seeds(frame),
        labels=run_labels(frame),
        tables_one=tables,
        figures=figures,
        problems=problems,
        missing=missing,
        default=default,
        remake={run.identity: reproducing_overrides(run.spec, default) for run in runs},
    )
    page = folder / "report.html"
    write_text(page, build_page(report))
    if not frame.empty:
        print("\n" + to_markdown(reader_frame(frame)))
    for problem in problems:
        print(f"not used: {problem}")
    for line in missing:
        if not line.startswith("Figure"):  # parts of the paper that are absent are listed on the page
            print(line)
    print(f"{len(runs)} records, {sum(figure.png is not None for figure in figures)} figures: {page}")
    return page


def _choose(runs: Sequence[StoredRun], select: str, by: str) -> tuple[pd.DataFrame, list[StoredRun]]:
    """Return the table of the records that ``select`` keeps, sorted by ``by`` unless by default, and those records."""
    frame = summary_frame(runs)
    if frame.empty:
        return frame, []
    if by not in frame.columns:
        raise SelectError(f"--by {by!r}: no such column; the columns are {', '.join(frame.columns)}")
    if select:
        frame = frame[select_rows(frame, select)].reset_index(drop=True)
        if frame.empty:
            raise SelectError(f"--select {select!r} matches none of {len(runs)} records")
    if by != "dose_e_A2":
        frame = frame.sort_values(by, kind="stable", ignore_index=True)
    place = {identity: i for i, identity in enumerate(frame["record"])}
    return frame, sorted((run for run in runs if run.identity in place), key=lambda run: place[run.identity])


#: Experiments with this prefix are rows of the paper's table with the atoms prior: atoms4b is row fig4b.
_ATOMS = "atoms"


def _experiments() -> dict[str, RunSpec]:
    """Return the settings of the paper's rows and panels at the default scale, and of its rows with the atoms prior.

    Records of other experiments, for example of another size, are reported without reference to the paper.
    """
    jobs = compose_jobs(["experiment=glob(fig*)"], multirun=True)
    jobs += compose_jobs([f"experiment=glob({_ATOMS}*)"], multirun=True)
    return {job.words[0].split("=", 1)[1]: job.spec for job in jobs}


def _with_atoms(study: Study) -> dict[str, tuple[StoredRun, ...]]:
    """Return the records with the atoms prior that answer rows of the paper's table, by the names of those rows."""
    return {name.replace(_ATOMS, "fig"): runs for name, runs in study.answers.items() if name.startswith(_ATOMS)}


def _tasks(
    runs: Sequence[StoredRun], frame: pd.DataFrame, studies: Sequence[Study], experiments: dict[str, RunSpec], by: str
) -> tuple[list[FigureTask], list[str]]:
    """Return the figures of the paper for each study, those of all records, and a line on each one left out."""
    tasks: list[FigureTask] = []
    missing: list[str] = []
    for i, study in enumerate(studies):
        made, absent = paper_tasks(study, experiments, f"_{study.name}" if i else "")
        tasks += made
        missing += absent
    shown = {frozenset(run.identity for run in task.runs) for task in tasks if task.kind == "panels"}
    shown |= {frozenset([run.identity]) for task in tasks for run in task.runs}
    tasks += common_tasks(runs, frame, shown if by == "dose_e_A2" else set(), by)
    tasks, left_out = keep_drawable([*tasks, *accuracy_tasks(runs, frame), *refined_tasks(runs)])
    return tasks, missing + left_out


def _write_tables(frame: pd.DataFrame, studies: Sequence[Study], folder: Path) -> list[tuple[str, pd.DataFrame]]:
    """Write the summary and Table I of each study that answers one of its rows; return the latter with their titles."""
    if frame.empty:
        return []
    write_table(frame, reader_frame(frame), folder, "summary", "All records.")
    columns = describe_columns(frame)
    write_table(columns, columns, folder, "summary_columns", "Columns of the summary.")
    folded = fold_seeds(frame)
    if folded["n_seeds"].max() > 1:
        write_table(
            folded,
            reader_frame(folded),
            folder,
            "summary_seeds",
            "Means over records that differ in the seed only.",
        )
    paper = read_paper_values(experiments_folder() / "paper_values.toml")
    tables = []
    for i, study in enumerate(studies):
        if set(study.answers) & set(paper["rows"]):
            tables += _write_tables_one(study, paper, folder, f"_{study.name}" if i else "")
    return tables


def _write_tables_one(
    study: Study, paper: dict[str, Any], folder: Path, suffix: str
) -> list[tuple[str, pd.DataFrame]]:
    """Write Table I of ``study`` and, where records answer it, that with the atoms prior; return both with titles."""
    table = table_one(study.answers, paper)
    caption = "Table I of the paper: its numbers, ours, and the difference."
    write_table(table, table_one_text(table), folder, f"table_one{suffix}", caption)
    tables = [(study.name, table)]
    table = table_one(_with_atoms(study), paper, reg="atoms")
    table = table[table["n_runs"] > 0].reset_index(drop=True)
    if len(table):
        caption = (
            "Table I of the paper with the atoms prior: the paper's numbers for its own regulariser, ours with "
            "reg=atoms, and the difference."
        )
        write_table(table, table_one_text(table), folder, f"table_one_atoms{suffix}", caption)
        tables.append((f"{study.name}, with reg=atoms instead of the paper's regulariser", table))
    return tables


if __name__ == "__main__":
    main()
