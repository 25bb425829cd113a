"""The chain of pages of a TIFF file, walked before a library follows it: it must end, and lie in the file.

Source: TIFF 6.0 specification (Adobe, 1992), section 2; BigTIFF design of 2004 (8-byte offsets, version 43).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from aetlab.exchange.foreign_hdf5 import MOST_PACKED
from aetlab.series.errors import SeriesError

#: Bytes of a value by its type.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_TAGS = 4096
#: Tags of the columns and rows of a page.
_SIDES = (256, 257)


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
