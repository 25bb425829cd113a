"""Tables of records: one tidy row for each record, repeats averaged over seeds, and a short form for readers.

Units are in the column names. No physics is computed here: every number is read from a record.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from aetlab.core.files import StorageError
from aetlab.core.metrics import HEADLINES, Metric
from aetlab.reporting.columns import (
    HIGH95,
    LABELS,
    LOW95,
    SECONDS,
    SETTINGS,
    describe_columns,
    settings_columns,
    settings_row,
    truth_columns,
)
from aetlab.reporting.stored_run import StoredRun, read_runs
from aetlab.store.listing import own_settings

#: Order of the rows of a table of records.
_ORDER = ("scale", "sample", "reg", "dose_e_A2", "n_tilts", "missing_wedge_deg", "n_binned_layers", "vacancies", "seed",
          "record")
#: Scores of the paper's Table I that are never above 100.
_PERCENTAGES = {score.name for score in HEADLINES if score.unit == "%" and score.better == "higher"}
#: Settings that a table for readers shows even where all records agree, and those that it never shows.
_ALWAYS_SHOWN = ("dose_e_A2", "n_tilts", "n_defoci", "tilt_span_deg", "reg")
_NEVER_SHOWN = ("n_voxels", "missing_wedge_deg")

#: Title of a table of :func:`means_frame`.
MEANS = "Means over the seeds of records that differ in nothing else, with 95 % confidence intervals"


def load_records(outputs: Path | str) -> pd.DataFrame:
    """Return one row for each usable record under ``outputs``, sorted by settings; empty where there is none.

    Columns are ``record`` (identity of the run), settings (such as ``dose_e_A2``, ``n_tilts``, ``reg``, then all of
    them by their dotted names, such as ``reg.weight``), metrics by their names in the records (such as
    ``position_error_pm``), wall times (``seconds_STAGE``, ``seconds_total``), ``peak_memory_MB`` and ``device``.
    Metrics that need the truth are NaN for records without one, and are no columns where no record has one.
    ``frame.attrs["columns"]`` maps each column to its meaning and unit, and ``frame.attrs["problems"]`` holds one line
    on each record that cannot be used. :func:`~aetlab.reporting.columns.describe_columns` returns the description of
    the columns as a table.
    """
    if not Path(outputs).is_dir():
        raise StorageError(f"{outputs} cannot be read: there is no such folder")
    runs, problems = read_runs(Path(outputs))
    if problems:
        warnings.warn(f"{len(problems)} records or runs of {outputs} cannot be used and are left out; "
                      f"frame.attrs['problems'] names all, the first is: {problems[0]}", stacklevel=2)
    frame = summary_frame(runs)
    described = describe_columns(frame).to_dict("records")
    frame.attrs["columns"] = {row["column"]: f"{row['meaning']} ({row['unit']})" if row["unit"] != "1"
                              else row["meaning"] for row in described}
    frame.attrs["problems"] = problems
    return frame


def stage_seconds(run: StoredRun) -> dict[str, float]:
    """Return the wall time in s of each stage of the run, in the order they ran; empty where the record has none."""
    return {stage: float(value) for stage, value in run.environment.get("seconds_by_stage", {}).items()}


def device_name(run: StoredRun) -> str:
    """Return the device that computed the run."""
    return str(run.environment.get("device", "unknown"))


def summary_frame(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Return one row for each record, sorted by settings; columns are those of :func:`load_records`.

    A metric that a record lacks is NaN, and a metric that all records lack is no column.
    """
    runs = list(runs)
    frame = pd.DataFrame([_row(run) for run in runs])
    if frame.empty:
        return frame
    longest = sorted((run.metrics for run in runs), key=len, reverse=True)
    settings = settings_columns(frame)
    metrics = list(dict.fromkeys(name for own in longest for name in own if name not in settings))
    stages = list(dict.fromkeys(name for name in frame.columns if name.startswith(SECONDS)))
    stages.sort(key=lambda name: name == f"{SECONDS}total")
    frame = frame[["record", *settings, *metrics, *stages, "peak_memory_MB", "device"]]
    ascending = [column != "dose_e_A2" for column in _ORDER]
    return frame.sort_values(list(_ORDER), ascending=ascending, kind="stable", ignore_index=True)


def _row(run: StoredRun) -> dict[str, Any]:
    seconds = {f"{SECONDS}{stage.replace(' ', '_')}": value for stage, value in stage_seconds(run).items()}
    return {
        **run.metrics,  # a foreign record cannot replace another column by a metric of its name
        "record": run.identity,
        **settings_row(run.spec),
        **own_settings(run.all_settings),
        **seconds,
        f"{SECONDS}total": sum(seconds.values()),
        "peak_memory_MB": run.environment.get("peak_memory_MB", math.nan),
        "device": device_name(run),
    }


def fold_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return records that differ in the seed only as one row: mean, 95 % confidence interval (Student's t), and count.

    A numeric column ``name`` becomes ``name`` (the mean), ``name_low95`` and ``name_high95`` (the ends of
    :func:`interval_95`, NaN for a single record); ``n_seeds`` is the count and ``records`` holds the identities.
    Records without a truth are never averaged with others.
    """
    if frame.empty:
        return frame
    given = settings_columns(frame)
    settings = [column for column in given if column != "seed" and column not in LABELS]
    results = [column for column in frame.columns.difference(given, sort=False)
               if pd.api.types.is_numeric_dtype(frame[column])]
    without_truth = frame[truth_columns(frame)].isna().all(axis=1)
    varying = frame[_varying(frame, settings)].astype(str)
    key = pd.util.hash_pandas_object(varying.assign(_=without_truth), index=False)
    groups = frame.groupby(key.to_numpy(), sort=False)
    n_seeds, means = groups.size(), groups[results].mean()
    kinds = frame.loc[~key.duplicated(), settings].reset_index(drop=True)
    columns: dict[str, Any] = {name: kinds[name] for name in settings} | {"n_seeds": n_seeds.to_numpy()}
    columns["records"] = groups["record"].agg(" ".join).to_numpy()
    repeated = {i: group for i, (_, group) in enumerate(groups) if len(group) > 1} if n_seeds.max() > 1 else {}
    for name in results:
        low, high = np.full(len(n_seeds), math.nan), np.full(len(n_seeds), math.nan)
        for i, group in repeated.items():
            low[i], high[i] = interval_95(group[name].to_numpy(float), name)
        columns |= {name: means[name].to_numpy(), f"{name}{LOW95}": low, f"{name}{HIGH95}": high}
    return pd.DataFrame(columns)


def half_width_95(values: np.ndarray) -> float:
    """Return half the width of the 95 % confidence interval of the mean of ``values`` (n,); NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def interval_95(values: np.ndarray, name: str) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of the metric ``name`` (Student's t), cut to its range.

    A percentage lies between 0 and 100, and the mean of values that are never negative is at least 0. NaN for fewer
    than two values.
    """
    half, mean = half_width_95(values), float(np.mean(values)) if len(values) else math.nan
    low, high = mean - half, mean + half
    if (values >= 0).all():
        low = float(np.maximum(low, 0.0))
    return low, float(np.minimum(high, 100.0)) if name.removeprefix("refined_") in _PERCENTAGES else high


def interval_text(score: Metric, low: float, high: float) -> str:
    """Return an interval in parentheses with the digits of ``score``, behind a space; empty for NaN."""
    return "" if math.isnan(low) else f" ({score.text(low)} to {score.text(high)})"


def reader_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` formatted for readers: the settings that vary, the scores of the paper's Table I, and the time.

    Scores are those of the refined atoms where a record has them; the column ``atoms`` then says which they are of.
    Scores that no record has are no columns; a record without a truth has empty cells.
    """
    if frame.empty:
        return frame
    shown = pd.DataFrame({"record": frame["record"]}) if "record" in frame else pd.DataFrame(index=frame.index)
    for column in SETTINGS:
        name = column.name
        if name not in frame or name in _NEVER_SHOWN:
            continue
        if name in _ALWAYS_SHOWN or frame[name].nunique(dropna=False) > 1:
            shown[column.heading] = (
                [dose_text(value) for value in frame[name]]
                if name == "dose_e_A2"
                else [f"{value:.4g}" if isinstance(value, float) else value for value in frame[name]]
            )
    for name in _telling_apart(frame):
        shown[name] = ["" if value is None or value != value else str(value) for value in frame[name]]
    refined = _refined(frame)
    if refined.any():
        shown["atoms"] = np.where(refined, "refined", "traced")
    for score in HEADLINES:
        if score.name in frame:
            shown[score.heading] = [score.text(value) for value in best_column(frame, score.name)]
    if f"{SECONDS}total" in frame:
        shown["time (s)"] = [number_text(value, 1) for value in frame[f"{SECONDS}total"]]
    return shown


def means_frame(folded: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of :func:`fold_seeds` over several seeds formatted for readers, with 95 % intervals and counts.

    The table is empty if no records differ in the seed only.
    """
    if folded.empty or folded["n_seeds"].max() < 2:
        return pd.DataFrame()
    repeated = folded[folded["n_seeds"] > 1].reset_index(drop=True)
    shown = reader_frame(repeated)
    for score in HEADLINES:
        if score.heading in shown:
            lows, highs = (best_column(repeated, score.name, end) for end in (LOW95, HIGH95))
            shown[score.heading] = [text and text + interval_text(score, low, high)
                                    for text, low, high in zip(shown[score.heading], lows, highs, strict=True)]
    return shown.assign(seeds=repeated["n_seeds"])


def _telling_apart(frame: pd.DataFrame) -> list[str]:
    """Return the dotted names of the settings in which rows differ that agree in all columns of :data:`SETTINGS`."""
    given = settings_columns(frame)
    named = [column.name for column in SETTINGS if column.name in given]
    rows = pd.util.hash_pandas_object(frame[named].astype(str), index=False).to_numpy()
    others = frame[_varying(frame, [name for name in given if name not in named and name not in LABELS])].astype(str)
    return [str(name) for name in others.columns[(others.groupby(rows).nunique() > 1).any()]]


def _varying(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return those columns of ``names`` that hold more than one value, compared as text."""
    return [name for name in names if len(set(map(str, frame[name]))) > 1]


def reader_values(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers behind :func:`reader_frame`, column by column, to sort by."""
    values = reader_frame(frame)
    names = {"dose (e/Å²)": "dose_e_A2", "time (s)": f"{SECONDS}total", **{s.heading: s.name for s in HEADLINES}}
    for heading, name in names.items():
        if heading in values:
            values[heading] = best_column(frame, name).astype(float)
    return values


def best_column(frame: pd.DataFrame, name: str, suffix: str = "") -> pd.Series:
    """Return the column ``name`` with ``suffix`` of the best atoms of each row: the refined ones if there are any."""
    usual, refined = f"{name}{suffix}", f"refined_{name}{suffix}"
    return frame[usual].where(~_refined(frame), frame[refined]) if refined in frame else frame[usual]


def _refined(frame: pd.DataFrame) -> pd.Series:
    """Return whether each row has scores of refined atoms."""
    scores = [name for score in HEADLINES if (name := f"refined_{score.name}") in frame]
    return frame[scores].notna().any(axis=1)


def dose_text(dose_e_A2: float) -> str:
    """Return a dose in e/Å² for readers: ``∞``, or a whole number with spaces between thousands."""
    return "∞" if math.isinf(dose_e_A2) else f"{dose_e_A2:,.0f}".replace(",", " ")


def number_text(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """Return ``value`` with ``decimals``; an en dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{decimals}f}"
