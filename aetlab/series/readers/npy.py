"""Images in NPY arrays: (image, row, column) or one image (row, column), the first row the lowest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.exchange.npy import map_npy
from aetlab.series.frames import StackFile, make_infos, one_line
from aetlab.series.reader import Reader


def open_npy(path: Path) -> StackFile:
    """Return the images of an NPY file; raises SeriesError for another shape, other than real numbers, or damage."""
    try:
        array = map_npy(path)
    except Exception as error:  # numpy raises whatever parsing the header meets
        raise SeriesError(f"{path} cannot be read: {one_line(error)}") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf" or not array.size:
        raise SeriesError(f"{path} holds no stack of images: wanted real numbers (image, row, column), it has "
                          f"{array.dtype} {array.shape}")
    stack = array[None] if array.ndim == 2 else array
    return StackFile(path, lambda i, rows, columns: np.array(stack[i, rows, columns]), stack.shape[1:], False,
                     stack.dtype, make_infos(path, len(stack), {}))


ROW = Reader((".npy",), open_npy)
