"""Processes that draw figures: where the system can, forks of one server, which has imported what figures need."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext


def drawing_context() -> BaseContext:
    """Return how processes that draw figures start."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["aetlab.reporting.figures.preloaded"])
    return context


def start_server(n_processes: int | None) -> None:
    """Start the server if ``n_processes`` (None: all cores) are more than one.

    It imports for seconds. Started before the caller's own imports, it is ready when the first figure can be drawn.
    """
    if (n_processes or os.cpu_count() or 1) > 1 and drawing_context().get_start_method() == "forkserver":
        forkserver.ensure_running()


def end_with_parent() -> None:
    """Let this process, one of a pool, end when the process that started it is killed.

    Without this it would wait for work forever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("end_with_parent is for the processes of a pool, and this is none")

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
