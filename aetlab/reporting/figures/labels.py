"""Short texts that name records in figures, legends and lists."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from aetlab.methods.regularisers import REGULARISERS
from aetlab.reporting.columns import settings_row
from aetlab.reporting.tables import dose_text
from aetlab.spec import RunSpec, tilt_span_deg

#: Settings that a label states where they differ from those of most records.
_LABELLED: dict[str, str | dict[Any, str]] = {
    "n_tilts": "{} tilts",
    "n_defoci": "{} defoci",
    "missing_wedge_deg": "{:g}° wedge",
    "n_binned_layers": "{} layers per slice",
    "vacancies": "vacancies {}",
    "scale": "{}",
    "simulate": "from {}",
    "microscope": "{}",
    "rotation": "{} rotation",
    "align": {True: "aligned", False: "not aligned"},
    "refine": {"none": "not refined", "atoms": "refined"},
    "n_iterations": "{} iterations",
    "seed": "seed {}",
}


def dose_label(spec: RunSpec) -> str:
    """Return the total dose as a heading."""
    return "infinite dose" if math.isinf(spec.dose.total_e_A2) else f"{dose_text(spec.dose.total_e_A2)} e/Å²"


def tilts_label(spec: RunSpec) -> str:
    """Return the numbers of tilts and defoci as a heading."""
    row = settings_row(spec)
    return f"{row['n_tilts']} tilts × {row['n_defoci']} {'defocus' if row['n_defoci'] == 1 else 'defoci'}"


def span_label(spec: RunSpec) -> str:
    """Return the tilt range as a heading."""
    return f"tilts over {tilt_span_deg(spec.tilts, spec.wedge):g}°"


def reg_label(spec: RunSpec) -> str:
    """Return the name of the regulariser as a heading."""
    return REGULARISERS[spec.reg.kind].label


def layers_label(spec: RunSpec) -> str:
    """Return the number of binned layers as a heading."""
    return f"$N_B$ = {spec.binning.n_layers}"


def dose_and_tilts_label(spec: RunSpec) -> str:
    """Return dose, tilts and defoci as a heading."""
    return f"{dose_label(spec)}, {tilts_label(spec)}"


def setting_label(spec: RunSpec, name: str, frame: pd.DataFrame, identity: str) -> str:
    """Return the value of the column ``name`` of ``frame`` for the record ``identity`` as a heading."""
    if name == "dose_e_A2":
        return dose_label(spec)
    if name == "reg":
        return reg_label(spec)
    return f"{name} = {frame.loc[frame['record'] == identity, name].iloc[0]}"


def common_settings(spec: RunSpec, but: str) -> str:
    """Return regulariser, tilts, tilt range and dose in one line, without the column ``but``."""
    parts = {
        "reg": f"regulariser: {reg_label(spec)}",
        "n_tilts": tilts_label(spec),
        "tilt_span_deg": span_label(spec),
        "dose_e_A2": dose_label(spec),
    }
    return "; ".join(text for name, text in parts.items() if name != but)


def run_labels(frame: pd.DataFrame) -> dict[str, str]:
    """Return a label for each record by identity: dose, regulariser, and settings that differ from most records.

    The sample comes first where the records have several.
    """
    labels: dict[str, str] = {}
    if frame.empty:
        return labels
    usual = {name: frame[name].mode().iloc[0] for name in _LABELLED}
    names = frame["sample"].astype(str)
    short = names.str.replace(r" [0-9a-f]{6}$", "", regex=True)
    names = short if short.nunique() == names.nunique() else names
    for row, name in zip(frame.to_dict("records"), names, strict=True):
        parts = [name] if names.nunique() > 1 else []
        parts += ["no noise" if math.isinf(row["dose_e_A2"]) else f"{dose_text(row['dose_e_A2'])} e/Å²", row["reg"]]
        parts += [_value_label(text, row[name]) for name, text in _LABELLED.items() if row[name] != usual[name]]
        labels[row["record"]] = ", ".join(parts)
    counts = Counter(labels.values())
    return {record: f"{label} ({record[:6]})" if counts[label] > 1 else label for record, label in labels.items()}


def _value_label(text: str | dict[Any, str], value: Any) -> str:
    """Return the label of ``value``: ``text`` with it filled in, or its own text."""
    return text.format(value) if isinstance(text, str) else text[value]
