"""Sweeps on a local Ray cluster; ``make test-ray`` runs them in an environment of their own (extra ``test-ray``)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_sweep import ENVIRONMENT
from tests.test_tiles import WORDS, records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None,
                                reason="Ray's plugin is not installed: make test-ray")
#: Four workers of one core each, whatever the machine has.
RAY = ("hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=1", "+hydra.launcher.ray.init.num_cpus=4")


def test_tiles_are_spread_over_ray_and_joined(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-m", "aetlab.run", "-m", *WORDS, "tile.n=3", *RAY], cwd=tmp_path,
                            env=ENVIRONMENT, text=True, timeout=600, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    made = records(tmp_path)
    assert sorted(made) == [-1, 0, 1, 2]
    assert made[-1].metrics["found_percent"] > 99 and made[-1].metrics["false_positive_percent"] < 0.5
