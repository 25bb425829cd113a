"""Figures of any set of records: convergence, panels, accuracy, refined atoms, and the images of measured series."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from aetlab.reporting.columns import settings_row
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.labels import common_settings, run_labels, setting_label
from aetlab.reporting.figures.panels import MAX_COLUMNS
from aetlab.reporting.figures.refined import MAX_RECORDS, has_refined
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.studies import group_but_for, group_repeats
from aetlab.reporting.tables import summary_frame

#: Settings that a change of dose may change as well: the weight of a regulariser can follow it.
_WITH_DOSE = ("dose.total_e_A2", "reg.weight", "seed")
#: Records of one figure of accuracy.
_ACCURACY_RUNS = 6


def common_tasks(
    runs: Sequence[StoredRun], frame: pd.DataFrame, shown: set[frozenset[str]], by: str
) -> list[FigureTask]:
    """Return the convergence of all records, and panels for each group of records that differ in dose only.

    ``by`` is the column of ``frame`` (the table of all records) in which the records of one group differ, by default
    the dose. Panels whose records are all in one figure of ``shown`` (sets of identities) are left out. Records without
    a truth are never in one group with others, and have figures of their images and of slices at several depths.
    """
    labels = run_labels(frame)
    first = [group[0] for group in group_repeats(runs)]
    convergence = FigureTask(
        name="convergence",
        kind="convergence",
        title="Convergence of all records",
        runs=tuple(first),
        labels=tuple(labels[run.identity] for run in first),
    )
    tasks = [convergence] if first else []
    for truth in (True, False):
        own = [group[0] for group in group_repeats([run for run in runs if run.has_truth == truth])]
        for group in _groups(own, frame, by):
            n_columns = MAX_COLUMNS if len(group) <= MAX_COLUMNS else MAX_COLUMNS - 1
            parts = [group[start : start + n_columns] for start in range(0, len(group), n_columns)]
            tasks += [
                _panels(part, labels, frame, by)
                for part in parts
                if not any({run.identity for run in part} <= figure for figure in shown)
            ]
            if not truth:
                tasks += _measured_tasks(parts[0], labels, frame, by)
    return tasks


def _panels(part: Sequence[StoredRun], labels: dict[str, str], frame: pd.DataFrame, by: str) -> FigureTask:
    return FigureTask(
        name=f"{'dose' if by == 'dose_e_A2' else by}_{part[0].identity[:8]}",
        kind="panels",
        title=labels[part[0].identity] if len(part) == 1 else common_settings(part[0].spec, by),
        runs=tuple(part),
        labels=tuple(setting_label(run.spec, by, frame, run.identity) for run in part),
    )


def _measured_tasks(part: Sequence[StoredRun], labels: dict[str, str], frame: pd.DataFrame,
                    by: str) -> list[FigureTask]:
    """Return slices at several depths of records without a truth, and geometry and images of the first of them."""
    first = part[0]
    name, label = first.identity[:8], labels[first.identity]
    return [
        FigureTask(
            name=f"depths_{name}",
            kind="depths",
            title=f"Slices at several depths: {label if len(part) == 1 else common_settings(first.spec, by)}",
            runs=tuple(part),
            labels=tuple(setting_label(run.spec, by, frame, run.identity) for run in part),
            letters=tuple("abcd"[: len(part)]),
        ),
        FigureTask(name=f"geometry_{name}", kind="geometry", title=f"Geometry of the experiment: {label}",
                   runs=(first,)),
        FigureTask(name=f"images_{name}", kind="images", title=f"Atoms, reconstruction and images: {label}",
                   runs=(first,)),
    ]


def accuracy_tasks(runs: Sequence[StoredRun], frame: pd.DataFrame) -> list[FigureTask]:
    """Return figures of errors, error bars and local structure, each of records of one sample and size."""
    labels = run_labels(frame)
    parts = [group[start : start + _ACCURACY_RUNS] for group in _by_sample(runs)
             for start in range(0, len(group), _ACCURACY_RUNS)]
    return [
        FigureTask(
            name=f"accuracy_{part[0].identity[:8]}",
            kind="accuracy",
            title="Error bars, scores against position, and local structure" if part[0].has_truth
            else "Local structure of the traced atoms",
            runs=tuple(part),
            labels=tuple(labels[run.identity] for run in part),
        )
        for part in parts
    ]


def refined_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return one figure for the records of each sample and size that hold refined atoms."""
    tasks = []
    for group in _by_sample([run for run in runs if has_refined(run)]):
        labels = run_labels(summary_frame(group))
        part = group[:MAX_RECORDS]
        tasks.append(
            FigureTask(
                name=f"refined_{part[0].identity[:8]}",
                kind="refined",
                title="Refined and traced atoms",
                runs=tuple(part),
                labels=tuple(labels[run.identity] for run in part),
            )
        )
    return tasks


def _by_sample(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """Return the first record of each set of repeats, grouped by sample, size, and whether there is a truth."""
    groups: dict[tuple[bool, str, str, str], list[StoredRun]] = {}
    for truth in (True, False):
        for repeats in group_repeats([run for run in runs if run.has_truth == truth]):
            spec = repeats[0].spec
            sample = spec.sample.digest or spec.sample.path
            groups.setdefault((truth, spec.sample.kind, sample, spec.scale.name), []).append(repeats[0])
    return list(groups.values())


def _groups(runs: Sequence[StoredRun], frame: pd.DataFrame, by: str) -> list[list[StoredRun]]:
    """Return groups of records that differ in the column ``by`` only, each in the order of that column."""
    if by == "dose_e_A2":
        groups = group_but_for(runs, lambda name: name in _WITH_DOSE)
        return [sorted(group, key=lambda run: -run.spec.dose.total_e_A2) for group in groups]
    rows = {run.identity: settings_row(run.spec) for run in runs}
    others: dict[tuple[str, ...], list[StoredRun]] = {}
    for run in runs:
        rest = tuple(
            f"{name}={value}" for name, value in rows[run.identity].items() if name not in (by, "n_iterations")
        )
        others.setdefault(rest if by in rows[run.identity] else (), []).append(run)
    place = {identity: i for i, identity in enumerate(frame.sort_values(by, kind="stable")["record"])}
    return [sorted(group, key=lambda run: place[run.identity]) for group in others.values()]
