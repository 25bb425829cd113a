"""``python -m aetlab.run ... --estimate``: print the memory and time that each job needs, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def print_estimates(words: Sequence[str], *, multirun: bool, config_dir: Path | None) -> None:
    """Print the memory and time of every job of a command line, stage by stage.

    Raises :class:`SpecError` for a job that cannot run.
    """
    from aetlab.cli.compose import compose_jobs
    from aetlab.core import backend
    from aetlab.core.seeds import generator
    from aetlab.reconstruction.estimate import estimate
    from aetlab.reconstruction.memory import available_bytes, memory_by_stage, require_memory
    from aetlab.samples import build_sample

    free = available_bytes()
    for job in compose_jobs(words, multirun=multirun, config_dir=config_dir):
        spec = job.spec
        if spec.data.kind == "measured":
            needed = memory_by_stage(spec)
            print(f"{job.label}: needs about {max(needed.values()) / 1e9:.2f} GB; the time of a measured series is not "
                  "estimated")
            require_memory(spec)
            continue
        atoms = build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
        with backend.threads(spec.engine.n_threads or backend.n_threads()):
            found = estimate(spec, atoms)
        print(f"{job.label}: {len(atoms)} atoms, {found.in_one_line()}\n{found.as_table()}", flush=True)
        require_memory(spec)
    print(f"{free / 1e9:.1f} GB of memory are free; a tilt series that is already in the cache takes no time")
