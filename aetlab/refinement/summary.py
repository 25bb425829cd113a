"""Entries of the summary of a refinement on the unknowns of the images."""

from __future__ import annotations

from typing import Any

import numpy as np

from aetlab.core import physics
from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel
from aetlab.refinement.robust import list_weakened
from aetlab.spec import RefineSpec


def summarize_images(spec: RefineSpec, model: AtomModel, poses: Poses, thermal_A2: np.ndarray,
                     contrast_error: float) -> dict[str, Any]:
    """Return the entries of the summary for thermal factors (K,), defocus, brightness, weights and contrast."""
    found: dict[str, Any] = {}
    if spec.thermal:
        found |= {f"thermal_{physics.SYMBOLS[Z]}_A2": float(B) for Z, B in zip(model.elements, thermal_A2, strict=True)}
    if spec.imaging:
        found["defocus_offset_rms_A"] = float(np.sqrt((poses.defocus_A[model.present] ** 2).mean()))
        found["brightness_rms_percent"] = 100 * float(np.sqrt(((poses.brightness[model.present] - 1) ** 2).mean()))
    if spec.robust:
        found |= list_weakened(model)
    if spec.contrast:
        found |= {"contrast": model.contrast, "contrast_error": contrast_error}
    return found
