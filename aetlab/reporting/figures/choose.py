"""Figures of any set of records by sample: images, convergence, panels, accuracy, refined atoms, slices at depths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

import pandas as pd

from aetlab.reporting.columns import sample_name, settings_row
from aetlab.reporting.drawn import sample_key
from aetlab.reporting.figures.convergence import timing_notes
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.labels import common_settings, dose_label, run_labels, setting_label
from aetlab.reporting.figures.panels import MAX_COLUMNS
from aetlab.reporting.figures.quality import find_lines
from aetlab.reporting.figures.refined import MAX_RECORDS, has_refined
from aetlab.reporting.figures.seams import SEAM
from aetlab.reporting.figures.style import CYCLE
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.studies import group_but_for, group_repeats
from aetlab.reporting.tables import summary_frame

#: Settings that a change of dose may change as well: the weight of a regulariser can follow it.
_WITH_DOSE = ("dose.total_e_A2", "reg.weight", "seed")
#: Records of one figure of accuracy.
_ACCURACY_RUNS = 6
#: The only sample whose figures do not state its name: that of the paper.
_NEEDLE = "needle"


def common_tasks(
    runs: Sequence[StoredRun], frame: pd.DataFrame, shown: set[frozenset[str]], by: str
) -> list[FigureTask]:
    """Return for each sample its images, the convergence of its records, and panels of records that differ in dose.

    ``by`` is the column of ``frame`` (the table of all records) in which the records of one group of panels differ, by
    default the dose. Panels whose records are all in one figure of ``shown`` (sets of identities) are left out. Records
    without a truth are never in one group with others, and have figures of slices at several depths.
    """
    tasks: list[FigureTask] = []
    for sample in _by_sample(runs):
        tasks += _sample_tasks(sample) + _convergence_tasks(sample, frame)
    for truth in (True, False):
        own = [group[0] for group in group_repeats([run for run in runs if run.has_truth == truth])]
        for group in _groups(own, frame, by):
            n_columns = MAX_COLUMNS if len(group) <= MAX_COLUMNS else MAX_COLUMNS - 1
            parts = [group[start : start + n_columns] for start in range(0, len(group), n_columns)]
            tasks += [
                _panels(part, frame, by)
                for part in parts
                if not any({run.identity for run in part} <= figure for figure in shown)
            ]
            if not truth:
                tasks.append(_depths(parts[0], frame, by))
    return tasks


def _name(kind: str, run: StoredRun) -> str:
    """Return the name of the file of a figure: sample, kind, and the first digits of its first record."""
    sample = re.sub(r"\W+", "_", PurePath(sample_name(run.spec)).stem).strip("_")
    return f"{'' if sample == _NEEDLE else f'{sample}_'}{kind}_{run.identity[:8]}"


def _title(text: str, run: StoredRun) -> str:
    """Return the title of a figure, which begins with the sample's name."""
    sample = sample_name(run.spec)
    return text if sample == _NEEDLE else f"{sample}: {text[0].lower()}{text[1:]}"


def _sample_tasks(sample: Sequence[StoredRun]) -> list[FigureTask]:
    """Return the figures of a sample that its first record stands for; the needle's are those of the paper."""
    first = sample[0]
    if sample_name(first.spec) == _NEEDLE:
        return []
    images = FigureTask(name=_name("images", first), kind="images", runs=(first,),
                        title=_title("From atoms to images" if first.has_truth else "Atoms, reconstruction and images",
                                     first))
    if first.has_truth:
        return [images]
    return [images, FigureTask(name=_name("geometry", first), kind="geometry", runs=(first,),
                               title=_title("Geometry of the experiment", first))]


def _convergence_tasks(sample: Sequence[StoredRun], frame: pd.DataFrame) -> list[FigureTask]:
    """Return figures of convergence with one colour for each record."""
    labels = run_labels(frame[frame["record"].isin([run.identity for run in sample])])
    size = -(-len(sample) // -(-len(sample) // len(CYCLE)))  # of equally full figures
    parts = [sample[start : start + size] for start in range(0, len(sample), size)]
    return [
        FigureTask(
            name=_name("convergence", part[0]),
            kind="convergence",
            title=_title(f"Convergence{f' ({i} of {len(parts)})' if len(parts) > 1 else ''}", part[0]),
            runs=tuple(part),
            labels=tuple(labels[run.identity] for run in part),
        )
        for i, part in enumerate(parts, 1)
    ]


def _panels(part: Sequence[StoredRun], frame: pd.DataFrame, by: str) -> FigureTask:
    return FigureTask(
        name=_name("panels" if len(part) == 1 else "dose" if by == "dose_e_A2" else by, part[0]),
        kind="panels",
        title=_title(common_settings(part[0].spec, by if len(part) > 1 else ""), part[0]),
        runs=tuple(part),
        labels=tuple(setting_label(run.spec, by, frame, run.identity) for run in part),
    )


def _depths(part: Sequence[StoredRun], frame: pd.DataFrame, by: str) -> FigureTask:
    settings = common_settings(part[0].spec, by if len(part) > 1 else "")
    return FigureTask(
        name=_name("depths", part[0]),
        kind="depths",
        title=_title(f"Slices at several depths; {settings}", part[0]),
        runs=tuple(part),
        labels=tuple(setting_label(run.spec, by, frame, run.identity) for run in part),
        letters=tuple("abcd"[: len(part)]),
    )


def accuracy_tasks(runs: Sequence[StoredRun], frame: pd.DataFrame) -> list[FigureTask]:
    """Return figures of errors, error bars and local structure, each of records of one sample and size."""
    labels = run_labels(frame)
    structured = [run for run in runs if any(name.startswith("structure/") for name in run.array_names)]
    parts = [group[start : start + _ACCURACY_RUNS] for group in _by_sample(structured)
             for start in range(0, len(group), _ACCURACY_RUNS)]
    return [
        FigureTask(
            name=_name("accuracy", part[0]),
            kind="accuracy",
            title=_title("Error bars, scores against position, and local structure" if part[0].has_truth
                         else "Local structure of the traced atoms", part[0]),
            runs=tuple(part),
            labels=tuple(labels[run.identity] for run in part),
        )
        for part in parts
    ]


def quality_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return one figure for each set of records that differ in their iterations, and in their method."""
    tasks = []
    for lines in find_lines(runs):
        drawn = [(label, run) for label, line in lines for run in line]
        first = drawn[0][1]
        tasks.append(FigureTask(name=_name("quality", first), kind="quality", runs=tuple(run for _, run in drawn),
                                title=_title(f"Quality against time; {dose_label(first.spec)}", first),
                                labels=tuple(label for label, _ in drawn), notes=timing_notes([r for _, r in drawn])))
    return tasks


def seam_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return one figure for the records of each sample and size that were joined of tiles and have a score."""
    return _task_of_each_sample("seams", "Scores at the seams",
                                [run for run in runs if f"{SEAM}/edges_A" in run.array_names])


def refined_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return one figure for the records of each sample and size that hold refined atoms."""
    return _task_of_each_sample("refined", "Refined and traced atoms", [run for run in runs if has_refined(run)])


def _task_of_each_sample(kind: str, title: str, runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return one figure of ``kind`` for the ``runs`` of each sample and size."""
    tasks = []
    for group in _by_sample(runs):
        labels, part = run_labels(summary_frame(group)), group[:MAX_RECORDS]
        tasks.append(FigureTask(name=_name(kind, part[0]), kind=kind, title=_title(title, part[0]), runs=tuple(part),
                                labels=tuple(labels[run.identity] for run in part)))
    return tasks


def validation_tasks(runs: Sequence[StoredRun]) -> list[FigureTask]:
    """Return the figures of each validation: fit to the images, worst residuals, halves, chemistry."""
    titles = {"fit": "Model against images, and alignment", "residuals": "Images that fit worst",
              "halves": "Two independent halves", "chemistry": "Distances and coordination"}
    present = {"fit": "validation/images/held_out", "residuals": "validation/images/worst",
               "halves": "validation/fsc/all", "chemistry": "validation/chemistry/distance_edges_A"}
    return [FigureTask(name=_name(kind, run), kind=kind, title=_title(title, run), runs=(run,))
            for run in runs for kind, title in titles.items() if present[kind] in run.array_names]


def _by_sample(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """Return the first record of each set of repeats, grouped by sample, size, and whether there is a truth."""
    groups: dict[tuple[bool, str, str, str, str], list[StoredRun]] = {}
    for truth in (True, False):
        for repeats in group_repeats([run for run in runs if run.has_truth == truth]):
            groups.setdefault(sample_key(repeats[0]), []).append(repeats[0])
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
