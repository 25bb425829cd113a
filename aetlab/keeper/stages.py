"""Stages of a run that whole volumes and tiles share: its tilt series, its reconstruction, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aetlab import flow, samples
from aetlab.core.backend import to_numpy
from aetlab.core.nouns import Atoms, Reconstruction, TiltSeries, Truth
from aetlab.core.poses import Poses
from aetlab.core.progress import Reporter
from aetlab.reconstruction.estimate import estimate_before_run
from aetlab.reconstruction.memory import require_memory
from aetlab.spec import RunSpec, SpecError
from aetlab.store import cache, record
from aetlab.store.checkpoint import CheckpointFile, PostponedStop
from aetlab.store.contents import RunContent, describe_arrays, plain
from aetlab.store.environment import StageClock, describe_environment
from aetlab.store.identity import identity, record_id
from aetlab.store.sharing import find_reconstruction

#: Groups of settings that the noise-free tilt series depends on.
_DECIDE_TILT_SERIES = ("seed", "sample", "scale", "tilts", "wedge", "defocus", "microscope", "simulate")


def prepare(spec: RunSpec, clock: StageClock, reporter: Reporter) -> Atoms | None:
    """Return the atoms of a simulated sample, None for a measured series; report the memory and time of the run.

    Raises
    ------
    SpecError
        If the run does not fit into memory, or the images of ``spec`` are not kept anywhere.
    """
    if spec.data.kind == "given":
        raise SpecError("data.kind='given' cannot be run: its images came through the Python API, and a record holds "
                        "only two of their tilts; choose data=simulated")
    if spec.data.kind == "measured":
        require_memory(spec)
        return None
    with clock.stage("sample"):
        atoms = flow.sample(spec)
        _say_counts(spec, atoms, reporter)
    with clock.stage("estimate"):
        require_memory(spec)
        reporter.say(estimate_before_run(spec, atoms).in_one_line())
    return atoms


def acquire(spec: RunSpec, atoms: Atoms | None, places: record.Places, clock: StageClock,
            reporter: Reporter) -> tuple[TiltSeries, Truth | None, tuple[int, ...]]:
    """Return the tilt series, the truth of a simulated one, and the elements that the sample may hold.

    ``atoms`` are those of :func:`prepare`.
    """
    if atoms is None:
        from aetlab.series.imported import load_measured

        with clock.stage("read"):
            imported = load_measured(spec, digests=places.cache)
            series = imported.series
            for line in imported.unusable:
                reporter.say(f"measured: the import says: {line}")
            reporter.say(f"measured: {int((series.weight > 0).sum())} images of {series.n_tilts} tilts, "
                         f"{series.mean_electrons_per_pixel:.4g} electrons per pixel, {spec.scale.shape_zxy} voxels of "
                         f"{spec.scale.voxel_A:.4g} Å")
        return series, None, flow.elements(spec)
    with clock.stage("simulate"):
        ideal = ideal_tilt_series(spec, atoms, places, reporter)
    with clock.stage("noise"):
        series = flow.add_noise(spec, ideal)
    return series, Truth(atoms, ideal, flow.true_poses(spec)), elements_of(spec, atoms)


def elements_of(spec: RunSpec, atoms: Atoms) -> tuple[int, ...]:
    """Return the atomic numbers of the elements that a simulated sample may hold: as set, or those of ``atoms``."""
    return flow.elements(spec) if spec.sample.elements else samples.sample_elements(atoms)


def ideal_tilt_series(spec: RunSpec, atoms: Atoms, places: record.Places, reporter: Reporter) -> TiltSeries:
    """Return the noise-free tilt series, shared by all runs that differ only in dose, prior, binning or engine."""

    def compute() -> dict[str, np.ndarray]:
        return {"images": to_numpy(flow.simulate(spec, atoms, noise=False, progress=reporter).images)}

    images = cache.shared_stage(places.cache, "tilt_series", _tilt_series_key(spec), compute, reporter.say)["images"]
    return flow.as_acquired(spec, images)


def tilt_series_path(spec: RunSpec, places: record.Places) -> Path:
    """Return the path of the noise-free tilt series of ``spec``, whether it exists or not."""
    return cache.stage_path(places.cache, "tilt_series", _tilt_series_key(spec))


def _tilt_series_key(spec: RunSpec) -> dict[str, object]:
    settings = identity(spec)
    return {group: settings[group] for group in _DECIDE_TILT_SERIES}


def reconstruct(spec: RunSpec, settings: RunSpec, series: TiltSeries, places: record.Places, reporter: Reporter,
                use_other_code: bool, poses: Poses | None = None) -> tuple[Reconstruction, str | None, bool]:
    """Return the reconstruction, the id of the record that it was read from or None, and whether it was resumed.

    ``spec`` names the run, ``settings`` are those of its fit: for a tile those of its volume. ``poses`` are as in
    :func:`aetlab.flow.reconstruct`.
    """
    held = find_reconstruction(places, spec, use_other_code=use_other_code)
    if held is not None:
        reporter.say(f"reconstruction: shared, read from record {held[1].id}")
        return held[0], held[1].id, False
    run_id = record_id(spec)
    with PostponedStop() as stop:
        checkpoints = CheckpointFile(places.checkpoint(run_id), run=run_id, data=series.digest(), say=reporter.say,
                                     stop=stop)
        made = flow.reconstruct(settings, series, progress=reporter, checkpoints=checkpoints, poses=poses)
    return made, None, checkpoints.resumed


def write(places: record.Places, content: RunContent, clock: StageClock, *, log: str, shared_from: str | None = None,
          resumed: bool = False, more: Mapping[str, record.Dataset] | None = None) -> record.Record:
    """Write the record of ``content`` with ``more`` arrays, and return it."""
    reconstruction, traced, refined = content.reconstruction, content.traced, content.refined
    metrics = flow.measure(reconstruction, traced, refined)
    if content.validation is not None:
        metrics |= content.validation.metrics
    if content.comparison is not None:
        metrics = content.comparison.metrics | metrics
    folder = record.write_record(
        places.records, content.spec, metrics=metrics, arrays={**describe_arrays(content), **(more or {})},
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
