"""Describe the environment of a run: versions, machine, device, commit, time of each stage and peak memory."""

from __future__ import annotations

import datetime
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from aetlab.core.backend import n_cores, n_threads
from aetlab.core.fft import describe_fft

_PACKAGES = ("aetlab", "numpy", "scipy", "numba", "h5py", "ducc0", "hydra-core", "cupy-cuda12x",
             "cupy-cuda13x")


class StageClock:
    """Measure the wall time of each stage in seconds, in the order of the stages."""

    def __init__(self) -> None:
        self.started = datetime.datetime.now(datetime.UTC)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def describe_environment(clock: StageClock, device: str) -> dict[str, Any]:
    """Return plain values for ``environment.json``; the peak memory is that of the whole process so far."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    finished = datetime.datetime.now(datetime.UTC)
    return {
        "started": clock.started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="milliseconds"),
        "seconds_by_stage": {name: round(seconds, 4) for name, seconds in clock.seconds.items()},
        "seconds": round(sum(clock.seconds.values()), 4),
        "peak_memory_MB": round(peak_memory_bytes() / 1e6, 1),
        "device": device,
        "processor": _processor(),
        "n_cores": n_cores(),
        "n_threads": n_threads(),
        "fft": describe_fft(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "commit": _commit(),
    }


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str:
    """Return the commit of the source checkout, marked if files differ from it; empty outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""
    git = ["git", "-C", str(folder)]
    try:
        head, changed = (subprocess.run([*git, *words], capture_output=True, text=True, timeout=10)
                         for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
