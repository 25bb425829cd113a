"""Draw many figures in several processes. A figure that fails is reported, and the others are drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from aetlab.core.files import StorageError
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.style import save_figure, web_image
from aetlab.reporting.forks import drawing_context, end_with_parent


@dataclass(frozen=True)
class MadeFigure:
    """A saved figure, or the ``problem`` that prevented it."""

    task: FigureTask
    png: Path | None = None
    pdf: Path | None = None
    web: bytes = b""
    size_px: tuple[int, int] = (0, 0)
    problem: str = ""


def make_figure(task: FigureTask, folder: Path) -> MadeFigure:
    """Draw one figure and save it under ``folder``."""
    try:
        png, pdf = save_figure(task.make(), folder, task.name)
        web, width, height = web_image(png)
        png.with_suffix(".webp").write_bytes(web)
    except (StorageError, OSError, KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return MadeFigure(task, problem=f"{task.title}: not drawn: {type(error).__name__}: {reason}")
    return MadeFigure(task, png, pdf, web, (width, height))


def make_figures(tasks: Sequence[FigureTask], folder: Path, n_processes: int | None = None) -> Iterator[MadeFigure]:
    """Draw all figures in the order of ``tasks``; one process, or fewer than three figures, use no other process."""
    n_processes = min(n_processes or os.cpu_count() or 1, len(tasks))
    if n_processes <= 1 or len(tasks) < 3:
        yield from (make_figure(task, folder) for task in tasks)
        return
    with ProcessPoolExecutor(n_processes, mp_context=drawing_context(), initializer=end_with_parent) as pool:
        waiting = [pool.submit(make_figure, task, folder) for task in tasks]
        for task, future in zip(tasks, waiting, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield MadeFigure(task, problem=f"{task.title}: not drawn: its process ended (out of memory?)")
