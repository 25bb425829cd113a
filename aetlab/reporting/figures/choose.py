"""Which figures a set of runs gives: the paper's where its experiments are answered, and those that any runs give.

Each figure is a task of plain values, so that several processes can draw at once; a figure that cannot be made is
named with its reason and stops no other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from aetlab.reporting.experiments import Study, departures, group_but_for, group_repeats
from aetlab.reporting.figures.accuracy import plot_accuracy
from aetlab.reporting.figures.convergence import plot_binning, plot_convergence, timed_together
from aetlab.reporting.figures.depth import plot_depths
from aetlab.reporting.figures.geometry import plot_geometry
from aetlab.reporting.figures.images import plot_images
from aetlab.reporting.figures.panels import MAX_COLUMNS, plot_panels
from aetlab.reporting.figures.vacancies import plot_vacancies
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import dose_text, settings_row
from aetlab.spec import RunSpec, tilt_span_deg

#: Settings that a dose changes by itself: the weight of a regulariser may follow it.
_WITH_DOSE = ("dose.total_e_A2", "reg.weight", "seed")
_REG_NAMES = {"tv": "total variation", "lasso": "Lasso", "pos": "real, positive", "none": "none",
              "atoms": "atoms"}


@dataclass(frozen=True)
class FigureTask:
    """A figure to make: ``draw`` takes ``runs``, and ``labels`` and ``letters`` where it has any."""

    name: str
    title: str
    caption: str
    draw: Callable[..., Figure]
    runs: tuple[StoredRun, ...]
    labels: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    columns: bool = False
    notes: tuple[str, ...] = field(default=())

    def make(self) -> Figure:
        """The figure."""
        if self.columns:
            return (
                self.draw(self.runs, self.labels, self.letters) if self.letters else self.draw(self.runs, self.labels)
            )
        return self.draw(*self.runs)


def dose_label(spec: RunSpec) -> str:
    """Total dose for a heading."""
    return "infinite dose" if math.isinf(spec.dose.total_e_A2) else f"{dose_text(spec.dose.total_e_A2)} e/Å²"


def tilts_label(spec: RunSpec) -> str:
    """Tilts and defoci for a heading."""
    row = settings_row(spec)
    return f"{row['n_tilts']} tilts × {row['n_defoci']} {'defocus' if row['n_defoci'] == 1 else 'defoci'}"


def span_label(spec: RunSpec) -> str:
    """Tilt range for a heading."""
    return f"tilts over {tilt_span_deg(spec.tilts, spec.wedge):g}°"


def reg_label(spec: RunSpec) -> str:
    """Regulariser for a heading."""
    return _REG_NAMES[spec.reg.kind]


#: The paper's panel figures: experiments of the columns, what heads them, and the title.
_PANELS: dict[int, tuple[tuple[str, ...], Callable[[RunSpec], str], str]] = {
    4: (("fig4a", "fig4b", "fig4c"), dose_label, "Reconstructions at three doses"),
    6: (("fig6a", "fig6b", "fig6c"), tilts_label, "Tilts against defoci at one total dose"),
    7: (("fig7a", "fig7b", "fig7c"), span_label, "Missing wedge"),
    8: (("fig8a", "fig8b", "fig8c"), reg_label, "Regularisers"),
}
_PANEL_CAPTION = (
    "From top to bottom: 1 Å slice across the tilt axis where the needle is thickest (square root of the "
    "potential from 0 to 80 V); traced atoms of that slice with tetrahedra whose centre lies in it; site "
    "intensities of the found atoms by true species, with the threshold between the species given; 3D "
    "position errors of the found atoms with the RMS error along x, y and z."
)


def paper_tasks(study: Study, experiments: Mapping[str, RunSpec], suffix: str) -> tuple[list[FigureTask], list[str]]:
    """Figures 1 to 11 as far as ``study`` answers their experiments, and a line on each part that is missing."""
    tasks: list[FigureTask] = []
    missing: list[str] = []

    def add(
        number: int,
        title: str,
        caption: str,
        draw: Callable[..., Figure],
        names: Sequence[str],
        *,
        label: Callable[[RunSpec], str] | None = None,
        letters: Sequence[str] = (),
        least: int = 1,
    ) -> None:
        found = [(name, run) for name in names if (run := study.one(name)) is not None]
        absent = [name for name in names if study.one(name) is None]
        if absent:
            missing.append(f"Figure {number}: no record of {', '.join(absent)} in study {study.name}")
        if len(found) < least:
            return
        runs = tuple(run for _, run in found)
        tasks.append(
            FigureTask(
                name=f"figure_{number:02d}{suffix}",
                title=f"Figure {number}. {title}",
                caption=caption,
                draw=draw,
                runs=runs,
                labels=tuple(label(run.spec) for run in runs) if label else (),
                letters=tuple(letter for letter, name in zip(letters, names, strict=False) if name not in absent),
                columns=label is not None,
                notes=_departures(found, experiments) + (_timing(runs) if draw is _binning else ()),
            )
        )

    any_run = next((name for name in ("fig4c", "fig4b", "fig4a") if study.one(name)), None)
    if any_run:
        add(
            1,
            "Geometry of the experiment",
            "Oblique view of the tilted needle with the slices of the multislice model and "
            "the defocused planes (a), and ideal images at two tilts of the series (b).",
            plot_geometry,
            [any_run],
        )
        add(
            2,
            "From atoms to images",
            "Slice of atoms across the beam (a), projected potentials (b, c), ideal images at the "
            "greatest defocus (d, e), and as recorded at the dose of one image (f, g).",
            plot_images,
            [any_run],
        )
    add(
        3,
        "Slices at several depths",
        "1 Å slices across the beam (square root of the potential from 0 to 80 V); the tilt axis is "
        "vertical. Arrows mark the height of the slices in figure 4.",
        plot_depths,
        ("fig3a", "fig3b", "fig3c"),
        label=lambda spec: f"{dose_label(spec)}, {tilts_label(spec)}",
        letters="abc",
    )
    for number, (names, label, title) in _PANELS.items():
        add(number, title, _PANEL_CAPTION, plot_panels, names, label=label, letters="abc")
    add(
        5,
        "Convergence at three doses",
        "Cost against iteration.",
        plot_convergence,
        ("fig4a", "fig4b", "fig4c"),
        label=dose_label,
    )
    add(
        9,
        "Vacancies",
        "Cuts through the middle along (top) and across (bottom) the tilt axis: true potential with vacancies (a), "
        "reconstruction of the whole needle (b) and of the one with vacancies (c); rings mark the removed atoms.",
        plot_vacancies,
        ("fig9b", "fig9c"),
        least=2,
    )
    binned = sorted(
        (name for name in experiments if name.startswith("fig10_nb")),
        key=lambda name: experiments[name].binning.n_layers,
    )
    add(
        10,
        "Convergence for binned slices",
        "Cost against iteration.",
        plot_convergence,
        binned,
        label=lambda spec: f"$N_B$ = {spec.binning.n_layers}",
    )
    add(
        11,
        "What binning saves and costs",
        "Median time of an iteration saved (left) and relative error of the potential in the scored "
        "part (right) against the layers binned; the dotted line is the paper's bound on a slice's thickness.",
        _binning,
        binned,
        label=lambda spec: "",
        least=2,
    )
    return sorted(tasks, key=lambda task: task.name), missing


def _binning(runs: Sequence[StoredRun], _labels: Sequence[str]) -> Figure:
    return plot_binning(runs)


def _timing(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    if len({run.environment.get("processor") for run in runs}) > 1:
        return ("the runs were timed on different machines, so their times do not compare",)
    return ("some runs were under way at the same time, so their times do not compare",) if timed_together(runs) else ()


def _departures(found: Sequence[tuple[str, StoredRun]], experiments: Mapping[str, RunSpec]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {setting} is {own} instead of {asked}"
        for name, run in found
        for setting, (asked, own) in departures(run, experiments[name]).items()
    )


def common_tasks(
    runs: Sequence[StoredRun], frame: pd.DataFrame, shown: set[frozenset[str]], by: str
) -> list[FigureTask]:
    """Figures of any runs: convergence of all, and one set of panels for each group of runs that differ in dose alone.

    With ``by``, a column of ``frame`` (the summary table), panels are grouped to differ in that column instead.
    Panels whose runs are all in one figure of ``shown`` (sets of identities) already are left out.
    """
    labels = run_labels(frame)
    first = [group[0] for group in group_repeats(runs)]
    tasks = (
        [
            FigureTask(
                name="convergence",
                title="Convergence of all runs",
                caption="Cost against iteration, one line a run.",
                draw=plot_convergence,
                runs=tuple(first),
                labels=tuple(labels[run.identity] for run in first),
                columns=True,
            )
        ]
        if first
        else []
    )
    for group in _groups(first, frame, by):
        for start in range(0, len(group), MAX_COLUMNS - 1 if len(group) > MAX_COLUMNS else MAX_COLUMNS):
            part = group[start : start + (MAX_COLUMNS - 1 if len(group) > MAX_COLUMNS else MAX_COLUMNS)]
            if any({run.identity for run in part} <= figure for figure in shown):
                continue
            name = f"{'dose' if by == 'dose_e_A2' else by}_{part[0].identity[:8]}"
            tasks.append(
                FigureTask(
                    name=name,
                    title=f"{labels[part[0].identity] if len(part) == 1 else _common(part, by)}",
                    caption=_PANEL_CAPTION,
                    draw=plot_panels,
                    runs=tuple(part),
                    labels=tuple(_heading(run, frame, by) for run in part),
                    columns=True,
                )
            )
    return tasks


#: Runs that one figure of accuracy compares.
_ACCURACY_RUNS = 6


def accuracy_tasks(runs: Sequence[StoredRun], frame: pd.DataFrame) -> list[FigureTask]:
    """Figures of how far atoms can be trusted, for the runs of one sample and size together."""
    labels = run_labels(frame)
    groups: dict[tuple[str, str, str], list[StoredRun]] = {}
    for run in (group[0] for group in group_repeats(runs)):
        groups.setdefault((run.spec.sample.kind, run.spec.sample.path, run.spec.scale.name), []).append(run)
    parts = [group[start : start + _ACCURACY_RUNS] for group in groups.values()
             for start in range(0, len(group), _ACCURACY_RUNS)]
    return [
        FigureTask(
            name=f"accuracy_{part[0].identity[:8]}",
            title="Error bars, scores against place, and local structure",
            caption="|error| over standard error along each axis of the found atoms, beside the half-normal density "
            "that right error bars give (a): a tail beyond it means errors that a fit to one volume cannot see, such "
            "as the regulariser's. Scores with 95 % intervals against distance from the tilt axis and depth below the "
            "surface (b to e). Bond lengths, bond angles, coordination and pair distribution of the traced atoms, and "
            "of the true ones of the first run (f to i).",
            draw=plot_accuracy,
            runs=tuple(part),
            labels=tuple(labels[run.identity] for run in part),
            columns=True,
        )
        for part in parts
    ]


def _groups(runs: Sequence[StoredRun], frame: pd.DataFrame, by: str) -> list[list[StoredRun]]:
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


def _heading(run: StoredRun, frame: pd.DataFrame, by: str) -> str:
    if by == "dose_e_A2":
        return dose_label(run.spec)
    if by == "reg":
        return reg_label(run.spec)
    return f"{by} = {frame.loc[frame['record'] == run.identity, by].iloc[0]}"


def _common(runs: Sequence[StoredRun], by: str) -> str:
    spec = runs[0].spec
    parts = {
        "reg": f"regulariser: {reg_label(spec)}",
        "n_tilts": tilts_label(spec),
        "tilt_span_deg": span_label(spec),
        "dose_e_A2": dose_label(spec),
    }
    return "; ".join(text for name, text in parts.items() if name != by)


def run_labels(frame: pd.DataFrame) -> dict[str, str]:
    """A short label of each run by its identity: dose, regulariser, and how it differs from most runs of ``frame``."""
    labels: dict[str, str] = {}
    if frame.empty:
        return labels
    usual = {name: frame[name].mode().iloc[0] for name in _LABELLED}
    for row in frame.to_dict("records"):
        parts = ["no noise" if math.isinf(row["dose_e_A2"]) else f"{dose_text(row['dose_e_A2'])} e/Å²", row["reg"]]
        parts += [text.format(row[name]) for name, text in _LABELLED.items() if row[name] != usual[name]]
        labels[row["record"]] = ", ".join(parts)
    counts = Counter(labels.values())
    return {record: f"{label} ({record[:6]})" if counts[label] > 1 else label for record, label in labels.items()}


#: Settings that a label tells where they are not as in most runs.
_LABELLED = {
    "n_tilts": "{} tilts",
    "n_defoci": "{} defoci",
    "missing_wedge_deg": "{:g}° wedge",
    "n_binned_layers": "N_B {}",
    "vacancies": "vacancies {}",
    "sample": "{}",
    "scale": "{}",
    "simulate": "from {}",
    "microscope": "{}",
    "rotation": "{} rotation",
    "align": "aligned: {}",
    "refine": "refined: {}",
    "n_iterations": "{} iterations",
    "seed": "seed {}",
}
