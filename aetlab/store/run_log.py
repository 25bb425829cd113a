"""Write the log of a run: its messages with their times."""

from __future__ import annotations

import time
from pathlib import Path

from aetlab.core.files import make_folder, writing
from aetlab.core.progress import Reporter


class LogReporter:
    """Pass the messages of a run on, and append them with the time to the file ``path``."""

    def __init__(self, inner: Reporter, path: Path) -> None:
        make_folder(path.parent)
        self._inner = inner
        self._path = path
        self._stage = ""

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
        with writing(self._path), open(self._path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
