"""Run the flow with lock, log, cache and checkpoint, and write its record.

:func:`run` makes the record of settings, or finds it. :func:`save_record` saves a run of the Python API. All code that
decides a number is in :mod:`aetlab.flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aetlab import flow
from aetlab.core.hand import in_hand_of
from aetlab.core.nouns import (
    Comparison,
    Reconstruction,
    RefinedAtoms,
    TiltSeries,
    TracedAtoms,
    Truth,
    Validation,
)
from aetlab.core.progress import SILENT, Reporter
from aetlab.keeper.stages import acquire, prepare, reconstruct, write
from aetlab.keeper.stages import ideal_tilt_series as ideal_tilt_series
from aetlab.reconstruction.given import settings_of_given
from aetlab.spec import RunSpec
from aetlab.spec.tile import JOINED
from aetlab.store import record
from aetlab.store.contents import RunContent
from aetlab.store.environment import StageClock
from aetlab.store.identity import record_id
from aetlab.store.run_log import LogReporter


@dataclass(frozen=True)
class RunResult:
    """The result of a run: ``status`` (done, resumed, retried or skipped), its record, and a note in one line."""

    status: str
    record: record.Record
    note: str


def run(spec: RunSpec, *, places: record.Places, reporter: Reporter = SILENT,
        use_other_code: bool = False) -> RunResult:
    """Make the record of ``spec`` under ``places``, or return the existing one.

    The run that joins tiles makes the records of those that have none first.

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
        made, resumed = _maker(spec)(spec, places, log, use_other_code)
        with suppress(OSError):  # the record is complete
            path.unlink(missing_ok=True)
        return RunResult("resumed" if resumed else "retried" if retried else "done", made, note)


def run_part(spec: RunSpec, i_tile: int, *, places: record.Places, reporter: Reporter = SILENT,
             use_other_code: bool = False) -> None:
    """Do the part of tile ``i_tile`` in the work of joining the tiles of ``spec``, all of which have records.

    Raises
    ------
    AetlabError
        If a tile has no record.
    """
    from aetlab.keeper.tiles import make_part

    make_part(spec, i_tile, places, reporter, use_other_code=use_other_code)


def save_record(outputs: Path | str, settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction,
                traced: TracedAtoms, *, refined: RefinedAtoms | None = None,
                truth: Truth | None = None,
                validation: Validation | None = None) -> record.Record:
    """Save a run of the Python API as a record under ``outputs``.

    Its settings identify the images by their digest (``data.kind=given``), so that a run of the command line never
    uses this record as its own. Tilts, defoci and dose of the record are those of ``series``, where the settings have
    others. An existing record of the same settings and images is replaced.

    Raises
    ------
    SpecError
        If voxels of series or volume are not those of ``settings``, or refined atoms do not go with ``refine.kind``.
    StorageError
        If a file cannot be written.
    """
    spec = settings_of_given(settings, series, reconstruction, refined)
    places = record.Places(Path(outputs).absolute())
    series, reconstruction, traced = in_hand_of(refined, series, reconstruction, traced)
    with record.run_lock(places, spec):
        clock = StageClock()
        with clock.stage("score"):
            comparison = flow.compare(spec, truth, series, reconstruction, traced, refined) if truth else None
        folder = places.records / record_id(spec)
        if folder.exists():
            record.set_aside(folder, places.damaged)
        return write(places, RunContent(spec, series, reconstruction, traced, refined, comparison, validation),
                     clock, log="", shared_from=None, resumed=False)


def _maker(spec: RunSpec) -> Callable[..., tuple[record.Record, bool]]:
    """Return the function that makes the record of ``spec`` and says whether it went on from a checkpoint."""
    if not spec.tile.enabled:
        return _make
    from aetlab.keeper.tiles import make_joined, make_tile

    return partial(make_joined, run_tile=run) if spec.tile.index == JOINED else make_tile


def _make(spec: RunSpec, places: record.Places, reporter: LogReporter,
          use_other_code: bool) -> tuple[record.Record, bool]:
    clock = StageClock()
    atoms = prepare(spec, clock, reporter)
    series, truth, elements = acquire(spec, atoms, places, clock, reporter)
    with clock.stage("reconstruct"):
        reconstruction, shared_from, resumed = reconstruct(spec, spec, series, places, reporter, use_other_code)
    traced, refined = _find_atoms(spec, series, reconstruction, elements, clock, reporter)
    series, reconstruction, traced = in_hand_of(refined, series, reconstruction, traced)
    validation: Validation | None = None
    if spec.validate.kind != "none":
        from aetlab.validation.flow import validate

        with clock.stage("validate"):
            validation = validate(spec, series, reconstruction, traced, refined, elements=elements, progress=reporter)
    comparison: Comparison | None = None
    if truth is not None:
        with clock.stage("score"):
            comparison = flow.compare(spec, truth, series, reconstruction, traced, refined, progress=reporter)
    content = RunContent(spec, series, reconstruction, traced, refined, comparison, validation)
    made = write(places, content, clock, log=reporter.text, shared_from=shared_from, resumed=resumed)
    with suppress(OSError):  # the record is complete
        places.checkpoint(made.id).unlink(missing_ok=True)
    return made, resumed


def _find_atoms(spec: RunSpec, series: TiltSeries, reconstruction: Reconstruction, elements: Sequence[int],
                clock: StageClock, reporter: Reporter) -> tuple[TracedAtoms, RefinedAtoms | None]:
    with clock.stage("trace"):
        traced = flow.trace(spec, reconstruction, elements=elements, progress=reporter)
    with clock.stage("refine"):
        if spec.refine.kind == "none":
            return traced, None
        return traced, flow.refine(spec, series, reconstruction, traced, elements=elements, progress=reporter)
