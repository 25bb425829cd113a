"""Table I of the paper: its numbers, those of the records, and the differences."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aetlab.core.metrics import HEADLINES, best_name
from aetlab.reporting.columns import HIGH95, LOW95
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.studies import differences
from aetlab.reporting.tables import dose_text, interval_95, interval_text, number_text
from aetlab.spec import RunSpec


def read_paper_values(path: Path) -> dict[str, Any]:
    """Return the paper's own numbers: ``rows`` (Table I by experiment) and settings of its figures."""
    with open(path, "rb") as file:
        return tomllib.load(file)


def table_one(
    chosen: Mapping[str, Sequence[StoredRun]], paper: Mapping[str, Any], experiments: Mapping[str, RunSpec],
    reg: str | None = None
) -> pd.DataFrame:
    """Return Table I in the paper's layout: for each row the paper's number, ours, and the difference.

    ``chosen`` gives the records of each experiment by name. Several records are repeats with other seeds: ours is their
    mean, with columns of the 95 % confidence interval. An experiment without a record keeps its row, with ours empty.
    Ours are of the refined atoms where a record has them. The column ``differences`` states the settings in which the
    records differ from ``experiments``, ``records`` holds the identities of the records of a row. ``reg`` is the
    regulariser of ours where it differs from the paper's.
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
            "records": " ".join(run.identity for run in runs),
        }
        for score in HEADLINES:
            values = np.array([run.metrics.get(best_name(score, run.metrics), math.nan) for run in runs], float)
            low, high = interval_95(values, score.name)
            ours = float(values.mean()) if len(values) else math.nan
            entry |= {
                f"{score.name}_paper": row[score.name],
                f"{score.name}_ours": ours,
                f"{score.name}_difference": ours - row[score.name],
                f"{score.name}{LOW95}": low,
                f"{score.name}{HIGH95}": high,
            }
        rows.append(entry | {"differences": differences(runs, experiments[name]) if runs else ""})
    return pd.DataFrame(rows)


def table_one_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table I with formatted numbers: three columns (paper, ours, difference) for each score.

    Ours is followed by the 95 % confidence interval of the mean where it is of several seeds.
    """
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
    for score in HEADLINES:
        intervals = [interval_text(score, low, high) for low, high in
                     zip(table[f"{score.name}{LOW95}"], table[f"{score.name}{HIGH95}"], strict=True)]
        shown[f"{score.heading}: paper"] = [score.text(value, "–") for value in table[f"{score.name}_paper"]]
        shown[f"{score.heading}: ours"] = [
            score.text(value, "–") + interval
            for value, interval in zip(table[f"{score.name}_ours"], intervals, strict=True)
        ]
        shown[f"{score.heading}: difference"] = [
            number_text(value, score.digits, sign=True) for value in table[f"{score.name}_difference"]
        ]
    shown["other settings (the experiment's)"] = table["differences"]
    return shown


def table_one_values(table: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers behind :func:`table_one_text`, column by column, to sort by."""
    values = table_one_text(table)
    values["dose (e/Å²)"] = table["total_dose_e_A2"].astype(float)
    values["span"] = table["tilt_span_deg"].astype(float)
    for score in HEADLINES:
        for kind in ("paper", "ours", "difference"):
            values[f"{score.heading}: {kind}"] = table[f"{score.name}_{kind}"].astype(float)
    return values
