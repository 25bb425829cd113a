"""The first line of a report: how many records of which samples, doses and priors, and the range of their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aetlab.reporting.tables import best_column, dose_text

#: Values that are named one by one; of more the number is given.
_NAMED = 4


def describe_records(frame: pd.DataFrame) -> str:
    """Return one line on the table of records ``frame``."""
    if frame.empty:
        return "No records."
    parts = [f"{_count(len(frame), 'record')} of {_listed(frame['sample'].unique(), 'sample')}"]
    parts.append(_listed(frame["reg"].unique(), "prior"))
    doses = sorted(frame["dose_e_A2"].unique())
    words = ["no noise" if math.isinf(dose) else dose_text(dose) for dose in doses]
    parts.append(_listed(words, "dose") + (" in e/Å²" if len(doses) <= _NAMED else ""))
    line = "; ".join(parts)
    if "position_error_pm" in frame and frame["position_error_pm"].notna().any():
        errors = best_column(frame, "position_error_pm")
        low, high = errors.min(), errors.max()
        line += f"; position error {low:.2f} pm" if low == high else f"; position errors {low:.2f} to {high:.2f} pm"
    return f"{line}; computed on {', '.join(sorted(set(frame['device'])))}."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _listed(values: Sequence[str] | np.ndarray, noun: str) -> str:
    """Return the number of ``values`` and, if they are few, the values."""
    names = f" ({', '.join(map(str, values))})" if len(values) <= _NAMED else ""
    return f"{_count(len(values), noun)}{names}"
