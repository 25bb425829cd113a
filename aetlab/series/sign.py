"""Counts above 32 767 that a program saved as signed numbers of 16 bits, and so became negative.

A camera's counts that lie next to each other are near each other. Where counts wrapped, an image jumps by 65 536
between neighbours on both sides of 32 768, and does not if its numbers are read as unsigned ones. The mean difference
of neighbours decides, as it does for bytes (:mod:`aetlab.exchange.mrc`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.series.frames import StackFile

#: Images of a file that are looked at, spread over it.
_LOOKED_AT = 8


def with_sign(source: StackFile) -> StackFile:
    """Return ``source`` with its counts as unsigned numbers, and a note, where they wrapped; else as it is.

    Raises
    ------
    SeriesError
        If an image cannot be read, or if all counts are negative: an unknown number was subtracted from them, 32 768
        or 65 536.
    """
    if source.dtype.kind != "i" or source.dtype.itemsize != 2:
        return source
    jumps, highest = np.zeros(2), -np.inf
    for index in np.unique(np.linspace(0, source.n_frames - 1, _LOOKED_AT).astype(int)):
        image = source.read(int(index)).astype(np.int16)
        highest = max(highest, int(image.max(initial=-2**15)))
        if image.min(initial=0) < 0:
            jumps += [np.abs(np.diff(numbers.astype(np.int32), axis=1)).sum(dtype=np.float64)
                      for numbers in (image, image.view(np.uint16))]
    if highest < 0:
        raise SeriesError(f"{source.path}: all of its counts are negative, {highest:g} at most: they are counts minus "
                          "32768, or counts above 32767 that were saved as signed numbers; save them as unsigned "
                          "numbers of 16 bits (MRC mode 6) or as float32")
    if not jumps[1] < jumps[0]:
        return source
    take = source.take
    return replace(
        source, dtype=np.dtype(np.uint16),
        take=lambda i, rows, columns: np.ascontiguousarray(take(i, rows, columns), dtype=np.int16).view(np.uint16),
        notes=(*source.notes, f"{source.path.name}: counts above 32767 were saved as negative numbers of 16 bits: they "
                              "are read as unsigned, by the differences of neighbours"))
