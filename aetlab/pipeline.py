"""One run, one line per arrow of the flow:

spec -> atoms -> tilt series -> (noise) -> reconstruction -> traced atoms -> match -> record

The truth (atoms, their potential) enters the match and the record alone, never the solver or the tracer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aetlab import forward, refinement, samples, scoring, solve, tracing
from aetlab.core.backend import to_numpy
from aetlab.core.grid import coordinates_A, rotation_matrix
from aetlab.core.nouns import Atoms, Match, Reconstruction, RefinedAtoms, TiltOffsets, TiltSeries, TracedAtoms, Volume
from aetlab.core.progress import Reporter
from aetlab.core.seeds import generator
from aetlab.reconstruction.device import choose_tilt_cost, solver_parts
from aetlab.reconstruction.estimate import estimate
from aetlab.reconstruction.fit import align_when_due, fit_volume, make_aligner, make_model, step_of
from aetlab.reconstruction.iterations import find_iterations
from aetlab.reconstruction.memory import require_memory
from aetlab.reconstruction.weight import hold_out, prediction_cost, regulariser_weight
from aetlab.spec import RunSpec, dose_per_image_e_A2, tilt_angles_deg
from aetlab.store import cache, checkpoint, record
from aetlab.store.contents import VIEWS_DEG, Outcome, Views, describe_arrays, describe_metrics, plain
from aetlab.store.environment import StageClock, describe_environment
from aetlab.store.identity import identity, record_id
from aetlab.store.refined import Refinement
from aetlab.store.sharing import find_reconstruction

#: Groups of settings that the noise-free tilt series depends on.
_DECIDE_TILT_SERIES = ("seed", "sample", "scale", "tilts", "wedge", "defocus", "microscope", "simulate")
#: Layers of a potential that are built at once where only their sum is wanted.
_SLAB = 32
#: Farthest apart in Å that atoms are taken for the same when the truth is moved to the traced ones.
_REGISTERED_A = 1.2


@dataclass(frozen=True)
class RunResult:
    """How a run came out: ``status`` done, resumed or skipped, its record, and a line on what happened on the way."""

    status: str
    record: record.Record
    note: str


def run(spec: RunSpec, *, places: record.Places, reporter: Reporter, use_other_code: bool = False) -> RunResult:
    """Make the record of ``spec`` under ``places``, or find it there.

    Raises
    ------
    SpecError
        Where the settings cannot be used together with the sample.
    StorageError
        Where the disk refuses.
    """
    with record.run_lock(places, spec, lambda: reporter.say("another process makes this record, waiting")):
        found, note = record.find_record(places, spec, use_other_code=use_other_code)
        if found is not None:
            return RunResult("skipped", found, "complete")
        if note:
            reporter.say(note)
        made, resumed = _make(spec, places, reporter, use_other_code)
        return RunResult("resumed" if resumed else "done", made, note)


def _make(spec: RunSpec, places: record.Places, reporter: Reporter,
          use_other_code: bool) -> tuple[record.Record, bool]:
    clock = StageClock()
    with clock.stage("sample"):
        atoms = samples.build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
        counts = atoms.counts
        reporter.say(f"{counts['n_all']} atoms, {counts['n_in_volume']} of them in {spec.scale.shape_zxy} voxels of "
                     f"{spec.scale.voxel_A} Å, less {counts['n_vacancies']} vacancies; "
                     f"{int(_inside(spec, atoms.positions_A).sum())} are scored")
    with clock.stage("estimate"):
        require_memory(spec)
        reporter.say(estimate(spec, atoms).in_one_line())
    with clock.stage("simulate"):
        ideal = ideal_tilt_series(spec, atoms, places, reporter)
    with clock.stage("noise"):
        series = forward.add_shot_noise(ideal, electrons_per_pixel(spec), generator(spec.seed, "noise"))
    with clock.stage("reconstruct"):
        held = find_reconstruction(places, spec, use_other_code=use_other_code)
        if held is None:
            reconstruction, resumed = reconstruct(spec, series, places, reporter)
        else:
            reconstruction, resumed = held[0], False
            reporter.say(f"reconstruction: shared, read from record {held[1].id}")
    with clock.stage("trace"):
        traced = tracing.trace_atoms(reconstruction.volume, spec.trace, samples.sample_elements(atoms),
                                   _listener(reporter, "trace"))
    with clock.stage("refine"):
        refined = refine_traced(spec, as_aligned(series, reconstruction), traced, samples.sample_elements(atoms),
                                reporter)
    with clock.stage("score"):
        views = make_views(spec, atoms)
        if spec.align.enabled:
            atoms, refined = bring_together(spec, atoms, traced, refined, reporter)
        truth = Volume(true_potential(spec, atoms), spec.scale.voxel_A)
        match = score(spec, traced, atoms)
        scored = None if refined is None else Refinement(refined, score(spec, refinement.as_traced(refined), atoms))
        profiles = scoring.profile_scores(match, traced, atoms)
        structure, structure_metrics = scoring.compare_structure(
            match, traced, atoms, traced_inside=_inside(spec, traced.positions_A),
            true_inside=_inside(spec, atoms.positions_A))
    outcome = Outcome(spec=spec, atoms=atoms, inside=_inside(spec, atoms.positions_A), truth=truth,
                      views=views, ideal=ideal, series=series, reconstruction=reconstruction,
                      traced=traced, match=match, profiles=profiles, structure=structure,
                      structure_metrics=structure_metrics, refinement=scored, offsets=true_offsets(spec))
    run_id = record_id(spec)
    folder = record.write_record(
        places.records, spec, metrics=describe_metrics(outcome, _scored_rows(spec)), arrays=describe_arrays(outcome),
        history=record.History(reconstruction.cost, reconstruction.seconds),
        environment={**describe_environment(clock, reconstruction.device), "resumed": resumed,
                     "reconstruction_of": None if held is None else held[1].id,
                     "stopped": reconstruction.stopped, "restarts": list(reconstruction.restarts),
                     "halvings": list(reconstruction.halvings),
                     "species": plain(traced.species), "rounds": plain(traced.rounds),
                     "refined": plain({**refined.summary, "rounds": refined.rounds}) if refined is not None else None},
        log=places.log(run_id).read_text(encoding="utf-8"))
    places.checkpoint(run_id).unlink(missing_ok=True)
    return record.read_record(folder, verify=False), resumed


def electrons_per_pixel(spec: RunSpec) -> float:
    """Effective electrons of a vacuum pixel in one image: those that the detector's efficiency leaves."""
    return forward.effective_electrons_per_pixel(dose_per_image_e_A2(spec), spec.scale.voxel_A, spec.microscope.dqe)


def true_potential(spec: RunSpec, atoms: Atoms) -> np.ndarray:
    """The potential that the data were made of, at the voxels of the reconstruction: float32 (Z, X, Y) in V."""
    return forward.build_potential(atoms, spec.scale.shape_zxy, spec.scale.voxel_A,
                                   parametrization=spec.simulate.parametrization,
                                   debye_waller_A2=spec.sample.debye_waller_A2)


def make_views(spec: RunSpec, atoms: Atoms) -> Views:
    """What figure 2 of the paper shows of the run's sample: projected potentials, ideal images, and as recorded."""
    defocus_nm = max(spec.defocus.planes_nm)
    ideal = _simulate(spec, atoms, np.array(VIEWS_DEG), np.array([10.0 * defocus_nm]), "view phonons")
    recorded = forward.add_shot_noise(ideal, electrons_per_pixel(spec), generator(spec.seed, "view noise"))
    return Views(defocus_nm, project_potential(spec, atoms, VIEWS_DEG), to_numpy(ideal.images)[:, 0],
                 to_numpy(recorded.images)[:, 0])


def project_potential(spec: RunSpec, atoms: Atoms, tilt_deg: Sequence[float]) -> np.ndarray:
    """Projected potential in V Å at each tilt, float32 (T, X, Y), built a slab at a time."""
    n_z, voxel_A = spec.scale.shape_zxy[0], spec.scale.voxel_A
    projected = []
    for angle_deg in tilt_deg:
        tilted = replace(atoms, positions_A=atoms.positions_A @ rotation_matrix(angle_deg).T)
        slabs = (forward.build_potential(tilted, spec.scale.shape_zxy, voxel_A, layers=(low, min(low + _SLAB, n_z)),
                                         parametrization=spec.simulate.parametrization,
                                         debye_waller_A2=spec.sample.debye_waller_A2)
                 for low in range(0, n_z, _SLAB))
        projected.append(voxel_A * sum(slab.sum(axis=0) for slab in slabs))
    return np.stack(projected)


def ideal_tilt_series(spec: RunSpec, atoms: Atoms, places: record.Places, reporter: Reporter) -> TiltSeries:
    """The noise-free tilt series, shared by all runs that differ in dose, regulariser, binning or engine alone."""

    def compute() -> dict[str, np.ndarray]:
        return {"images": to_numpy(_images_of(spec, atoms, reporter).images)}

    settings = identity(spec)
    key = {group: settings[group] for group in _DECIDE_TILT_SERIES}
    images = cache.shared_stage(places.cache, "tilt_series", key, compute, reporter.say)["images"]
    return TiltSeries(images, _tilts_deg(spec), _defocus_A(spec), spec.scale.voxel_A)


def _images_of(spec: RunSpec, atoms: Atoms, reporter: Reporter) -> TiltSeries:
    """The noise-free tilt series of ``atoms``, told as it is made."""
    reported = _listener(reporter, "simulate")
    return _simulate(spec, atoms, _tilts_deg(spec), _defocus_A(spec), "phonons",
                     lambda done, total: reported(done, total, "tilts"), true_offsets(spec))


def true_offsets(spec: RunSpec) -> TiltOffsets | None:
    """How far the simulated tilts lie from where they are asked for; None where they lie there."""
    return forward.draw_offsets(spec.simulate, len(_tilts_deg(spec)), generator(spec.seed, "tilt errors"))


def _tilts_deg(spec: RunSpec) -> np.ndarray:
    return np.array(tilt_angles_deg(spec.tilts, spec.wedge))


def _defocus_A(spec: RunSpec) -> np.ndarray:
    return 10.0 * np.array(spec.defocus.planes_nm)


def _simulate(spec: RunSpec, atoms: Atoms, tilt_deg: np.ndarray, defocus_A: np.ndarray, purpose: str,
              report: Callable[[int, int], None] | None = None, offsets: TiltOffsets | None = None) -> TiltSeries:
    return forward.simulate_tilt_series(
        atoms, spec.scale.shape_zxy, spec.scale.voxel_A, tilt_deg, defocus_A, microscope=spec.microscope,
        simulate=spec.simulate, debye_waller_A2=spec.sample.debye_waller_A2, rng=generator(spec.seed, purpose),
        report=report, offsets=offsets)


def _recorded_series(spec: RunSpec, reporter: Reporter) -> TiltSeries:
    """A noisy tilt series that no other run shares."""
    atoms = samples.build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
    ideal = _images_of(spec, atoms, reporter)
    return forward.add_shot_noise(ideal, electrons_per_pixel(spec), generator(spec.seed, "noise"))


def reconstruct(spec: RunSpec, series: TiltSeries, places: record.Places,
                reporter: Reporter) -> tuple[Reconstruction, bool]:
    """The volume of a tilt series, and whether it went on from a checkpoint."""
    fitted, held = hold_out(series, spec.reg.held_out, generator(spec.seed, "held out"))
    n_iterations = find_iterations(spec, series, fitted, reporter)
    model = make_model(spec, series, reporter.say)
    weight = regulariser_weight(spec, series, model, lambda other: _recorded_series(other, reporter), reporter)
    reporter.say(f"regulariser {spec.reg.kind} with weight {weight:.3g} per V, "
                 f"step {step_of(spec, len(fitted)) / model.lipschitz:.4g} V²")
    aligner = make_aligner(spec, series, model)
    rng = generator(spec.seed, "tilt order")
    path = places.checkpoint(record_id(spec))
    saved = checkpoint.load_checkpoint(path, rng)
    if aligner and saved:
        aligner.restore(TiltOffsets.from_table(saved[0]["tilts"]))
    schedule = checkpoint.Schedule()

    def on_iteration(state: solve.State) -> None:
        reporter.step("reconstruct", state.n_done, n_iterations, f"cost {state.cost[-1]:.5g}")
        if schedule.due() and state.n_done < n_iterations:
            arrays = state.arrays() | ({"tilts": aligner.offsets.as_table()} if aligner else {})
            schedule.write(lambda: checkpoint.save_checkpoint(path, arrays, state.values(), rng))

    solution = fit_volume(spec, model, fitted, weight, n_iterations=n_iterations, rng=rng,
                          on_iteration=on_iteration, resume=solve.State.restore(*saved) if saved else None,
                          align=(lambda state: align_when_due(spec, aligner, state)) if aligner else None)
    volume = Volume(to_numpy(model.form_potential(solution.volume)), spec.scale.voxel_A)
    predicted = prediction_cost(model, solution.volume, held) if len(held) else float("nan")
    return Reconstruction(volume, solution.cost, solution.seconds, solution.restarts, solution.halvings,
                          solution.stopped, weight, predicted, solver_parts(model).name,
                          aligner.offsets if aligner else None), saved is not None


def as_aligned(series: TiltSeries, reconstruction: Reconstruction) -> TiltSeries:
    """The tilt series as bright as the reconstruction found its vacuum; where tilts lie the atoms find themselves."""
    if reconstruction.offsets is None:
        return series
    brightness = reconstruction.offsets.brightness.astype(np.float32)
    return replace(series, images=series.images / brightness[:, None, None, None])


def bring_together(spec: RunSpec, atoms: Atoms, traced: TracedAtoms, refined: RefinedAtoms | None,
                   reporter: Reporter) -> tuple[Atoms, RefinedAtoms | None]:
    """The true atoms moved as a whole to where the traced ones lie, and the refined ones as well.

    Aligned images do not tell where the sample lies as a whole: the reconstruction has a frame of its own.
    """
    rotation, shift_A = scoring.register_atoms(atoms.positions_A, traced.positions_A, _REGISTERED_A)
    turn_deg = float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    reporter.say(f"the truth is turned by {turn_deg:.3f}° and shifted by {np.linalg.norm(shift_A):.3f} Å for the score")
    atoms = replace(atoms, positions_A=atoms.positions_A @ rotation.T + shift_A)
    if refined is not None:
        rotation, shift_A = scoring.register_atoms(refined.positions_A, atoms.positions_A, _REGISTERED_A)
        refined = replace(refined, positions_A=refined.positions_A @ rotation.T + shift_A)
    return atoms, refined


def refine_traced(spec: RunSpec, series: TiltSeries, traced: TracedAtoms, elements: tuple[int, ...],
                  reporter: Reporter) -> RefinedAtoms | None:
    """Traced atoms refined against the images, where the settings ask for it."""
    if spec.refine.kind == "none":
        return None
    seed = int(generator(spec.seed, "refine").integers(2**31))
    reported = _listener(reporter, "refine")
    most = refinement.most_passes(spec.refine)
    refined = refinement.refine_atoms(series, spec.scale.shape_zxy, traced, elements, spec.refine,
                                  microscope=spec.microscope, n_layers_per_slice=spec.binning.n_layers, seed=seed,
                                  report=lambda done, detail: reported(done, most, detail),
                                  make_tilt_cost=choose_tilt_cost(spec, reporter.say))
    reported(most, most, f"{len(refined)} atoms, {refined.summary['stopped']} in {refined.summary['passes']} passes")
    return refined


def score(spec: RunSpec, traced: TracedAtoms, atoms: Atoms) -> Match:
    """Traced atoms against the true ones of the scoring region."""
    return scoring.match_atoms(traced, atoms, traced_inside=_inside(spec, traced.positions_A),
                             true_inside=_inside(spec, atoms.positions_A), max_distance_A=spec.score.max_distance_A)


def _inside(spec: RunSpec, positions_A: np.ndarray) -> np.ndarray:
    return samples.in_scoring_region(positions_A, spec.sample, spec.scale)


def _scored_rows(spec: RunSpec) -> np.ndarray:
    """Which y rows of voxels lie at scored heights, bool (Y,)."""
    y_A = coordinates_A(spec.scale.shape_zxy[2], spec.scale.voxel_A)
    return _inside(spec, np.stack([np.zeros_like(y_A), y_A, np.zeros_like(y_A)], axis=1))


def _listener(reporter: Reporter, stage: str) -> Callable[[int, int, str], None]:
    def listen(done: int, total: int, detail: str = "") -> None:
        reporter.step(stage, done, total, detail)

    return listen
