"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich import progress
from rich.text import Text


class BarReporter(AbstractContextManager["BarReporter"]):
    """Show a bar with the stage, the step, the latest value (the cost in a reconstruction) and the time left.

    ``make_pace`` makes the :class:`aetlab.core.progress.Pace` of a stage.
    """

    def __init__(self, label: str, make_pace: Callable[[], Any]) -> None:
        self._make_pace = make_pace
        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[label]}"), progress.TextColumn("{task.description:<11}"),
            progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[detail]}"),
            progress.TimeElapsedColumn(), _TimeLeft())
        self._label = label
        self._stage = ""
        self._task = self._bar.add_task("prepare", total=None, label=label, detail="", pace=make_pace())
        self._bar.start()

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(self._task, total=total, label=self._label, description=stage, detail="",
                            pace=self._make_pace())
        self._bar.tasks[0].fields["pace"].step(done)
        self._bar.update(self._task, completed=done, total=total, detail=detail)

    def say(self, text: str) -> None:
        self._bar.console.print(f"{self._label}: {text}", highlight=False, markup=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()


class _TimeLeft(progress.ProgressColumn):
    """The time left, which counts down between steps."""

    def render(self, task: progress.Task) -> Text:
        left_s = None if task.total is None or task.finished else task.fields["pace"].left_s(int(task.total))
        return Text("" if left_s is None else f"about {left_s:.0f} s left" if left_s < 120 else
                    f"about {left_s / 60:.0f} min left")
