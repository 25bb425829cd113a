"""Entries of the summary of a refinement."""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.doubts import SURE
from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.refinement.aberrations import describe_lens
from aetlab.refinement.fit import Fit
from aetlab.refinement.image_parameters import Calibration
from aetlab.refinement.model import AtomModel
from aetlab.refinement.robust import describe_weakened, list_weakened
from aetlab.spec import MicroscopeSpec, RefineSpec


def summarize_fit(fit: Fit, model: AtomModel, electrons_per_pixel: float) -> dict[str, Any]:
    """Return the entries of the summary for the last fit."""
    return {"stopped": fit.descent.stopped, "remaining_standard_errors": fit.remaining,
            "chi_square": 8 * electrons_per_pixel * fit.descent.cost / model.data.n_values}


def summarize_images(spec: RefineSpec, model: AtomModel, poses: Poses, thermal_A2: np.ndarray,
                     step: Calibration | None) -> dict[str, Any]:
    """Return the entries of the summary for thermal factors (K,), and for what ``step`` was the last to fit."""
    found: dict[str, Any] = {}
    if spec.thermal:
        found |= {f"thermal_{physics.SYMBOLS[Z]}_A2": float(B) for Z, B in zip(model.elements, thermal_A2, strict=True)}
    if spec.imaging:
        found["defocus_offset_rms_A"] = float(np.sqrt((poses.defocus_A[model.data.present] ** 2).mean()))
        found["brightness_rms_percent"] = 100 * float(np.sqrt(((poses.brightness[model.data.present] - 1) ** 2).mean()))
    if spec.robust:
        found |= list_weakened(model)
    if step is not None and spec.contrast:
        found |= {"contrast": model.contrast, "contrast_error": step.contrast_error}
    if step is not None and spec.image_shifts:
        own_A = poses.image_shift_A[model.data.present]
        found["image_shift_rms_A"] = float(np.sqrt((own_A**2).mean()))
    if step is not None and spec.magnification:
        found |= {"magnification_spread_percent": 100 * float(np.ptp(poses.magnification)),
                  "magnification_error_percent": 100 * step.magnification_error}
    return found


def describe_found(refined: RefinedAtoms, series: TiltSeries, stated: MicroscopeSpec) -> list[str]:
    """Return lines on what a refinement found in the images of ``series``.

    They are on sites that sampling moved, renamed or left out, images that fit badly, aberrations, and planes of
    clearly different magnifications.
    """
    spread, error = (refined.summary.get(f"magnification_{name}_percent", 0.0) for name in ("spread", "error"))
    magnified = [] if spread <= SURE * error else [
        f"the planes of defocus differ in magnification by {spread:.2g} ± {error:.1g} %, which was fitted; the stated "
        "pixel is taken for their mean, and all distances follow it"]
    moved, renamed, gone = (int(refined.summary.get(f"sampled_{name}", 0)) for name in ("moved", "renamed", "gone"))
    sampled = [] if not moved + renamed + gone else [
        f"of the fitted sites {moved} are at other places oftener, {renamed} of another element, and {gone} are left "
        "out, since an atom is there in less than half of the samples"]
    if refined.summary.get("sampled_unstable"):
        sampled = ["the path through the posterior became unstable and was discarded: positions are those of the "
                   "highest likelihood, and their errors linear, which are too small here"]
    return sampled + describe_weakened(refined, series) + describe_lens(refined.summary, stated) + magnified
