"""Images that refined atoms predict, at the poses, brightness, contrast and thermal factors that the fit found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.forward.image_scaling import magnify_images
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.sampling import fine_amplitudes
from aetlab.spec import MicroscopeSpec, RefineSpec


def predict_images(series: TiltSeries, shape_zxy: tuple[int, int, int], refined: RefinedAtoms,
                   elements: Sequence[int], spec: RefineSpec, *, microscope: MicroscopeSpec,
                   n_layers_per_slice: int, averaged: bool = False) -> Iterator[np.ndarray]:
    """Yield the amplitudes (F, X, Y) that ``refined`` atoms predict for each tilt of ``series``.

    The parameters are those of :func:`aetlab.refinement.refine.refine_atoms`, and ``series`` is the one that the atoms
    were refined against.
    """
    kinds = tuple(sorted(elements))
    model = AtomModel(series, shape_zxy, kinds, microscope=microscope, n_layers_per_slice=n_layers_per_slice,
                      parametrization=spec.parametrization, debye_waller_A2=spec.debye_waller_A2,
                      averaged=averaged)
    if spec.thermal:
        model = model.with_thermal(refined.thermal_A2)
    model = model.with_contrast(float(refined.summary.get("contrast", 1.0)))
    atoms = refined.numbers > 0
    sites = Sites(refined.positions_A[atoms], refined.occupancy[atoms],
                  np.searchsorted(kinds, refined.numbers[atoms]))
    poses = refined.poses
    if spec.sampling == "corrected":
        amplitudes = fine_amplitudes(model, sites, poses)
    else:
        amplitudes = (np.sqrt(intensity) for (intensity,) in model.focal_images(sites, poses, (0.0,)))
    for brightness, amplitude in zip(poses.brightness, amplitudes, strict=True):
        factors = poses.magnification.tolist()
        magnified = np.stack([magnify_images(*each) for each in zip(amplitude, factors, strict=True)])
        yield magnified * np.sqrt(brightness[:, None, None].astype(np.float32))
