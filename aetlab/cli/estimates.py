"""``python -m aetlab.run ... --estimate``: memory and time of each job, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FLAG = "--estimate"


def foretell(words: Sequence[str], *, multirun: bool, further: Path | None) -> None:
    """Prints what the jobs of a command line need, stage by stage; raises :class:`SpecError` for what cannot be run."""
    from aetlab.cli.compose import compose_jobs
    from aetlab.core import backend
    from aetlab.core.seeds import generator
    from aetlab.reconstruction.estimate import estimate
    from aetlab.reconstruction.memory import available_bytes, require_memory
    from aetlab.samples import build_sample

    free = available_bytes()
    for job in compose_jobs(words, multirun=multirun, further=further):
        spec = job.spec
        backend.limit_threads(spec.engine.n_threads)
        atoms = build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
        found = estimate(spec, atoms)
        print(f"{job.label}: {len(atoms)} atoms, {found.in_one_line()}\n{found.as_table()}", flush=True)
        require_memory(spec)
    print(f"{free / 1e9:.1f} GB of memory are free; the tilt series takes no time where another run has made it")
