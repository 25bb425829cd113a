"""Share this machine between workers: its cores without oversubscription, and its GPUs.

A worker claims each of its GPUs by a lock file that its process holds until it ends; the system frees the locks of a
dead process.
"""

from __future__ import annotations

import dataclasses
import os
import random
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
    """The workers of a pool that share this machine, 0 if there is no pool, and the jobs at once if they are fewer.

    Each has ``n_gpus`` of its own; 0 if GPUs are not shared out.
    """

    n_workers: int = 0
    at_once: int | None = None
    n_gpus: int = 0
    in_this_process: bool = False


def count_workers(launcher: Launcher, n_runs: int, n_gpus: int = 1) -> Workers:
    """Return the workers that ``launcher`` starts for ``n_runs``, each of which uses up to ``n_gpus``.

    A negative number of workers counts from all cores, or from as many as there are GPUs for: -1 is all of them.

    Raises :class:`StorageError` if GPUs are needed and fewer are visible.
    """
    if not launcher.target.endswith(_POOL):
        return Workers(in_this_process=launcher.target.endswith(_BASIC))
    from aetlab.core.backend import n_cores

    n_visible = len(visible_gpus())
    n_all = n_visible // n_gpus if launcher.on_gpus else n_cores()
    if n_all == 0:
        few = f"engine.devices={n_gpus} exceeds the visible GPUs ({n_visible})" if n_visible else "no GPU is visible"
        raise StorageError(f"hydra/launcher={launcher.name} cannot be used: {few}; choose hydra/launcher=cores")
    n_jobs = launcher.n_jobs or -1
    n_most = n_jobs if n_jobs > 0 else max(1, n_all + 1 + n_jobs)
    return Workers(min(n_most, n_runs), n_gpus=n_gpus if launcher.on_gpus else 0)


def share_machine(spec: RunSpec, workers: Workers) -> RunSpec:
    """Claim this worker's share of the machine: return ``spec`` with its threads, and reserve its GPUs for the process.

    A number of threads that ``spec`` sets is kept.
    """
    if workers.n_gpus:
        claim_gpus(workers.n_gpus)
    if workers.n_workers == 0 or spec.engine.n_threads > 0:
        return spec
    from aetlab.core.backend import n_cores

    n_threads = threads_of_worker(n_cores(), workers.n_workers)
    return dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_threads=n_threads))


def threads_of_worker(n_cores: int, n_workers: int) -> int:
    """Return the threads of each of ``n_workers`` on ``n_cores``: at least 1, and together no more than the cores."""
    return max(1, n_cores // n_workers)


def claim_gpus(n_gpus: int = 1, folder: Path | None = None) -> str:
    """Wait for free GPUs, make them the only ones that this process sees, and return their ids with commas.

    ``folder`` holds the locks (default: the system's folder for temporary files). A process that holds GPUs keeps them.
    """
    if _claimed:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    locks = folder or Path(tempfile.gettempdir())
    gpus = visible_gpus()
    if len(gpus) < n_gpus:
        found = {0: "no GPU is", 1: "1 GPU is"}.get(len(gpus), f"{len(gpus)} GPUs are")
        raise StorageError(f"{found} visible to this worker, which needs {n_gpus}")
    while True:
        free: dict[str, FileLock] = {}
        for gpu in gpus:
            lock = _try_lock(locks, gpu)
            if lock is not None:
                free[gpu] = lock
            if len(free) == n_gpus:
                _claimed.extend(free.values())
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(free)
                return os.environ["CUDA_VISIBLE_DEVICES"]
        for lock in free.values():  # two workers that each wait for what the other holds would wait forever
            lock.release()
        time.sleep(random.uniform(0.5, 1.5) * _POLL_S)


def _try_lock(locks: Path, gpu: str) -> FileLock | None:
    """Return the lock of a GPU, acquired; None if another process holds it."""
    path = locks / f"aetlab-gpu-{gpu.replace('/', '_')}.lock"
    lock = FileLock(path)
    with writing(locks):
        if not has_locks(path):
            raise StorageError(f"{locks} has no file locks, by which workers share GPUs: set TMPDIR to a folder of a "
                               "local disk, or use one worker")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
    return lock
