"""The row of a reader of image files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aetlab.series.frames import StackFile


@dataclass(frozen=True)
class Reader:
    """A format of image files of the table :data:`aetlab.series.readers.READERS`.

    ``endings`` are those of its files, in lower case with the dot. ``open`` opens a file, and raises
    :class:`~aetlab.core.errors.SeriesError` if it cannot be read.
    """

    endings: tuple[str, ...]
    open: Callable[[Path], StackFile]
