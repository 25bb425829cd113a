"""Share this machine between workers: its cores without oversubscription, and one GPU for each worker.

A worker claims a GPU by a lock file that its process holds until it ends; the system frees the lock of a dead process.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from aetlab.core.files import StorageError, has_locks, writing
from aetlab.spec import RunSpec

#: Classes of launchers that run jobs in this process, in a pool of processes, or in processes of their own.
_BASIC, _POOL, _OWN = "BasicLauncher", "JoblibLauncher", "LocalLauncher"
#: Seconds between two searches for a free GPU.
_POLL_S = 0.2

_claimed: list[FileLock] = []


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use, without initialising them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    numbers = [match[1] for path in Path("/dev").glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))]
    return sorted(numbers, key=int)


@dataclass(frozen=True)
class Launcher:
    """A launcher as composed: its choice, its class, its number of workers if it has one, and whether each gets a GPU.

    The class decides, so that a choice of the user's own behaves as the one that it is based on.
    """

    name: str = "basic"
    target: str = "BasicLauncher"
    n_jobs: int | None = None
    on_gpus: bool = False

    @property
    def is_here(self) -> bool:
        """True if its jobs run on this machine."""
        return self.target.endswith((_BASIC, _POOL, _OWN))


#: Hydra's default launcher, which runs one job after another in this process.
HERE = Launcher()


@dataclass(frozen=True)
class Workers:
    """The workers of a pool that share this machine, 0 if there is no pool, and the jobs at once if they are fewer."""

    n_workers: int = 0
    at_once: int | None = None
    on_gpus: bool = False
    in_this_process: bool = False


def count_workers(launcher: Launcher, n_runs: int) -> Workers:
    """Return the workers that ``launcher`` starts for ``n_runs``.

    A negative number of workers counts from all cores or GPUs: -1 is all of them.

    Raises :class:`StorageError` if a GPU is needed and none is visible.
    """
    if not launcher.target.endswith(_POOL):
        return Workers(in_this_process=launcher.target.endswith(_BASIC))
    from aetlab.core.backend import n_cores

    n_all = len(visible_gpus()) if launcher.on_gpus else n_cores()
    if n_all == 0:
        raise StorageError(f"hydra/launcher={launcher.name} cannot be used: no GPU is visible; choose "
                           "hydra/launcher=cores")
    n_jobs = launcher.n_jobs or -1
    n_most = n_jobs if n_jobs > 0 else max(1, n_all + 1 + n_jobs)
    return Workers(min(n_most, n_runs), on_gpus=launcher.on_gpus)


def share_machine(spec: RunSpec, workers: Workers) -> RunSpec:
    """Claim this worker's share of the machine: return ``spec`` with its threads, and reserve its GPU for the process.

    A number of threads that ``spec`` sets is kept.
    """
    if workers.on_gpus:
        claim_gpu()
    if workers.n_workers == 0 or spec.engine.n_threads > 0:
        return spec
    from aetlab.core.backend import n_cores

    n_threads = threads_of_worker(n_cores(), workers.n_workers)
    return dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_threads=n_threads))


def threads_of_worker(n_cores: int, n_workers: int) -> int:
    """Return the threads of each of ``n_workers`` on ``n_cores``: at least 1, and together no more than the cores."""
    return max(1, n_cores // n_workers)


def claim_gpu(folder: Path | None = None) -> str:
    """Wait for a free GPU, make it the only one that this process sees, and return its id.

    ``folder`` holds the locks (default: the system's folder for temporary files). A process that holds a GPU keeps it.
    """
    if _claimed:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    locks = folder or Path(tempfile.gettempdir())
    gpus = visible_gpus()
    if not gpus:
        raise StorageError("no GPU is visible to this worker")
    while True:
        for gpu in gpus:
            path = locks / f"aetlab-gpu-{gpu.replace('/', '_')}.lock"
            lock = FileLock(path)
            with writing(locks):
                if not has_locks(path):
                    raise StorageError(f"{locks} has no file locks, by which workers share GPUs: set TMPDIR to a "
                                       "folder of a local disk, or use one worker")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
            _claimed.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return gpu
        time.sleep(_POLL_S)
