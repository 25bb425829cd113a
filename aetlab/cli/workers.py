"""Share this machine between workers: its cores without oversubscription, and one GPU for each worker.

A worker claims a GPU by a lock file that its process holds until it ends; the system frees the lock of a dead process.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from aetlab.core.files import StorageError, has_locks, writing

#: Launchers that start several workers on this machine.
ON_CORES, ON_GPUS = "cores", "gpus"
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


def n_workers(launcher: str, n_jobs: int, n_cores: int) -> int:
    """Return the number of workers that ``launcher`` starts for ``n_jobs`` runs.

    Raises :class:`StorageError` if it needs a GPU and none is visible.
    """
    if launcher == ON_GPUS:
        n_gpus = len(visible_gpus())
        if n_gpus == 0:
            raise StorageError("hydra/launcher=gpus cannot be used: no GPU is visible; choose hydra/launcher=cores")
        return min(n_gpus, n_jobs)
    return min(n_cores, n_jobs)


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
