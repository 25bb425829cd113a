"""Run the flow with lock, log, cache and checkpoint, and write its record.

:func:`run` makes the record of settings, or finds it. :func:`save_record` saves a run of the Python API. All code that
decides a number is in :mod:`aetlab.flow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aetlab import flow, samples
from aetlab.core.backend import to_numpy
from aetlab.core.nouns import (
    Atoms,
    Comparison,
    Reconstruction,
    RefinedAtoms,
    TiltSeries,
    TracedAtoms,
    Truth,
    Validation,
)
from aetlab.core.progress import SILENT, Reporter
from aetlab.reconstruction.estimate import estimate
from aetlab.reconstruction.memory import require_memory
from aetlab.series.imported import load_measured
from aetlab.spec import DataSpec, RunSpec, SpecError
from aetlab.store import cache, record
from aetlab.store.checkpoint import CheckpointFile
from aetlab.store.contents import RunContent, describe_arrays, plain
from aetlab.store.environment import StageClock, describe_environment
from aetlab.store.identity import identity, record_id
from aetlab.store.interruption import PostponedStop
from aetlab.store.run_log import LogReporter
from aetlab.store.sharing import find_reconstruction
from aetlab.validation.flow import validate

#: Groups of settings that the noise-free tilt series depends on.
_DECIDE_TILT_SERIES = ("seed", "sample", "scale", "tilts", "wedge", "defocus", "microscope", "simulate")


@dataclass(frozen=True)
class RunResult:
    """The result of a run: ``status`` (done, resumed, retried or skipped), its record, and a note in one line."""

    status: str
    record: record.Record
    note: str


def run(spec: RunSpec, *, places: record.Places, reporter: Reporter = SILENT,
        use_other_code: bool = False) -> RunResult:
    """Make the record of ``spec`` under ``places``, or return the existing one.

    Raises
    ------
    SpecError
        If the settings cannot be used together with the sample.
    StorageError
        If a file cannot be written.
    """
    with record.run_lock(places, spec, lambda: reporter.say("another process makes this record, waiting")
                         ) as held:
        found, note = record.find_record(places, spec, use_other_code=use_other_code)
        if found is not None:
            return RunResult("skipped", found, "complete")
        path = places.log(record_id(spec))
        log = LogReporter(reporter, path)
        if not held:
            log.say("this file system has no file locks: another process may compute the same at the same time")
        retried = record.failed_before(path)
        for line in (["failed before, retrying"] if retried else []) + ([note] if note else []):
            log.say(line)
        made, resumed = _make(spec, places, log, use_other_code)
        with suppress(OSError):  # the record is complete
            path.unlink(missing_ok=True)
        return RunResult("resumed" if resumed else "retried" if retried else "done", made, note)


def save_record(outputs: Path | str, settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction,
                traced: TracedAtoms, *, refined: RefinedAtoms | None = None,
                truth: Truth | None = None,
                validation: Validation | None = None) -> record.Record:
    """Save a run of the Python API as a record under ``outputs``.

    Its settings identify the images by their digest (``data.kind=given``), so that a run of the command line never
    uses this record as its own. An existing record of the same settings and images is replaced.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    spec = replace(settings, data=DataSpec(kind="given", digest=series.digest()))
    places = record.Places(Path(outputs).absolute())
    with record.run_lock(places, spec):
        clock = StageClock()
        with clock.stage("score"):
            comparison = flow.compare(spec, truth, series, reconstruction, traced, refined) if truth else None
        folder = places.records / record_id(spec)
        if folder.exists():
            record.set_aside(folder, places.damaged)
        return _write(places, RunContent(spec, series, reconstruction, traced, refined, comparison, validation),
                      clock, log="", shared_from=None, resumed=False)


def _make(spec: RunSpec, places: record.Places, reporter: LogReporter,
          use_other_code: bool) -> tuple[record.Record, bool]:
    clock = StageClock()
    series, truth, elements = _acquire(spec, places, clock, reporter)
    with clock.stage("reconstruct"):
        reconstruction, shared_from, resumed = _reconstruct(spec, series, places, reporter, use_other_code)
    traced, refined = _find_atoms(spec, series, reconstruction, elements, clock, reporter)
    validation: Validation | None = None
    if spec.validate.kind != "none":
        with clock.stage("validate"):
            validation = validate(spec, series, reconstruction, traced, refined, elements=elements, progress=reporter)
    comparison: Comparison | None = None
    if truth is not None:
        with clock.stage("score"):
            comparison = flow.compare(spec, truth, series, reconstruction, traced, refined, progress=reporter)
    content = RunContent(spec, series, reconstruction, traced, refined, comparison, validation)
    made = _write(places, content, clock, log=reporter.text,
                  shared_from=shared_from, resumed=resumed)
    with suppress(OSError):  # the record is complete
        places.checkpoint(made.id).unlink(missing_ok=True)
    return made, resumed


def _acquire(spec: RunSpec, places: record.Places, clock: StageClock,
             reporter: Reporter) -> tuple[TiltSeries, Truth | None, tuple[int, ...]]:
    """Return the tilt series, the truth of a simulated one, and the elements that the sample may hold."""
    if spec.data.kind == "given":
        raise SpecError("data.kind='given' cannot be run: its images came through the Python API, and a record holds "
                        "only two of their tilts; choose data=simulated")
    if spec.data.kind == "measured":
        with clock.stage("read"):
            require_memory(spec)
            imported = load_measured(spec)
            series = imported.series
            reporter.say(f"measured: {int((series.weight > 0).sum())} images of {series.n_tilts} tilts, "
                         f"{series.mean_electrons_per_pixel:.4g} electrons per pixel, {spec.scale.shape_zxy} voxels of "
                         f"{spec.scale.voxel_A:.4g} Å")
        return series, None, flow.elements(spec)
    with clock.stage("sample"):
        atoms = flow.sample(spec)
        _say_counts(spec, atoms, reporter)
    with clock.stage("estimate"):
        require_memory(spec)
        reporter.say(estimate(spec, atoms).in_one_line())
    with clock.stage("simulate"):
        ideal = ideal_tilt_series(spec, atoms, places, reporter)
    with clock.stage("noise"):
        series = flow.add_noise(spec, ideal)
    elements = flow.elements(spec) if spec.sample.elements else samples.sample_elements(atoms)
    return series, Truth(atoms, ideal, flow.true_poses(spec)), elements


def ideal_tilt_series(spec: RunSpec, atoms: Atoms, places: record.Places, reporter: Reporter) -> TiltSeries:
    """Return the noise-free tilt series, shared by all runs that differ only in dose, prior, binning or engine."""

    def compute() -> dict[str, np.ndarray]:
        return {"images": to_numpy(flow.simulate(spec, atoms, noise=False, progress=reporter).images)}

    settings = identity(spec)
    key = {group: settings[group] for group in _DECIDE_TILT_SERIES}
    images = cache.shared_stage(places.cache, "tilt_series", key, compute, reporter.say)["images"]
    return flow.as_acquired(spec, images)


def _reconstruct(spec: RunSpec, series: TiltSeries, places: record.Places, reporter: Reporter,
                 use_other_code: bool) -> tuple[Reconstruction, str | None, bool]:
    """Return the reconstruction, the id of the record that it was read from or None, and whether it was resumed."""
    held = find_reconstruction(places, spec, use_other_code=use_other_code)
    if held is not None:
        reporter.say(f"reconstruction: shared, read from record {held[1].id}")
        return held[0], held[1].id, False
    run_id = record_id(spec)
    with PostponedStop() as stop:
        checkpoints = CheckpointFile(places.checkpoint(run_id), run=run_id, data=series.digest(), say=reporter.say,
                                     stop=stop)
        made = flow.reconstruct(spec, series, progress=reporter, checkpoints=checkpoints)
    return made, None, checkpoints.resumed


def _find_atoms(spec: RunSpec, series: TiltSeries, reconstruction: Reconstruction, elements: Sequence[int],
                clock: StageClock, reporter: Reporter) -> tuple[TracedAtoms, RefinedAtoms | None]:
    with clock.stage("trace"):
        traced = flow.trace(spec, reconstruction, elements=elements, progress=reporter)
    with clock.stage("refine"):
        if spec.refine.kind == "none":
            return traced, None
        return traced, flow.refine(spec, series, reconstruction, traced, elements=elements, progress=reporter)


def _write(places: record.Places, content: RunContent, clock: StageClock, *, log: str, shared_from: str | None,
           resumed: bool) -> record.Record:
    reconstruction, traced, refined = content.reconstruction, content.traced, content.refined
    metrics = flow.measure(reconstruction, traced, refined)
    if content.validation is not None:
        metrics |= content.validation.metrics
    if content.comparison is not None:
        metrics = content.comparison.metrics | metrics
    folder = record.write_record(
        places.records, content.spec, metrics=metrics, arrays=describe_arrays(content),
        history=record.History(reconstruction.cost, reconstruction.seconds),
        environment={**describe_environment(clock, reconstruction.device), "resumed": resumed,
                     "reconstruction_of": shared_from, "stopped": reconstruction.stopped,
                     "restarts": list(reconstruction.restarts), "halvings": list(reconstruction.halvings),
                     "species": plain(traced.species), "rounds": plain(traced.rounds),
                     "halves_of": content.validation.split if content.validation is not None else None,
                     "candidates": traced.n_candidates, "removed": plain(traced.removed),
                     "refined": plain({**refined.summary, "rounds": refined.rounds}) if refined is not None else None},
        log=log)
    return record.read_record(folder, verify=False)


def _say_counts(spec: RunSpec, atoms: Atoms, reporter: Reporter) -> None:
    counts = atoms.counts
    reporter.say(f"{counts['n_all']} atoms, {counts['n_in_volume']} of them in {spec.scale.shape_zxy} voxels of "
                 f"{spec.scale.voxel_A} Å, less {counts['n_vacancies']} vacancies; "
                 f"{int(flow.inside(spec, atoms.positions_A).sum())} are scored")
    for line in samples.describe_reading(atoms, spec.sample, spec.seed):
        reporter.say(line)
