"""Printing and Ctrl-C: output that cannot be written stops no run, and no command ends in a traceback."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aetlab.core import console
from aetlab.store.record import list_records
from tests.commands import perform
from tests.conftest import TINY
from tests.test_sweep import ENVIRONMENT


def close_output() -> None:
    """Print to a pipe that nobody reads, as behind ``| head -1``, in an encoding without Å."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), encoding="ascii")


def interrupt_the_composition() -> None:
    """Press Ctrl-C while the settings are composed."""
    from aetlab.cli import compose

    def pressed(*words: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    compose.compose_all = pressed  # type: ignore[assignment]


def test_a_run_whose_output_nobody_reads_is_completed(tmp_path: Path) -> None:
    result = perform("run", TINY, tmp_path, ENVIRONMENT, 240, close_output)
    assert result.returncode == 0 and result.stderr == ""
    records, broken = list_records(tmp_path / "outputs" / "records", verify=True)
    assert len(records) == 1 and broken == []


def test_ctrl_c_before_any_work_ends_in_one_line(tmp_path: Path) -> None:
    result = perform("run", TINY, tmp_path, ENVIRONMENT, 60, interrupt_the_composition)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "stopped before any work\n")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_interrupted_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @console.command
    def main(word: str) -> None:
        print(word)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main("begun")
    assert ended.value.code == 130
    assert capsys.readouterr() == ("begun\n", "stopped\n")


def test_what_an_encoding_lacks_is_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console.protect_streams()
        protected = sys.stdout
        console.protect_streams()
        assert sys.stdout is protected
        print("0.5 Å")
        assert not sys.stdout.isatty()
    assert (tmp_path / "out").read_bytes() == b"0.5 A\n"


def test_output_that_fails_once_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console.protect_streams()
        print("read")
        assert os.read(reader, 100) == b"read\n"
        os.close(reader)
        for _ in range(3):
            print("lost" * 10_000)
        sys.stdout.flush()


def test_signs_without_a_code_are_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        monkeypatch.setattr("sys.stdout", file)
        console.protect_streams()
        print("17.2 ± 0.3 pm, 2 × 5 Å², 30° 東")
        sys.stdout.flush()
    assert (tmp_path / "out").read_text(encoding="ascii") == "17.2 +/- 0.3 pm, 2 x 5 A^2, 30 deg \\u6771\n"


def test_kernels_that_may_not_be_compiled_are_refused(monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(SystemExit) as ended:
        console.command(lambda: None)()
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("aetlab: NUMBA_DISABLE_JIT cannot be used: kernels that are not compiled take "
                                       "days; unset it\n")


def test_figures_need_no_backend_and_no_home(tmp_path: Path) -> None:
    code = "import aetlab.reporting.figures.style, matplotlib; print(matplotlib.get_configdir())"
    environment = {**ENVIRONMENT, "MPLBACKEND": "nonsense", "HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    for name in ("XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        environment.pop(name, None)
    found = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=120,
                           check=True)
    assert found.stderr == "" and Path(found.stdout.strip()).parent == tmp_path
