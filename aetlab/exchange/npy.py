"""NPY arrays of other programs, mapped: a size beyond the file's is an error and takes no memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def map_npy(path: Path) -> np.ndarray:
    """Return the one array of an NPY file, mapped; nothing in it is executed.

    Raises
    ------
    ValueError
        If the file is none, is cut off, or holds more than one array.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError("it is an archive of arrays; wanted one array")
    n_more = path.stat().st_size - array.offset - array.nbytes
    if n_more:
        raise ValueError(f"{n_more} bytes follow the array that its header announces")
    return array
