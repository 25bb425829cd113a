"""The report as one HTML page that needs no network: tables, figures, atoms in three dimensions, every run in full."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from aetlab.core.physics import SYMBOLS
from aetlab.reporting import html
from aetlab.reporting.figures.atoms import read_scored
from aetlab.reporting.figures.make import MadeFigure
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import HEADINGS, device_name, reader_frame, stage_seconds, table_one_text
from aetlab.spec import RunSpec
from aetlab.spec.bind import unbind
from aetlab.store.files import StorageError
from aetlab.store.listing import flatten

#: Atoms of one run that the page holds; beyond it found ones are thinned out, and the page says so.
MAX_ATOMS = 20_000


@dataclass(frozen=True)
class Report:
    """All that a page shows. ``tables_one`` are (study, Table I); ``remake`` gives the words of each run's command."""

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
    title: str = "aetlab report"


def build_page(report: Report) -> str:
    """The whole page."""
    sections = [
        ("problems", "Not used", _problems(report)),
        ("table-one", "Table I of the paper", _tables_one(report)),
        ("runs", "All runs", _runs(report)),
        ("seeds", "Repeated runs", _folded(report)),
        ("figures", "Figures", _figures(report)),
        ("atoms", "Traced atoms in 3D", _viewer(report)),
        ("compare", "Two runs compared", _compare(report)),
        ("details", "Each run in full", _details(report)),
    ]
    sections = [section for section in sections if section[2]]
    n_runs = len(report.runs)
    devices = ", ".join(sorted({device_name(run) for run in report.runs})) or "none"
    parts = {
        "title": html.escape(report.title),
        "summary": f"{n_runs} run{'' if n_runs == 1 else 's'}; computed on: {html.escape(devices)}. "
        "Every number is read from the records.",
        "navigation": "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        "body": "\n".join(
            f'<section id="{name}"><h2>{heading}</h2>\n{content}\n</section>' for name, heading, content in sections
        ),
        "data": html.script_data({"atoms": _atoms(report), "runs": _comparable(report)}),
        "style": _template("report.css"),
        "script": _template("report.js"),
    }
    page = _template("report.html")
    head, *rest = page.split("{{")
    return head + "".join(parts[piece.split("}}", 1)[0]] + piece.split("}}", 1)[1] for piece in rest)


def _template(name: str) -> str:
    return resources.files("aetlab.reporting").joinpath("templates", name).read_text(encoding="utf-8").rstrip("\n")


def _anchor(record: str) -> str:
    return f"run-{record}"


def _link(column: str, value: Any) -> str | None:
    return f"#{_anchor(str(value))}" if column == "record" else None


def _problems(report: Report) -> str:
    lines = [*report.problems, *(figure.problem for figure in report.figures if figure.problem), *report.missing]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<div class="problems"><p>Missing, half-made or unusable:</p><ul>{items}</ul></div>' if lines else ""


def _tables_one(report: Report) -> str:
    parts = []
    for study, table in report.tables_one:
        shown = table_one_text(table)
        parts.append(f"<h3>scale = {html.escape(study)}</h3>{html.table(shown, _sorted_by(table, shown))}")
    note = (
        "<p>Found and false positives are percentages of the true atoms, correct species a percentage of the found "
        "ones. Smaller volumes flatter: they need fewer tilts for the same resolution.</p>"
    )
    return "".join(parts) + note if parts else ""


def _sorted_by(table: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """What Table I is sorted by, in the columns of its text."""
    values = shown.copy()
    values["dose (e/Å²)"] = table["total_dose_e_A2"].astype(float)
    values["span"] = table["tilt_span_deg"].astype(float)
    for column, (heading, _) in HEADINGS.items():
        for kind in ("paper", "ours", "difference"):
            values[f"{heading}: {kind}"] = table[f"{column}_{kind}"].astype(float)
    return values


def _reader_values(frame: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    values = shown.copy()
    names = {
        "dose (e/Å²)": "dose_e_A2",
        "time (s)": "seconds_total",
        **{heading: name for name, (heading, _) in HEADINGS.items()},
    }
    for heading, name in names.items():
        if heading in shown:
            values[heading] = frame[name].astype(float)
    return values


def _runs(report: Report) -> str:
    if report.frame.empty:
        return "<p>There are no records yet.</p>"
    shown = reader_frame(report.frame)
    return html.table(shown, _reader_values(report.frame, shown), link=_link)


def _folded(report: Report) -> str:
    if report.folded.empty or report.folded["n_seeds"].max() < 2:
        return ""
    repeated = report.folded[report.folded["n_seeds"] > 1].reset_index(drop=True)
    shown = reader_frame(repeated)
    values = _reader_values(repeated, shown)
    for name, (heading, decimals) in HEADINGS.items():
        shown[heading] = [
            f"{text} ± {half:.{decimals}f}" for text, half in zip(shown[heading], repeated[f"{name}_ci95"], strict=True)
        ]
    shown["seeds"] = values["seeds"] = repeated["n_seeds"]
    return "<p>Mean over seeds ± half width of the 95 % interval (Student's t).</p>" + html.table(shown, values)


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
            f"<b>{html.escape(task.title)}.</b> {html.escape(task.caption)}{notes} Runs: {runs}. "
            f"Files: figures/{html.escape(task.name)}.png, .pdf.</figcaption></figure>"
        )
    return "\n".join(parts)


def _viewer(report: Report) -> str:
    if not report.runs:
        return ""
    options = "".join(
        f"<option>{html.escape(report.labels.get(run.identity, run.identity))}</option>" for run in report.runs
    )
    boxes = "".join(
        f'<label><input type="checkbox" id="show-{i}" checked> {name}</label>'
        for i, name in enumerate(("found", "missing", "false positive"))
    )
    return (
        f'<div class="controls"><label>Run <select id="view-run">{options}</select></label>{boxes}'
        '<label><input type="checkbox" id="view-species"> colour by species given</label>'
        '<button type="button" id="view-reset">reset</button></div>'
        '<canvas id="view" tabindex="0" role="img" aria-label="Traced atoms; drag or use the arrow keys to turn, '
        'wheel or plus and minus to zoom"></canvas>'
        '<div class="legend" id="view-legend" style="display:flex;flex-wrap:wrap;gap:0 1.2rem"></div>'
        "<p>Drag or use the arrow keys to turn, the wheel or + and − to zoom. y is the tilt axis, z the beam. "
        "Missing atoms carry their true species.</p>"
    )


def _compare(report: Report) -> str:
    if len(report.runs) < 2:
        return ""
    options = "".join(
        f"<option>{html.escape(report.labels[run.identity])} ({run.identity[:6]})</option>" for run in report.runs
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
    command = shlex.join(["python", "-m", "aetlab.run", *report.remake.get(run.identity, ())])
    seconds = {**stage_seconds(run), "total": sum(stage_seconds(run).values())}
    environment = run.environment
    machine = {
        "device": device_name(run),
        "processor": environment.get("processor", "unknown"),
        "cores": environment.get("n_cores", "unknown"),
        "peak memory (MB)": environment.get("peak_memory_MB", "unknown"),
        "stopped because": environment.get("stopped", "unknown"),
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
        f"<code>{run.identity}</code></summary>"
        f"<p>Command that makes it again:</p><pre>{html.escape(command)}</pre><p>Figures: {links}. "
        f"Folder: <code>records/{run.identity}</code></p>"
        '<div class="columns"><div><h3>Different from the defaults</h3>'
        f"{html.pairs(different) if different else '<p>Nothing.</p>'}"
        f"<h3>Time per stage (s)</h3>{html.pairs({name: f'{value:.2f}' for name, value in seconds.items()})}"
        f"<h3>Machine and versions</h3>{html.pairs(machine)}</div>"
        f"<div><h3>Results</h3>{html.pairs({name: _short(value) for name, value in run.metrics.items()})}</div></div>"
        f"<details><summary>All settings</summary>{html.pairs(settings)}</details></details>"
    )


def _short(value: float) -> str:
    return f"{value:.6g}"


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


def _atoms(report: Report) -> list[dict[str, Any]]:
    atoms = []
    for run in report.runs:
        try:
            atoms.append(pack_atoms(run))
        except (StorageError, ValueError, IndexError) as error:
            atoms.append(
                {
                    "positions": "",
                    "kinds": "",
                    "species": "",
                    "speciesNames": [],
                    "counts": [0, 0, 0],
                    "note": f"not shown: {error}",
                }
            )
    return atoms


def pack_atoms(run: StoredRun) -> dict[str, Any]:
    """Found, missing and false atoms of ``run`` for the page: positions as 16 bit integers of 0.01 Å, base64.

    Found atoms are thinned evenly where there are more than :data:`MAX_ATOMS`; the others are kept.
    """
    scored = read_scored(run)
    counts = [len(scored.match_traced), len(scored.missing), len(scored.false)]
    room = max(MAX_ATOMS - counts[1] - counts[2], 1)
    found = (
        scored.match_traced[np.linspace(0, counts[0] - 1, min(room, counts[0])).astype(int)]
        if counts[0]
        else scored.match_traced
    )
    groups = [
        (scored.traced_A[found], scored.traced_numbers[found]),
        (scored.true_A[scored.missing], scored.true_numbers[scored.missing]),
        (scored.traced_A[scored.false], scored.traced_numbers[scored.false]),
    ]
    positions_A = np.concatenate([positions for positions, _ in groups])
    numbers = np.concatenate([numbers for _, numbers in groups])
    kinds = np.repeat(np.arange(3), [len(positions) for positions, _ in groups])
    known, species = np.unique(numbers, return_inverse=True)
    packed = np.clip(np.rint(positions_A * 100), -32768, 32767).astype("<i2")
    thinned = "" if len(found) == counts[0] else f"{len(found)} of the found atoms are drawn"
    return {
        "positions": _base64(packed),
        "kinds": _base64(kinds.astype(np.uint8)),
        "species": _base64(species.astype(np.uint8)),
        "speciesNames": [SYMBOLS[number] for number in known],
        "counts": counts,
        "note": thinned,
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
