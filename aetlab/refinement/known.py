"""Unknowns of the images that another part of the sample gave before atoms are refined."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aetlab.core.poses import Poses
from aetlab.refinement.model import AtomModel
from aetlab.spec import MicroscopeSpec, RefineSpec


def finds_unknowns(spec: RefineSpec) -> bool:
    """Return whether a refinement finds more than the atoms: poses, thermal factors, images, contrast or lens."""
    return spec.kind != "none" and (spec.poses or spec.thermal or spec.imaging or spec.contrast
                                    or spec.aberrations == "fitted")


@dataclass(frozen=True)
class Known:
    """Poses with what each image has of its own, thermal factors B (K,) in Å² by element, contrast and lens.

    ``microscope`` is None where the stated one is not changed.
    """

    poses: Poses
    thermal_A2: np.ndarray
    contrast: float = 1.0
    microscope: MicroscopeSpec | None = None

    def held_in(self, model: AtomModel, spec: RefineSpec) -> tuple[AtomModel, RefineSpec]:
        """Return ``model`` with the known factors, and the settings of a refinement that leaves them as they are."""
        if spec.thermal:
            model = model.with_thermal(self.thermal_A2)
        if spec.contrast:
            model = model.with_contrast(self.contrast)
        if self.microscope is not None:
            model = model.with_microscope(self.microscope)
        model = model.at_magnification(self.poses.magnification)
        return model, replace(spec, poses=False, thermal=False, imaging=False, contrast=False, image_shifts=False,
                              magnification=False, aberrations="stated")
