"""Style, types and layers, by the programs that check them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.slow(10)
@pytest.mark.parametrize("words", [
    pytest.param(["pyrefly", "check", "--python-interpreter-path", sys.executable], id="pyrefly",
                 marks=pytest.mark.skipif(version("numpy").startswith("1."),
                                          reason="types are those of the newest libraries; NumPy 1 has no shapes")),
    pytest.param(["lint-imports", "--no-cache"], id="lint-imports"),
    pytest.param(["ruff", "check", "."], id="ruff")])
def test_a_linter_finds_nothing(words: list[str]) -> None:
    found = subprocess.run([BIN / words[0], *words[1:]], cwd=ROOT, text=True, capture_output=True, timeout=300,
                           check=False)
    assert found.returncode == 0, found.stdout + found.stderr
