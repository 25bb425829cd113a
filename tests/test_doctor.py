"""The doctor's findings on this machine, and its advice on drivers and packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from aetlab import doctor
from aetlab.core.fft import describe_fft

ROOT = Path(__file__).resolve().parents[1]


def test_every_required_package_is_checked() -> None:
    """Against the dependencies that pyproject.toml declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=~!\[; ]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert {name.lower() for name in doctor._NEEDED} == declared


@pytest.mark.parametrize(("driver", "cupy", "advice"), [
    ("", [], ""),
    ("470.82.01", ["cupy-cuda12x 13.3"], "update it to 525 or newer"),
    ("535.104.05", [], "pip install 'aetlab[cuda12]'"),
    ("580.65.06", [], "pip install 'aetlab[cuda13]'"),
    ("535.104.05", ["cupy-cuda13x 13.6"], "supports CUDA 12 at most: pip uninstall cupy-cuda13x"),
    ("580.65.06", ["cupy-cuda12x 13.6", "cupy-cuda13x 13.6"], "keep only one CuPy: pip uninstall cupy-cuda13x"),
    ("580.65.06", ["cupy-cuda12x 13.6"], ""),
])
def test_advice_fits_the_driver_and_the_installed_cupy(driver: str, cupy: list[str], advice: str) -> None:
    given = doctor.advise_cuda(driver, cupy)
    assert advice in given and bool(given) == bool(advice) and "\n" not in given


def test_every_finding_is_one_line_and_problems_come_with_advice(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory and disk space, and fewer threads than cores."""
    monkeypatch.setattr("aetlab.reconstruction.memory.available_bytes", lambda: 1e9)
    monkeypatch.setattr("aetlab.doctor._DISK_BYTES", 1e18)
    monkeypatch.setattr("aetlab.core.backend.n_cores", lambda: 1000)
    findings = {finding.item: finding for finding in doctor.examine(tmp_path)}
    for item in ("memory", "outputs", "threads"):
        assert findings[item].status == doctor.ADVICE, findings[item]
    assert "scale=paper does not fit" in findings["memory"].detail
    assert "unset NUMBA_NUM_THREADS to use all 1000 cores" in findings["threads"].detail
    assert findings["FFT"].detail == describe_fft()
    assert all("\n" not in finding.detail for finding in findings.values())


def test_a_missing_package_is_named_and_ends_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED", (*doctor._NEEDED, "no-such-package"))
    findings = doctor.examine(tmp_path)
    assert [finding.item for finding in findings] == ["Python", "packages"]
    assert findings[1].status == doctor.BROKEN
    assert findings[1].detail == "missing: no-such-package; pip install no-such-package"
