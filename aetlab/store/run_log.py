"""The log of a run: what it said, with the time."""

from __future__ import annotations

import time
from pathlib import Path

from aetlab.core.files import make_folder, writing
from aetlab.core.progress import Reporter


class LogReporter:
    """Pass on what a run says, and append it with the time to the file ``path``."""

    def __init__(self, inner: Reporter, path: Path) -> None:
        make_folder(path.parent)
        self._inner = inner
        self._path = path
        self._stage = ""

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Pass a step on; the first and the last of a stage enter the log."""
        if stage != self._stage or done == total:
            self._stage = stage
            self.write(f"{stage} {done}/{total} {detail}".rstrip())
        self._inner.step(stage, done, total, detail)

    def say(self, text: str) -> None:
        """Pass a line on and log it."""
        self.write(text)
        self._inner.say(text)

    def write(self, text: str) -> None:
        """Append ``text`` to the log alone."""
        with writing(self._path), open(self._path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
