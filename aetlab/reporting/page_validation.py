"""Parts of the report page on records without a truth: their table, their validation, and their methods in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from aetlab.core.doubts import describe_hand, doubts
from aetlab.core.metrics import find_metric
from aetlab.reporting import html
from aetlab.reporting.columns import sample_name
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import number_label
from aetlab.reporting.methods_text import methods_text
from aetlab.reporting.report_contents import Report
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import dose_text, number_text

#: Atoms that break a rule and that the page lists; the record holds all.
MOST_LISTED = 40
RULES = ("too near", "isolated")
#: Metrics of the tables, by heading.
_TABLES = {
    "Model against images": (
        "r_factor_atoms", "r_factor_counts_atoms", "chi_square_reduced_atoms", "r_factor_volume",
        "r_factor_counts_volume", "chi_square_volume", "held_out_r_factor_atoms", "held_out_chi_square_atoms",
        "held_out_r_factor_volume", "held_out_chi_square_volume",
        "n_outlying_images", "defocus_scale", "defocus_scale_error", "aberration_A1_nm", "aberration_A1_error_nm",
        "aberration_B2_nm", "aberration_B2_error_nm", "aberration_A2_nm", "aberration_A2_error_nm",
        *(f"refined_lens_{name}_{key}" for name in ("A1", "B2", "A2") for key in ("nm", "error_nm", "deg"))),
    "Two halves": (
        "resolution_0143_A", "resolution_05_A", "resolution_half_bit_A", "resolution_0143_axis_A",
        "resolution_05_axis_A", "resolution_0143_wedge_A", "resolution_05_wedge_A", "resolution_0143_across_A",
        "resolution_05_across_A", "halves_n_first", "halves_n_second", "halves_n_common", "halves_n_unconfirmed",
        "halves_found_percent", "halves_false_percent", "halves_position_error_pm", "halves_names_agree_percent",
        "halves_species_percent"),
    "Chemistry": ("density_g_cm3", "density_per_A3", "n_too_near", "n_isolated",
                  "n_odd_occupancies", "occupancy_scatter", "n_expected_misnamed"),
}


def validation_section(report: Report) -> str:
    """Return the validation and the methods of each record without a truth, and of others that were validated."""
    runs = [run for run in report.runs if not run.has_truth or is_validated(run)]
    return "\n".join(_of_run(run, report.labels.get(run.identity, run.identity)) for run in runs)


def is_validated(run: StoredRun) -> bool:
    """Return whether the record of ``run`` holds a validation."""
    return "validation/images/held_out" in run.array_names


def _of_run(run: StoredRun, label: str) -> str:
    tables = "".join(_table(run, heading) for heading in _TABLES)
    broken = _doubts(run) + _outlying(run) + _broken(run) if is_validated(run) else ""
    if not is_validated(run):
        tables = "<p>This record was not validated: repeat the run with validate=images or validate=halves.</p>"
    name = f"{html.escape(label)} <code>{html.escape(run.identity)}</code>"
    return (f"<div{html.shown_with([run.identity])}><h3>{name}</h3>"
            f'<div class="columns">{tables}</div>{broken}<h4>Methods</h4>'
            f"<blockquote>{html.escape(methods_text(run))}</blockquote></div>")


def _table(run: StoredRun, heading: str) -> str:
    rows = {}
    for name in _names(run, heading):
        value = run.metrics.get(name, math.nan)
        if math.isfinite(value):
            metric = find_metric(name)
            rows[metric.heading] = metric.text(value)
    lines = "".join(f"<tr><th scope=row>{html.escape(name)}</th><td class=number>{html.escape(text)}</td></tr>"
                    for name, text in rows.items())
    table = f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'
    return f"<div><h4>{heading}</h4>{table}</div>" if rows else ""


def _names(run: StoredRun, heading: str) -> list[str]:
    """Return the metrics of a table; those of pairs and elements come first in the chemistry."""
    own = [name for name in run.metrics if name.startswith(("distance_", "coordination_"))
           and not name.removesuffix("_A").endswith(("_true", "_traced"))]
    return [*(own if heading == "Chemistry" else ()), *(name for name in _TABLES[heading] if name in run.metrics)]


def _doubts(run: StoredRun) -> str:
    """Return the hand that the images chose and the reasons to doubt the atoms."""
    named = [("Hand", line) for line in (describe_hand(run.metrics),) if line]
    named += [("Doubt", line) for line in doubts(run.metrics)]
    return "".join(f"<p><strong>{name}</strong>: {html.escape(line)}.</p>" for name, line in named)


def _outlying(run: StoredRun) -> str:
    """Return the list of images that fit much worse than the others."""
    if "validation/images/outlying" not in run.array_names:  # a record that another version wrote
        return ""
    tilt_deg, defocus_nm = run.array("tilt_series/tilt_deg"), run.array("tilt_series/defocus_nm")
    found = [f"{number_label(tilt_deg[i])}° at {number_label(defocus_nm[i, j])} nm"
             for i, j in np.argwhere(run.array("validation/images/outlying")).tolist()]
    return f"<p>Images that fit much worse than the others: {html.escape(', '.join(found))}.</p>" if found else ""


def _broken(run: StoredRun) -> str:
    """Return the list of atoms that break a rule of chemistry, those of the best atoms of the record."""
    atoms, distance_A = run.array("validation/broken/atoms"), run.array("validation/broken/distance_A")
    if not len(atoms):
        return "<p>No atom is too near to another one or isolated.</p>"
    source = "refined" if "refined/positions_A" in run.array_names else "traced"
    positions_A, numbers = run.array(f"{source}/positions_A"), run.array(f"{source}/numbers")

    def name(i: int) -> str:
        return f"{element_name(int(numbers[i]))} {i}" if i >= 0 else "–"

    rows = [{"atom": name(int(one)), "rule": RULES[int(rule)], "other": name(int(other)), "distance (Å)": f"{far:.2f}",
             **{f"{axis} (Å)": f"{positions_A[one, k]:.2f}" for k, axis in enumerate("xyz")}}
            for (one, rule, other), far in zip(atoms[:MOST_LISTED].tolist(), distance_A.tolist(), strict=False)]
    left = len(atoms) - len(rows)
    more = f"<p>{left} more are in the record (validation/broken).</p>" if left > 0 else ""
    return (f"<h4>Atoms that break a rule of chemistry ({source})</h4>"
            f"{html.table(pd.DataFrame(rows), sortable=False)}{more}")


def measured_frame(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """Return one row for each of ``runs``, records without a truth, formatted for readers.

    Atoms are the refined ones where the record has any, otherwise the traced ones. Error bars are medians of the
    standard errors along x, y and z; nearest neighbours are the median distance of an atom to its nearest one.
    """
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: StoredRun) -> dict[str, str]:
    source = "refined" if "refined/positions_A" in run.array_names else "traced"
    positions_A, numbers = run.array(f"{source}/positions_A"), run.array(f"{source}/numbers")
    sigma_pm = 100 * run.array(f"{source}/position_error_A")
    sigma_pm = sigma_pm[(np.isfinite(sigma_pm) & (sigma_pm > 0)).all(axis=1)]
    tilt_deg, weight = run.array("tilt_series/tilt_deg"), run.array("tilt_series/weight")
    counted = zip(*np.unique(numbers, return_counts=True), strict=True)
    elements = ", ".join(f"{n} {element_name(int(number))}" for number, n in counted)
    nearest_A = cKDTree(positions_A).query(positions_A, k=2)[0][:, 1] if len(positions_A) > 1 else np.empty(0)
    return {
        "record": run.identity,
        "series": sample_name(run.spec),
        "images": str(int((weight > 0).sum())),
        "tilts": f"{len(tilt_deg)}, {number_label(float(tilt_deg.min()))}° to {number_label(float(tilt_deg.max()))}°",
        "dose (e/Å²)": dose_text(run.spec.dose.total_e_A2),
        "voxel (Å)": f"{run.voxel_A:.4g}",
        "reg.": run.spec.reg.kind,
        "atoms": elements or "none",
        "positions": source,
        "error bar x, y, z (pm)": ", ".join(f"{value:.1f}" for value in np.median(sigma_pm, axis=0)) if len(sigma_pm)
        else "–",
        "nearest neighbours (Å)": f"{np.median(nearest_A):.2f}" if len(nearest_A) else "–",
        "χ² per value": number_text(run.metrics.get("refined_chi_square", math.nan), 2),
    }
