"""Command lines in processes forked from one that has imported what they import: each begins two seconds of work later.

For tests of what a command does; those of tests/test_cli.py begin as a user's do, with a new Python.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_FORKS = multiprocessing.get_context("forkserver")
# aetlab first: it says how many threads the others may start. Not aetlab.run itself, which each process must begin.
_FORKS.set_forkserver_preload(["aetlab.keeper", "aetlab.cli.jobs", "aetlab.cli.compose", "aetlab.cli.preflight"])


class Command:
    """``python -m aetlab.<module>`` with these words, in ``folder``; used like a :class:`subprocess.Popen`.

    ``first`` is called in the new process before: a function of a module, which may replace what others are to find.
    """

    def __init__(self, module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str],
                 first: Callable[[], None] | None = None) -> None:
        self._said = TemporaryDirectory()
        self._process = _FORKS.Process(target=_become, args=(module, words, folder, dict(environment), self._said.name,
                                                             first))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, below 0 where a signal ended it; None as long as it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it printed and what it complained of, once it has ended."""
        with self._said:
            self._process.join(timeout)
            if self._process.exitcode is None:
                self._process.kill()
                raise subprocess.TimeoutExpired(self._process.name, timeout)
            said, complaint = ((Path(self._said.name) / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return said, complaint


def perform(module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str],
            timeout_s: float, first: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line once it has ended."""
    command = Command(module, words, folder, environment, first)
    said, complaint = command.communicate(timeout_s)
    assert command.returncode is not None
    return subprocess.CompletedProcess([module, *words], command.returncode, said, complaint)


def _become(module: str, words: Sequence[str], folder: Path, environment: dict[str, str], said: str,
            first: Callable[[], None] | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        written = os.open(os.path.join(said, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, number)
        os.close(written)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    sys.argv = [module, *words]
    if first is not None:
        first()
    runpy.run_module(f"aetlab.{module}", run_name="__main__", alter_sys=True)
