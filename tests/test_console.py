"""Printing and Ctrl-C: output that cannot be written stops no run, and no command ends in a traceback."""

from __future__ import annotations

import io
import os
import signal
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
    assert (tmp_path / "out").read_bytes() == rb"0.5 \xc5" + b"\n"


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
