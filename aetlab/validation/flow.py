"""Validate the results of a run by its images, its halves and its atoms; the truth never enters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aetlab import flow
from aetlab.core.backend import to_numpy
from aetlab.core.doubts import describe_hand, doubts
from aetlab.core.grid import rotation_matrix
from aetlab.core.nouns import Reconstruction, RefinedAtoms, TiltSeries, TracedAtoms, Validation
from aetlab.core.progress import SILENT, Reporter
from aetlab.reconstruction.left_out import held_images
from aetlab.refinement.naming import scatter_of_occupancies
from aetlab.refinement.predicted import lacking_aberrations
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.derived import averages_pixels
from aetlab.validation.agreement import compare_halves
from aetlab.validation.chemistry import check_chemistry, count_odd_occupancies
from aetlab.validation.defocus_scale import find_defocus_scale
from aetlab.validation.fsc import correlate_shells, resolution_A, shift_between, shifted
from aetlab.validation.halves import Half, make_halves, registered, split_of
from aetlab.validation.images import ImageFit, compare_images
from aetlab.validation.predict import Predict, predict_whole

#: Outlying images that the log names.
MOST_NAMED = 10


def validate(settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction, traced: TracedAtoms,
             refined: RefinedAtoms | None = None, *, elements: Sequence[int] | None = None,
             progress: Reporter = SILENT, predict: Predict = predict_whole) -> Validation:
    """Return what speaks for and against the results of a run, without a truth.

    Parameters
    ----------
    settings : RunSpec
        Settings of the run; ``validate.kind`` decides what is done.
    series : TiltSeries
        The measured series, whole.
    reconstruction, traced, refined
        Results of the run.
    elements : sequence of int, optional
        As in :func:`aetlab.flow.trace`.
    predict : callable, optional
        Predicts the images of the final models.

    Raises
    ------
    SpecError
        If ``settings`` have no validation, or the series cannot be split into halves.
    """
    if settings.validate.kind == "none":
        raise SpecError("validate.kind='none' cannot be used to validate a run: choose validate=images or halves")
    numbers = flow.atomic_numbers(settings, elements)
    metrics: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    with flow.computing(settings):
        for name, fit in _fits(settings, series, reconstruction, refined, numbers, progress, predict).items():
            held = held_images(settings, series)
            _add_fit(name, fit, held, metrics, arrays)
            outlying = fit.outlying(~held)  # the last one is that of the best model; images left out fit worse anyway
            arrays["images/outlying"] = outlying
            metrics["n_outlying_images"] = float(outlying.sum())
            outliers = _outliers(series, fit, outlying)
        if refined is not None:
            metrics["chi_square_reduced_atoms"] = _reduced(settings, series, refined, metrics["chi_square_atoms"])
        _add_chemistry(traced if refined is None else refined, metrics, arrays)
        if refined is not None:
            if settings.refine.imaging:
                metrics["defocus_scale"], metrics["defocus_scale_error"] = find_defocus_scale(series, refined.poses)
                if predict is predict_whole:
                    at_brightness = flow.at_found_brightness(series, reconstruction)
                    metrics |= _aberrations(settings, at_brightness, refined, numbers)
            metrics["n_odd_occupancies"] = float(count_odd_occupancies(refined.numbers, refined.occupancy,
                                                                       refined.occupancy_error))
            metrics["occupancy_scatter"] = scatter_of_occupancies(refined.numbers, refined.occupancy,
                                                                  refined.occupancy_error)
            metrics["n_expected_misnamed"] = float(np.maximum(
                1 - refined.probability - refined.not_atom_probability, 0).sum())
    if settings.validate.kind == "halves":
        halves = make_halves(settings, series, reconstruction, elements=numbers, progress=progress)
        with flow.computing(settings):
            _add_halves(settings, series, halves, reconstruction, Half(reconstruction, traced, refined), numbers,
                        metrics, arrays)
    of_refined = {} if refined is None else flow.measure(reconstruction, traced, refined)
    chosen = describe_hand(of_refined | metrics)
    for line in _lines(metrics) + outliers + [chosen] * bool(chosen) + doubts(of_refined | metrics):
        progress.say(f"validate: {line}")
    return Validation(metrics, arrays, split_of(settings, series) if settings.validate.kind == "halves" else "")


def _fits(settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction, refined: RefinedAtoms | None,
          numbers: tuple[int, ...], progress: Reporter, predict: Predict) -> dict[str, ImageFit]:
    """Return the fit of the volume, and that of the refined atoms, whose worst images are kept where they exist."""
    volume = predict(settings, series, reconstruction, numbers)
    progress.step("validate", 0, 2)
    n_kept = settings.validate.n_residuals
    fits = {"volume": compare_images(series, volume, 0 if refined is not None else n_kept)}
    progress.step("validate", 1, 2)
    if refined is not None:
        at_brightness = flow.at_found_brightness(series, reconstruction)
        atoms = predict(settings, at_brightness, refined, numbers)
        fits["atoms"] = compare_images(at_brightness, atoms, n_kept)
    progress.step("validate", 2, 2)
    return fits


def _aberrations(settings: RunSpec, series: TiltSeries, refined: RefinedAtoms,
                 numbers: tuple[int, ...]) -> dict[str, float]:
    """Return the aberrations by which the images of some tilts fit best, as metrics."""
    found = lacking_aberrations(series, settings.scale.shape_zxy, refined, numbers, settings.refine,
                                microscope=settings.microscope, n_layers_per_slice=settings.binning.n_layers,
                                averaged=averages_pixels(settings))
    return {f"aberration_{name}_{key}": value for name, one in found.items() for key, value in vars(one).items()}


def _add_fit(name: str, fit: ImageFit, held: np.ndarray, metrics: dict[str, float],
             arrays: dict[str, np.ndarray]) -> None:
    metrics[f"r_factor_{name}"], metrics[f"r_factor_counts_{name}"], metrics[f"chi_square_{name}"] = fit.overall(~held)
    arrays |= {f"images/r_factor_{name}": fit.r_factor, f"images/chi_square_{name}": fit.chi_square,
               "images/r_factor_counts": fit.expected_r_factor, "images/held_out": held}
    if held.any():
        metrics[f"held_out_r_factor_{name}"], _, metrics[f"held_out_chi_square_{name}"] = fit.overall(held)
    if len(fit.worst):
        arrays |= {"images/worst": fit.worst, "images/worst_measured": fit.measured,
                   "images/worst_residual": fit.residual}


def _outliers(series: TiltSeries, fit: ImageFit, outlying: np.ndarray) -> list[str]:
    """Return a line that names the images that fit much worse than the others, the worst first; none without any."""
    found = np.argwhere(outlying)
    found = found[np.argsort(-fit.misfit[outlying], kind="stable")]
    quantity = "R" if fit.misfit is fit.r_factor else "χ²"
    named = [f"{series.tilt_deg[i]:.4g}° at {series.defocus_A[i, j] / 10:.4g} nm ({quantity} {fit.misfit[i, j]:.3g})"
             for i, j in found[:MOST_NAMED].tolist()]
    more = f" and {len(found) - len(named)} more" if len(found) > len(named) else ""
    return [f"{len(found)} images fit much worse than the others: {', '.join(named)}{more}"] if named else []


def _add_chemistry(atoms: TracedAtoms | RefinedAtoms, metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
    named = np.flatnonzero(atoms.numbers > 0)
    chemistry = check_chemistry(atoms.numbers[named], atoms.positions_A[named], atoms.position_error_A[named])
    metrics |= chemistry.metrics
    arrays |= {f"chemistry/{name}": values for name, values in chemistry.arrays.items()}
    broken = chemistry.broken.copy()  # its indices are those of named atoms
    broken[:, [0, 2]] = np.where(broken[:, [0, 2]] >= 0, np.append(named, -1)[broken[:, [0, 2]]], -1)
    arrays |= {"broken/atoms": broken, "broken/distance_A": chemistry.broken_distance_A}


def _reduced(settings: RunSpec, series: TiltSeries, refined: RefinedAtoms, per_value: float) -> float:
    """Return χ² over the degrees of freedom: the pixels that were fitted less the parameters of the atoms and images.

    An atom has four, an element B on request, a tilt six (turn and shift) with poses, an image two (defocus and
    brightness) with imaging and two for its shift, less those of its tilt; a plane one for its magnification but the
    first, an aberration two.
    """
    present = (series.weight > 0) & ~held_images(settings, series)
    n_pixels = series.images.shape[2] * series.images.shape[3]
    n_values = float(present.sum()) * n_pixels if series.pixel_weight is None else float(
        series.pixel_weight[present].sum(dtype=np.float64))
    spec = settings.refine
    n_lens = 2 * sum(name.startswith("lens_") and name.endswith("_deg") for name in refined.summary)
    n_images, n_tilts = int(present.sum()), int(present.any(axis=1).sum())
    n_parameters = (4 * len(refined) + spec.thermal * len(refined.thermal_A2) + spec.contrast
                    + 6 * spec.poses * n_tilts + 2 * spec.imaging * n_images
                    + 2 * spec.image_shifts * (n_images - spec.poses * n_tilts)
                    + spec.magnification * (series.n_defoci - 1) + n_lens)
    return per_value * n_values / (n_values - n_parameters) if n_values > n_parameters else math.nan


def _add_halves(settings: RunSpec, series: TiltSeries, halves: Sequence[Half], reconstruction: Reconstruction,
                whole: Half, numbers: tuple[int, ...], metrics: dict[str, float],
                arrays: dict[str, np.ndarray]) -> None:
    voxel_A = reconstruction.volume.voxel_A
    first, second = (to_numpy(half.reconstruction.volume.potential_V) for half in halves)
    if settings.align.enabled:
        second = shifted(second, shift_between(first, second, voxel_A), voxel_A)
    shells = correlate_shells(first, second, voxel_A, directions(series))
    curves = {"all": shells.all_directions, **shells.in_cones}
    arrays |= {"fsc/frequency_per_A": shells.frequency_per_A, "fsc/half_bit": shells.half_bit}
    for name, curve in curves.items():
        arrays[f"fsc/{name}"] = curve
        end = "" if name == "all" else f"_{name}"
        for criterion, value in (("0143", 0.143), ("05", 0.5)):
            metrics[f"resolution_{criterion}{end}_A"] = resolution_A(shells.frequency_per_A, curve, value)
    metrics["resolution_half_bit_A"] = resolution_A(shells.frequency_per_A, shells.all_directions, shells.half_bit)
    reach_A = settings.validate.max_distance_A
    use_refined = settings.validate.refined and whole.refined is not None
    of_whole = whole.places(refined=use_refined)
    places = [half.places(refined=use_refined) for half in halves]
    if settings.align.enabled or settings.refine.poses:
        places = [registered(place, of_whole, reach_A) for place in places]
    agreement = compare_halves(of_whole, *places, n_elements=len(numbers), max_distance_A=reach_A)
    metrics |= agreement.metrics
    for k, place in enumerate(places, 1):
        arrays |= {f"half_{k}/positions_A": place.positions_A, f"half_{k}/numbers": place.numbers}
    arrays |= {"halves/pairs": agreement.pairs, "halves/difference_A": agreement.difference_A,
               "halves/confirmed": agreement.confirmed}


def directions(series: TiltSeries) -> dict[str, np.ndarray]:
    """Return unit vectors (x, y, z) of the sample: the tilt axis, the beam at the middle tilt, and across both.

    The missing wedge lies about the beam's direction at the middle of the tilts: there the images tell least.
    """
    seen = series.tilt_deg[(series.weight > 0).any(axis=1)]
    turn = rotation_matrix(float((seen.min() + seen.max()) / 2))
    return {"axis": np.array([0.0, 1, 0]), "wedge": turn.T @ np.array([0.0, 0, 1]),
            "across": turn.T @ np.array([1.0, 0, 0])}


def _lines(metrics: dict[str, float]) -> list[str]:
    """Return the main results in words for the log."""
    lines = [f"{name} against the images: R {100 * metrics[f'r_factor_{name}']:.2f} % "
             f"({100 * metrics[f'r_factor_counts_{name}']:.2f} % by counts alone), χ² per value "
             f"{metrics[f'chi_square_{name}']:.3f}" for name in ("volume", "atoms") if f"r_factor_{name}" in metrics]
    lines += [f"{metrics[f'held_out_r_factor_{name}'] * 100:.2f} % is the R of {name} for images held out"
              for name in ("volume", "atoms") if f"held_out_r_factor_{name}" in metrics]
    lines.append(f"{metrics['n_too_near']:.0f} pairs of atoms are too near, {metrics['n_isolated']:.0f} are isolated")
    if "resolution_0143_A" in metrics:
        lines.append(f"halves agree to {metrics['resolution_0143_A']:.2f} Å at 0.143 and "
                     f"{metrics['resolution_05_A']:.2f} Å at 0.5; estimated from the halves: "
                     f"{metrics['halves_found_percent']:.2f} % found, {metrics['halves_false_percent']:.2f} % false, "
                     f"{metrics['halves_position_error_pm']:.1f} pm")
    return lines
