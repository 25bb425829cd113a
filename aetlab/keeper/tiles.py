"""Make the record of one tile of a long sample, and the record that joins all tiles.

The tilt series is simulated or read once and cut. A tile is a run with a record of its own: the rows of its core and a
margin, and the sites found in them. The joined record has the volume, the atoms and the score of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from aetlab import flow
from aetlab.core.errors import AetlabError
from aetlab.core.files import make_folder, writing
from aetlab.core.nouns import Atoms, Reconstruction, TiltSeries, Volume
from aetlab.core.progress import NamedReporter, Reporter
from aetlab.core.tiling import Tile, cut_poses, weigh_rows
from aetlab.keeper.parts import TileParts
from aetlab.keeper.stages import acquire, elements_of, ideal_tilt_series, prepare, reconstruct, write
from aetlab.reconstruction.decided import Decisions, decide, must_decide
from aetlab.reconstruction.refined_tiles import middle_of
from aetlab.reconstruction.seams import trace_tile
from aetlab.reconstruction.tiles import kept_tile, row_weights, settings_of, tile_of, tile_runs, tiles_of
from aetlab.reconstruction.traced import report_traced
from aetlab.series.imported import load_measured
from aetlab.spec import RunSpec
from aetlab.spec.tile import JOINED
from aetlab.store import cache, record
from aetlab.store.contents import RunContent
from aetlab.store.environment import StageClock
from aetlab.store.found import describe_found, pack_decisions, unpack_decisions
from aetlab.store.identity import identity, record_id
from aetlab.store.reading import read_reconstruction
from aetlab.store.run_log import LogReporter
from aetlab.store.sharing import AFTER
from aetlab.validation.flow import validate
from aetlab.validation.predict import InTiles


def make_tile(spec: RunSpec, places: record.Places, reporter: LogReporter,
              use_other_code: bool) -> tuple[record.Record, bool]:
    """Make the record of a tile; return it, and whether its reconstruction went on from a checkpoint."""
    clock, tile, kept = StageClock(), tile_of(spec), kept_tile(spec)
    atoms = prepare(spec, clock, reporter)
    settings, poses = settings_of(spec, tile), None
    reporter.say(f"rows {tile.first} to {tile.stop - 1} of {tile.n_whole} with halos of {tile.below} and {tile.above}")
    if must_decide(spec):
        with clock.stage("decide"):
            decided = _decisions(spec, atoms, places, reporter)
            settings = decided.applied(settings)
            if decided.poses is not None:
                poses = cut_poses(decided.poses, tile.offset_A(spec.scale.voxel_A))
    with clock.stage("cut"):
        series, numbers = _cut(spec, atoms, tile, places, reporter), _elements(spec, atoms)
    with clock.stage("reconstruct"):
        reconstruction, shared_from, resumed = reconstruct(spec, settings, series, places, reporter, use_other_code,
                                                           poses)
        if shared_from is None:
            potential_V = np.ascontiguousarray(reconstruction.volume.potential_V[..., kept.part_of(tile)])
            reconstruction = replace(reconstruction, volume=Volume(potential_V, spec.scale.voxel_A))
    with clock.stage("trace"), flow.computing(spec):
        found, traced = trace_tile(settings, reconstruction.volume, numbers,
                                   lambda done, total, detail: reporter.step("trace", done, total, detail))
    made = write(places, RunContent(spec, series, reconstruction, traced), clock, log=reporter.text,
                 shared_from=shared_from, resumed=resumed, more=describe_found(found))
    with writing(places.checkpoint(made.id)):
        places.checkpoint(made.id).unlink(missing_ok=True)
    return made, resumed


def make_part(spec: RunSpec, i_tile: int, places: record.Places, reporter: Reporter, *, use_other_code: bool) -> None:
    """Measure and refine the atoms of one tile of the joined run ``spec``, whose tiles have records.

    Raises
    ------
    AetlabError
        If the record of a tile is missing or was made by other code.
    """
    parts = []
    for i, each in enumerate(tile_runs(spec), 1):
        found, note = record.find_record(places, each, use_other_code=use_other_code)
        if found is None:
            raise AetlabError(f"tile {i} has no record{note and f': {note}'}; repeat the command")
        parts.append(found)
    atoms = None if spec.data.kind == "measured" else flow.sample(spec)
    work = TileParts(spec, parts, _elements(spec, atoms), places, reporter,
                     lambda tile: _cut(spec, atoms, tile, places, reporter))
    work.measure(i_tile)
    if spec.refine.kind != "none":
        work.refine(i_tile)


def make_joined(spec: RunSpec, places: record.Places, reporter: LogReporter, use_other_code: bool, *,
                run_tile: Callable[..., Any]) -> tuple[record.Record, bool]:
    """Make the record that joins all tiles, and first those of tiles that have none.

    ``run_tile`` is :func:`aetlab.keeper.run`. The second value says whether a tile went on from a checkpoint.
    """
    clock, tiles = StageClock(), tiles_of(spec)
    atoms = prepare(spec, clock, reporter)
    with clock.stage("tiles"):
        results = [run_tile(each, places=places, reporter=NamedReporter(reporter, f"tile {i}/{len(tiles)}"),
                            use_other_code=use_other_code) for i, each in enumerate(tile_runs(spec), 1)]
    series, truth, numbers = acquire(spec, atoms, places, clock, reporter)
    parts = [result.record for result in results]
    work = TileParts(spec, parts, numbers, places, reporter,
                     lambda tile: weigh_rows(cut := series.cut(tile.rows), row_weights(spec, cut, tile)))
    shape = spec.scale.shape_zxy
    with scratch(places, spec, "volume", shape) as potential_V, scratch(places, spec, "truth", shape) as true_V:
        with clock.stage("join"):
            reconstruction = _join(spec, tiles, parts, potential_V)
        with clock.stage("trace"):
            traced = work.traced
        report_traced(traced, reporter)
        with clock.stage("refine"):
            refined = work.refined
        validation = None
        if spec.validate.kind != "none":
            with clock.stage("validate"), scratch(places, spec, "images", series.images.shape) as predicted:
                validation = validate(spec, series, reconstruction, traced, refined, elements=numbers,
                                      progress=reporter, predict=InTiles(predicted))
        comparison = None
        if truth is not None:
            with clock.stage("score"):
                comparison = flow.compare(spec, truth, series, reconstruction, traced, refined, progress=reporter,
                                          out=true_V)
        resumed = any(result.status == "resumed" for result in results)
        made = write(places, RunContent(spec, series, reconstruction, traced, refined, comparison, validation), clock,
                     log=reporter.text, resumed=resumed)
    return made, resumed


def _cut(spec: RunSpec, atoms: Atoms | None, tile: Tile, places: record.Places, reporter: Reporter) -> TiltSeries:
    """Return the images of a tile with their weights."""
    if atoms is None:
        series = load_measured(spec, tile.rows, digests=places.cache).series
    else:
        series = flow.add_noise(spec, ideal_tilt_series(spec, atoms, places, reporter), tile.rows)
    return weigh_rows(series, row_weights(spec, series, tile))


def _elements(spec: RunSpec, atoms: Atoms | None) -> tuple[int, ...]:
    """Return the elements that the sample may hold."""
    return flow.elements(spec) if atoms is None else elements_of(spec, atoms)


def _decisions(spec: RunSpec, atoms: Atoms | None, places: record.Places, reporter: Reporter) -> Decisions:
    """Return what is decided once for all tiles; the first of them decides, and the others read it."""
    joined = replace(spec, tile=replace(spec.tile, index=JOINED))

    def compute() -> dict[str, np.ndarray]:
        series = _cut(joined, atoms, middle_of(tiles_of(joined)), places, reporter)
        with flow.computing(spec):
            found = decide(joined, series, lambda other: flow.simulate(other, flow.sample(other), progress=reporter),
                           reporter)
        return pack_decisions(found)

    key = {group: values for group, values in identity(joined).items() if group not in AFTER}
    return unpack_decisions(cache.shared_stage(places.cache, "tile_decisions", key, compute, reporter.say))


def _join(spec: RunSpec, tiles: Sequence[Tile], parts: Sequence[record.Record],
          potential_V: np.ndarray) -> Reconstruction:
    """Copy the cores of all tiles into ``potential_V`` (Z, X, Y); return it with the history of all fits together.

    The cost of an iteration is the sum of the costs of the tiles, which count the rows of their halos as well. A tile
    that ended earlier keeps its last cost. The cost of held-out tilts is a sum as well.
    """
    costs, seconds, stopped, held_out = [], [], set(), 0.0
    for tile, part in zip(tiles, parts, strict=True):
        one = read_reconstruction(part)
        kept = kept_tile(part.spec)
        potential_V[..., tile.first:tile.stop] = one.volume.potential_V[..., kept.core]
        costs.append(one.cost)
        seconds.append(one.seconds)
        stopped.add(one.stopped)
        held_out += one.held_out_cost
    poses = cut_poses(one.poses, -tile.offset_A(spec.scale.voxel_A)) if one.poses is not None else None
    n_most = max(map(len, costs))
    cost = sum(np.pad(each, (0, n_most - len(each)), mode="edge") for each in costs)
    spent_s = sum(np.pad(each, (0, n_most - len(each))) for each in seconds)
    return Reconstruction(Volume(potential_V, spec.scale.voxel_A), np.asarray(cost), np.asarray(spent_s), (), (),
                          f"{len(tiles)} tiles: {'; '.join(sorted(stopped))}", one.weight_per_V, held_out, one.device,
                          poses)


@contextmanager
def scratch(places: record.Places, spec: RunSpec, name: str, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Map a file of float32 numbers (shape) into memory inside the block: the whole is never held in memory.

    It is filled with zeros first: where the disk has no room for a page of a mapped file, the process ends.
    """
    path = make_folder(places.work(record_id(spec))) / f"{name}.scratch"
    layer = bytes(4 * math.prod(shape[1:]))
    try:
        with writing(path), open(path, "wb") as file:
            for _ in range(shape[0]):
                file.write(layer)
        yield np.memmap(path, np.float32, "r+", shape=tuple(shape))
    finally:
        with suppress(OSError):  # Windows keeps a file that is still mapped; the next run overwrites it
            path.unlink(missing_ok=True)
