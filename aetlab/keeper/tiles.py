"""Make the record of one tile of a long sample, and the record that joins all tiles.

The tilt series is simulated or read once and cut. A tile is a run with a record of its own: the rows of its core and a
margin, and the sites found in them. The joined record has the volume, the atoms and the score of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from aetlab import flow
from aetlab.core.files import make_folder, writing
from aetlab.core.nouns import Atoms, Reconstruction, RefinedAtoms, TiltSeries, TracedAtoms, Volume
from aetlab.core.progress import NamedReporter, Reporter
from aetlab.core.tiling import Tile, weigh_rows
from aetlab.keeper.stages import acquire, elements_of, ideal_tilt_series, prepare, reconstruct, write
from aetlab.reconstruction.decided import Decisions, decide, must_decide
from aetlab.reconstruction.refined_tiles import divide_atoms, join_refined
from aetlab.reconstruction.seams import Part, trace_joined, trace_tile
from aetlab.reconstruction.tiles import kept_tile, row_weights, settings_of, tile_of, tile_runs, tiles_of
from aetlab.reconstruction.traced import report_traced
from aetlab.series.imported import load_measured
from aetlab.spec import RunSpec
from aetlab.spec.tile import JOINED
from aetlab.store import cache, record
from aetlab.store.contents import RunContent
from aetlab.store.environment import StageClock
from aetlab.store.found import describe_found, pack_refined, read_found, unpack_refined
from aetlab.store.identity import identity, record_id
from aetlab.store.index import AFTER
from aetlab.store.reading import read_reconstruction
from aetlab.store.run_log import LogReporter


def make_tile(spec: RunSpec, places: record.Places, reporter: LogReporter,
              use_other_code: bool) -> tuple[record.Record, bool]:
    """Make the record of a tile; return it, and whether its reconstruction went on from a checkpoint."""
    clock, tile, kept = StageClock(), tile_of(spec), kept_tile(spec)
    atoms = prepare(spec, clock, reporter)
    settings = settings_of(spec, tile)
    reporter.say(f"rows {tile.first} to {tile.stop - 1} of {tile.n_whole} with halos of {tile.below} and {tile.above}")
    if must_decide(spec):
        with clock.stage("decide"):
            settings = _decisions(spec, atoms, places, reporter).applied(settings)
    with clock.stage("cut"):
        series, numbers = _cut(spec, atoms, tile, places, reporter)
    with clock.stage("reconstruct"):
        reconstruction, shared_from, resumed = reconstruct(spec, settings, series, places, reporter, use_other_code)
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
    with _scratch(places, spec, "volume") as potential_V, _scratch(places, spec, "truth") as true_V:
        with clock.stage("join"):
            reconstruction = _join(spec, tiles, parts, potential_V)
        with clock.stage("trace"), flow.computing(spec):
            sites = [Part(kept_tile(part.spec), read_found(part)) for part in parts]
            traced = trace_joined(spec, sites, lambda i: read_reconstruction(parts[i]).volume, numbers)
        report_traced(traced, reporter)
        refined = None
        if spec.refine.kind != "none":
            with clock.stage("refine"):
                refined = _refine(spec, tiles, series, reconstruction, traced, numbers, places, reporter)
        comparison = None
        if truth is not None:
            with clock.stage("score"):
                comparison = flow.compare(spec, truth, series, reconstruction, traced, refined, progress=reporter,
                                          out=true_V)
        resumed = any(result.status == "resumed" for result in results)
        made = write(places, RunContent(spec, series, reconstruction, traced, refined, comparison), clock,
                     log=reporter.text, resumed=resumed)
    return made, resumed


def _cut(spec: RunSpec, atoms: Atoms | None, tile: Tile, places: record.Places,
         reporter: Reporter) -> tuple[TiltSeries, tuple[int, ...]]:
    """Return the images of a tile with their weights, and the elements that the sample may hold."""
    if atoms is None:
        series, numbers = load_measured(spec, tile.rows).series, flow.elements(spec)
    else:
        numbers = elements_of(spec, atoms)
        series = flow.add_noise(spec, ideal_tilt_series(spec, atoms, places, reporter), tile.rows)
    return weigh_rows(series, row_weights(spec, series, tile)), numbers


def _decisions(spec: RunSpec, atoms: Atoms | None, places: record.Places, reporter: Reporter) -> Decisions:
    """Return what is decided once for all tiles; the first of them decides, and the others read it."""
    joined = replace(spec, tile=replace(spec.tile, index=JOINED))

    def compute() -> dict[str, np.ndarray]:
        tiles = tiles_of(joined)
        series, _ = _cut(joined, atoms, tiles[len(tiles) // 2], places, reporter)
        with flow.computing(spec):
            found = decide(joined, series, lambda other: flow.simulate(other, flow.sample(other), progress=reporter),
                           reporter)
        return {"weight_per_V": np.array(found.weight_per_V), "n_iterations": np.array(found.n_iterations)}

    key = {group: values for group, values in identity(joined).items() if group not in AFTER}
    found = cache.shared_stage(places.cache, "tile_decisions", key, compute, reporter.say)
    return Decisions(float(found["weight_per_V"]), int(found["n_iterations"]))


def _join(spec: RunSpec, tiles: Sequence[Tile], parts: Sequence[record.Record],
          potential_V: np.ndarray) -> Reconstruction:
    """Copy the cores of all tiles into ``potential_V`` (Z, X, Y); return it with the history of all fits together.

    The cost of an iteration is the sum of the costs of the tiles, which count the rows of their halos as well. A tile
    that ended earlier keeps its last cost.
    """
    costs, seconds, stopped = [], [], set()
    for tile, part in zip(tiles, parts, strict=True):
        one = read_reconstruction(part)
        kept = kept_tile(part.spec)
        potential_V[..., tile.first:tile.stop] = one.volume.potential_V[..., kept.core]
        costs.append(one.cost)
        seconds.append(one.seconds)
        stopped.add(one.stopped)
    n_most = max(map(len, costs))
    cost = sum(np.pad(each, (0, n_most - len(each)), mode="edge") for each in costs)
    spent_s = sum(np.pad(each, (0, n_most - len(each))) for each in seconds)
    return Reconstruction(Volume(potential_V, spec.scale.voxel_A), np.asarray(cost), np.asarray(spent_s), (), (),
                          f"{len(tiles)} tiles: {'; '.join(sorted(stopped))}", one.weight_per_V, float("nan"),
                          one.device)


def _refine(spec: RunSpec, tiles: Sequence[Tile], series: TiltSeries, reconstruction: Reconstruction,
            traced: TracedAtoms, numbers: tuple[int, ...], places: record.Places,
            reporter: Reporter) -> RefinedAtoms:
    """Return the joined atoms refined in tiles of the images; each tile is a shared stage, which is done once."""
    parts = []
    for i, tile in enumerate(tiles, 1):
        of_tile = NamedReporter(reporter, f"tile {i}/{len(tiles)}")

        def compute(tile: Tile = tile, progress: Reporter = of_tile) -> dict[str, np.ndarray]:
            cut = series.cut(tile.rows)
            free, held = divide_atoms(spec, tile, traced)
            return pack_refined(flow.refine(
                settings_of(spec, tile), weigh_rows(cut, row_weights(spec, cut, tile)), reconstruction, free,
                elements=numbers, progress=progress, held=held))

        key = {"run": identity(spec), "tile": tile.index}
        parts.append(unpack_refined(cache.shared_stage(places.cache, "tile_refined", key, compute, of_tile.say)))
    return join_refined(spec, tiles, parts)


@contextmanager
def _scratch(places: record.Places, spec: RunSpec, name: str) -> Iterator[np.ndarray]:
    """Map a file of the volume's size into memory inside the block: the whole is never held in memory.

    It is filled with zeros first: where the disk has no room for a page of a mapped file, the process ends.
    """
    path = make_folder(places.work(record_id(spec))) / f"{name}.scratch"
    layer = bytes(4 * spec.scale.shape_zxy[1] * spec.scale.shape_zxy[2])
    try:
        with writing(path), open(path, "wb") as file:
            for _ in range(spec.scale.shape_zxy[0]):
                file.write(layer)
        yield np.memmap(path, np.float32, "r+", shape=spec.scale.shape_zxy)
    finally:
        with suppress(OSError):  # Windows keeps a file that is still mapped; the next run overwrites it
            path.unlink(missing_ok=True)
