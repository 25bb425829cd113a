"""Lower bounds of the errors of atoms against the dose, one line for each plan of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from aetlab.reporting.figures.style import (
    LINES,
    ONE_COLUMN_IN,
    TWO_COLUMNS_IN,
    line_colours,
    new_figure,
    panel_letter,
    style,
)

#: Lower end of the axis of wrong elements, in %.
_LEAST_PERCENT = 1e-3


@dataclass(frozen=True)
class PlanCurve:
    """One plan: lower bounds ``position_pm`` (D,) and ``confused_percent`` (D,) at the doses ``dose_e_A2`` (D,).

    The doses ``asked_e_A2`` are marked.
    """

    label: str
    dose_e_A2: np.ndarray
    position_pm: np.ndarray
    confused_percent: np.ndarray
    asked_e_A2: Sequence[float] = ()


def plot_bound(curves: Sequence[PlanCurve], reached: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """Draw bounds of position error and of wrong elements against dose; ``reached`` holds (dose, pm) by label.

    The panel of wrong elements is left out where none can be wrong, as in a sample of one element.
    """
    confused = any((curve.confused_percent > _LEAST_PERCENT).any() for curve in curves)
    with style():
        figure = new_figure(TWO_COLUMNS_IN if confused else ONE_COLUMN_IN, 2.9)
        panels = figure.subplots(1, 2 if confused else 1, squeeze=False)[0]
        left = panels[0]
        for i, (curve, colour) in enumerate(zip(curves, line_colours(len(curves)), strict=True)):
            look = {"color": colour, "linestyle": LINES[i % len(LINES)]}
            left.loglog(curve.dose_e_A2, curve.position_pm, label=curve.label, **look)
            marks = np.array([dose for dose in curve.asked_e_A2 if np.isfinite(dose)])
            if len(marks):
                at = np.exp(np.interp(np.log(marks), np.log(curve.dose_e_A2), np.log(curve.position_pm)))
                left.plot(marks, at, "o", color=look["color"], markersize=3.5)
            if confused and np.isfinite(curve.confused_percent).all():
                panels[1].loglog(curve.dose_e_A2, np.maximum(curve.confused_percent, 1e-4), **look)
        for label, (dose_e_A2, position_pm) in (reached or {}).items():
            left.plot([dose_e_A2], [position_pm], "x", color="black", markersize=5, label=label)
        left.set_ylabel("lower bound of position error (pm)")
        if confused:
            panels[1].set_ylabel("lower bound of wrong elements (%)")
            panels[1].set_ylim(bottom=_LEAST_PERCENT, top=60)
        for axes, letter in zip(panels, ("(a)", "(b)"), strict=False):
            axes.set_xlabel("dose (e/Å²)")
            if confused:
                panel_letter(axes, letter)
        figure.legend(loc="outside lower center", ncols=min(len(curves), 3) if confused else 1)
    return figure
