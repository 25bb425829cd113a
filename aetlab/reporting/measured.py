"""Table of records without a truth, as a microscopist reads them: images, atoms, error bars, distances, misfit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from aetlab.reporting.columns import sample_name
from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import number_label
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import dose_text, number_text


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
