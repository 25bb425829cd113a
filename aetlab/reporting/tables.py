"""Tables of records: one tidy row a run, seeds folded into mean and 95 % interval, Table I beside the paper.

Units are in the column names. Nothing here computes physics; every number is read from a record or from the file of
the paper's values.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import RunSpec, missing_wedge_deg, tilt_angles_deg, tilt_span_deg

#: The paper's columns of results.
PAPER_COLUMNS = ("position_error_pm", "found_percent", "false_positive_percent", "correct_species_percent")

#: How results are headed in a table for readers, with the decimals that they carry.
HEADINGS: dict[str, tuple[str, int]] = {
    "position_error_pm": ("position error (pm)", 2),
    "found_percent": ("found (%)", 2),
    "false_positive_percent": ("false positives (%)", 3),
    "correct_species_percent": ("correct species (%)", 2),
}


def n_images(spec: RunSpec) -> int:
    """Images of the series: tilts outside the missing wedge times defoci."""
    return len(tilt_angles_deg(spec.tilts, spec.wedge)) * len(spec.defocus.planes_nm)


def settings_row(spec: RunSpec) -> dict[str, Any]:
    """The settings that tell runs apart, one value a column."""
    vacancies = spec.sample.vacancies
    return {
        "sample": Path(spec.sample.path).name if spec.sample.kind == "file" else spec.sample.kind,
        "vacancies": " ".join(f"{region.part}:{region.fraction:g}" for region in vacancies) or "none",
        "scale": spec.scale.name,
        "n_voxels": math.prod(spec.scale.shape_zxy),
        "voxel_A": spec.scale.voxel_A,
        "dose_e_A2": spec.dose.total_e_A2,
        "n_tilts": len(tilt_angles_deg(spec.tilts, spec.wedge)),
        "n_defoci": len(spec.defocus.planes_nm),
        "tilt_span_deg": tilt_span_deg(spec.tilts, spec.wedge),
        "missing_wedge_deg": missing_wedge_deg(spec.tilts, spec.wedge),
        "reg": spec.reg.kind,
        "n_binned_layers": spec.binning.n_layers,
        "simulate": spec.simulate.kind,
        "microscope": spec.microscope.name,
        "energy_keV": spec.microscope.energy_keV,
        "rotation": spec.engine.rotation,
        "n_iterations": spec.engine.n_iterations,
        "align": spec.align.enabled,
        "refine": spec.refine.kind,
        "seed": spec.seed,
    }


def run_row(run: StoredRun) -> dict[str, Any]:
    """One row of the table of all runs: identity, settings, results, time per stage, device."""
    seconds = {f"seconds_{stage.replace(' ', '_')}": value for stage, value in stage_seconds(run).items()}
    return {
        "record": run.identity,
        **settings_row(run.spec),
        **run.metrics,
        **seconds,
        "seconds_total": sum(seconds.values()),
        "peak_memory_MB": run.environment.get("peak_memory_MB", math.nan),
        "device": device_name(run),
    }


def stage_seconds(run: StoredRun) -> dict[str, float]:
    """Wall time in s of each stage of the run, in the order they ran; empty where the record has none."""
    return {stage: float(value) for stage, value in run.environment.get("seconds_by_stage", {}).items()}


def device_name(run: StoredRun) -> str:
    """The device that the run was computed on."""
    return str(run.environment.get("device", "unknown"))


def summary_frame(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """All runs, one row each, sorted by their settings."""
    frame = pd.DataFrame([run_row(run) for run in runs])
    if frame.empty:
        return frame
    order = [
        "scale",
        "sample",
        "reg",
        "dose_e_A2",
        "n_tilts",
        "missing_wedge_deg",
        "n_binned_layers",
        "vacancies",
        "seed",
        "record",
    ]
    ascending = [column != "dose_e_A2" for column in order]
    return frame.sort_values(order, ascending=ascending, kind="stable", ignore_index=True)


def fold_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs that differ in the seed alone as one row: mean, half width of the 95 % interval (Student's t), and count.

    Result columns ``name`` become ``name`` (mean) and ``name_ci95`` (NaN for a single run).
    """
    if frame.empty:
        return frame
    settings = [column for column in settings_columns(frame) if column != "seed"]
    results = [
        column
        for column in frame.columns
        if column not in settings and pd.api.types.is_numeric_dtype(frame[column]) and column != "seed"
    ]
    rows = []
    for key, group in frame.groupby(settings, sort=False, dropna=False):
        n_seeds = len(group)
        row: dict[str, Any] = dict(zip(settings, key, strict=True)) | {"n_seeds": n_seeds}
        for name in results:
            row[name] = group[name].mean()
            row[f"{name}_ci95"] = half_width_95(group[name].to_numpy(float))
        rows.append(row)
    return pd.DataFrame(rows)


def half_width_95(values: np.ndarray) -> float:
    """Half width of the 95 % interval of the mean of ``values`` (n,); NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def settings_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that are settings."""
    names = (
        "sample",
        "vacancies",
        "scale",
        "n_voxels",
        "voxel_A",
        "dose_e_A2",
        "n_tilts",
        "n_defoci",
        "tilt_span_deg",
        "missing_wedge_deg",
        "reg",
        "n_binned_layers",
        "simulate",
        "microscope",
        "energy_keV",
        "rotation",
        "n_iterations",
        "seed",
    )
    return [name for name in names if name in frame.columns]


def reader_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` as readers of a report want it: the settings that vary, and the paper's columns of results."""
    if frame.empty:
        return frame
    always = ["dose_e_A2", "n_tilts", "n_defoci", "tilt_span_deg", "reg"]
    settings = [
        name
        for name in settings_columns(frame)
        if name in always or (frame[name].nunique(dropna=False) > 1 and name not in ("n_voxels", "missing_wedge_deg"))
    ]
    shown = pd.DataFrame({"record": frame["record"]}) if "record" in frame else pd.DataFrame(index=frame.index)
    for name in settings:
        shown[name] = (
            [dose_text(value) for value in frame[name]]
            if name == "dose_e_A2"
            else [f"{value:g}" if isinstance(value, float) else value for value in frame[name]]
        )
    for name, (heading, decimals) in HEADINGS.items():
        if name in frame:
            shown[heading] = [number_text(value, decimals) for value in frame[name]]
    if "seconds_total" in frame:
        shown["time (s)"] = [number_text(value, 1) for value in frame["seconds_total"]]
    return shown.rename(
        columns={
            "dose_e_A2": "dose (e/Å²)",
            "tilt_span_deg": "tilt span (°)",
            "n_tilts": "tilts",
            "n_defoci": "defoci",
            "reg": "reg.",
            "n_binned_layers": "N_B",
            "n_iterations": "iterations",
            "energy_keV": "energy (keV)",
            "voxel_A": "voxel (Å)",
        }
    )


def dose_text(dose_e_A2: float) -> str:
    """A dose in e/Å² for readers: ``∞`` or a whole number with spaces between thousands."""
    return "∞" if math.isinf(dose_e_A2) else f"{dose_e_A2:,.0f}".replace(",", " ")


def number_text(value: float, decimals: int, *, sign: bool = False) -> str:
    """``value`` with ``decimals``; an en dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{decimals}f}"


def read_paper_values(path: Path) -> dict[str, Any]:
    """The paper's own numbers: ``rows`` (Table I by experiment) and what its figures ask for."""
    with open(path, "rb") as file:
        return tomllib.load(file)


def table_one(
    chosen: Mapping[str, Sequence[StoredRun]], paper: dict[str, Any], reg: str | None = None
) -> pd.DataFrame:
    """Table I in the paper's layout: for each of its rows the paper's number, ours, and the difference.

    ``chosen`` gives the records of each experiment by name; several are seeds, and ours is then their mean with a
    column of the 95 % interval. An experiment without a record keeps its row, with ours empty. ``reg`` is the
    regulariser of ours where it is not the paper's.
    """
    rows = []
    for name, row in paper["rows"].items():
        runs = chosen.get(name, ())
        entry: dict[str, Any] = {
            "figure": row["figure"],
            "total_dose_e_A2": row["dose_e_A2"],
            "n_tilts": row["n_tilts"],
            "n_defoci": row["n_defoci"],
            "tilt_span_deg": row["tilt_span_deg"],
            "reg": row["reg"] if reg is None else f"{row['reg']}; {reg}",
            "n_runs": len(runs),
        }
        for column in PAPER_COLUMNS:
            values = np.array([run.metrics.get(column, math.nan) for run in runs], float)
            ours = float(values.mean()) if len(values) else math.nan
            entry |= {
                f"{column}_paper": row[column],
                f"{column}_ours": ours,
                f"{column}_difference": ours - row[column],
                f"{column}_ci95": half_width_95(values),
            }
        rows.append(entry)
    return pd.DataFrame(rows)


def table_one_text(table: pd.DataFrame) -> pd.DataFrame:
    """Table I with formatted numbers: three columns (paper, ours, difference) for each result."""
    shown = pd.DataFrame(
        {
            "figure": table["figure"],
            "dose (e/Å²)": [dose_text(value) for value in table["total_dose_e_A2"]],
            "tilts": table["n_tilts"],
            "defoci": table["n_defoci"],
            "span": [f"{value:g}°" for value in table["tilt_span_deg"]],
            "reg.": table["reg"],
        }
    )
    for column, (heading, decimals) in HEADINGS.items():
        shown[f"{heading}: paper"] = [number_text(value, decimals) for value in table[f"{column}_paper"]]
        shown[f"{heading}: ours"] = [
            number_text(value, decimals) + (f" ± {number_text(half, decimals)}" if not math.isnan(half) else "")
            for value, half in zip(table[f"{column}_ours"], table[f"{column}_ci95"], strict=True)
        ]
        shown[f"{heading}: difference"] = [
            number_text(value, decimals, sign=True) for value in table[f"{column}_difference"]
        ]
    return shown


def to_markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of ``frame`` without its index."""

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return (
        "\n".join(
            [
                line(frame.columns),
                line("---" for _ in frame.columns),
                *(line(row) for row in frame.itertuples(index=False)),
            ]
        )
        + "\n"
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Å": r"\AA{}",
    "²": r"$^2$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "°": r"$^\circ$",
    "–": "--",
    "\N{MINUS SIGN}": "$-$",
}


def to_latex(frame: pd.DataFrame, caption: str) -> str:
    """A LaTeX tabular of ``frame`` in a table with ``caption``; needs no package.

    Columns named ``group: name`` beside each other get one head for their group above their names.
    """

    def cell(value: Any) -> str:
        text = re.sub(r"^-(?=[\d.])", "\N{MINUS SIGN}", str(value))
        return "".join(_LATEX.get(character, character) for character in text)

    def line(cells: Iterable[Any]) -> str:
        return " & ".join(cell(value) for value in cells) + r" \\"

    columns = "".join("r" if pd.api.types.is_numeric_dtype(frame[name]) else "l" for name in frame.columns)
    heads = [tuple(str(name).rpartition(": ")[::2]) for name in frame.columns]
    groups = [(group, len(list(members))) for group, members in groupby(group for group, _ in heads)]
    above = [f"\\multicolumn{{{n}}}{{c}}{{{cell(group)}}}" if group else " & ".join([""] * n) for group, n in groups]
    return (
        "\n".join(
            [
                r"\begin{table}",
                f"\\caption{{{cell(caption)}}}",
                f"\\begin{{tabular}}{{{columns}}}",
                r"\hline",
                *([" & ".join(above) + r" \\"] if any(group for group, _ in groups) else []),
                line(name for _, name in heads),
                r"\hline",
                *(line(row) for row in frame.itertuples(index=False)),
                r"\hline",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )
        + "\n"
    )


def write_table(frame: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write ``frame`` in full as CSV and Parquet and as ``shown`` to readers in Markdown and LaTeX."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "parquet", "md", "tex")]
    frame.to_csv(paths[0], index=False, lineterminator="\n")
    frame.to_parquet(paths[1], index=False)
    paths[2].write_text(to_markdown(shown), encoding="utf-8")
    paths[3].write_text(to_latex(shown, caption), encoding="utf-8")
    return paths
