"""The report as one HTML page that needs no network: tables, atoms in 3D, figures, and details of each record.

Its first line says how many records of which samples, doses and priors there are, and the range of their errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

import numpy as np
import pandas as pd

from aetlab.core.metrics import HEADLINES
from aetlab.reporting import html
from aetlab.reporting.columns import truth_columns
from aetlab.reporting.page_records import (
    better_directions,
    comparable,
    compare_section,
    details_section,
    filter_data,
    filter_form,
)
from aetlab.reporting.page_validation import measured_frame, validation_section
from aetlab.reporting.page_viewer import viewer_data, viewer_section
from aetlab.reporting.report_contents import Report, anchor, row_anchor
from aetlab.reporting.table_one import table_one_text, table_one_values
from aetlab.reporting.tables import MEANS, best_column, dose_text, means_frame, reader_frame, reader_values

#: Columns of the tables whose numbers lead to their record.
_RESULTS = {*(score.heading for score in HEADLINES), "time (s)"}
_OF_ATOMS = ("atoms", "error bar x, y, z (pm)", "nearest neighbours (Å)", "χ² per value")
#: Values that are named one by one; of more the number is given.
_NAMED = 4


def build_page(report: Report) -> str:
    """Return the HTML of the page, which opens on the results; problems come last, with a line on top."""
    sections = [
        ("runs", "All records", _runs(report)),
        ("measured", "Measured series", _measured(report)),
        ("validation", "Validation and methods", validation_section(report)),
        ("table-one", "Table I of the paper", _tables_one(report)),
        ("seeds", "Means over seeds", _folded(report)),
        ("atoms", "Atoms in 3D and slices", viewer_section(report)),
        ("figures", "Figures", _figures(report)),
        ("compare", "Comparison of two records", compare_section(report)),
        ("details", "Details of each record", details_section(report)),
        ("problems", "Problems", _problems(report)),
    ]
    sections = [section for section in sections if section[2]]
    parts = {
        "title": html.escape(report.title),
        "summary": html.escape(describe_records(report.frame)) + _count_of_problems(report),
        "navigation": "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        "filter": filter_form(report.frame),
        "body": "\n".join(
            f'<section id="{name}"><h2>{heading}</h2>\n{content}\n</section>' for name, heading, content in sections
        ),
        "data": html.script_data(
            {
                "records": filter_data(report.frame),
                "view": viewer_data(report),
                "runs": comparable(report),
                "better": better_directions(report),
            }
        ),
        "style": _template("report.css"),
        "script": _template("report.js"),
        "viewer": _template("viewer.js"),
    }
    page = _template("report.html")
    head, *rest = page.split("{{")
    return head + "".join(parts[piece.split("}}", 1)[0]] + piece.split("}}", 1)[1] for piece in rest)


def _template(name: str) -> str:
    return resources.files("aetlab.reporting").joinpath("templates", name).read_text(encoding="utf-8").rstrip("\n")


def _address(report: Report, record: str) -> str:
    """Return the address of the details of ``record``, or of its row where the page has no details of it."""
    return f"#{anchor(record) if any(run.identity == record for run in report.runs) else row_anchor(record)}"


def _problems(report: Report) -> str:
    undrawn = [figure.problem for figure in report.figures if figure.problem]
    parts = [
        f'<div class="problems">{_listed(heading, lines)}</div>' if lines else ""
        for heading, lines in (("Records that are not used:", report.problems), ("Figures that failed:", undrawn))
    ]
    return "".join(parts)


def _count_of_problems(report: Report) -> str:
    """Return a link to the problems with their number; nothing where there are none."""
    n = len(report.problems) + sum(bool(figure.problem) for figure in report.figures)
    return f' <a href="#problems">{n} problem{"" if n == 1 else "s"}</a>' if n else ""


def _listed(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<p>{heading}</p><ul>{items}</ul>"


def _tables_one(report: Report) -> str:
    parts = []
    for study, table in report.tables_one:
        shown = table_one_text(table)
        records = [text.split() for text in table["records"]]

        def link(column: str, record: str) -> str | None:
            return _address(report, record) if column.endswith((": ours", ": difference")) else None

        content = html.table(shown, table_one_values(table), records=records, link=link)
        parts.append(f"<h3>scale = {html.escape(study)}</h3>{content}")
    note = (
        "<p>Found and false positives are percentages of the true atoms, correct species is a percentage of the found "
        "atoms. Smaller volumes give better scores: they need fewer tilts for the same resolution. "
        "Of several seeds, ours is the mean, with its 95 % confidence interval (Student's t, cut to the range of the "
        "score). The last column states the settings of ours that differ from those of the experiment, which stand in "
        "parentheses.</p>"
    )
    return "".join(parts) + note if parts else ""


def _runs(report: Report) -> str:
    if report.frame.empty:
        return "<p>There are no records yet.</p>"
    truth = report.frame[truth_columns(report.frame)].isna().all(axis=1)
    note = "<p>Scores need a truth, which records of measured images do not have.</p>" if truth.any() else ""
    note += f"<p>{html.escape(report.choice)}.</p>" if report.choice else ""
    shown = reader_frame(report.frame)
    records = [[record] for record in report.frame["record"]]
    results = shown.columns[[name == "record" or name in _RESULTS for name in shown.columns]]

    def link(column: str, record: str) -> str | None:
        return _address(report, record) if column in results else None

    return html.table(shown, reader_values(report.frame), records=records, link=link, row_id=row_anchor) + note


def _measured(report: Report) -> str:
    runs = [run for run in report.runs if not run.has_truth]
    if not runs:
        return ""

    def link(column: str, record: str) -> str | None:
        return _address(report, record) if column == "record" or column in _OF_ATOMS else None

    note = (
        "<p>Atoms and error bars are those of the refinement where there is one, otherwise those of tracing. Error "
        "bars are medians of the standard errors; nearest neighbours are the median distance, to compare with the "
        "bond length of the element.</p>"
    )
    return html.table(measured_frame(runs), records=[[run.identity] for run in runs], link=link) + note


def _folded(report: Report) -> str:
    shown = means_frame(report.folded)
    if shown.empty:
        return ""
    repeated = report.folded[report.folded["n_seeds"] > 1].reset_index(drop=True)
    values = reader_values(repeated).assign(seeds=repeated["n_seeds"])
    note = f"<p>{MEANS} (Student's t, cut to the range of the score).</p>"
    records = [text.split() for text in repeated["records"]]
    shown["first record"] = values["first record"] = [own[0] for own in records]

    def link(column: str, record: str) -> str | None:
        return _address(report, record) if column == "first record" else None

    return note + html.table(shown, values, records=records, link=link)


def _figures(report: Report) -> str:
    parts = []
    for figure in report.figures:
        if figure.png is None:
            continue
        task = figure.task
        runs = ", ".join(
            f'<a href="#{html.escape(anchor(run.identity))}">'
            f"{html.escape(report.labels.get(run.identity, run.identity))}</a>"
            for run in task.runs
        )
        notes = f' <span class="note">{html.escape("; ".join(task.notes))}.</span>' if task.notes else ""
        shown = html.shown_with([run.identity for run in task.runs])
        narrow = ' class="narrow"' if figure.size_px[0] < 1200 else ""
        parts.append(
            f'<figure id="{html.escape(task.name)}"{narrow}{shown}>{html.image(figure.web, figure.size_px, task.title)}'
            "<figcaption>"
            f"<b>{html.escape(task.title)}.</b> {html.escape(task.caption)}{notes} Records: {runs}. "
            f"Files: figures/{html.escape(task.name)}.png, .pdf.</figcaption></figure>"
        )
    if report.missing:
        parts.append(f'<div class="note">{_listed("Figures that need other records:", report.missing)}</div>')
    return "\n".join(parts)


def describe_records(frame: pd.DataFrame) -> str:
    """Return one line on the table of records ``frame``."""
    if frame.empty:
        return "No records."
    parts = [f"{_count(len(frame), 'record')} of {_several(frame['sample'].unique(), 'sample')}"]
    parts.append(_several(frame["reg"].unique(), "prior"))
    doses = sorted(frame["dose_e_A2"].unique())
    words = ["no noise" if math.isinf(dose) else dose_text(dose) for dose in doses]
    parts.append(_several(words, "dose") + (" in e/Å²" if len(doses) <= _NAMED else ""))
    line = "; ".join(parts)
    if "position_error_pm" in frame and frame["position_error_pm"].notna().any():
        errors = best_column(frame, "position_error_pm")
        low, high = errors.min(), errors.max()
        line += f"; position error {low:.2f} pm" if low == high else f"; position errors {low:.2f} to {high:.2f} pm"
    return f"{line}; computed on {', '.join(sorted(set(frame['device'])))}."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _several(values: Sequence[str] | np.ndarray, noun: str) -> str:
    """Return the number of ``values`` and, if they are few, the values."""
    names = f" ({', '.join(map(str, values))})" if len(values) <= _NAMED else ""
    return f"{_count(len(values), noun)}{names}"
