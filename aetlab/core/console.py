"""Standard output, standard error and Ctrl-C of a command: printing never decides over its work.

A reader that closes the output (``| head -1``), a full disk behind it, or an encoding without Å must not fail a run.
"""

from __future__ import annotations

import codecs
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec, TypeVar

from aetlab.core.inert import printable

#: Exit status of a command that Ctrl-C stopped.
EXIT_INTERRUPTED = 130
#: Exit status of a command that cannot be carried out.
EXIT_UNUSABLE = 2
#: What is printed for signs that the encoding of the output has no code for.
_SPELLED = str.maketrans({
    "Å": "A", "×": "x", "±": "+/-", "°": " deg", "µ": "u", "σ": "sigma", "λ": "lambda", "Δ": "d", "²": "^2", "³": "^3",
    "·": "*", "π": "pi", "√": "sqrt ", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "…": "...", "‘": "'", "’": "'",
    "“": '"', "”": '"', "⟨": "<", "⟩": ">", "→": "->", "∗": "*", "é": "e", "ö": "o"})
_SPELLING = "aetlab.spelling"
P = ParamSpec("P")
T = TypeVar("T")


def command(main: Callable[P, T]) -> Callable[P, T]:
    """Let the function of a command print without errors, and end in one line on Ctrl-C.

    An environment in which nothing can be computed is refused.
    """

    @functools.wraps(main)
    def guarded(*words: P.args, **options: P.kwargs) -> T:
        protect_streams()
        raise_on_interrupt()
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            print("aetlab: NUMBA_DISABLE_JIT cannot be used: kernels that are not compiled take days; unset it",
                  file=sys.stderr)
            sys.exit(EXIT_UNUSABLE)
        try:
            return main(*words, **options)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)

    return guarded


def refuse(error: object) -> NoReturn:
    """End a command whose input cannot be used: one line on standard error, and the exit status 2."""
    print(f"aetlab: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)


def protect_streams() -> None:
    """Replace standard output and error by streams that drop what cannot be written and spell out what has no code."""
    codecs.register_error(_SPELLING, _spell)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _ProtectedStream):
            continue
        try:
            number = stream.fileno()
            stream.flush()
        except (OSError, ValueError):  # closed, or not a file of the system
            continue
        output = io.BufferedWriter(_PatientOutput(number))
        setattr(sys, name, _ProtectedStream(output, encoding=stream.encoding, errors=_SPELLING,
                                            line_buffering=True))


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start:error.end].translate(_SPELLED)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def stop_at_once() -> None:
    """Let Ctrl-C end the process at once and in one line: while libraries are imported, before there is work to keep.

    An exception would print a traceback, or be turned into another error by a library.
    """
    if _raises_on_interrupt() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again after :func:`stop_at_once`."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _raises_on_interrupt() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _exit(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"stopped before any work\n")
    finally:
        os._exit(EXIT_INTERRUPTED)


class _ProtectedStream(io.TextIOWrapper):
    """A text stream that raises no errors."""


class _PatientOutput(io.RawIOBase):
    """A file descriptor whose first failed write ends all further ones without an error."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: object) -> int:
        view = memoryview(data)  # pyrefly: ignore[bad-argument-type]
        if not self._lost:
            try:
                return os.write(self._number, view)
            except OSError:
                self._lost = True
        return view.nbytes
