"""Readers of image files: one row per format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aetlab.series.errors import SeriesError
from aetlab.series.frames import FrameSource
from aetlab.series.readers.digital_micrograph import open_dm
from aetlab.series.readers.emd import open_emd
from aetlab.series.readers.matlab import open_matlab
from aetlab.series.readers.mrc import open_mrc
from aetlab.series.readers.npy import open_npy
from aetlab.series.readers.ser import open_ser
from aetlab.series.readers.tiff import open_tiff

#: Endings of the files that are read, and their readers.
READERS: dict[tuple[str, ...], Callable[[Path], FrameSource]] = {
    (".mrc", ".mrcs", ".st", ".map", ".ccp4", ".ali", ".preali"): open_mrc,
    (".emd", ".h5", ".hdf5", ".hdf"): open_emd,
    (".dm3", ".dm4"): open_dm,
    (".ser", ".emi"): open_ser,
    (".tif", ".tiff"): open_tiff,
    (".npy",): open_npy,
    (".mat",): open_matlab,
}


def open_frames(path: Path | str) -> FrameSource:
    """Open a file of images by its ending; raises SeriesError if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise SeriesError(f"{path} is not there")
    for endings, reader in READERS.items():
        if path.suffix.lower() in endings:
            return reader(path)
    known = ", ".join(ending for endings in READERS for ending in endings)
    raise SeriesError(f"{path} has no known ending: images are read from {known}")
