"""Parts of the report page on single records: their details, and the comparison of two."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from aetlab.core.metrics import find_metric
from aetlab.reporting import html
from aetlab.reporting.report_contents import Report, anchor
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import device_name, stage_seconds
from aetlab.spec.bind import unbind
from aetlab.store.listing import flatten


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
