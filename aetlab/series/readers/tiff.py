"""Images in TIFF files: one per page, of 8, 16 or 32 bits, signed, unsigned or floating; the first row the highest.

The pixel comes from ImageJ's or DigitalMicrograph's tags; a resolution for printing says nothing about the sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aetlab.exchange.foreign_hdf5 import MOST_PACKED
from aetlab.exchange.units import length_A
from aetlab.series.errors import SeriesError
from aetlab.series.frames import StackFile, make_infos, one_line
from aetlab.series.library import import_library, quiet
from aetlab.series.reader import Reader
from aetlab.series.tiff_pages import check_pages

_ORIENTATION, _WHITE_IS_ZERO = 274, 0
#: DigitalMicrograph: pixel along x and y, and their units. Resolution along x and y.
_DM_TAGS, _RESOLUTION = (65009, 65010, 65003, 65004), (282, 283)
_FIRST_ROW_ON_TOP = {1: True, 4: False}


def open_tiff(path: Path) -> StackFile:
    """Return the images of a TIFF file.

    Raises
    ------
    SeriesError
        If it holds colours, pages of several sizes or turned ones, or is damaged, or the library is missing.
    """
    tifffile = import_library("tifffile", path)
    try:
        check_pages(path)
        with quiet(), tifffile.TiffFile(path) as file:
            return _open(path, file)
    except SeriesError:
        raise
    except Exception as error:  # the library raises whatever parsing meets
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None


def _open(path: Path, file: Any) -> StackFile:
    if len(file.series) != 1:
        shapes = ", ".join(str(series.shape) for series in list(file.series)[:4])
        raise SeriesError(f"{path} holds {len(file.series)} sets of images: {shapes}; wanted pages of one size")
    series, first = file.series[0], file.pages[0]
    if "S" in series.axes or first.dtype is None or first.dtype.kind not in "iuf":
        raise SeriesError(f"{path} holds colours, or no real numbers ({series.dtype}), wanted grey images")
    if series.ndim not in (2, 3) or 0 in series.shape:
        raise SeriesError(f"{path} holds data of shape {series.shape}, wanted images (image, row, column)")
    shape = series.shape if series.ndim == 3 else (1, *series.shape)
    orientation = first.tags[_ORIENTATION].value if _ORIENTATION in first.tags else 1
    if orientation not in _FIRST_ROW_ON_TOP:
        raise SeriesError(f"{path} holds turned or mirrored images (orientation {int(orientation)} in its tags); save "
                          "them upright")
    notes = []
    if first.photometric == _WHITE_IS_ZERO:
        notes.append(f"{path.name}: its tags show small values bright; the values are used as they are")
    dtype = first.dtype.newbyteorder(file.byteorder)
    size = path.stat().st_size
    if series.nbytes > size * MOST_PACKED:
        raise SeriesError(f"{path} claims {series.nbytes} bytes of images, more than the file holds")
    for page in series.pages:
        ends = zip(page.dataoffsets, page.databytecounts) if page is not None else ()
        if max((offset + count for offset, count in ends), default=0) > size:
            raise SeriesError(f"{path} is cut off: a page lies beyond its end")
    if series.dataoffset is not None:
        step = shape[1] * shape[2] * dtype.itemsize
        offsets = [series.dataoffset + i * step for i in range(shape[0])]
        if offsets[-1] + step > size:
            raise SeriesError(f"{path} is cut off: its images lie beyond its end")
    elif len(series.pages) == shape[0] and all(page.is_memmappable for page in series.pages):
        offsets = [page.dataoffsets[0] for page in series.pages]
    else:
        offsets = []

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        if offsets:
            return np.array(np.memmap(path, dtype, "r", offsets[index], shape[1:])[rows, columns])
        with quiet():
            page = import_library("tifffile", path).imread(path, key=index)
        return np.asarray(page[rows, columns])

    return StackFile(path, take, shape[1:], _FIRST_ROW_ON_TOP[orientation], dtype, make_infos(path, shape[0], {}),
                     _pixel(file), {}, tuple(notes))


def _pixel(file: Any) -> tuple[float, float] | None:
    """Pixel along x and y in Å by the tags of DigitalMicrograph or ImageJ."""
    tags = file.pages[0].tags
    if all(code in tags for code in _DM_TAGS):
        x, y, unit_x, unit_y = (tags[code].value for code in _DM_TAGS)
        factors, sizes = (length_A(unit_x), length_A(unit_y)), (float(x), float(y))
    elif file.is_imagej and "unit" in (file.imagej_metadata or {}) and all(code in tags for code in _RESOLUTION):
        unit = str(file.imagej_metadata["unit"]).replace("\\u00B5", "µ")
        per_unit = [tags[code].value[0] / max(tags[code].value[1], 1) for code in _RESOLUTION]
        factors, sizes = (length_A(unit),) * 2, (1 / max(per_unit[0], 1e-30), 1 / max(per_unit[1], 1e-30))
    else:
        return None
    if factors[0] is None or factors[1] is None or not all(0 < size < 1e10 for size in sizes):
        return None
    return sizes[0] * factors[0], sizes[1] * factors[1]


ROW = Reader((".tif", ".tiff"), open_tiff)
