"""What the doctor advises, and what it tells of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from aetlab import doctor
from aetlab.core.fft import describe_fft


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
    """Too little memory and disk, and one thread on several cores."""
    monkeypatch.setattr("aetlab.reconstruction.memory.available_bytes", lambda: 1e9)
    monkeypatch.setattr("aetlab.doctor._DISK_BYTES", 1e18)
    monkeypatch.setattr("aetlab.core.backend.n_cores", lambda: 1_000_000)
    findings = {finding.what: finding for finding in doctor.examine(tmp_path)}
    for what in ("memory", "outputs", "threads"):
        assert findings[what].status == doctor.ADVICE, findings[what]
    assert "scale=paper does not fit" in findings["memory"].detail
    assert "unset NUMBA_NUM_THREADS" in findings["threads"].detail
    assert findings["FFT"].detail == describe_fft()
    assert all("\n" not in finding.detail for finding in findings.values())
