"""Figures 5, 10 and 11 of the paper, and the convergence of any records: cost, and time against error.

Cost is half the sum of squared amplitude differences over all images (equation 5 of the paper, halved).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from aetlab.core.physics import wavelength_A
from aetlab.reporting.figures.style import (
    BLACK,
    BLUE,
    LINES,
    ONE_COLUMN_IN,
    TWO_COLUMNS_IN,
    VERMILION,
    line_colours,
    new_figure,
    panel_letter,
    style,
)
from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import RunSpec


def plot_convergence(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Draw cost (a) and its excess over the lowest cost reached (b) against iteration, one line for each record.

    The excess shows convergence with noise, where the cost itself hardly falls. Each record has a colour of its own,
    and dashes keep equal curves visible. The legend is below the panels for short labels, else to the right.
    """
    below = len(runs) <= 8 and max(map(len, labels)) <= (44 if len(runs) <= 4 else 14)
    labels = [fill(label, 44) for label in labels]
    with style():
        figure = new_figure(ONE_COLUMN_IN if below else TWO_COLUMNS_IN, max(3.6, 0.9 + 0.155 * len(runs)))
        top, bottom = figure.subplots(2, 1, sharex=True)
        for i, (run, label, colour) in enumerate(zip(runs, labels, line_colours(len(runs)), strict=True)):
            look = {"color": colour, "linestyle": LINES[i % len(LINES)]}
            cost = run.history.cost
            iteration = np.arange(1, len(cost) + 1)
            top.semilogy(iteration, cost, label=label, **look)
            above = cost > cost.min()
            bottom.semilogy(iteration[above], (cost - cost.min())[above], **look)
        top.set_ylabel("cost")
        bottom.set_ylabel("cost − lowest cost")
        bottom.set_xlabel("iteration")
        bottom.set_xlim(left=0)
        panel_letter(top, "(a)")
        panel_letter(bottom, "(b)")
        if below:
            widest = max(map(len, labels))
            columns = 4 if widest <= 10 else 3 if widest <= 14 else 2 if widest <= 25 else 1
            figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=2.4)
        else:
            figure.legend(loc="outside right upper", fontsize=6.5)
    return figure


def axial_bound_A(spec: RunSpec) -> float:
    """Return the largest slice thickness Δz = λ/(1 − √(1 − NA²)) in Å, NA = λ/voxel (the paper, equation 20)."""
    wavelength = wavelength_A(spec.microscope.energy_keV)
    aperture = wavelength / spec.scale.voxel_A
    return wavelength / (1 - math.sqrt(1 - aperture**2))


def reconstruction_seconds(run: StoredRun) -> float:
    """Return the median wall time in s of an iteration of the reconstruction.

    The median excludes the first iteration, which compiles or loads kernels.
    """
    return float(np.median(run.history.seconds))


def plot_binning(runs: Sequence[StoredRun], timed: Sequence[StoredRun] = ()) -> Figure:
    """Draw time saved (left axis) and error of the potential (right axis) against the layers binned, N_B.

    The time is that of an iteration, relative to the record with the fewest layers in a slice. It is taken from the
    records ``timed``, one for each of ``runs`` and in their order, by default from ``runs``.
    """
    pairs = sorted(zip(runs, timed or runs, strict=True), key=lambda pair: pair[0].spec.binning.n_layers)
    runs = [run for run, _ in pairs]
    n_layers = np.array([run.spec.binning.n_layers for run in runs])
    seconds = np.array([reconstruction_seconds(run) for _, run in pairs])
    error_percent = np.array([100 * run.metrics["potential_error"] for run in runs])
    bound = axial_bound_A(runs[0].spec) / runs[0].voxel_A
    with style():
        figure = new_figure(ONE_COLUMN_IN, 2.6)
        left = figure.subplots()
        right = left.twinx()
        right.spines["right"].set_visible(True)
        (saved,) = left.plot(
            n_layers,
            100 * (1 - seconds / seconds[0]),
            "o-",
            color=BLUE,
            markersize=4,
            label=f"time saved over $N_B$ = {n_layers[0]}",
        )
        (error,) = right.plot(
            n_layers, error_percent, "s--", color=VERMILION, markersize=4, label="error of the potential"
        )
        line = left.axvline(
            bound,
            color=BLACK,
            linestyle=":",
            linewidth=0.9,
            label=f"λ/(1 − √(1 − NA²)) = {bound * runs[0].voxel_A:.1f} Å",
        )
        left.set_xscale("log", base=2)
        ticks = sorted(set(n_layers.tolist()))
        left.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick != 10 or 8 not in ticks]))
        left.xaxis.set_minor_locator(NullLocator())
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.set_xlabel("binned layers per slice, $N_B$")
        left.set_ylabel("time saved (%)", color=BLUE)
        right.set_ylabel("error of the potential (%)", color=VERMILION)
        left.set_ylim(min(0, *(100 * (1 - seconds / seconds[0]))) - 3, 103)
        right.set_ylim(0, 1.15 * error_percent.max())
        figure.legend(handles=[saved, error, line], loc="outside upper center", ncols=1)
    return figure


def timed_together(runs: Sequence[StoredRun]) -> bool:
    """Return whether any two of ``runs`` were in progress at the same time, so that their times do not compare.

    A record of the same second, the resolution of the start in older records, is one that followed.
    """
    spans = sorted((_time(run, "started"), _time(run, "finished")) for run in runs)
    second = datetime.timedelta(seconds=1)
    return any(earlier[1] > later[0] + second for earlier, later in zip(spans, spans[1:], strict=False))


def _time(run: StoredRun, name: str) -> datetime.datetime:
    """Return a time of the record's environment, the beginning of all times where there is none."""
    try:
        time = datetime.datetime.fromisoformat(str(run.environment.get(name, "")))
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def timing_notes(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """Return a note where the times of ``runs`` do not compare."""
    if len({run.environment.get("processor") for run in runs}) > 1:
        return ("the runs were timed on different machines, so their times do not compare",)
    return ("some runs were in progress at the same time, so their times do not compare",) if timed_together(
        runs) else ()
