"""Run command lines in processes forked from a server that has imported their modules, which saves three seconds each.

For tests of a command's results. The tests in tests/test_cli.py start a new Python instead, as a user does.
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
# aetlab comes first: it limits the threads of the other packages. aetlab.run is not among them: each process runs it.
_FORKS.set_forkserver_preload(["aetlab.keeper", "aetlab.cli.preflight", "tests.prepared"])


class Command:
    """``python -m aetlab.<module>`` with these words, in ``folder``; used like a :class:`subprocess.Popen`.

    ``module`` may be the path of a script, ending in ``.py``, instead.
    ``first`` is a module-level function that the new process calls before the command, for example to patch code.
    """

    def __init__(self, module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str],
                 first: Callable[[], None] | None = None) -> None:
        self._printed = TemporaryDirectory()
        self._process = _FORKS.Process(target=_become, args=(module, words, folder, dict(environment),
                                                             self._printed.name, first))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative if a signal ended the process, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end of the process; return its standard output and standard error."""
        with self._printed:
            self._process.join(timeout)
            if self._process.exitcode is None:
                self._process.kill()
                raise subprocess.TimeoutExpired(self._process.name, timeout)
            output, errors = ((Path(self._printed.name) / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return output, errors


def perform(module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str],
            timeout_s: float, first: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end; return its exit status and output."""
    command = Command(module, words, folder, environment, first)
    output, errors = command.communicate(timeout_s)
    assert command.returncode is not None
    return subprocess.CompletedProcess([module, *words], command.returncode, output, errors)


def _become(module: str, words: Sequence[str], folder: Path, environment: dict[str, str], output: str,
            first: Callable[[], None] | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        written = os.open(os.path.join(output, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, number)
        os.close(written)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT by default
    sys.argv = [module, *words]
    if first is not None:
        first()
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(f"aetlab.{module}", run_name="__main__", alter_sys=True)
