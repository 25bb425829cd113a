"""What tests share: small settings, an environment for command lines, and hypothesis profiles."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from aetlab.cli.compose import compose_spec
from aetlab.spec import RunSpec

settings.register_profile("aetlab", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("aetlab")

#: Words of a run that takes about a second.
TINY = ("scale=smoke", "tilts.n_tilts=6", "engine.n_iterations=2", "simulate.n_layers=8", "engine.n_threads=1")


@pytest.fixture(scope="session")
def smoke_spec() -> RunSpec:
    """The settings of ``scale=smoke``."""
    return compose_spec(["scale=smoke"])


@pytest.fixture
def change() -> Callable[..., RunSpec]:
    """``change(spec, "engine", device="cpu")``: a copy with other settings in one group."""

    def changed(spec: RunSpec, group: str, **values: object) -> RunSpec:
        return dataclasses.replace(spec, **{group: dataclasses.replace(getattr(spec, group), **values)})

    return changed


@pytest.fixture
def aetlab(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``aetlab("run", "dose=50k", ...)``: a command line in a folder of its own, from the outside."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "COLUMNS": "200"}

    def call(module: str, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", f"aetlab.{module}", *words], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=timeout_s, check=False)

    return call
