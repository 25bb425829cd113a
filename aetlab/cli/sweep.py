"""Prepare a sweep or search: open its ledger, choose its workers, and configure Hydra for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from aetlab.cli import workers
from aetlab.cli.compose import SEARCH, Job, LeftOut
from aetlab.cli.jobs import LEFT_OUT, JobResult
from aetlab.cli.ledger import RequestedJob, input_digests, open_ledger, write_result
from aetlab.spec import RunSpec
from aetlab.store.identity import record_id
from aetlab.store.record import Places


def prepare_sweep(jobs: Sequence[Job], left_out: Sequence[LeftOut], words: Sequence[str]) -> tuple[Path, list[str]]:
    """Open the ledger of a sweep; return its folder and the overrides that configure Hydra for the sweep.

    ``words`` are the overrides that the user gave; theirs take precedence. Raises :class:`StorageError` where the
    launcher needs a GPU and none is visible, or the ledger cannot be written.
    """
    first = jobs[0]
    searching = first.label == SEARCH
    hydra_words = _worker_words(first.launcher, None if searching else len(jobs), words)
    if searching:
        hydra_words += _search_words(first.spec, words)
    requested = {each.number: RequestedJob(each.label, "", each.words) for each in left_out}
    if not searching:
        requested |= {job.number: RequestedJob(job.label, record_id(job.spec), job.words) for job in jobs}
    inputs = {path: found for job in jobs for path, found in input_digests(job.spec).items()}
    ledger = open_ledger(Places(Path(first.settings.outputs).absolute()).sweeps,
                         [requested[number] for number in sorted(requested)], first.words if searching else (), inputs)
    for each in left_out:
        print(f"{each.label}: left out: {each.reason}")
        write_result(ledger, each.number, JobResult("", each.label, LEFT_OUT, 0.0, error=each.reason))
    for job in jobs:
        for note in job.notes:
            print(f"{job.label}: {note}")
    size = "search" if searching else f"{len(requested)} runs"
    print(f"sweep {ledger.name}: {size}, launcher {first.launcher}", flush=True)
    escaped = str(ledger).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return ledger, [*hydra_words, f"hydra.sweep.dir='{escaped}'"]


def share_machine(spec: RunSpec, launcher: str, n_workers: int) -> RunSpec:
    """Claim this worker's share of the machine: return ``spec`` with its threads, and reserve its GPU for the process.

    A number of threads that ``spec`` sets is kept.
    """
    if launcher == workers.ON_GPUS:
        workers.claim_gpu()
    if launcher in (workers.ON_CORES, workers.ON_GPUS) and spec.engine.n_threads == 0:
        from aetlab.core.backend import n_cores

        n_threads = workers.threads_of_worker(n_cores(), n_workers if n_workers > 0 else n_cores())
        return dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_threads=n_threads))
    return spec


def _worker_words(launcher: str, n_runs: int | None, words: Sequence[str]) -> list[str]:
    """Return the override of the number of workers, if the launcher takes one and the user gave none.

    ``n_runs`` is None for a search, which can always use one worker per core.
    """
    chosen = any(word.startswith("hydra.launcher.n_jobs=") for word in words)
    if chosen or launcher not in (workers.ON_CORES, workers.ON_GPUS):
        return []
    from aetlab.core.backend import n_cores

    n_workers = workers.n_workers(launcher, n_cores() if n_runs is None else n_runs, n_cores())
    return [f"hydra.launcher.n_jobs={n_workers}"]


def _search_words(spec: RunSpec, words: Sequence[str]) -> list[str]:
    """Return the overrides that let a search continue after failed runs and repeat its choices when it is restarted."""
    added = {"hydra.sweeper.max_failure_rate": "1.0"}
    if not any(word.startswith("hydra/sweeper/sampler=") for word in words):
        added["hydra.sweeper.sampler.seed"] = str(spec.seed)
    return [f"{key}={value}" for key, value in added.items() if not any(word.startswith(f"{key}=") for word in words)]
