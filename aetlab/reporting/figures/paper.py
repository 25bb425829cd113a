"""Figures 1 to 11 of the paper, drawn from the records that answer its experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aetlab.reporting.figures.convergence import reconstruction_seconds, timing_notes
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.labels import (
    dose_and_tilts_label,
    dose_label,
    layers_label,
    reg_label,
    span_label,
    tilts_label,
)
from aetlab.reporting.figures.slices import PAPER_HIGH_V
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.studies import Study, departures, group_but_for
from aetlab.spec import RunSpec


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper: its number, kind and title, and the experiments that it shows.

    ``label`` heads the columns or names the lines. ``least`` is the smallest number of records that make a figure: a
    comparison needs two.
    """

    number: int
    kind: str
    title: str
    experiments: tuple[str, ...]
    label: Callable[[RunSpec], str] | None = None
    letters: str = ""
    least: int = 2


_DOSES = ("fig4a", "fig4b", "fig4c")
#: Figures with fixed experiments. Figures 1 and 2 show one of those of figure 4, and 10 and 11 all with binned layers.
_FIXED = (
    PaperFigure(3, "depths", "Slices at several depths", ("fig3a", "fig3b", "fig3c"), dose_and_tilts_label, "abc",
                least=1),
    PaperFigure(4, "panels", "Reconstructions at three doses", _DOSES, dose_label, "abc"),
    PaperFigure(5, "convergence", "Convergence at three doses", _DOSES, dose_label),
    PaperFigure(6, "panels", "Tilts against defoci at one total dose", ("fig6a", "fig6b", "fig6c"), tilts_label, "abc"),
    PaperFigure(7, "panels", "Missing wedge", ("fig7a", "fig7b", "fig7c"), span_label, "abc"),
    PaperFigure(8, "panels", "Regularisers", ("fig8a", "fig8b", "fig8c"), reg_label, "abc"),
    PaperFigure(9, "vacancies", "Vacancies", ("fig9b", "fig9c")),
)


def paper_tasks(study: Study, experiments: Mapping[str, RunSpec], suffix: str) -> tuple[list[FigureTask], list[str]]:
    """Return figures 1 to 11 as far as ``study`` answers their experiments, and a line on each missing part.

    ``suffix`` is added to the names of the figures.
    """
    tasks: list[FigureTask] = []
    missing: list[str] = []
    for figure in _figures(study, experiments):
        absent = [name for name in figure.experiments if study.one(name) is None]
        if absent:
            missing.append(f"Figure {figure.number}: no record of {', '.join(absent)} in study {study.name}")
        task = _task(figure, study, experiments, suffix)
        if len({run.identity for run in task.runs}) >= figure.least:
            tasks.append(task)
    return tasks, missing


def _figures(study: Study, experiments: Mapping[str, RunSpec]) -> list[PaperFigure]:
    any_dose = next(((name,) for name in reversed(_DOSES) if study.one(name)), ())
    binned = tuple(
        sorted(
            (name for name in experiments if name.startswith("fig10_nb")),
            key=lambda name: experiments[name].binning.n_layers,
        )
    )
    first = [
        PaperFigure(1, "geometry", "Geometry of the experiment", any_dose, least=1),
        PaperFigure(2, "images", "From atoms to images", any_dose, least=1),
    ]
    last = [
        PaperFigure(10, "convergence", "Convergence for binned slices", binned, layers_label),
        PaperFigure(11, "binning", "Time saved and error caused by binning", binned),
    ]
    return [*first, *_FIXED, *last]


def _task(figure: PaperFigure, study: Study, experiments: Mapping[str, RunSpec], suffix: str) -> FigureTask:
    found = {name: run for name in figure.experiments if (run := study.one(name)) is not None}
    runs = tuple(found.values())
    timed = tuple(_timed(run, study) for run in runs) if figure.kind == "binning" else ()
    return FigureTask(
        name=f"figure_{figure.number:02d}{suffix}",
        kind=figure.kind,
        title=f"Figure {figure.number}. {figure.title}",
        runs=runs,
        labels=tuple(figure.label(run.spec) for run in runs) if figure.label else (),
        letters=tuple(
            letter for letter, name in zip(figure.letters, figure.experiments, strict=False) if name in found
        ),
        high_V=PAPER_HIGH_V,
        notes=_departures(found, experiments) + (timing_notes(timed) if figure.kind == "binning" else ()),
        timed=timed,
    )


def _timed(run: StoredRun, study: Study) -> StoredRun:
    """Return the record that took the least time an iteration among those that differ from ``run`` in their number.

    A few iterations that ran alone time a run that did not.
    """
    alike = next(group for group in group_but_for(study.runs, lambda name: name == "engine.n_iterations")
                 if any(other.identity == run.identity for other in group))
    return min(alike, key=reconstruction_seconds)


def _departures(found: Mapping[str, StoredRun], experiments: Mapping[str, RunSpec]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {setting} is {own} instead of {asked}"
        for name, run in found.items()
        for setting, (asked, own) in departures(run, experiments[name]).items()
    )
