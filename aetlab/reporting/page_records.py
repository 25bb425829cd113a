"""Parts of the report page on single records: finding them by sample, prior, dose and words, details, comparison."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from aetlab.core.metrics import find_metric
from aetlab.reporting import html
from aetlab.reporting.columns import SETTINGS
from aetlab.reporting.report_contents import Report, anchor
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import device_name, dose_text, stage_seconds
from aetlab.spec.bind import unbind
from aetlab.store.listing import flatten

#: Columns that records are found by, with their labels.
_CHOICES = (("sample", "Sample"), ("reg", "Prior"), ("dose_e_A2", "Dose (e/Å²)"))


def compare_section(report: Report) -> str:
    """Return the choice of two records, and the tables that the script fills."""
    if len(report.runs) < 2:
        return ""
    options = "".join(
        f"<option{html.shown_with([run.identity])}>{html.escape(f'{report.labels[run.identity]} ({run.identity[:6]})')}"
        "</option>"
        for run in report.runs
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


def details_section(report: Report) -> str:
    """Return the details of each record, closed at first."""
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
        f'<details id="{html.escape(anchor(run.identity))}"{html.shown_with([run.identity])}>'
        f"<summary>{html.escape(report.labels.get(run.identity, ''))} "
        f"<code>{html.escape(run.identity)}</code></summary>"
        f"{repeat}<p>Figures: {links}. "
        f"Folder: <code>records/{html.escape(run.identity)}</code>. "
        f'<button type="button" data-view="{html.escape(run.identity)}">Show in 3D</button></p>'
        '<div class="columns"><div><h3>Settings that differ from the defaults</h3>'
        f"{html.pairs(different) if different else '<p>None.</p>'}"
        f"<h3>Wall time of each stage (s)</h3>{html.pairs({name: f'{value:.2f}' for name, value in seconds.items()})}"
        f"<h3>Machine and versions</h3>{html.pairs(machine)}</div>"
        f"<div><h3>Results</h3>{html.pairs(_results(run))}</div></div>"
        f"<details><summary>All settings</summary>{html.pairs(settings)}</details></details>"
    )


def _results(run: StoredRun) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in run.metrics.items()}


def comparable(report: Report) -> list[dict[str, Any]]:
    """Return the settings and results of each record, which the script compares."""
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


def better_directions(report: Report) -> dict[str, str]:
    """Return the direction in which each metric is better, lower or higher; metrics without one are left out."""
    better = {}
    for name in dict.fromkeys(name for run in report.runs for name in run.metrics):
        try:
            better[name] = find_metric(name).better
        except KeyError:  # a record that another version wrote
            continue
    return {name: direction for name, direction in better.items() if direction != "neither"}


def filter_form(frame: pd.DataFrame) -> str:
    """Return the form that finds records of ``frame``; empty where there is only one."""
    if len(frame) < 2:
        return ""
    fields = "".join(
        f'<label>{label} <select data-field="{column}"><option value="">all</option>{_options(frame, column)}</select>'
        "</label>"
        for column, label in _CHOICES
        if frame[column].nunique() > 1
    )
    return (
        f'<form id="filter" role="search" autocomplete="off">{fields}'
        '<label>Words <input type="search" data-field="words" placeholder="for example tv n_tilts=60" '
        'title="Press / to come here"></label>'
        '<button type="reset">Show all</button><output id="filter-count"></output></form>'
    )


def filter_data(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the fields of each record by identity; ``words`` holds all its settings."""
    names = [column.name for column in SETTINGS if column.name in frame]
    return {
        str(row["record"]): {column: _text(row[column]) for column, _ in _CHOICES}
        | {"words": " ".join([str(row["record"]), *(f"{name}={_text(row[name])}" for name in names)]).lower()}
        for row in frame.to_dict("records")
    }


def _options(frame: pd.DataFrame, column: str) -> str:
    values = sorted(frame[column].unique(), reverse=column == "dose_e_A2")
    return "".join(
        f'<option value="{html.escape(_text(value))}">{html.escape(_shown(value, column))}</option>' for value in values
    )


def _shown(value: object, column: str) -> str:
    return dose_text(value) if column == "dose_e_A2" and isinstance(value, float) else str(value)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:g}"
    return str(value)
