"""Divide the jobs of a sweep that reconstruct in tiles: one job for each tile, and one that joins them.

The jobs of tiles have nothing to do with each other, and any launcher spreads them. The joining job starts once all its
tiles have a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aetlab.cli.compose import Job, LeftOut, Plan
from aetlab.spec.tile import JOINED
from aetlab.store.identity import record_id
from aetlab.store.record import Places, RecordError, read_record


def with_tiles(plan: Plan) -> Plan:
    """Return ``plan`` with a job for each tile in front of the job that joins them, and all jobs numbered again.

    A job whose joined record is complete stays alone: its tiles may be gone.
    """
    if not any(_joins(job) for job in plan.jobs):
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
            tiles = _tiles(each, number)
            jobs += tiles
            jobs.append(replace(each, number=number + len(tiles), tiles=tuple(tile.number for tile in tiles)))
    return replace(plan, jobs=tuple(jobs), left_out=tuple(left_out))


def _joins(job: Job) -> bool:
    return job.spec.tile.enabled and job.spec.tile.index == JOINED


def _tiles(job: Job, first: int) -> Sequence[Job]:
    from aetlab.reconstruction.tiles import tile_runs  # imports the solver

    runs = tile_runs(job.spec)
    return [replace(job, words=(*job.words, f"tile.index={i}"), label=f"{job.label} tile {i + 1}/{len(runs)}", spec=run,
                    number=first + i, notes=()) for i, run in enumerate(runs)]


def _is_complete(job: Job) -> bool:
    """Return whether the record of ``job`` is there and may be used."""
    try:
        found = read_record(Places(Path(job.settings.outputs).absolute()).records / record_id(job.spec))
    except RecordError:
        return False
    return job.settings.other_code == "use" or not found.made_by_other_code
