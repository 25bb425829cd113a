"""Start the jobs of a command line, survive the death of a worker, and turn the end into an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from aetlab.cli.jobs import Terminated, terminable
from aetlab.cli.ledger import has_work, print_best, print_table, record_worker_death
from aetlab.core.files import StorageError

#: Exit statuses: a run failed; invalid command line; stopped by Ctrl-C; stopped by SIGTERM.
EXIT_FAILED, EXIT_UNUSABLE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


def launch(ledger: Path | None, start: Callable[[bool], None]) -> int:
    """Call ``start`` until every job of the sweep has a result, and return the exit status.

    ``start(one_at_a_time)`` runs the jobs that have no result yet. A failed job is a result and raises nothing. When a
    worker of a process pool dies (out of memory, say), the pool stops and the failing job is unknown: ``start`` is
    called again with ``one_at_a_time=True``, the job whose worker then dies is recorded as failed, and the sweep goes
    on without it. ``ledger`` is None for a single run.
    """
    show_traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing their traces
    one_at_a_time = False
    while True:
        stop = _error_of(start, one_at_a_time)
        if ledger is not None and isinstance(stop, BrokenProcessPool):
            if one_at_a_time:
                result = record_worker_death(ledger)
                if result is not None:
                    print(f"{result.label}: FAILED: {result.error}", file=sys.stderr)
            else:
                print("a worker died; continuing with one run at a time to find the cause", file=sys.stderr)
            one_at_a_time = not one_at_a_time
            if has_work(ledger):
                continue
            stop = None
        if stop is None:
            return _finish(ledger)
        if show_traces:
            raise stop
        return _stopped(stop, ledger)


def _error_of(start: Callable[[bool], None], one_at_a_time: bool) -> BaseException | None:
    try:
        with terminable():
            start(one_at_a_time)
    except BaseException as stop:
        return stop
    return None


def _finish(ledger: Path | None) -> int:
    """Print the table of a sweep; return the exit status."""
    if ledger is None:
        return 0
    try:
        n_bad = print_table(ledger)
        print_best(ledger)
    except StorageError as error:
        print(f"aetlab: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_FAILED if n_bad else 0


def _stopped(stop: BaseException, ledger: Path | None) -> int:
    """Print why the jobs ended early, after the table of a sweep; return the exit status."""
    if isinstance(stop, SystemExit):
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED if stop.code else 0
    if isinstance(stop, StorageError):
        with suppress(StorageError):  # the ledger may be what is missing
            if ledger is not None:
                print_table(ledger)
        print(f"aetlab: {stop}", file=sys.stderr)
        return EXIT_FAILED
    _finish(ledger)
    if isinstance(stop, (KeyboardInterrupt, Terminated)):
        print("stopped; repeat the command to continue from here", file=sys.stderr)
        return EXIT_INTERRUPTED if isinstance(stop, KeyboardInterrupt) else EXIT_TERMINATED
    reason = " ".join(str(stop).split())[:400]
    print(f"aetlab: the launch failed with {type(stop).__name__}: {reason} (set HYDRA_FULL_ERROR=1 for the traceback)",
          file=sys.stderr)
    return EXIT_FAILED
