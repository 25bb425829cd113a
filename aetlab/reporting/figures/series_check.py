"""Figures of the check page of a measured series, each one column wide so that a small screen shows it whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aetlab.core.physics import wavelength_A
from aetlab.reporting.figures.style import (
    CYCLE,
    MISSING,
    ONE_COLUMN_IN,
    ORANGE,
    bare,
    new_figure,
    panel_letter,
    show_plane,
    style,
)
from aetlab.series.check.nouns import SeriesCheck

_MARKERS = "os^Dv<>p"
_TALL_IN, _LOW_IN = 3.9, 2.4


def plot_acquisition(check: SeriesCheck) -> Figure:
    """Draw tilt and defocus against the order of acquisition."""
    facts = check.imported.facts
    assert facts is not None
    there = facts.order >= 0
    order = facts.order[there]
    out = (check.imported.series.weight <= 0)[there]
    with style():
        figure = new_figure(ONE_COLUMN_IN, _TALL_IN)
        panels = figure.subplots(2, 1, sharex=True)
        for axes, letter, values, label in zip(panels, "ab", (facts.tilt_deg[there], facts.defocus_nm[there]),
                                               ("tilt (°)", "defocus (nm)")):
            axes.plot(order, values, ".", color=CYCLE[0], markersize=3)
            axes.plot(order[out], values[out], "x", color=MISSING, markersize=5, label="left out")
            axes.set_ylabel(label)
            panel_letter(axes, letter)
        panels[1].set_xlabel("order of acquisition")
        if out.any():
            panels[0].legend(loc="best")
    return figure


def plot_levels(check: SeriesCheck) -> Figure:
    """Draw vacuum level, mean and dose of each image against its tilt."""
    facts = check.imported.facts
    assert facts is not None
    with style():
        figure = new_figure(ONE_COLUMN_IN, _TALL_IN)
        top, bottom = figure.subplots(2, 1, sharex=True)
        _by_defocus(top, check, facts.measures.level_counts)
        mean = facts.measures.mean_counts
        top.plot(facts.tilt_deg.ravel(), mean.ravel(), ".", color="0.6", markersize=2, label="mean of the image")
        top.set_ylabel("vacuum level (counts)")
        per_pixel = np.where(check.imported.series.weight > 0, check.imported.series.electrons_per_pixel, np.nan)
        area = check.imported.series.pixel_A**2 * check.imported.microscope.dqe
        _by_defocus(bottom, check, per_pixel / area)
        bottom.plot(facts.tilt_deg.ravel(), facts.dose_e_A2.ravel(), "_", color=ORANGE, markersize=5,
                    label="by table or headers")
        bottom.set_ylabel("dose of an image (e/Å²)")
        bottom.set_xlabel("tilt (°)")
        for axes, letter in ((top, "a"), (bottom, "b")):
            panel_letter(axes, letter)
            _room_below(axes)
            axes.legend(loc="lower right", ncol=2, fontsize=6)
    return figure


def plot_sharpness(check: SeriesCheck) -> Figure:
    """Draw sharpness and the motion while an image was recorded against the tilt."""
    facts = check.imported.facts
    assert facts is not None
    with style():
        figure = new_figure(ONE_COLUMN_IN, _TALL_IN)
        top, bottom = figure.subplots(2, 1, sharex=True)
        _by_defocus(top, check, facts.measures.sharpness_per_A)
        top.set_ylabel("sharpness (1/Å)")
        _by_defocus(bottom, check, facts.measures.drift_A)
        bottom.set_ylabel("motion (Å)")
        bottom.set_xlabel("tilt (°)")
        for axes, letter in ((top, "a"), (bottom, "b")):
            panel_letter(axes, letter)
        _room_below(top)
        bottom.set_ylim(bottom=0)
        top.legend(loc="lower right", ncol=2, fontsize=6)
    return figure


def plot_spectrum(check: SeriesCheck, i_defocus: int) -> Figure:
    """Draw the mean power spectrum of one defocus, with the zeros of its transfer, and signal over noise."""
    series, spectra = check.imported.series, check.spectra
    nominal = float(np.mean(series.defocus_A[:, i_defocus])) / 10
    found = spectra.defocus_nm[:, i_defocus]
    used = float(np.nanmedian(found)) if np.isfinite(found).any() else None
    with style():
        figure = new_figure(ONE_COLUMN_IN, 4.6)
        top, bottom = figure.subplots(2, 1, height_ratios=(2, 1))
        power = np.log10(np.maximum(spectra.power[i_defocus], 1e-3))
        step = 1 / (np.array(power.shape) * series.pixel_A)
        low, high = np.quantile(power, (0.02, 0.999))
        show_plane(top, power, float(step[0]), low=float(low), high=float(high))
        edges = (-0.5 / series.pixel_A, 0.5 / series.pixel_A)
        top.images[0].set_extent((*edges, *edges))
        top.set_aspect("equal")
        # Half of the rings: the other half shows what lies below them.
        angle = np.linspace(-np.pi / 2, np.pi / 2, 200)
        for q in _zeros(check, nominal if used is None else used, edges[1]):
            top.plot(q * np.cos(angle), q * np.sin(angle), color=ORANGE, linewidth=0.6,
                     linestyle="--" if used is None else "-")
        limit = spectra.limit_A[i_defocus]
        if np.isfinite(limit):
            top.plot(np.cos(angle) / limit, np.sin(angle) / limit, color=CYCLE[5], linewidth=0.8)
        top.set_xlim(edges)
        top.set_ylim(edges)
        bare(top)
        kind = "nominal" if used is None else f"found {used:.1f} nm, nominal"
        panel_letter(top, "a", f"{kind} {nominal:.1f} nm")
        ratio = np.maximum(spectra.signal_over_noise[i_defocus], 1e-3)
        bottom.semilogy(spectra.q_per_A[2:], ratio[2:], color=CYCLE[0], linewidth=0.9)
        if np.isfinite(limit):
            bottom.axvline(1 / limit, color=CYCLE[5], linewidth=0.8)
            bottom.text(1 / limit, bottom.get_ylim()[1], f" {limit:.2f} Å", color=CYCLE[5], va="top", fontsize=6.5)
        bottom.set_xlabel("spatial frequency (1/Å)")
        bottom.set_ylabel("signal/noise")
        panel_letter(bottom, "b")
    return figure


def plot_defocus(check: SeriesCheck) -> Figure:
    """Draw the defocus that the rings show less the nominal one against the tilt."""
    series, found = check.imported.series, check.spectra.defocus_nm
    with style():
        figure = new_figure(ONE_COLUMN_IN, _LOW_IN)
        axes = figure.subplots()
        axes.axhline(0, color="0.6", linewidth=0.6)
        _by_defocus(axes, check, found - series.defocus_A / 10)
        axes.set_xlabel("tilt (°)")
        axes.set_ylabel("found - nominal (nm)")
        axes.legend(loc="best", ncol=2, fontsize=6)
    return figure


def plot_shifts(check: SeriesCheck) -> Figure:
    """Draw where the sample lies in each image, and the agreement of common lines against the direction of the axis."""
    facts = check.imported.facts
    assert facts is not None
    curve = facts.axis_curve
    with style():
        figure = new_figure(ONE_COLUMN_IN, _TALL_IN)
        top, bottom = figure.subplots(2, 1)
        for k, name in enumerate("xy"):
            top.plot(facts.tilt_deg.ravel(), facts.position_A[..., k].ravel(), _MARKERS[k], color=CYCLE[k],
                     markersize=2.5, label=name)
        top.set_xlabel("tilt (°)")
        top.set_ylabel("position as recorded (Å)")
        top.legend(loc="best", ncol=2)
        panel_letter(top, "a")
        if curve.size:
            bottom.plot(*curve, color=CYCLE[0], linewidth=0.8)
        bottom.axvline(check.imported.axis_deg, color=MISSING, linewidth=0.8, linestyle="--")
        bottom.set_xlabel("direction of the axis from y (°)")
        bottom.set_ylabel("agreement of lines")
        panel_letter(bottom, "b")
    return figure


def plot_step(pictures: Sequence[np.ndarray], titles: Sequence[str], *, lines: bool = False) -> Figure:
    """Draw pictures (x, y) of a step next to each other in one range of grey; ``lines`` are rows against a tilt."""
    with style():
        wide = len(pictures)
        figure = new_figure(ONE_COLUMN_IN, 0.2 + ONE_COLUMN_IN / wide * (1.0 if lines else _height(pictures[0])))
        low, high = np.quantile(np.concatenate([picture.ravel() for picture in pictures]), (0.005, 0.995))
        for axes, letter, picture, title in zip(np.atleast_1d(figure.subplots(1, wide)), "ab", pictures, titles):
            if lines:
                axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect="auto",
                            interpolation="nearest")
                axes.set_xlabel("y")
                axes.set_ylabel("tilts")
                bare(axes)
            else:
                show_plane(axes, picture, 1.0, low=float(low), high=float(max(high, low + 1e-6)))
            panel_letter(axes, letter, title)
    return figure


def _room_below(axes: Axes) -> None:
    """Leave room for a legend below the data."""
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)


def _height(picture: np.ndarray) -> float:
    return float(picture.shape[1] / picture.shape[0])


def _by_defocus(axes: Axes, check: SeriesCheck, values: np.ndarray) -> None:
    """Plot values (T, F) against the tilt, each nominal defocus with its colour and marker."""
    facts, series = check.imported.facts, check.imported.series
    assert facts is not None
    for j in range(values.shape[1]):
        label = f"{float(np.mean(series.defocus_A[:, j])) / 10:.4g} nm"
        axes.plot(facts.tilt_deg[:, j], values[:, j], _MARKERS[j % len(_MARKERS)], color=CYCLE[j % len(CYCLE)],
                  markersize=2.5, label=label)


def _zeros(check: SeriesCheck, defocus_nm: float, q_max: float) -> np.ndarray:
    """Return the frequencies in 1/Å where the phase of defocus and Cs is a multiple of π, at most eight."""
    microscope = check.imported.microscope
    wave = wavelength_A(microscope.energy_keV)
    q = np.linspace(0.02, q_max, 4000)
    phase = wave * q**2 * (10 * defocus_nm + 0.5e7 * microscope.Cs_mm * wave**2 * q**2)
    return np.asarray(q[1:][np.diff(np.floor(phase)) != 0][:8])
