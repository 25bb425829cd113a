"""Draw the scores of joined tiles against the distance from the nearest seam."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from aetlab.reporting.figures.style import CYCLE, TWO_COLUMNS_IN, new_figure, panel_letter, style
from aetlab.reporting.stored_run import StoredRun

#: Profile of a record, and its scores with their names on the axes.
SEAM = "profiles/seam"
_SCORES = {"position_error_pm": "position error (pm)", "found_percent": "found (%)",
           "false_positive_percent": "false positives (%)"}


def plot_seams(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """Return position error, found and false atoms against the distance from the nearest seam, with 95 % intervals."""
    with style():
        figure = new_figure(TWO_COLUMNS_IN, 2.3)
        for axes, (score, name), letter in zip(figure.subplots(1, len(_SCORES)), _SCORES.items(), "abc", strict=True):
            for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
                edges_A = run.array(f"{SEAM}/edges_A")
                middle_A = 0.5 * (edges_A[:-1] + edges_A[1:])
                low, value, high = (run.array(f"{SEAM}/{score}{bound}") for bound in ("_low", "", "_high"))
                color = CYCLE[i % len(CYCLE)]
                axes.plot(middle_A, value, marker="o", markersize=2, color=color, label=label)
                axes.fill_between(middle_A, low, high, color=color, alpha=0.18, linewidth=0)
            axes.set_xlabel("distance from the nearest seam (Å)")
            axes.set_ylabel(name)
            axes.set_xlim(left=0)
            panel_letter(axes, f"({letter})")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
