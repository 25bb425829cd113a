"""Describe the environment of a run: versions, machine, device, commit, time of each stage and peak memory."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import shutil
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


#: Settings of a checkout that start programs, overridden.
_GIT_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", f"core.attributesFile={os.devnull}")
#: All that Git sees of the environment: no settings of the system or the user, no locks, no downloads.
_GIT_ENVIRONMENT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_OPTIONAL_LOCKS": "0",
                    "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


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
        "started": clock.started.isoformat(timespec="milliseconds"),
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
        "commit": commit_of(Path(__file__).resolve().parents[2]),
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


def commit_of(folder: Path) -> str:
    """Return the commit of the Git checkout ``folder``, marked ``+changes`` if its files differ; "" outside a checkout.

    Git gets an empty environment and reads the checkout's own settings alone; none of them can start a program.
    Where the checkout has filters, which are programs, its files are not compared: ``+unchecked``.
    """
    program = shutil.which("git")
    if program is None or not (folder / ".git").exists():
        return ""
    git = [program, "-C", str(folder), *(word for setting in _GIT_SETTINGS for word in ("-c", setting))]

    def ask(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, errors="replace", timeout=10,
                              check=True, env=_GIT_ENVIRONMENT, stdin=subprocess.DEVNULL).stdout

    try:
        head = ask("rev-parse", "--short=12", "HEAD").strip()
        if any(name.lower().startswith("filter.") for name in ask("config", "--name-only", "--list", "-z").split("\0")):
            return f"{head}+unchecked"
        return head + ("+changes" if ask("status", "--porcelain", "-uno", "--ignore-submodules=all").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return ""
