"""Style, types and layers, by the programs that check them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.slow(10)
@pytest.mark.parametrize("words", [["pyrefly", "check", "--python-interpreter-path", sys.executable],
                                   ["lint-imports", "--no-cache"], ["ruff", "check", "."]],
                         ids=["pyrefly", "lint-imports", "ruff"])
def test_a_linter_finds_nothing(words: list[str]) -> None:
    found = subprocess.run([BIN / words[0], *words[1:]], cwd=ROOT, text=True, capture_output=True, timeout=300,
                           check=False)
    assert found.returncode == 0, found.stdout + found.stderr
