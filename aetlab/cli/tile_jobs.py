"""Divide the jobs of a sweep that reconstruct in tiles: two jobs for each tile, and one that joins them.

The first job of a tile reconstructs it, the second measures and refines the joined atoms in it, once all tiles have a
result. Jobs of different tiles have nothing to do with each other, and any launcher spreads them. The joining job is
the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aetlab.cli.compose import Job, JobPlan, LeftOut
from aetlab.spec.tile import JOINED
from aetlab.store.identity import record_id
from aetlab.store.record import Places, RecordError, read_record


def with_tiles(plan: JobPlan) -> JobPlan:
    """Return ``plan`` with the jobs of all tiles in front of the job that joins them, and all jobs numbered again.

    A job whose joined record is complete stays alone: its tiles may be gone.
    """
    if plan.searched or not any(_joins(job) for job in plan.jobs):
        return plan
    jobs: list[Job] = []
    left_out: list[LeftOut] = []
    in_order: list[Job | LeftOut] = sorted([*plan.jobs, *plan.left_out], key=lambda each: each.number)
    for each in in_order:
        number = len(jobs) + len(left_out)
        if not isinstance(each, Job):
            left_out.append(replace(each, number=number))
        elif not _joins(each) or _is_complete(each):
            jobs.append(replace(each, number=number))
        else:
            jobs += _tiles(each, number)
    return replace(plan, jobs=tuple(jobs), left_out=tuple(left_out))


def _joins(job: Job) -> bool:
    return job.spec.tile.enabled and job.spec.tile.index == JOINED


def _tiles(job: Job, first: int) -> Sequence[Job]:
    from aetlab.reconstruction.tiles import tile_runs  # imports the solver

    runs = tile_runs(job.spec)
    labels = [f"{job.label} tile {i + 1}/{len(runs)}" for i in range(len(runs))]
    tiles = [replace(job, words=(*job.words, f"tile.index={i}"), label=labels[i], spec=run, number=first + i, notes=())
             for i, run in enumerate(runs)]
    needed = tuple(tile.number for tile in tiles)
    parts = [replace(job, label=f"{labels[i]} atoms", number=first + len(runs) + i, notes=(), tiles=needed, part=i)
             for i in range(len(runs))]
    needed += tuple(part.number for part in parts)
    return [*tiles, *parts, replace(job, number=first + 2 * len(runs), tiles=needed)]


def _is_complete(job: Job) -> bool:
    """Return whether the record of ``job`` is there and may be used."""
    try:
        found = read_record(Places(Path(job.settings.outputs).absolute()).records / record_id(job.spec))
    except RecordError:
        return False
    return job.settings.other_code == "use" or not found.made_by_other_code
