"""What the doctor advises, and what it tells of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aetlab import doctor
from aetlab.core.fft import describe_fft

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("driver", "cupy", "advice"), [
    ("", [], ""),
    ("470.82.01", ["cupy-cuda12x 13.3"], "update it to 525 or newer"),
    ("535.104.05", [], "pip install 'aetlab[cuda12]'"),
    ("580.65.06", [], "pip install 'aetlab[cuda13]'"),
    ("535.104.05", ["cupy-cuda13x 13.6"], "serves CUDA 12 at most: pip uninstall cupy-cuda13x"),
    ("580.65.06", ["cupy-cuda12x 13.6", "cupy-cuda13x 13.6"], "keep one CuPy alone: pip uninstall cupy-cuda13x"),
    ("580.65.06", ["cupy-cuda12x 13.6"], ""),
])
def test_driver_and_cupy_are_held_against_each_other(driver: str, cupy: list[str], advice: str) -> None:
    told = doctor.advise_cuda(driver, cupy)
    assert advice in told and bool(told) == bool(advice) and "\n" not in told


def test_every_finding_is_a_line_and_what_is_off_comes_with_advice(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory and disk, and linear algebra with threads of its own."""
    monkeypatch.setattr("aetlab.reconstruction.memory.available_bytes", lambda: 1e9)
    monkeypatch.setattr("aetlab.doctor._DISK_BYTES", 1e18)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    findings = {finding.what: finding for finding in doctor.examine(tmp_path)}
    for what in ("memory", "outputs", "threads"):
        assert findings[what].status == doctor.ADVICE, findings[what]
    assert "scale=paper does not fit" in findings["memory"].detail
    assert "set OPENBLAS_NUM_THREADS to 1" in findings["threads"].detail
    assert findings["FFT"].detail == describe_fft()
    assert all("\n" not in finding.detail for finding in findings.values())


@pytest.mark.parametrize(("given", "pinned"), [(None, "1"), ("3", "3")])
def test_linear_algebra_has_one_thread_unless_told_otherwise(given: str | None, pinned: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    environment |= {} if given is None else {"OPENBLAS_NUM_THREADS": given}
    code = "import sys, aetlab, os; print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True,
                          check=True).stdout
    assert told.split() == [pinned, "False"]
