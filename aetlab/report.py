"""``python -m aetlab.report``: write tables, figures and one HTML page of all records under an outputs folder.

Only records are read; nothing is simulated, reconstructed or traced.
"""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aetlab.core.files import StorageError, locked, writing
from aetlab.core.inert import one_line, printable
from aetlab.reporting.drawn import ALL_UP_TO, OF_MORE, describe_choice

if TYPE_CHECKING:
    from aetlab.reporting.stored_run import StoredRun
    from aetlab.spec import RunSpec

_EXAMPLES = """examples:
  python -m aetlab.report
  python -m aetlab.report --select 'reg in ("tv", "lasso") and dose_e_A2 == 5e4' --by reg
  python -m aetlab.report --compare 3f2a 91bc          compare two records, by the first digits of their names
"""


@console.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m aetlab.report``."""
    arguments = _parser().parse_args(argv)
    outputs = Path(arguments.outputs)
    if not arguments.compare and (outputs / "records").is_dir() and not (outputs / "report").exists():
        from aetlab.reporting.forks import start_server

        start_server(arguments.processes)  # it imports at the same time as this process
    from aetlab.reporting.compare import compare_text, find_run
    from aetlab.reporting.selection import SelectError
    from aetlab.reporting.stored_run import read_runs
    from aetlab.spec import SpecError

    try:
        if not outputs.is_dir():
            raise StorageError(f"--outputs={arguments.outputs} cannot be used: the folder does not exist")
        runs, problems = read_runs(outputs)
        if arguments.compare:
            print(compare_text(find_run(runs, arguments.compare[0]), find_run(runs, arguments.compare[1])), end="")
            return
        write_report(outputs, runs, problems, select=arguments.select, by=arguments.by, n_drawn=arguments.draw,
                     n_processes=arguments.processes)
    except (StorageError, SelectError, SpecError) as error:
        console.refuse(error)


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
    parser.add_argument(
        "--draw",
        type=_count,
        metavar="N",
        default=None,
        help=f"number of records that figures and details show (default: all of up to {ALL_UP_TO}, {OF_MORE} of more)",
    )
    parser.add_argument("--processes", type=int, default=None, help="processes that draw figures (default: all cores)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of records: give 0 or more")
    return int(text)


def write_report(
    outputs: Path,
    runs: Sequence[StoredRun],
    problems: Sequence[str],
    *,
    select: str = "",
    by: str = "dose_e_A2",
    n_drawn: int | None = None,
    n_processes: int | None = None,
) -> Path:
    """Write tables, figures and page under ``outputs/report``, and return the path of the page.

    ``n_drawn`` is the number of records that figures show, see :func:`~aetlab.reporting.drawn.choose_drawn`.

    Raises
    ------
    SelectError
        If ``select`` or ``by`` cannot be evaluated.
    StorageError
        If there is no record, or a file cannot be written.
    """
    from aetlab.cli.reproduce import reproducing_overrides
    from aetlab.reporting.build import build_report, choose_content
    from aetlab.reporting.folder import open_folder
    from aetlab.reporting.table_files import to_markdown
    from aetlab.reporting.table_one import read_paper_values
    from aetlab.reporting.tables import MEANS, fold_seeds, means_frame, reader_frame
    from aetlab.spec.choices import settings
    from aetlab.spec.folders import experiments_folder
    from aetlab.store.listing import list_foreign
    from aetlab.store.record import Places

    foreign = list_foreign(Places(outputs))
    if foreign:
        print(printable(f"{outputs / 'records'}: {len(foreign)} entries are not records and are left alone: "
                        f"{', '.join(foreign[:5])}{', …' if len(foreign) > 5 else ''}"))
    if not runs and not problems:
        raise StorageError(f"{outputs / 'records'} holds no records: run python -m aetlab.run first")
    runs = _choose(runs, select)
    places = Places(outputs)
    experiments, default = _experiments(), settings()
    lock = places.outputs / "locks" / "report.lock"
    with locked(lock, lambda: print("another report is being written, waiting")), writing(outputs / "report"):
        content, broken = choose_content(runs, experiments, default, by, n_drawn, places.cache / "verified.json")
        remake = {run.identity: reproducing_overrides(run.spec, default) for run in content.drawn}
        paper = read_paper_values(experiments_folder() / "paper_values.toml")
        folder = open_folder(outputs / "report")
        made = build_report(content, [*problems, *broken], folder, paper=paper, remake=remake, n_processes=n_processes)
    page = outputs / "report" / "report.html"
    if not content.frame.empty:
        print("\n" + to_markdown(reader_frame(content.frame)))
    means = means_frame(fold_seeds(content.frame))
    if len(means):
        print(f"{MEANS}:\n\n{to_markdown(means)}")
    for problem in (*problems, *broken):
        print(f"not used: {one_line(problem)}")
    for line in content.missing:
        if not line.startswith("Figure"):  # parts of the paper that are absent are listed on the page
            print(one_line(line))
    if line := describe_choice(len(content.drawn), len(content.runs)):
        print(f"{line}.")
    print(f"{len(content.runs)} records, {sum(figure.png is not None for figure in made)} figures: {page}")
    return page


def _choose(runs: Sequence[StoredRun], select: str) -> Sequence[StoredRun]:
    """Return the records that ``select`` keeps."""
    if not runs or not select:
        return runs
    from aetlab.reporting.selection import SelectError, select_rows
    from aetlab.reporting.tables import summary_frame

    frame = summary_frame(runs)
    kept = set(frame["record"][select_rows(frame, select)])
    if not kept:
        raise SelectError(f"--select {select!r} matches none of {len(runs)} records")
    return [run for run in runs if run.identity in kept]


def _experiments() -> dict[str, RunSpec]:
    """Return the settings of the paper's rows and panels at the default scale, and of its rows with the atoms prior.

    Records of other experiments, for example of another size, are reported without reference to the paper.
    """
    from aetlab.reporting.build import ATOMS
    from aetlab.spec.choices import settings
    from aetlab.spec.folders import group_choices

    names = [name for name in group_choices()["experiment"] if name.startswith(("fig", ATOMS))]
    return {name: settings(experiment=name) for name in sorted(names, key=lambda name: (name.startswith(ATOMS), name))}


if __name__ == "__main__":
    main()
