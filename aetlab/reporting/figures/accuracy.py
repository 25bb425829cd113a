"""Accuracy of traced atoms: error bars against errors, scores against position, and local structure.

Each record is one line. Black dashes show what correct error bars give, and the true
structure of the first record. Errors and profiles need a truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from aetlab.reporting.figures.style import BLACK, CYCLE, LINES, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun

#: Range and bins of error over standard error.
RATIO_EDGES = np.linspace(0.0, 4.0, 33)
_TRUE: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 0.9, "zorder": 4}
_PAIR_DISTRIBUTION = "structure/pair_distribution"
#: A pair distribution is drawn where it reaches this many times the shortest distance of two atoms.
_SHELLS = 2.0

#: A record with the colour and line style that it is drawn in.
Line = tuple[StoredRun, dict[str, Any]]
#: A function that draws one panel.
Panel = Callable[[Axes], None]


def plot_accuracy(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Draw error over standard error, four profiles of scores, and four measures of local structure.

    Panels that need the truth are left out where a record has none, and so are panels that would be empty: whose arrays
    no record holds, whose profile is one point or the same everywhere, or whose pair distribution ends at the first
    shell.
    """
    lines: list[Line] = [
        (run, {"color": CYCLE[i % len(CYCLE)], "linestyle": LINES[i // len(CYCLE) % len(LINES)]})
        for i, run in enumerate(runs)
    ]
    with_truth = all(run.has_truth for run in runs)
    panels = (_panels_with_truth(lines) if with_truth else []) + _structure_panels(lines, with_truth)
    if not panels:
        raise ValueError("no atom is found and no two atoms are bonded")
    with style():
        n_columns = 2 if len(panels) in (2, 4) else 3
        n_rows = -(-len(panels) // n_columns)
        figure = new_figure(TWO_COLUMNS_IN, 5.7 - 1.7 * (3 - n_rows))
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in grid.flat[len(panels):]:
            axes.remove()
        for axes, draw, letter in zip(grid.flat, panels, "abcdefghi", strict=False):
            draw(axes)
            panel_letter(axes, f"({letter})")
        handles = [Line2D([], [], label=label, **look) for label, (_, look) in zip(labels, lines, strict=True)]
        if with_truth:
            handles.append(Line2D([], [], label="correct error bars, true structure", **_TRUE))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def _panels_with_truth(lines: Sequence[Line]) -> list[Panel]:
    """Return the panels of errors and of those profiles that any record holds and that show a change."""
    panels: list[Panel] = []
    if any(error_over_sigma(run).size for run, _ in lines):
        panels.append(partial(_draw_ratios, lines=lines))
    for score, score_label in (("position_error_pm", "position error (pm)"), ("found_percent", "found (%)")):
        for place, place_label in (("axis", "distance from tilt axis (Å)"), ("surface", "depth below surface (Å)")):
            held = [line for line in lines if _has_profile(line[0], f"profiles/{place}", score)]
            if held and not all(_is_flat(run, f"profiles/{place}/{score}") for run, _ in held):
                panels.append(partial(_draw_profile, lines=held, name=f"profiles/{place}", score=score,
                                      labels=(place_label, score_label)))
    return panels


def _structure_panels(lines: Sequence[Line], with_truth: bool) -> list[Panel]:
    """Return the panels of bonds, angles and coordination, and of the pair distribution where it has two shells."""
    pair = main_pair(lines[0][0])
    centre, end = pair.split("-")
    kinds = ("traced", "true") if with_truth else ("traced",)

    def held(name: str) -> bool:
        return any(run.array(f"structure/{pair}/{name}_{kind}").any() for run, _ in lines for kind in kinds)

    panels: list[Panel] = []
    if held("length"):
        panels.append(partial(_draw_counts, lines=lines, name=f"{pair}/length", edges=f"{pair}/length_edges_A",
                              label=f"{pair} bond length (Å)", with_truth=with_truth))
    if held("angle"):
        panels.append(partial(_draw_counts, lines=lines, name=f"{pair}/angle", edges="angle_edges_deg",
                              label=f"{end}-{centre}-{end} angle (°)", with_truth=with_truth))
    if held("length"):
        panels.append(partial(_draw_coordination, lines=lines, pair=pair, with_truth=with_truth))
    deep = [line for line in lines if _has_two_shells(line[0])]
    return [*panels, partial(_draw_pair_distribution, lines=deep, with_truth=with_truth)] if deep else panels


def _has_profile(run: StoredRun, name: str, score: str) -> bool:
    """Return whether the record holds the profile ``name`` of ``score`` with at least two values."""
    if f"{name}/edges_A" not in run.array_names:
        return False
    return int(np.isfinite(run.array(f"{name}/{score}")).sum()) >= 2


def _is_flat(run: StoredRun, name: str) -> bool:
    """Return whether all values of a profile are equal, as where all atoms are found."""
    values = run.array(name)
    return float(np.ptp(values[np.isfinite(values)])) < 1e-6


def _has_two_shells(run: StoredRun) -> bool:
    """Return whether the record holds a pair distribution that reaches well beyond its first shell."""
    if f"{_PAIR_DISTRIBUTION}/r_A" not in run.array_names:
        return False
    r_A = run.array(f"{_PAIR_DISTRIBUTION}/r_A")
    g = run.array(f"{_PAIR_DISTRIBUTION}/g_{'true' if run.has_truth else 'traced'}")
    return bool(g.any()) and float(r_A[-1]) > _SHELLS * float(r_A[g > 0][0])


def error_over_sigma(run: StoredRun) -> np.ndarray:
    """Return |error| / standard error of the matched atoms along each axis, (P, 3); only atoms that have the latter."""
    traced, true = run.array("match/traced"), run.array("match/true")
    error_A = run.array("traced/positions_A")[traced] - run.array("truth/positions_A")[true]
    sigma_A = run.array("traced/position_error_A")[traced]
    known = (np.isfinite(sigma_A) & (sigma_A > 0)).all(axis=1)
    return np.abs(error_A[known]) / sigma_A[known]


def main_pair(run: StoredRun) -> str:
    """Return the pair of elements whose bonds are shown: of two elements if possible, then with the most angles."""
    kind = "true" if run.has_truth else "traced"
    names = [name for name in run.array_names if name.startswith("structure/") and name.endswith(f"/length_{kind}")]
    pairs = [name.split("/")[1] for name in names]
    if not pairs:
        raise KeyError("the record holds no local structure")
    return max(pairs, key=lambda pair: (len(set(pair.split("-"))), run.array(f"structure/{pair}/angle_{kind}").sum()))


def draw_half_normal(axes: Axes, look: Mapping[str, Any]) -> None:
    """Draw the density of |error| / standard error for normal errors, and label the axes."""
    x = np.linspace(0, RATIO_EDGES[-1], 100)
    axes.plot(x, math.sqrt(2 / math.pi) * np.exp(-0.5 * x**2), **look)
    axes.set_xlabel("|error| / standard error")
    axes.set_ylabel("density")


def _draw_ratios(axes: Axes, lines: Sequence[Line]) -> None:
    for run, look in lines:
        ratio = error_over_sigma(run).ravel()
        if ratio.size:
            share = np.histogram(ratio, RATIO_EDGES)[0] / ratio.size / np.diff(RATIO_EDGES)
            axes.stairs(share, RATIO_EDGES, linewidth=1.0, **look)
    draw_half_normal(axes, _TRUE)
    axes.set_xlim(0, RATIO_EDGES[-1])
    axes.set_ylim(bottom=0)


def _draw_profile(axes: Axes, lines: Sequence[Line], name: str, score: str, labels: tuple[str, str]) -> None:
    """Draw a score with its confidence interval against a distance; ``labels`` are those of x and y."""
    for run, look in lines:
        edges_A = run.array(f"{name}/edges_A")
        middle_A = 0.5 * (edges_A[:-1] + edges_A[1:])
        low, value, high = (run.array(f"{name}/{score}{bound}") for bound in ("_low", "", "_high"))
        axes.plot(middle_A, value, marker="o", markersize=2, **look)
        axes.fill_between(middle_A, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_xlim(left=0)
    if score == "found_percent":
        axes.set_ylim(top=100)
        for line in axes.lines:
            line.set_clip_on(False)  # a line along the upper end is drawn in full


def _draw_counts(axes: Axes, lines: Sequence[Line], name: str, edges: str, label: str,
                 with_truth: bool) -> None:
    shown: list[tuple[StoredRun, str, dict[str, Any]]] = [
        (run, "traced", {"linewidth": 1.0, **look}) for run, look in lines]
    shown += [(lines[0][0], "true", _TRUE)] if with_truth else []
    ends = []
    for run, kind, look in shown:
        counts, places = run.array(f"structure/{name}_{kind}"), run.array(f"structure/{edges}")
        axes.stairs(counts, places, **look)
        held = np.flatnonzero(counts)
        ends += [float(places[held[0]]), float(places[held[-1] + 1])] if held.size else []
    margin = 0.06 * (max(ends) - min(ends))
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.set_xlabel(label)
    axes.set_ylabel("bonds" if name.endswith("length") else "angles")
    axes.set_ylim(bottom=0)


def _draw_coordination(axes: Axes, lines: Sequence[Line], pair: str, with_truth: bool) -> None:
    name = f"structure/{pair}/coordination"
    edges = np.arange(14) - 0.5
    counts = [run.array(f"{name}_traced") for run, _ in lines]
    for values, (_, look) in zip(counts, lines, strict=True):
        axes.stairs(values, edges, linewidth=1.0, **look)
    if with_truth:
        counts.append(lines[0][0].array(f"{name}_true"))
        axes.stairs(counts[-1], edges, **_TRUE)
    centre, end = pair.split("-")
    held = np.flatnonzero(np.sum(counts, axis=0))
    more = " (12: ≥ 12)" if held.size and held.max() == 12 else ""
    axes.set_xlabel(f"{end} bonded to one {centre}{more}")
    axes.set_ylabel(f"{centre} atoms")
    axes.set_xlim(max((held.min() if held.size else 0) - 1, -0.5), (held.max() if held.size else 12) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _draw_pair_distribution(axes: Axes, lines: Sequence[Line], with_truth: bool) -> None:
    for run, look in lines:
        axes.plot(run.array(f"{_PAIR_DISTRIBUTION}/r_A"), run.array(f"{_PAIR_DISTRIBUTION}/g_traced"), linewidth=0.9,
                  **look)
    if with_truth:
        first = lines[0][0]
        axes.plot(first.array(f"{_PAIR_DISTRIBUTION}/r_A"), first.array(f"{_PAIR_DISTRIBUTION}/g_true"), **_TRUE)
    axes.set_xlabel("r (Å)")
    axes.set_ylabel("pair distribution g(r)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
