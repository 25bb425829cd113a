"""Contents of a report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from aetlab.reporting.figures.make import MadeFigure
from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import RunSpec


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


def anchor(record: str) -> str:
    """Return the id of the details of a record on the page."""
    return f"run-{record}"


def row_anchor(record: str) -> str:
    """Return the id of the row of a record in the table of all records."""
    return f"row-{record}"
