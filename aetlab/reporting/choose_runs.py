"""Choose runs of an outputs folder by the starts of their ids and by expressions, also runs without a usable record."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from aetlab.reporting.selection import SelectError, select_rows
from aetlab.reporting.stored_run import load_record
from aetlab.reporting.tables import summary_frame
from aetlab.store.listing import COMPLETE, STATUSES, Entry
from aetlab.store.record import RecordError

_START_OF_ID = re.compile(r"[0-9a-f]{1,16}")


def choose_runs(entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """Return the entries that match all ``words``.

    A word is the start of an id, or an expression (:mod:`aetlab.reporting.selection`) of the columns of
    :func:`aetlab.load_records` and ``status``. Several starts of ids select the runs of any of them. A run without a
    usable record has the columns ``record`` and ``status`` only, and matches no expression of others.

    Raises
    ------
    SelectError
        For an expression that cannot be evaluated, and for a start of no run's id.
    """
    chosen = list(entries)
    if starts := [word for word in words if _START_OF_ID.fullmatch(word)]:
        for start in starts:
            if not any(entry.id.startswith(start) for entry in entries):
                raise SelectError(f"no run's id starts with {start!r}")
        chosen = [entry for entry in chosen if entry.id.startswith(tuple(starts))]
    expressions = [word for word in words if not _START_OF_ID.fullmatch(word)]
    if not expressions or not entries:
        return chosen
    complete, others = _frame_of_complete(entries), _frame_of_others(entries)
    for expression in expressions:
        kept = set(complete["record"][select_rows(complete, expression)]) if len(complete) else set()
        try:
            kept |= set(others["record"][select_rows(others, expression)])
        except SelectError:
            if not len(complete):
                raise
        chosen = [entry for entry in chosen if entry.id in kept]
    return chosen


def _frame_of_complete(entries: Sequence[Entry]) -> pd.DataFrame:
    runs = []
    for entry in entries:
        if entry.status == COMPLETE:
            try:
                runs.append(load_record(entry.place))
            except RecordError:  # damaged after it was listed
                continue
    return summary_frame(runs).assign(status=pd.Categorical([COMPLETE] * len(runs), STATUSES))


def _frame_of_others(entries: Sequence[Entry]) -> pd.DataFrame:
    others = [(entry.id, entry.status) for entry in entries if entry.status != COMPLETE]
    frame = pd.DataFrame(others, columns=["record", "status"], dtype=object)
    return frame.assign(status=pd.Categorical(frame["status"], STATUSES))
