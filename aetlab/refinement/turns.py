"""Order of the tilts for threads that work on several of them at once."""

from __future__ import annotations

import threading


class Turns:
    """Order of tilts for threads that work on several tilts at once."""

    def __init__(self, n: int) -> None:
        self._ended = [False] * n
        self._changed = threading.Condition()

    def wait(self, i: int) -> None:
        """Wait until all tilts before ``i`` have ended."""
        with self._changed:
            self._changed.wait_for(lambda: all(self._ended[:i]))

    def end(self, i: int) -> None:
        """Mark tilt ``i`` as ended, with or without an error."""
        with self._changed:
            self._ended[i] = True
            self._changed.notify_all()
