"""Write the log of a run: its messages with their times."""

from __future__ import annotations

import time
from pathlib import Path

from aetlab.core.files import append_text, describe, make_folder, open_regular, writing
from aetlab.core.progress import Reporter


class LogReporter:
    """Pass the messages of a run on, and append them with the time to the file ``path``.

    ``text`` is the whole log, with what earlier attempts of the run left in the file.
    """

    def __init__(self, inner: Reporter, path: Path) -> None:
        make_folder(path.parent)
        self._inner = inner
        self._path = path
        self._stage = ""
        self.text = _earlier(path)

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Pass a step on, and log the first and the last step of a stage."""
        if stage != self._stage or done == total:
            self._stage = stage
            self.write(f"{stage} {done}/{total} {detail}".rstrip())
        self._inner.step(stage, done, total, detail)

    def say(self, text: str) -> None:
        """Pass a line on and log it."""
        self.write(text)
        self._inner.say(text)

    def write(self, text: str) -> None:
        """Append ``text`` to the log only."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        self.text += line
        with writing(self._path):
            append_text(self._path, line)


def _earlier(path: Path) -> str:
    """Return what earlier attempts left in the log, or a line on why it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"the earlier log cannot be read: {describe(error)}\n"
