"""Compute the stages of a run with pure functions of settings and arrays.

    settings -> atoms -> tilt series -> reconstruction -> traced atoms -> refined atoms; with the truth, their score

No function takes a lock, reads a record or writes a file. Progress goes to a :class:`~aetlab.core.progress.Reporter`.
Only :func:`score` and :func:`compare` use the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aetlab import forward, samples, scoring, tracing
from aetlab.core.arguments import ArgumentError
from aetlab.core.backend import n_threads, prepare_process, single_threaded_blas, threads, to_numpy
from aetlab.core.grid import coordinates_A, rotation_matrix
from aetlab.core.nouns import (
    Atoms,
    Comparison,
    Match,
    Reconstruction,
    RefinedAtoms,
    Score,
    TiltSeries,
    TracedAtoms,
    Truth,
    Views,
    Volume,
)
from aetlab.core.physics import SYMBOLS
from aetlab.core.poses import Poses
from aetlab.core.progress import SILENT, Reporter
from aetlab.core.seeds import generator
from aetlab.reconstruction.device import choose_exposure, choose_slices, choose_tracing, solver_parts
from aetlab.reconstruction.fit import StagedFit, fit_stages, step_of
from aetlab.reconstruction.given import check_series
from aetlab.reconstruction.iterations import find_iterations
from aetlab.reconstruction.left_out import without_held_images
from aetlab.reconstruction.model import Model
from aetlab.reconstruction.resumable import Checkpoints, Resumption
from aetlab.reconstruction.tiles import seams_A
from aetlab.reconstruction.traced import report_traced, tracing_of
from aetlab.reconstruction.weight import hold_out, prediction_cost, regulariser_weight
from aetlab.spec import RunSpec, SpecError, coarse_refinement_layers, dose_per_image_e_A2, tilt_angles_deg
from aetlab.spec.derived import averages_pixels

if TYPE_CHECKING:
    from aetlab.refinement import Known

#: Tilts in degrees of the views of the true sample, as in the paper's figure 2. They need not belong to the series.
VIEWS_DEG = (0.0, 5.0)
#: Layers of a potential that are built at once if only their sum is needed.
_SLAB = 32
#: Maximum distance in Å of two atoms that are paired when the truth is registered to the traced atoms.
_REGISTERED_A = 1.2


def sample(settings: RunSpec) -> Atoms:
    """Return the true atoms of the sample of ``settings``.

    Raises
    ------
    SpecError
        If the sample cannot be made or does not fit into the volume.
    """
    with computing(settings):
        return samples.build_sample(settings.sample, settings.scale, generator(settings.seed, "sample"))


def elements(settings: RunSpec) -> tuple[int, ...]:
    """Return the atomic numbers of the elements that the sample of ``settings`` may hold, ascending.

    They are ``sample.elements``, or those of the simulated atoms.

    Raises
    ------
    SpecError
        If the series is measured and no elements are given.
    """
    if settings.sample.elements:
        return tuple(sorted({SYMBOLS.index(symbol) for symbol in settings.sample.elements}))
    if settings.data.kind == "measured":
        raise SpecError("sample.elements=[] cannot be used with data=measured: name the elements that the sample may "
                        "hold, for example sample.elements=[Pt]")
    return samples.sample_elements(sample(settings))


def simulate(settings: RunSpec, atoms: Atoms, *, noise: bool = True, progress: Reporter = SILENT) -> TiltSeries:
    """Return the simulated tilt series of ``atoms``, with the shot noise of the dose unless ``noise`` is False."""
    samples.require_box(settings.scale)
    samples.require_elements(atoms)
    with computing(settings):
        progress.step("simulate", 0, len(_tilts_deg(settings)), "tilts")
        ideal = _simulate(settings, atoms, _tilts_deg(settings), _defocus_A(settings), "phonons", progress,
                          true_poses(settings))
    return add_noise(settings, ideal) if noise else ideal


def as_acquired(settings: RunSpec, images: np.ndarray) -> TiltSeries:
    """Return noise-free ``images`` (T, F, X, Y) as the tilt series of ``settings``."""
    return TiltSeries(images, _tilts_deg(settings), _defocus_A(settings), settings.scale.voxel_A)


def add_noise(settings: RunSpec, ideal: TiltSeries, rows: np.ndarray | None = None) -> TiltSeries:
    """Return the noise-free tilt series ``ideal``, or some rows of it, as recorded with the dose of ``settings``."""
    return forward.add_shot_noise(ideal, electrons_per_pixel(settings), generator(settings.seed, "noise"), rows)


def electrons_per_pixel(settings: RunSpec) -> float:
    """Return the effective electrons of a vacuum pixel in one image: dose · pixel area · DQE at zero frequency."""
    return forward.effective_electrons_per_pixel(dose_per_image_e_A2(settings), settings.scale.voxel_A,
                                                 settings.microscope.dqe)


def true_poses(settings: RunSpec) -> Poses | None:
    """Return the poses of the simulated tilts; None if they are nominal."""
    return forward.draw_poses(settings.simulate, _tilts_deg(settings), len(settings.defocus.planes_nm),
                              generator(settings.seed, "tilt errors"))


def reconstruct(settings: RunSpec, series: TiltSeries, *, progress: Reporter = SILENT,
                checkpoints: Checkpoints | None = None, poses: Poses | None = None) -> Reconstruction:
    """Return the potential that fits ``series``.

    Parameters
    ----------
    settings : RunSpec
        Volume, microscope, regulariser and engine.
    series : TiltSeries
        Measured intensities (T, F, X, Y), vacuum 1; from a simulation or from a microscope.
    progress : Reporter
        Receives every iteration.
    checkpoints : Checkpoints, optional
        Stores the state between iterations, and provides it to continue from.
    poses : Poses, optional
        Poses of the tilts, which align=true then takes instead of finding them.

    Raises
    ------
    SpecError
        If the images do not fit the volume of ``settings``, or if a GPU is required and none can be used.
    DataError
        If the images are not intensities with vacuum 1.
    """
    check_series(settings, series, progress.say)
    series = without_held_images(settings, series, progress.say)
    with computing(settings):
        fitted, held = hold_out(series, settings.reg.held_out, generator(settings.seed, "held out"))
        resumption = Resumption(checkpoints, settings.seed)
        n_iterations = find_iterations(settings, series, fitted, progress, resumption)

        def weigh(model: Model) -> float:
            weight = resumption.notes["weight_per_V"] if "weight_per_V" in resumption.notes else regulariser_weight(
                settings, series, model, lambda other: simulate(other, sample(other), progress=progress), progress,
                resumption, {"n_iterations": n_iterations})
            progress.say(f"regulariser {settings.reg.kind} with weight {weight:.3g} per V, "
                         f"step {step_of(settings, len(fitted)) / model.lipschitz:.4g} V²")
            return weight

        fit = StagedFit(fit_stages(settings, n_iterations), series, fitted, resumption, progress, poses).run(weigh)
        solution = fit.solution
        volume = Volume(to_numpy(fit.model.form_potential(solution.volume)), settings.scale.voxel_A)
        predicted = prediction_cost(fit.model, solution.volume, held) if len(held) else float("nan")
        poses, weights = (fit.aligner.poses, fit.aligner.factors) if fit.aligner else (None, None)
        return Reconstruction(volume, solution.cost, solution.seconds, solution.restarts, solution.halvings,
                              solution.stopped, fit.weight, predicted, solver_parts(fit.model).name, poses, weights)


def trace(settings: RunSpec, reconstruction: Reconstruction | Volume, *, elements: Sequence[int] | None = None,
          progress: Reporter = SILENT) -> TracedAtoms:
    """Return the traced atoms of a reconstruction, or of a volume in V from elsewhere.

    ``elements`` are the atomic numbers that the sample may contain, 0 alone if they are not known; by default those of
    the sample of ``settings``. ``progress`` receives the numbers of removed sites by rule and of undecided names.
    """
    numbers = atomic_numbers(settings, elements)
    volume = reconstruction if isinstance(reconstruction, Volume) else reconstruction.volume
    for line in tracing.describe_missing(volume):
        progress.say(f"trace: {line}")
    with computing(settings):
        spec, expected = tracing_of(settings, numbers, volume.voxel_A)
        traced = tracing.trace_atoms(volume, spec, numbers, _listener(progress, "trace"), expected_signal=expected,
                                     in_volts=True, work=choose_tracing(settings, spec, volume, progress.say))
    report_traced(traced, progress)
    if not len(traced):
        for line in tracing.explain_nothing(volume, spec):
            progress.say(f"trace: {line}")
    return traced


def refine(settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction, traced: TracedAtoms, *,
           elements: Sequence[int] | None = None, progress: Reporter = SILENT,
           held: TracedAtoms | None = None, known: Known | None = None) -> RefinedAtoms:
    """Return traced atoms refined against the images.

    Atoms that are ``held`` are in the images as well and stay as they are, and so does what is ``known``. The images
    are divided by the vacuum brightness that the alignment of the reconstruction found. The poses of the tilts are not
    taken from it; the refinement finds them itself. ``elements`` are as in :func:`trace`.

    Raises
    ------
    SpecError
        If ``settings`` have no refinement.
    """
    from aetlab import refinement  # only a run that refines imports it

    if settings.refine.kind == "none":
        raise SpecError("refine.kind='none' cannot be used to refine atoms: choose refine=atoms")
    numbers = atomic_numbers(settings, elements)
    seed = int(generator(settings.seed, "refine").integers(2**31))
    reported = _listener(progress, "refine")
    most = refinement.most_passes(settings.refine, len(series.tilt_deg))
    with computing(settings):
        refined = refinement.refine_atoms(
            at_found_brightness(without_held_images(settings, series), reconstruction), settings.scale.shape_zxy,
            traced, numbers, settings.refine, refinement.ImageFormation(
                microscope=settings.microscope, n_layers_per_slice=settings.binning.n_layers,
                n_coarse_layers=coarse_refinement_layers(settings), averaged=averages_pixels(settings)),
            seed=seed, report=lambda done, detail: reported(done, most, detail),
            make_slices=choose_slices(settings, len(traced) + (0 if held is None else len(held)), progress.say),
            held=held, known=known)
    reported(most, most, f"{len(refined)} atoms, {refined.summary['stopped']} in {refined.summary['passes']} passes")
    for line in refinement.describe_found(refined, series, settings.microscope):
        progress.say(f"refine: {line}")
    if refined.summary.get("traced_lost", 0):
        progress.say(f"refine: {refined.summary['traced_lost']} well-traced sites have no refined atom near them")
    return refined


def score(settings: RunSpec, traced: TracedAtoms, atoms: Atoms, refined: RefinedAtoms | None = None, *,
          progress: Reporter = SILENT) -> Score:
    """Return the score of traced atoms, and of refined ones, against the true ``atoms`` of the scoring region.

    Aligned images do not determine the position and orientation of the whole sample. With align=true, the truth is
    therefore registered to the traced atoms by a rigid motion first. The refined atoms are registered to the truth for
    their match.
    """
    samples.require_elements(atoms)
    with computing(settings):
        motion = None
        if settings.align.enabled:
            atoms = _moved_to(atoms, traced, progress)
        match = _match(settings, traced, atoms)
        structure, structure_metrics = scoring.compare_structure(
            match, traced, atoms, traced_inside=inside(settings, traced.positions_A),
            true_inside=inside(settings, atoms.positions_A))
        metrics = match.metrics | structure_metrics
        refined_match = None
        if refined is not None:
            if settings.align.enabled:
                motion = scoring.register_atoms(refined.positions_A, atoms.positions_A, _REGISTERED_A)
                refined = replace(refined, positions_A=refined.positions_A @ motion[0].T + motion[1])
            refined_match = _match(settings, refined.as_traced(), atoms)
            error_A = scoring.errors_of_pairs(refined.positions_A, atoms.positions_A, refined_match)
            of_errors = scoring.compare_errors(error_A, refined.position_error_A[refined_match.traced])
            metrics |= {f"refined_{name}": value for name, value in (refined_match.metrics | of_errors).items()}
        profiles = scoring.profile_scores(match, traced, atoms, seams_A=seams_A(settings))
        return Score(atoms, inside(settings, atoms.positions_A), match, metrics, profiles, structure, refined_match,
                     motion)


def compare(settings: RunSpec, truth: Truth, series: TiltSeries, reconstruction: Reconstruction, traced: TracedAtoms,
            refined: RefinedAtoms | None = None, *, progress: Reporter = SILENT,
            out: np.ndarray | None = None) -> Comparison:
    """Return all results that need the ``truth``: the score, the true potential, views of the sample, and metrics.

    In addition to the metrics of :func:`score`, these are ``potential_error`` (:func:`aetlab.scoring.potential_error`
    over the scored y rows), counts of the sample's atoms, and the errors of the poses used by the reconstruction.
    """
    with computing(settings):
        views = make_views(settings, truth.atoms)
        scored = score(settings, traced, truth.atoms, refined, progress=progress)
        potential = Volume(true_potential(settings, scored.atoms, out), settings.scale.voxel_A)
        metrics = scored.metrics | {f"{name}_atoms": count for name, count in truth.atoms.counts.items()}
        metrics |= scoring.score_poses(reconstruction.poses, truth.poses, series)
        metrics["potential_error"] = scoring.potential_error(
            reconstruction.volume.potential_V, potential.potential_V, _scored_rows(settings))
        return Comparison(scored, potential, views, metrics, truth.ideal, truth.poses)


def measure(reconstruction: Reconstruction, traced: TracedAtoms,
            refined: RefinedAtoms | None = None) -> dict[str, float]:
    """Return the metrics of a run that need no truth, by name; ``refined_*`` are of the refinement's summary."""
    metrics = {"final_cost": float(reconstruction.cost[-1]), "held_out_cost": reconstruction.held_out_cost,
               "weight_per_V": reconstruction.weight_per_V, "n_atoms_traced": float(len(traced))}
    if refined is not None:
        metrics["n_atoms_refined"] = float(len(refined))
    summary = refined.summary if refined is not None else {}
    return metrics | {f"refined_{name}": float(value) for name, value in summary.items()
                      if isinstance(value, (int, float))}


def true_potential(settings: RunSpec, atoms: Atoms, out: np.ndarray | None = None) -> np.ndarray:
    """Return the true potential at the voxels of the reconstruction, float32 (Z, X, Y) in V, in ``out`` if given."""
    return forward.build_potential(atoms, settings.scale.shape_zxy, settings.scale.voxel_A, out=out,
                                   parametrization=settings.simulate.parametrization,
                                   debye_waller_A2=settings.sample.debye_waller_A2)


def make_views(settings: RunSpec, atoms: Atoms) -> Views:
    """Return the views of figure 2 of the paper: projected potentials, ideal images and recorded images of a sample."""
    defocus_nm = max(settings.defocus.planes_nm)
    ideal = _simulate(settings, atoms, np.array(VIEWS_DEG), np.array([10.0 * defocus_nm]), "view phonons")
    recorded = forward.add_shot_noise(ideal, electrons_per_pixel(settings), generator(settings.seed, "view noise"))
    return Views(VIEWS_DEG, defocus_nm, project_potential(settings, atoms, VIEWS_DEG), to_numpy(ideal.images)[:, 0],
                 to_numpy(recorded.images)[:, 0])


def project_potential(settings: RunSpec, atoms: Atoms, tilt_deg: Sequence[float]) -> np.ndarray:
    """Return the projected potential in V Å at each tilt, float32 (T, X, Y), built slab by slab."""
    n_z, voxel_A = settings.scale.shape_zxy[0], settings.scale.voxel_A
    projected = []
    for angle_deg in tilt_deg:
        tilted = replace(atoms, positions_A=atoms.positions_A @ rotation_matrix(angle_deg).T)
        slabs = (forward.build_potential(tilted, settings.scale.shape_zxy, voxel_A, layers=(low, min(low + _SLAB, n_z)),
                                         parametrization=settings.simulate.parametrization,
                                         debye_waller_A2=settings.sample.debye_waller_A2)
                 for low in range(0, n_z, _SLAB))
        projected.append(voxel_A * sum(slab.sum(axis=0) for slab in slabs))
    return np.stack(projected)


def inside(settings: RunSpec, positions_A: np.ndarray) -> np.ndarray:
    """Return which positions (N, 3) in Å lie in the scoring region, bool (N,)."""
    return samples.in_scoring_region(positions_A, settings.sample, settings.scale)


@contextmanager
def computing(settings: RunSpec) -> Iterator[None]:
    """Use the number of threads of ``settings`` inside the block, and one thread for linear algebra."""
    prepare_process()
    with single_threaded_blas(), threads(settings.engine.n_threads or n_threads()):
        yield


def atomic_numbers(settings: RunSpec, given: Sequence[int] | None) -> tuple[int, ...]:
    """Return the ``given`` atomic numbers, ascending; those of ``settings`` for None."""
    if given is None:
        return elements(settings)
    numbers = sorted(int(number) for number in given)
    if numbers != [0] and not (len(set(numbers)) == len(numbers) > 0 < numbers[0] and numbers[-1] < len(SYMBOLS)):
        raise ArgumentError(f"elements={list(given)} cannot be used: give atomic numbers from 1 to {len(SYMBOLS) - 1}, "
                            "each once, or 0 alone if they are not known")
    return tuple(numbers)


def _tilts_deg(settings: RunSpec) -> np.ndarray:
    return np.array(tilt_angles_deg(settings.tilts, settings.wedge))


def _defocus_A(settings: RunSpec) -> np.ndarray:
    return 10.0 * np.array(settings.defocus.planes_nm)


def _simulate(settings: RunSpec, atoms: Atoms, tilt_deg: np.ndarray, defocus_A: np.ndarray, purpose: str,
              progress: Reporter = SILENT, poses: Poses | None = None) -> TiltSeries:
    return forward.simulate_tilt_series(
        atoms, settings.scale.shape_zxy, settings.scale.voxel_A, tilt_deg, defocus_A, microscope=settings.microscope,
        simulate=settings.simulate, debye_waller_A2=settings.sample.debye_waller_A2,
        rng=generator(settings.seed, purpose), poses=poses, make_exposure=choose_exposure(settings, progress.say),
        report=lambda done, total: progress.step("simulate", done, total, "tilts"))


def at_found_brightness(series: TiltSeries, reconstruction: Reconstruction) -> TiltSeries:
    """Return ``series`` divided by the brightness that the alignment of ``reconstruction`` found."""
    if reconstruction.poses is None:
        return series
    brightness = reconstruction.poses.brightness.astype(np.float32)
    return replace(series, images=series.images / brightness[:, :, None, None])


def _moved_to(atoms: Atoms, traced: TracedAtoms, progress: Reporter) -> Atoms:
    rotation, shift_A = scoring.register_atoms(atoms.positions_A, traced.positions_A, _REGISTERED_A)
    turn_deg = float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    progress.say(f"the truth is turned by {turn_deg:.3f}° and shifted by {np.linalg.norm(shift_A):.3f} Å for the score")
    return replace(atoms, positions_A=atoms.positions_A @ rotation.T + shift_A)


def _match(settings: RunSpec, traced: TracedAtoms, atoms: Atoms) -> Match:
    return scoring.match_atoms(traced, atoms, traced_inside=inside(settings, traced.positions_A),
                               true_inside=inside(settings, atoms.positions_A),
                               max_distance_A=settings.score.max_distance_A)


def _scored_rows(settings: RunSpec) -> np.ndarray:
    """Return which y rows of voxels lie at scored heights, bool (Y,)."""
    y_A = coordinates_A(settings.scale.shape_zxy[2], settings.scale.voxel_A)
    return inside(settings, np.stack([np.zeros_like(y_A), y_A, np.zeros_like(y_A)], axis=1))


def _listener(progress: Reporter, stage: str) -> Callable[[int, int, str], None]:
    def listen(done: int, total: int, detail: str = "") -> None:
        progress.step(stage, done, total, detail)

    return listen
