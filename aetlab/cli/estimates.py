"""``python -m aetlab.run ... --estimate``: print the memory and time that each job needs, without running it.

A sweep does no work twice, nor work that is done: the total leaves out complete records, and what jobs share with
records, cached stages or earlier jobs of the command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aetlab.cli.compose import Job
    from aetlab.core.nouns import Atoms
    from aetlab.spec import RunSpec
    from aetlab.store.record import Places

#: Seconds to load compiled kernels once, to draw up, score and write a record, and bytes of its volume per second.
_LOAD_S, _RECORD_S, _RECORD_BYTES_PER_S = 1.5, 0.9, 200e6


def print_estimates(words: Sequence[str], *, multirun: bool, config_dir: Path | None) -> None:
    """Print the memory and time of every job of a command line, stage by stage, and the time of all that is to do.

    Raises :class:`SpecError` for a job that cannot run.
    """
    from aetlab.cli.compose import compose_jobs
    from aetlab.cli.precompile import compile_s
    from aetlab.core import backend
    from aetlab.reconstruction.estimate import duration, estimate
    from aetlab.reconstruction.memory import available_bytes, require_memory

    backend.prepare_process()
    free, work = available_bytes(), Work()
    jobs = compose_jobs(words, multirun=multirun, config_dir=config_dir)
    start_s = time.process_time()  # a run starts as this command does
    for job in jobs:
        spec = job.spec
        begin = time.process_time()
        atoms = _atoms(spec)
        with backend.threads(spec.engine.n_threads or backend.n_threads()):
            found = estimate(spec, atoms)
        left = work.left(job, found.seconds, time.process_time() - begin)
        note = "" if left == found.seconds else f"\n{'to do':<12} {'':>11} {duration(sum(left.values())):>10}"
        some = "some " if spec.data.kind == "measured" else ""
        print(f"{job.label}: {some}{len(atoms)} atoms, {found.in_one_line()}\n{found.as_table()}{note}", flush=True)
        require_memory(spec)
    total_s = start_s + _LOAD_S + compile_s(job.spec for job in jobs) + work.seconds if work.n_jobs else start_s
    print(f"{len(jobs)} runs, {work.n_complete} of them complete: {duration(total_s)} on this machine, idle, "
          "one run after another, with what is there and what the runs share")
    print(f"{free / 1e9:.1f} GB of memory are free")


def _atoms(spec: RunSpec) -> Atoms:
    """Return the atoms of a simulated sample, or a stand-in of the size of a measured one."""
    if spec.data.kind == "measured":
        from aetlab.series.check.reach import stand_in
        from aetlab.series.imported import MARGIN_A

        return stand_in(spec.scale.shape_zxy[0] * spec.scale.voxel_A / 2 - MARGIN_A, spec.sample.elements)
    from aetlab.core.seeds import generator
    from aetlab.samples import build_sample

    return build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))


@dataclass
class Work:
    """The work of the jobs of a command that is not done: its seconds, and what earlier jobs do for later ones."""

    seconds: float = 0.0
    n_jobs: int = 0
    n_complete: int = 0
    _done: set[str] = field(default_factory=set)

    def left(self, job: Job, seconds: dict[str, float], trial_s: float) -> dict[str, float]:
        """Return the ``seconds`` by stage of ``job`` that are left, and add them, its trial and its record."""
        from aetlab.keeper.stages import tilt_series_path
        from aetlab.store.record import Places

        spec, places = job.spec, Places(Path(job.settings.outputs).absolute())
        other_code = job.settings.other_code == "use"
        if not self._is_new(_key(spec, after=False)) or _is_complete(spec, places, other_code):
            self.n_complete += 1
            return {}
        left = dict(seconds)
        if "simulate" in left:
            series = tilt_series_path(spec, places)
            if not self._is_new(str(series)) or series.exists():
                del left["simulate"]
        # Every tile that is there shares its fit and its sites.
        tiles = _fits(spec)
        n_new = sum(self._is_new(_key(each, after=True)) and not _is_fitted(each, places, other_code) for each in tiles)
        for stage in {"reconstruct", "decide"} & set(left):
            left[stage] *= n_new / len(tiles) if stage == "reconstruct" else n_new > 0
        n_bytes = 4.0 * spec.scale.shape_zxy[0] * spec.scale.shape_zxy[1] * spec.scale.shape_zxy[2]
        self.n_jobs += 1
        n_records = 1 if len(tiles) == 1 else n_new + 1
        self.seconds += sum(left.values()) + trial_s + n_records * (
            _RECORD_S + n_bytes / len(tiles) / _RECORD_BYTES_PER_S)
        return left

    def _is_new(self, key: str) -> bool:
        """Return whether no earlier job has the same work, and note it."""
        new = key not in self._done
        self._done.add(key)
        return new


def _fits(spec: RunSpec) -> Sequence[RunSpec]:
    """Return the settings of the fits of a run: those of its tiles, or its own."""
    from aetlab.reconstruction.tiles import tile_runs
    from aetlab.spec.tile import JOINED

    return tile_runs(spec) if spec.tile.enabled and spec.tile.index == JOINED else (spec,)


def _key(spec: RunSpec, *, after: bool) -> str:
    """Return a digest of the settings of a run, with ``after`` of those before tracing alone."""
    from aetlab.store.identity import digest, identity
    from aetlab.store.sharing import AFTER

    return digest({group: values for group, values in identity(spec).items() if not (after and group in AFTER)})


def _is_complete(spec: RunSpec, places: Places, other_code: bool) -> bool:
    from aetlab.store.identity import record_id

    return _usable(places.records / record_id(spec), other_code)


def _is_fitted(spec: RunSpec, places: Places, other_code: bool) -> bool:
    from aetlab.store.sharing import records_with_reconstruction

    return any(_usable(folder, other_code) for folder in records_with_reconstruction(places, spec))


def _usable(folder: Path, other_code: bool) -> bool:
    from aetlab.store.record import RecordError, read_record

    try:
        found = read_record(folder, verify=False)
    except RecordError:
        return False
    return other_code or not found.made_by_other_code
