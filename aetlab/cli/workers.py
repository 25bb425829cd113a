"""How workers share this machine: cores without oversubscription, and one GPU for each worker.

A GPU is claimed by a lock file that the worker's process holds until it ends; the system frees it if the process dies.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from aetlab.store.files import StorageError, writing

#: Launchers of several workers on this machine.
ON_CORES, ON_GPUS = "cores", "gpus"
#: Seconds between two looks for a free GPU.
_LOOK_AGAIN_S = 0.2

_claimed: list[FileLock] = []


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use, without waking them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    numbers = [match[1] for path in Path("/dev").glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))]
    return sorted(numbers, key=int)


def n_workers(launcher: str, n_jobs: int, n_cores: int) -> int:
    """Workers that ``launcher`` starts for ``n_jobs`` runs; raises :class:`StorageError` where there is no GPU."""
    if launcher == ON_GPUS:
        n_gpus = len(visible_gpus())
        if n_gpus == 0:
            raise StorageError("hydra/launcher=gpus cannot be used: no GPU is visible; choose hydra/launcher=cores")
        return min(n_gpus, n_jobs)
    return min(n_cores, n_jobs)


def threads_of_worker(n_cores: int, n_workers: int) -> int:
    """Threads for each of ``n_workers`` on ``n_cores``: together they fill the machine and no more."""
    return max(1, n_cores // n_workers)


def claim_gpu(folder: Path | None = None) -> str:
    """Makes one free GPU the only one that this process sees, waiting for one; gives its id.

    ``folder`` holds the locks (default: the system's folder for temporary files). A process that has one keeps it.
    """
    if _claimed:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    locks = folder or Path(tempfile.gettempdir())
    gpus = visible_gpus()
    if not gpus:
        raise StorageError("no GPU is visible to this worker")
    while True:
        for gpu in gpus:
            lock = FileLock(locks / f"aetlab-gpu-{gpu.replace('/', '_')}.lock")
            with writing(locks):
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
            _claimed.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return gpu
        time.sleep(_LOOK_AGAIN_S)
