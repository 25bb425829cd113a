"""Compare two records: settings that differ, and results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from aetlab.core.inert import one_line
from aetlab.reporting.selection import SelectError
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.table_files import to_markdown
from aetlab.reporting.tables import stage_seconds
from aetlab.spec.bind import unbind
from aetlab.store.listing import flatten


def find_run(runs: Sequence[StoredRun], start: str) -> StoredRun:
    """Return the record whose identity begins with ``start``; raises :class:`SelectError` unless there is one."""
    found = [run for run in runs if run.identity.startswith(start)]
    if len(found) != 1:
        raise SelectError(f"--compare {start!r} matches {len(found)} records"
                          + (f": {', '.join(run.identity for run in found)}" if found else
                             f"; the records are {', '.join(run.identity for run in runs)}"))
    return found[0]


def differing_settings(first: StoredRun, second: StoredRun) -> pd.DataFrame:
    """Return the settings in which two records differ: columns setting, first, second."""
    left, right = flatten(unbind(first.spec)), flatten(unbind(second.spec))
    names = [name for name in dict.fromkeys([*left, *right]) if left.get(name) != right.get(name)]
    return pd.DataFrame(
        {
            "setting": names,
            "first": [left.get(name, "–") for name in names],
            "second": [right.get(name, "–") for name in names],
        }
    )


def compared_results(first: StoredRun, second: StoredRun) -> pd.DataFrame:
    """Return the results of two records: columns result, first, second, change (second minus first).

    A result that one record lacks is NaN; scores that need a truth are absent where neither record has one.
    """
    left = first.metrics | {f"seconds_{stage}": value for stage, value in stage_seconds(first).items()}
    right = second.metrics | {f"seconds_{stage}": value for stage, value in stage_seconds(second).items()}
    names = list(dict.fromkeys([*left, *right]))
    frame = pd.DataFrame(
        {
            "result": names,
            "first": [left.get(name, math.nan) for name in names],
            "second": [right.get(name, math.nan) for name in names],
        }
    )
    frame["change"] = frame["second"] - frame["first"]
    return frame


def compare_text(first: StoredRun, second: StoredRun) -> str:
    """Return both comparisons as Markdown."""
    results = compared_results(first, second)
    for name in ("first", "second"):
        results[name] = ["" if math.isnan(value) else f"{value:.6g}" for value in results[name]]
    results["change"] = ["" if math.isnan(value) else f"{value:+.6g}" for value in results["change"]]
    settings = differing_settings(first, second)
    return (
        f"first: {one_line(first.identity)}\nsecond: {one_line(second.identity)}\n\n"
        + (to_markdown(settings) if len(settings) else "No setting differs.\n")
        + "\n"
        + to_markdown(results)
    )
