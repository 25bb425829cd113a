"""Images in SER files of TIA and the EMI files beside them.

TIA stores the lowest row first; the library turns the rows, so that the first one is the highest here. An EMI file
describes its SER files and needs them beside it; tilt and defocus hold for a single image only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aetlab.series.frames import StackFile, make_infos
from aetlab.series.readers.library import only_images, pixel_of, read_signals


def open_ser(path: Path) -> StackFile:
    """Return the images of a SER file, or of the one that an EMI file describes.

    Raises
    ------
    SeriesError
        If it holds no or several stacks of images, other data, or is damaged, or the library is missing.
    """
    signal = only_images(path, read_signals("rsciio.tia", path))
    data, axes = signal["data"], signal["axes"]
    n = 1 if data.ndim == 2 else data.shape[0]
    described = signal.get("original_metadata", {}).get("ObjectInfo", {}).get("ExperimentalDescription", {})
    described = described if isinstance(described, dict) else {}
    known: dict[str, list[float | None]] = {}
    if n == 1:
        if isinstance(described.get("Stage A_deg"), float):
            known["tilt_deg"] = [described["Stage A_deg"]]
        if isinstance(described.get("Defocus_um"), float):
            known["defocus_nm"] = [described["Defocus_um"] * 1e3]
    header: dict[str, Any] = {}
    if isinstance(described.get("High tension_kV"), float):
        header["energy_keV"] = described["High tension_kV"]
    words = str(described.get("Mode", "")).split()
    if words and words[0] in ("TEM", "STEM"):
        header["mode"] = words[0]

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        part = data[rows, columns] if data.ndim == 2 else data[index, rows, columns]
        return np.asarray(part.compute(scheduler="synchronous"))

    return StackFile(path, take, (int(data.shape[-2]), int(data.shape[-1])), True, np.dtype(data.dtype),
                     make_infos(path, n, known), pixel_of(axes), header)
