"""The table of readers of image files: every file of this folder is one format."""

from __future__ import annotations

from pathlib import Path

from aetlab.core.errors import SeriesError
from aetlab.methods import find_rows
from aetlab.series.frames import FrameSource
from aetlab.series.reader import Reader
from aetlab.series.sign import with_sign

#: Readers by name.
READERS = find_rows(__name__, __path__, Reader)
#: The endings that are read, each of one reader.
ENDINGS = tuple(ending for reader in READERS.values() for ending in reader.endings)


def open_frames(path: Path | str) -> FrameSource:
    """Open a file of images by its ending; raises SeriesError if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise SeriesError(f"{path} is not there")
    for reader in READERS.values():
        if path.suffix.lower() in reader.endings:
            return with_sign(reader.open(path))
    raise SeriesError(f"{path} has no known ending: images are read from {', '.join(ENDINGS)}")
