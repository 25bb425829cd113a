"""The report as one HTML page that needs no network: tables, figures, atoms in 3D, and details of each record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd

from aetlab.core.files import StorageError
from aetlab.core.metrics import HEADLINES, find_metric
from aetlab.reporting import html
from aetlab.reporting.columns import HIGH95, LOW95, truth_columns
from aetlab.reporting.figures.make import MadeFigure
from aetlab.reporting.packed_atoms import GROUPS, no_atoms, pack_atoms
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.table_one import table_one_text, table_one_values
from aetlab.reporting.tables import best_column, device_name, interval_text, reader_frame, reader_values, stage_seconds
from aetlab.spec import RunSpec
from aetlab.spec.bind import unbind
from aetlab.store.listing import flatten


@dataclass(frozen=True)
class Report:
    """Contents of a page: ``frame`` is the table of all records, ``runs`` are those of figures and details.

    ``tables_one`` are pairs of study and Table I. ``problems`` are lines on records that are not used, ``missing``
    lines on figures that are left out, and ``choice`` is the rule by which ``runs`` were chosen of all records.
    ``remake`` holds the arguments of the command that repeats each run.
    """

    runs: Sequence[StoredRun]
    frame: pd.DataFrame
    folded: pd.DataFrame
    labels: Mapping[str, str]
    tables_one: Sequence[tuple[str, pd.DataFrame]]
    figures: Sequence[MadeFigure]
    problems: Sequence[str]
    missing: Sequence[str]
    default: RunSpec
    remake: Mapping[str, Sequence[str]]
    choice: str = ""
    title: str = "aetlab report"


def build_page(report: Report) -> str:
    """Return the HTML of the page."""
    sections = [
        ("problems", "Problems", _problems(report)),
        ("table-one", "Table I of the paper", _tables_one(report)),
        ("runs", "All records", _runs(report)),
        ("seeds", "Means over seeds", _folded(report)),
        ("figures", "Figures", _figures(report)),
        ("atoms", "Traced atoms in 3D", _viewer(report)),
        ("compare", "Comparison of two records", _compare(report)),
        ("details", "Details of each record", _details(report)),
    ]
    sections = [section for section in sections if section[2]]
    n_runs = len(report.frame)
    devices = ", ".join(sorted(set(report.frame["device"]))) if n_runs else "none"
    parts = {
        "title": html.escape(report.title),
        "summary": f"{n_runs} record{'' if n_runs == 1 else 's'}; computed on: {html.escape(devices)}. "
        "All numbers are read from the records.",
        "navigation": "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        "body": "\n".join(
            f'<section id="{name}"><h2>{heading}</h2>\n{content}\n</section>' for name, heading, content in sections
        ),
        "data": html.script_data(
            {"atoms": _atoms(report), "runs": _comparable(report), "better": _better(report)}
        ),
        "style": _template("report.css"),
        "script": _template("report.js"),
    }
    page = _template("report.html")
    head, *rest = page.split("{{")
    return head + "".join(parts[piece.split("}}", 1)[0]] + piece.split("}}", 1)[1] for piece in rest)


def _template(name: str) -> str:
    return resources.files("aetlab.reporting").joinpath("templates", name).read_text(encoding="utf-8").rstrip("\n")


def _anchor(record: str) -> str:
    return html.escape(f"run-{record}")


def _problems(report: Report) -> str:
    undrawn = [figure.problem for figure in report.figures if figure.problem]
    parts = [
        f'<div class="problems">{_listed(heading, lines)}</div>' if lines else ""
        for heading, lines in (("Records that are not used:", report.problems), ("Figures that failed:", undrawn))
    ]
    return "".join(parts)


def _listed(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<p>{heading}</p><ul>{items}</ul>"


def _tables_one(report: Report) -> str:
    parts = []
    for study, table in report.tables_one:
        shown = table_one_text(table)
        parts.append(f"<h3>scale = {html.escape(study)}</h3>{html.table(shown, table_one_values(table))}")
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
    detailed = {run.identity for run in report.runs}

    def link(column: str, value: Any) -> str | None:
        return f"#run-{value}" if column == "record" and value in detailed else None

    return html.table(reader_frame(report.frame), reader_values(report.frame), link=link) + note


def _folded(report: Report) -> str:
    if report.folded.empty or report.folded["n_seeds"].max() < 2:
        return ""
    repeated = report.folded[report.folded["n_seeds"] > 1].reset_index(drop=True)
    shown, values = reader_frame(repeated), reader_values(repeated)
    for score in HEADLINES:
        if score.heading in shown:
            lows, highs = (best_column(repeated, score.name, end) for end in (LOW95, HIGH95))
            shown[score.heading] = [
                text and text + interval_text(score, low, high)
                for text, low, high in zip(shown[score.heading], lows, highs, strict=True)
            ]
    shown["seeds"] = values["seeds"] = repeated["n_seeds"]
    note = "<p>Mean over seeds, with its 95 % confidence interval (Student's t, cut to the range of the score).</p>"
    return note + html.table(shown, values)


def _figures(report: Report) -> str:
    parts = []
    for figure in report.figures:
        if figure.png is None:
            continue
        task = figure.task
        runs = ", ".join(
            f'<a href="#{_anchor(run.identity)}">{html.escape(report.labels.get(run.identity, run.identity))}</a>'
            for run in task.runs
        )
        notes = f' <span class="note">{html.escape("; ".join(task.notes))}.</span>' if task.notes else ""
        narrow = ' class="narrow"' if figure.size_px[0] < 1200 else ""
        parts.append(
            f'<figure id="{html.escape(task.name)}"{narrow}>{html.image(figure.web, figure.size_px, task.title)}'
            "<figcaption>"
            f"<b>{html.escape(task.title)}.</b> {html.escape(task.caption)}{notes} Records: {runs}. "
            f"Files: figures/{html.escape(task.name)}.png, .pdf.</figcaption></figure>"
        )
    if report.missing:
        parts.append(f'<div class="note">{_listed("Figures that need other records:", report.missing)}</div>')
    return "\n".join(parts)


def _viewer(report: Report) -> str:
    if not report.runs:
        return ""
    options = "".join(
        f"<option>{html.escape(report.labels.get(run.identity, run.identity))}</option>" for run in report.runs
    )
    boxes = "".join(
        f'<label><input type="checkbox" id="show-{i}" checked> {name}</label>' for i, name in enumerate(GROUPS)
    )
    missing = " Missing atoms have their true element." if any(run.has_truth for run in report.runs) else ""
    return (
        f'<div class="controls"><label>Record <select id="view-run">{options}</select></label>{boxes}'
        '<label><input type="checkbox" id="view-species"> colour by assigned element</label>'
        '<button type="button" id="view-reset">Reset</button></div>'
        '<canvas id="view" tabindex="0" role="img" aria-label="Traced atoms; drag or press the arrow keys to rotate, '
        'use the wheel or plus and minus to zoom"></canvas>'
        '<div class="legend" id="view-legend" style="display:flex;flex-wrap:wrap;gap:0 1.2rem"></div>'
        "<p>Drag or press the arrow keys to rotate; use the wheel or + and − to zoom. y is the tilt axis, z is along "
        f"the beam.{missing}</p>"
    )


def _compare(report: Report) -> str:
    if len(report.runs) < 2:
        return ""
    options = "".join(
        f"<option>{html.escape(f'{report.labels[run.identity]} ({run.identity[:6]})')}</option>" for run in report.runs
    )
    return (
        f'<div class="controls"><label>first <select id="compare-a">{options}</select></label>'
        f'<label>second <select id="compare-b">{options}</select></label></div>'
        '<div class="columns"><div><h3>Settings that differ</h3><div class="scroll"><table><thead><tr><th>setting</th>'
        "<th>first</th>"
        '<th>second</th></tr></thead><tbody id="compare-settings"></tbody></table></div>'
        '<p id="compare-same" hidden>None.</p></div>'
        '<div><h3>Results</h3><div class="scroll"><table><thead><tr><th>result</th><th>first</th><th>second</th>'
        "<th>change</th></tr></thead>"
        '<tbody id="compare-results"></tbody></table></div></div></div>'
    )


def _details(report: Report) -> str:
    usual = flatten(unbind(report.default))
    shown_in: dict[str, list[str]] = {}
    for figure in report.figures:
        if figure.png is not None:
            for run in figure.task.runs:
                shown_in.setdefault(run.identity, []).append(figure.task.name)
    return "\n".join(_detail(run, report, usual, shown_in.get(run.identity, [])) for run in report.runs)


def _detail(run: StoredRun, report: Report, usual: Mapping[str, Any], shown_in: Sequence[str]) -> str:
    settings = flatten(unbind(run.spec))
    different = {
        name: f"{value} (default: {usual.get(name, 'none')})"
        for name, value in settings.items()
        if usual.get(name) != value
    }
    command = html.escape(shlex.join(["python", "-m", "aetlab.run", *report.remake.get(run.identity, ())]))
    repeat = f"<p>Command that repeats the run:</p><pre>{command}</pre>"
    if run.spec.data.kind == "given":
        repeat = "<p>The tilt series came through the Python API, so that no command repeats the run.</p>"
    seconds = {**stage_seconds(run), "total": sum(stage_seconds(run).values())}
    environment = run.environment
    machine = {
        "device": device_name(run),
        "processor": environment.get("processor", "unknown"),
        "cores": environment.get("n_cores", "unknown"),
        "peak memory (MB)": environment.get("peak_memory_MB", "unknown"),
        "stopping criterion": environment.get("stopped", "unknown"),
        "finished": environment.get("finished", "unknown"),
        "platform": environment.get("platform", "unknown"),
        "commit": environment.get("commit") or "unknown",
        "code": environment.get("code", "unknown"),
        "Python": environment.get("python", "unknown"),
        **environment.get("versions", {}),
    }
    links = ", ".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in shown_in) or "none"
    return (
        f'<details id="{_anchor(run.identity)}"><summary>{html.escape(report.labels.get(run.identity, ""))} '
        f"<code>{html.escape(run.identity)}</code></summary>"
        f"{repeat}<p>Figures: {links}. "
        f"Folder: <code>records/{html.escape(run.identity)}</code></p>"
        '<div class="columns"><div><h3>Settings that differ from the defaults</h3>'
        f"{html.pairs(different) if different else '<p>None.</p>'}"
        f"<h3>Wall time of each stage (s)</h3>{html.pairs({name: f'{value:.2f}' for name, value in seconds.items()})}"
        f"<h3>Machine and versions</h3>{html.pairs(machine)}</div>"
        f"<div><h3>Results</h3>{html.pairs(_results(run))}</div></div>"
        f"<details><summary>All settings</summary>{html.pairs(settings)}</details></details>"
    )


def _results(run: StoredRun) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in run.metrics.items()}


def _comparable(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "settings": flatten(unbind(run.spec)),
            "results": {
                **{name: html.finite(value) for name, value in run.metrics.items()},
                **{f"seconds: {stage}": html.finite(value) for stage, value in stage_seconds(run).items()},
            },
        }
        for run in report.runs
    ]


def _better(report: Report) -> dict[str, str]:
    """Return the direction in which each metric is better, lower or higher; metrics without one are left out."""
    better = {}
    for name in dict.fromkeys(name for run in report.runs for name in run.metrics):
        try:
            better[name] = find_metric(name).better
        except KeyError:  # a record that another version wrote
            continue
    return {name: direction for name, direction in better.items() if direction != "neither"}


def _atoms(report: Report) -> list[dict[str, Any]]:
    atoms = []
    for run in report.runs:
        try:
            atoms.append(pack_atoms(run))
        except (StorageError, ValueError, IndexError) as error:
            atoms.append(no_atoms(str(error)))
    return atoms
