"""Images in TIFF files: one per page, of 8, 16 or 32 bits, signed, unsigned or floating; the first row the highest.

The pixel comes from ImageJ's or DigitalMicrograph's tags; a resolution for printing says nothing about the sample.

The chain of pages is walked before a library follows it: it must end, and lie in the file.

Source: TIFF 6.0 specification (Adobe, 1992), section 2; BigTIFF design of 2004 (8-byte offsets, version 43).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.exchange.foreign_hdf5 import MOST_PACKED
from aetlab.exchange.units import length_A
from aetlab.series.frames import StackFile, make_infos, one_line
from aetlab.series.library import import_library, quiet
from aetlab.series.reader import Reader

_ORIENTATION, _WHITE_IS_ZERO = 274, 0
#: DigitalMicrograph: pixel along x and y, and their units. Resolution along x and y.
_DM_TAGS, _RESOLUTION = (65009, 65010, 65003, 65004), (282, 283)
_FIRST_ROW_ON_TOP = {1: True, 4: False}
#: Bytes of a value by its type.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_TAGS = 4096
#: Tags of the columns and rows of a page.
_SIDES = (256, 257)


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


def check_pages(path: Path) -> None:
    """Raise SeriesError for a TIFF file whose pages form a loop or lie beyond its end, or whose tags do.

    A library would read the pages before the break as if they were all, or follow the loop without end.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise SeriesError(f"{path} is no TIFF file")
        (version,) = struct.unpack(order + "H", head[2:4])
        if version not in (42, 43) or (version == 43 and len(head) < 16):
            raise SeriesError(f"{path} is no TIFF file (version {version})")
        count, entry, offset = ("H", "HHI4s", "I") if version == 42 else ("Q", "HHQ8s", "Q")
        (at,) = struct.unpack(order + offset, head[4:8] if version == 42 else head[8:16])
        layouts = struct.Struct(order + count), struct.Struct(order + entry), struct.Struct(order + offset)
        seen: set[int] = set()
        while at:
            if at in seen or at + layouts[0].size > size:
                raise SeriesError(f"{path} is cut off or damaged: page {len(seen)} "
                                  + ("is one before it" if at in seen else "lies beyond its end"))
            seen.add(at)
            at = _next_page(path, file, at, size, layouts)
        if not seen:
            raise SeriesError(f"{path} holds no pages")


def _next_page(path: Path, file: BinaryIO, at: int, size: int, layouts: tuple[struct.Struct, ...]) -> int:
    """Check the tags of the page at byte ``at``, and return the byte of the next one, 0 at the end."""
    counted, entry, offset = layouts
    file.seek(at)
    (n_tags,) = counted.unpack(file.read(counted.size))
    if n_tags > _MOST_TAGS or at + counted.size + n_tags * entry.size + offset.size > size:
        raise SeriesError(f"{path} is cut off or damaged: a page with {n_tags} tags does not fit into it")
    n_pixels = 1
    for code, kind, n_values, place in entry.iter_unpack(file.read(n_tags * entry.size)):
        n_bytes = n_values * _BYTES.get(kind, 1)
        if n_bytes > offset.size and offset.unpack(place)[0] + n_bytes > size:
            raise SeriesError(f"{path} is cut off or damaged: a tag of {n_bytes} bytes lies beyond its end")
        if code in _SIDES and kind in (3, 4, 16):
            n_pixels *= int.from_bytes(place[:_BYTES[kind]], "little" if entry.format[0] == "<" else "big")
    if n_pixels > size * MOST_PACKED:
        raise SeriesError(f"{path} is cut off or damaged: a page claims {n_pixels} pixels, more than the file holds")
    return int(offset.unpack(file.read(offset.size))[0])
