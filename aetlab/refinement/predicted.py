"""Images that refined atoms predict, at the poses, brightness, contrast and thermal factors that the fit found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.resampling import magnify_planes
from aetlab.refinement.aberrations import FoundAberration, compared_tilts, find_aberrations, found_lens
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.sampling import correct_sampling, fine_amplitudes
from aetlab.spec import MicroscopeSpec, RefineSpec


def predict_images(series: TiltSeries, shape_zxy: tuple[int, int, int], refined: RefinedAtoms,
                   elements: Sequence[int], spec: RefineSpec, *, microscope: MicroscopeSpec,
                   n_layers_per_slice: int, averaged: bool = False) -> Iterator[np.ndarray]:
    """Yield the amplitudes (F, X, Y) that ``refined`` atoms predict for each tilt of ``series``.

    The parameters are those of :func:`fitted_model`.
    """
    model, sites, poses = fitted_model(series, shape_zxy, refined, elements, spec, microscope=microscope,
                                       n_layers_per_slice=n_layers_per_slice, averaged=averaged)
    if spec.sampling == "corrected":
        amplitudes = fine_amplitudes(model, sites, poses)
    else:
        amplitudes = (np.sqrt(intensity) for (intensity,) in model.focal_images(sites, poses, (0.0,)))
    for brightness, amplitude in zip(poses.brightness, amplitudes, strict=True):
        yield magnify_planes(amplitude, poses.magnification) * np.sqrt(brightness[:, None, None].astype(np.float32))


def lacking_aberrations(series: TiltSeries, shape_zxy: tuple[int, int, int], refined: RefinedAtoms,
                        elements: Sequence[int], spec: RefineSpec, *, microscope: MicroscopeSpec,
                        n_layers_per_slice: int, averaged: bool = False) -> dict[str, FoundAberration]:
    """Return the aberrations by which some images of ``series`` fit best to ``refined`` atoms.

    The parameters are those of :func:`fitted_model`. ``missing_rad`` is the difference from the lens of the atoms.
    """
    tilts = compared_tilts(series.weight > 0)
    model, sites, poses = fitted_model(series.select(tilts), shape_zxy, replace(
        refined, poses=refined.poses.select(tilts)), elements, spec, microscope=microscope,
        n_layers_per_slice=n_layers_per_slice, averaged=averaged)
    model = model.at_magnification(poses.magnification)
    if spec.sampling == "corrected":
        model = correct_sampling(model, sites, poses)
    return find_aberrations(model, sites, poses)


def fitted_model(series: TiltSeries, shape_zxy: tuple[int, int, int], refined: RefinedAtoms, elements: Sequence[int],
                 spec: RefineSpec, *, microscope: MicroscopeSpec, n_layers_per_slice: int,
                 averaged: bool) -> tuple[AtomModel, Sites, Poses]:
    """Return the model, the sites and the poses of ``refined`` atoms, with all that their refinement found.

    The parameters are those of :func:`aetlab.refinement.refine.refine_atoms`, and ``series`` is the one that the atoms
    were refined against.
    """
    kinds = tuple(sorted(elements))
    model = AtomModel(series, shape_zxy, kinds, microscope=found_lens(microscope, refined.summary),
                      n_layers_per_slice=n_layers_per_slice, parametrization=spec.parametrization,
                      debye_waller_A2=spec.debye_waller_A2, averaged=averaged, focal_spread=spec.focal_spread)
    if spec.thermal:
        model = model.with_thermal(refined.thermal_A2)
    model = model.with_contrast(float(refined.summary.get("contrast", 1.0)))
    atoms = refined.numbers > 0
    sites = Sites(refined.positions_A[atoms], refined.occupancy[atoms],
                  np.searchsorted(kinds, refined.numbers[atoms]))
    return model, sites, refined.poses
