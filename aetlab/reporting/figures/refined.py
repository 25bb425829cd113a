"""Refined atoms beside traced ones: position errors, errors against standard errors, occupancies.

Each record is one colour. Without a truth, standard errors of refined and traced atoms are compared, and elements are
those that the refinement assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import cKDTree

from aetlab.reporting.figures.accuracy import RATIO_EDGES, draw_half_normal
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import BLACK, CYCLE, LINES, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun

#: Records of one figure; black is kept for the lines of all records.
MAX_RECORDS = len(CYCLE) - 1
_N_BINS = 12
#: A function that draws one panel.
Panel = Callable[[Axes], None]
_EXPECTED: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 0.9}


def has_refined(run: StoredRun) -> bool:
    """Return whether the record holds refined atoms."""
    return "refined/positions_A" in run.array_names


def position_error_pm(run: StoredRun, kind: str) -> np.ndarray:
    """Return the 3D errors (P,) in pm of the matched atoms, ``kind`` traced or refined."""
    if kind == "refined":
        return np.linalg.norm(errors_with_bounds(run)[0], axis=1)
    found, true = run.array("match/traced"), run.array("match/true")
    return 100 * np.linalg.norm(run.array("traced/positions_A")[found] - run.array("truth/positions_A")[true], axis=1)


def errors_with_bounds(run: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and standard errors (P, 3) in pm of the matched refined atoms.

    Where the record holds the motion that takes refined positions to the frame of the true atoms, it is applied.
    """
    found, true = run.array("refined_match/traced"), run.array("refined_match/true")
    positions_A = run.array("refined/positions_A")[found]
    if "refined_match/rotation" in run.array_names:
        positions_A = positions_A @ run.array("refined_match/rotation").T + run.array("refined_match/shift_A")
    error_A = positions_A - run.array("truth/positions_A")[true]
    return 100 * error_A, 100 * run.array("refined/position_error_A")[found]


def plot_refined(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Draw up to four panels: position errors, errors against standard errors, their ratio, occupancy by true element.

    Where a record has no truth the panels are: standard errors, distance from refined to traced atoms, occupancy by
    assigned element, and probability of the assigned element. Panels that would be empty are left out: those of
    standard errors where no record has any, and that of probabilities where all are near 1.
    """
    with_truth = all(run.has_truth for run in runs)
    panels = _panels_with_truth(runs) if with_truth else _panels_without_truth(runs)
    with style():
        n_rows = -(-len(panels) // 2)
        figure = new_figure(TWO_COLUMNS_IN, 0.5 + 2.15 * n_rows)
        grid = figure.subplots(n_rows, 2, squeeze=False)
        for axes in grid.flat[len(panels):]:
            axes.remove()
        for axes, draw, letter in zip(grid.flat, panels, "abcd", strict=False):
            draw(axes)
            panel_letter(axes, f"({letter})")
        handles: list[Any] = [Line2D([], [], color=colour, label=label)
                              for label, colour in zip(labels, CYCLE, strict=False)]
        handles.append(Line2D([], [], color=BLACK, linestyle="--",
                              label="traced atoms, correct standard errors" if with_truth else "traced atoms"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _panels_with_truth(runs: Sequence[StoredRun]) -> list[Panel]:
    occupancies = [(run.array("refined/occupancy")[run.array("refined_match/traced")],
                    run.array("truth/numbers")[run.array("refined_match/true")]) for run in runs]
    panels: list[Panel] = [partial(_draw_errors, runs=runs)]
    if any((errors_with_bounds(run)[1] > 0).sum() >= _N_BINS for run in runs):
        panels += [partial(_draw_against_bound, runs=runs), partial(_draw_ratio, runs=runs)]
    return [*panels, partial(_draw_occupancy, occupancies=occupancies)]


def _panels_without_truth(runs: Sequence[StoredRun]) -> list[Panel]:
    occupancies = [(run.array("refined/occupancy"), run.array("refined/numbers")) for run in runs]
    panels: list[Panel] = [partial(_draw_sigmas, runs=runs), partial(_draw_moves, runs=runs),
              partial(_draw_occupancy, occupancies=occupancies)]
    uncertain = any((run.array("refined/probability") < 0.98).any() for run in runs)
    return [*panels, partial(_draw_probabilities, runs=runs)] if uncertain else panels


def _draw_errors(axes: Axes, runs: Sequence[StoredRun]) -> None:
    groups = [{"--": position_error_pm(run, "traced"), "-": position_error_pm(run, "refined")} for run in runs]
    _draw_densities(axes, groups)
    axes.set_xlabel("position error (pm)")


def _draw_against_bound(axes: Axes, runs: Sequence[StoredRun]) -> None:
    for run, colour in zip(runs, CYCLE, strict=False):
        error, sigma = (values.ravel() for values in errors_with_bounds(run))
        good = (sigma > 0) & (np.abs(error) < 6 * sigma)
        if good.sum() < _N_BINS:
            continue
        parts = np.array_split(np.argsort(sigma[good]), _N_BINS)
        at = [float(sigma[good][part].mean()) for part in parts]
        seen = [float(np.sqrt((error[good][part] ** 2).mean())) for part in parts]
        axes.plot(at, seen, "o-", color=colour, markersize=3, linewidth=0.8)
    axes.set_xlabel("standard error (pm)")
    axes.set_ylabel("RMS error (pm)")
    low, high = axes.get_xlim()
    axes.plot([max(low, 0), high], [max(low, 0), high], **_EXPECTED)


def _draw_ratio(axes: Axes, runs: Sequence[StoredRun]) -> None:
    for run, colour in zip(runs, CYCLE, strict=False):
        error, sigma = errors_with_bounds(run)
        ratio = np.abs(error[sigma > 0] / sigma[sigma > 0])
        if ratio.size:
            share = np.histogram(ratio, RATIO_EDGES)[0] / ratio.size / np.diff(RATIO_EDGES)
            axes.stairs(share, RATIO_EDGES, color=colour, linewidth=1.0)
    draw_half_normal(axes, _EXPECTED)


def _draw_occupancy(axes: Axes, occupancies: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw the densities of pairs of occupancies and atomic numbers, each element in a line style."""
    low, high = np.percentile(np.concatenate([np.ones(1), *(values for values, _ in occupancies)]), [0.2, 99.8])
    edges = np.linspace(max(min(low, 1.0) - 0.1, 0.0), max(high, 1.0) + 0.1, 61)
    elements = np.unique(np.concatenate([numbers for _, numbers in occupancies]))
    for (values, numbers), colour in zip(occupancies, CYCLE, strict=False):
        for number, line in zip(elements, cycle(LINES)):
            own = values[numbers == number]
            if own.size:
                axes.stairs(np.histogram(own, edges)[0] / len(own) / np.diff(edges), edges, color=colour,
                            linestyle=line, linewidth=1.0)
    axes.set_xlabel("occupancy")
    axes.set_ylabel("density")
    handles = [Line2D([], [], color=BLACK, linestyle=line, label=element_name(int(number)))
               for number, line in zip(elements, cycle(LINES))]
    axes.legend(handles=handles, loc="best")


def _draw_sigmas(axes: Axes, runs: Sequence[StoredRun]) -> None:
    """Draw the standard errors of the positions, root mean square over x, y, z: refined solid, traced dashed."""
    groups = []
    for run in runs:
        sigmas = {}
        for kind, line in (("traced", "--"), ("refined", "-")):
            sigma_pm = 100 * np.sqrt((run.array(f"{kind}/position_error_A") ** 2).mean(axis=1))
            sigmas[line] = sigma_pm[np.isfinite(sigma_pm) & (sigma_pm > 0)]
        groups.append(sigmas)
    _draw_densities(axes, groups)
    axes.set_xlabel("standard error of position (pm)")


def _draw_moves(axes: Axes, runs: Sequence[StoredRun]) -> None:
    """Draw the distance from each refined atom to the nearest traced atom."""
    groups = []
    for run in runs:
        traced_A, refined_A = run.array("traced/positions_A"), run.array("refined/positions_A")
        both = len(traced_A) > 0 and len(refined_A) > 0
        groups.append({"-": 100 * cKDTree(traced_A).query(refined_A)[0] if both else np.empty(0)})
    _draw_densities(axes, groups)
    axes.set_xlabel("distance from refined to nearest traced atom (pm)")


def _draw_probabilities(axes: Axes, runs: Sequence[StoredRun]) -> None:
    probabilities = [run.array("refined/probability") for run in runs]
    edges = np.linspace(min(float(values.min(initial=1.0)) for values in probabilities), 1, 51)
    for probability, colour in zip(probabilities, CYCLE, strict=False):
        counts = np.histogram(probability, edges)[0]
        axes.stairs(np.where(counts > 0, counts, np.nan), edges, color=colour, linewidth=1.0)
    axes.set_yscale("log")
    axes.set_xlabel("probability of the assigned element")
    axes.set_ylabel("atoms")


def _draw_densities(axes: Axes, groups: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Draw the density of values in common bins; ``groups`` hold those of each record by line style."""
    everything = [values for own in groups for values in own.values() if values.size]
    top = max((float(np.percentile(values, 98)) for values in everything), default=1.0)
    edges = np.linspace(0, max(top, 1e-3), 41)
    for own, colour in zip(groups, CYCLE, strict=False):
        for line, values in own.items():
            if values.size:
                share = np.histogram(values, edges)[0] / values.size / np.diff(edges)
                axes.stairs(share, edges, color=colour, linestyle=line, linewidth=1.0)
    axes.set_ylabel("density (1/pm)")
    axes.set_xlim(0, edges[-1])
