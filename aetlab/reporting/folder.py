"""The folder of a report: written under another name and put in its place when it is complete.

``contents.json`` lists the files of the report with their SHA-256, and for each figure a key of all that it shows. The
next report takes over the figures whose key and files are unchanged. Files of others in the folder are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl

from aetlab.core.files import flush, make_folder, put_in_place, remove_tree, restore, sha256, writing
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.make import MadeFigure
from aetlab.store.identity import code_id, digest

_CONTENTS = "contents.json"


@dataclass(frozen=True)
class ReportFolder:
    """A report while it is written in the folder ``partial``; ``last`` is the list of contents of the last one."""

    final: Path
    partial: Path
    last: Mapping[str, Any]

    def unchanged(self, task: FigureTask) -> MadeFigure | None:
        """Return the figure of the last report if it shows the same, or None; its files are taken over."""
        entry = self.last.get("figures", {}).get(task.name)
        if not isinstance(entry, dict) or entry.get("key") != figure_key(task):
            return None
        names = [f"figures/{task.name}.{suffix}" for suffix in ("png", "pdf", "webp")]
        held = self.last.get("files", {})
        try:
            if any(name not in held or sha256(self.final / name) != held[name] for name in names):
                return None
            width, height = (int(value) for value in entry["size_px"])
            for name in names:
                _take_over(self.final / name, self.partial / name)
            png, pdf, web = (self.partial / name for name in names)
            return MadeFigure(task, png, pdf, web.read_bytes(), (width, height))
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def finish(self, figures: Mapping[str, MadeFigure]) -> None:
        """List the contents, keep the files of others, and put the report in its place."""
        with writing(self.final):
            files = {path.relative_to(self.partial).as_posix(): sha256(path) for path in _files(self.partial)}
            contents = {
                "files": files,
                "figures": {name: {"key": figure_key(figure.task), "size_px": figure.size_px}
                            for name, figure in figures.items() if figure.png is not None},
            }
            (self.partial / _CONTENTS).write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
            for path in _files(self.partial):
                flush(path)
            for path in _files(self.final):
                name = path.relative_to(self.final).as_posix()
                if name != _CONTENTS and name not in self.last.get("files", {}):
                    _take_over(path, self.partial / name)
        put_in_place(self.partial, self.final)


def open_folder(final: Path) -> ReportFolder:
    """Return a report to be written; ``final`` is untouched until it is complete."""
    final = final.resolve()
    restore(final)
    partial = final.with_name(f".partial-{final.name}")
    remove_tree(partial)
    make_folder(partial / "figures")
    try:
        last = json.loads((final / _CONTENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        last = {}
    sound = isinstance(last, dict) and all(isinstance(last.get(part, {}), dict) for part in ("files", "figures"))
    return ReportFolder(final, partial, last if sound else {})


def figure_key(task: FigureTask) -> str:
    """Return a digest of all that a figure shows: its texts, the checksums of its records, and the code that draws."""
    return digest({
        "name": task.name, "kind": task.kind, "title": task.title, "labels": task.labels, "letters": task.letters,
        "notes": task.notes, "records": {run.identity: dict(run.record.checksums.expected) for run in task.runs},
        "order": [run.identity for run in task.runs], "drawn by": _drawing_code(),
    })


@cache
def _drawing_code() -> str:
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return digest([mpl.__version__, code_id(), *(sha256(path) for path in sources)])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _take_over(path: Path, goal: Path) -> None:
    """Give the file ``path`` the second name ``goal``, or copy it where the file system has no second names."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, goal)
    except FileExistsError:
        pass  # the report has a file of this name
    except OSError:
        shutil.copy2(path, goal)
