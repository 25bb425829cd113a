"""Quality of the traced atoms against the time of the reconstruction, for records that differ in their iterations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from aetlab.reporting.figures.style import CYCLE, LINES, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.studies import flat_settings, group_but_for

#: Metrics of the panels, with their names on the axes.
_SCORES = {"position_error_pm": "position error (pm)", "found_percent": "found (%)",
           "false_positive_percent": "false positives (%)", "correct_species_percent": "correct species (%)"}
#: Beginnings of the names of settings that make a method: records of one figure differ in these alone.
_OF_METHODS = ("engine.", "reg.", "binning.", "trace.")
#: Fewest numbers of iterations of a line.
FEWEST = 3

#: Records that differ in their iterations only, in the order of those.
Line = list[StoredRun]


def find_lines(runs: Sequence[StoredRun]) -> list[list[tuple[str, Line]]]:
    """Return for each figure its lines with their labels: records with a truth that differ in their iterations only.

    Lines of one figure share everything but the method of reconstruction and tracing.
    """
    figures: dict[str, list[Line]] = {}
    for members in group_but_for([run for run in runs if run.has_truth], lambda name: name.startswith(_OF_METHODS)):
        for line in group_but_for(members, lambda name: name == "engine.n_iterations"):
            if len({run.spec.engine.n_iterations for run in line}) >= FEWEST:
                line.sort(key=lambda run: run.spec.engine.n_iterations)
                figures.setdefault(members[0].identity, []).append(line)
    return [list(zip(_labels(lines), lines, strict=True)) for lines in figures.values()]


def seconds(run: StoredRun) -> float:
    """Return the time in s of the iterations of a record; the first, which loads kernels, counts as the median."""
    each = np.array(run.history.seconds, float)
    return float(each[1:].sum() + np.median(each))


def plot_quality(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Draw four scores against the seconds of all iterations; records with one label are one line."""
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 4.6)
        panels = figure.subplots(2, 2, sharex=True)
        for axes, (score, name), letter in zip(panels.flat, _SCORES.items(), "abcd", strict=True):
            for i, label in enumerate(dict.fromkeys(labels)):
                line = [run for run, own in zip(runs, labels, strict=True) if own == label]
                axes.plot([seconds(run) for run in line], [run.metrics[score] for run in line], marker="o",
                          markersize=3, color=CYCLE[i % len(CYCLE)], linestyle=LINES[i // len(CYCLE) % len(LINES)],
                          label=label)
            axes.set_ylabel(name)
            panel_letter(axes, f"({letter})")
        for axes in panels[1]:
            _scale_time(axes)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def _scale_time(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time of all iterations (s)")


def _labels(lines: Sequence[Line]) -> list[str]:
    """Return regulariser and settings of each line, as far as they differ from those of most lines."""
    settings = [{name: value for name, value in flat_settings(line[0]).items()
                 if name.startswith(("engine.", "binning.")) and name != "engine.n_iterations"} for line in lines]
    of_reg = [{name: value for name, value in flat_settings(line[0]).items() if name.startswith("reg.")}
              for line in lines]
    labels = []
    for line, own, reg in zip(lines, settings, of_reg, strict=True):
        same = [other for other in of_reg if other["reg.kind"] == reg["reg.kind"]]
        differ = _unusual(own, settings) + _unusual(reg, same)
        labels.append(" ".join([f"reg={line[0].spec.reg.kind}", *differ]))
    counts = Counter(labels)
    return [f"{label} ({line[0].identity[:6]})" if counts[label] > 1 else label
            for label, line in zip(labels, lines, strict=True)]


def _unusual(own: dict[str, object], others: Sequence[dict[str, object]]) -> list[str]:
    """Return the settings of ``own`` as words where they differ from the most frequent value of ``others``.

    Where several values are the most frequent ones, none is usual, and all are named.
    """
    words = []
    for name, value in own.items():
        (usual, count), *rest = Counter(str(other.get(name)) for other in others).most_common(2)
        if str(value) != usual or (rest and rest[0][1] == count):
            words.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return words
