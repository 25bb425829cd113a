"""Part of the report page that finds records by sample, prior, dose and words."""

from __future__ import annotations

import math

import pandas as pd

from aetlab.reporting import html
from aetlab.reporting.columns import SETTINGS
from aetlab.reporting.tables import dose_text

#: Columns that records are found by, with their labels.
_CHOICES = (("sample", "Sample"), ("reg", "Prior"), ("dose_e_A2", "Dose (e/Å²)"))


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
