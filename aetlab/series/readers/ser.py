"""Images in SER files of TIA, and the EMI files that describe them.

TIA stores the lowest row first. Calibrations are in m. An EMI file describes SER file ``name_1.ser`` next to it; its
tilt and defocus (in µm, overfocus positive) hold for a single image only.
Source: C. Boothroyd, "Description of the TIA series data file format"; the layout is pinned by a file of TIA.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.series.frames import LENS_READING, FrameInfo, StackFile, make_infos, one_line
from aetlab.series.reader import Reader

_BYTE_ORDER, _SERIES_ID, _IMAGES = 0x4949, 0x0197, 0x4122
_TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8"}
_HEADER, _ELEMENT = struct.Struct("<3H4I"), struct.Struct("<ddIddIHII")
#: Versions whose offsets have 4 bytes; later ones have 8.
_LAST_SHORT_VERSION = 0x0210
#: A calibration above this is no pixel in m: 1 stands for none, more for a diffraction pattern.
_LARGEST_PIXEL_M = 1e-3
_ITEM = re.compile(r"<Label>([^<]*)</Label>\s*<Value>([^<]*)</Value>\s*<Unit>([^<]*)</Unit>")


def open_ser(path: Path) -> StackFile:
    """Return the images of a SER file, or of the one that an EMI file describes.

    Raises
    ------
    SeriesError
        If it holds spectra, diffraction patterns, images of two sizes or other than real numbers, or is damaged.
    """
    try:
        if path.suffix.lower() == ".emi":
            return _described(path)
        return _images(path)
    except (OSError, struct.error, ValueError, OverflowError) as error:
        if isinstance(error, SeriesError):
            raise
        raise SeriesError(f"{path} is no SER file, or cut off: {one_line(error)}") from None


def _images(path: Path) -> StackFile:
    raw = memoryview(np.memmap(path, np.uint8, "r"))  # pyrefly: ignore[bad-argument-type]
    order, series_id, version, kind, _, n_planned, n = _HEADER.unpack_from(raw)
    if (order, series_id) != (_BYTE_ORDER, _SERIES_ID):
        raise SeriesError(f"{path} is no SER file of TIA")
    if kind != _IMAGES:
        raise SeriesError(f"{path} holds spectra, no images")
    code, size = ("I", 4) if version <= _LAST_SHORT_VERSION else ("Q", 8)
    (start,) = struct.unpack_from("<" + code, raw, _HEADER.size)
    if n < 1 or start + n * size > len(raw):
        raise SeriesError(f"{path} is cut off, or holds no images ({n})")
    offsets = struct.unpack_from(f"<{n}{code}", raw, start)
    first = _ELEMENT.unpack_from(raw, offsets[0])
    _, step_x, _, _, step_y, _, number_type, n_columns, n_rows = first
    if number_type not in _TYPES or min(n_columns, n_rows) < 1:
        raise SeriesError(f"{path} holds no images of real numbers (type {number_type}, {n_columns} x {n_rows})")
    dtype = np.dtype(_TYPES[number_type])
    for i, offset in enumerate(offsets):
        if offset + _ELEMENT.size + n_rows * n_columns * dtype.itemsize > len(raw):
            raise SeriesError(f"{path} is cut off: image {i} lies beyond its end")
        if _ELEMENT.unpack_from(raw, offset)[6:] != first[6:]:
            raise SeriesError(f"{path}: image {i} has another size or type than the first one")
    if max(step_x, step_y) > 1:
        raise SeriesError(f"{path} holds diffraction patterns, no images (a calibration of {step_x:g})")
    known = 0 < min(step_x, step_y) and max(step_x, step_y) < _LARGEST_PIXEL_M
    notes = (f"{path.name}: {n} of {n_planned} images were taken",) if n != n_planned else ()

    def take(index: int, rows: slice, columns: slice) -> np.ndarray:
        image = np.memmap(path, dtype, "r", offsets[index] + _ELEMENT.size, (n_rows, n_columns))
        return np.array(image[rows, columns])

    return StackFile(path, take, (n_rows, n_columns), False, dtype, make_infos(path, n, {}),
                     (step_x * 1e10, step_y * 1e10) if known else None, {}, notes)


def _described(path: Path) -> StackFile:
    found = sorted(path.parent.glob(f"{_glob_safe(path.stem)}_*.ser"))
    if len(found) != 1:
        raise SeriesError(f"{path} needs its one SER file {path.stem}_1.ser in its folder; {len(found)} are there")
    source = _images(found[0])
    said = {(label.strip(), unit.strip()): value for label, value, unit in
            _ITEM.findall(path.read_bytes().decode("utf-8", errors="replace"))}
    header: dict[str, Any] = {}
    energy_keV = _number(said.get(("High tension", "kV")))
    if energy_keV:
        header["energy_keV"] = energy_keV
    words = said.get(("Mode", ""), "").split()
    if words and words[0] in ("TEM", "STEM"):
        header["mode"] = words[0]
    infos = [replace(info, source=path.name) for info in source.infos]
    if source.n_frames == 1:
        defocus_um = _number(said.get(("Defocus", "um")))
        infos = [FrameInfo(path.name, 0, _number(said.get(("Stage A", "deg"))),
                           None if defocus_um is None else 1e3 * defocus_um)]
    notes = source.notes if infos[0].defocus_nm is None else (*source.notes, f"{path.name}: {LENS_READING}")
    return replace(source, path=path, infos=tuple(infos), header=header, notes=notes)


def _glob_safe(name: str) -> str:
    """Return ``name`` for a pattern of files that matches it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


ROW = Reader((".ser", ".emi"), open_ser)
