"""Sweeps on a local Ray cluster; ``make test-ray`` runs them in an environment of their own (extra ``test-ray``).

Ray uses the loopback address alone, files instead of a large /dev/shm, and no dashboard. All its processes carry the
name of its folder in their environment; those that are left at the end are killed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.test_sweep import ENVIRONMENT
from tests.test_tiles import WORDS, records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None,
                                reason="Ray's plugin is not installed: make test-ray")
#: A cluster of three workers of one core each, whatever the machine has.
RAY = ("hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=1", *(f"+hydra.launcher.ray.init.{word}" for word in (
    "num_cpus=3", "include_dashboard=false", "object_store_memory=80000000", "_node_ip_address=127.0.0.1")))
#: No report of usage over the network, and no worker killed because other programs fill the memory.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "no_proxy": "127.0.0.1,localhost"}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for Ray with a name short enough for its sockets; its processes end with the test."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
        for process in processes_of(Path(folder)):
            process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started with ``folder`` as RAY_TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == str(folder):
                found.append(process)
        except psutil.Error:  # it has ended, or belongs to someone else
            pass
    return found


def test_tiles_are_spread_over_ray_and_joined(tmp_path: Path, ray_folder: Path) -> None:
    """Tiles on workers of Ray give the record of the whole; no process is left."""
    result = subprocess.run(
        [sys.executable, "-m", "aetlab.run", "-m", *WORDS, "tile.n=3", *RAY], cwd=tmp_path, text=True, timeout=600,
        env=ENVIRONMENT | QUIET | {"RAY_TMPDIR": str(ray_folder)}, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    made = records(tmp_path)
    assert sorted(made) == [-1, 0, 1, 2]
    assert made[-1].metrics["found_percent"] > 99 and made[-1].metrics["false_positive_percent"] < 0.5
    assert (ray_folder / "ray").exists() or os.listdir(ray_folder)  # the cluster was Ray's own, in this folder
    deadline = time.monotonic() + 20
    while processes_of(ray_folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(ray_folder) == []
