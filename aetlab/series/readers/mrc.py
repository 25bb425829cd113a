"""Stacks of images in MRC files (.mrc, .mrcs, .st), with the extended headers of FEI and SerialEM.

Sources: MRC2014 (Cheng et al., J. Struct. Biol. 192, 146, 2015); FEI's "MRC2014 file image format" for FEI1 and FEI2;
the description of the MRC format of IMOD for SERI. Defoci of FEI's headers are in m, overfocus positive, and count from
where the operator set them to 0.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.exchange.mrc import MrcHeader, read_mrc_header
from aetlab.series.frames import LENS_READING, StackFile, make_infos
from aetlab.series.reader import Reader

#: SERI: bytes of the items in the extended header of each section, by the bits of its flags.
_SERI_BYTES = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2, 32: 4, 64: 2, 128: 4, 256: 2, 512: 4, 1024: 2}
#: The dose of an image in e/Å².
_SERI_DOSE = 32
#: FEI1, FEI2: byte of an item and its bit in the mask that says whether it was recorded.
_FEI_ITEMS = {"energy_V": (84, 5), "dose_e_m2": (92, 6), "tilt_deg": (100, 7), "axis_deg": (140, 12),
              "pixel_x_m": (156, 14), "pixel_y_m": (164, 15), "defocus_m": (220, 22)}
_FEI_MODE_BYTE, _FEI_MODE_BIT = 244, 25
_FEI_SMALLEST = 252


def open_mrc(path: Path) -> StackFile:
    """Return the images of an MRC file.

    Raises
    ------
    SeriesError
        If it holds a volume, a montage or movie, complex numbers, or is damaged.
    """
    try:
        header = read_mrc_header(path)
    except ValueError as error:
        raise SeriesError(str(error).replace("voxels", "pixels")) from None
    z, y, x = header.array_axes
    n, n_rows, n_columns = header.shape[z], header.shape[y], header.shape[x]
    _refuse_volumes(path, header, n)
    data = np.memmap(path, header.dtype, "r", header.data_offset, header.shape).transpose(z, y, x)
    pixel_A = None if header.voxel_A is None else header.voxel_A[:2]
    notes, facts = [], {}
    if not header.has_stamp:
        notes.append(f"{path.name}: no MAP stamp; read as MRC by its header")
    if header.mode == 0:
        notes.append(f"{path.name}: bytes are {'signed' if header.dtype.kind == 'i' else 'unsigned'}, "
                     f"{header.bytes_are}")
    if header.n_more_bytes:
        notes.append(f"{path.name}: {header.n_more_bytes} bytes follow the images that the header announces")
    if any(header.first_A):
        notes.append(f"{path.name}: the origin in its header is left out: images count from their own centre")
    frames, from_header = _extended(path, header, n)
    if "pixel_A" in from_header:
        found = from_header.pop("pixel_A")
        if pixel_A is not None and max(abs(a / b - 1) for a, b in zip(pixel_A, found)) > 1e-3:
            notes.append(f"{path.name}: pixel {pixel_A[0]:.5g} Å from the header is used; the extended header says "
                         f"{found[0]:.5g} Å")
        pixel_A = pixel_A or found
    if "fei_axis_deg" in from_header:
        notes.append(f"{path.name}: axis angle {from_header['fei_axis_deg']:g}° from the header of FEI, whose sense is "
                     "not documented: it is not used; compare it with what the images show")
    if any("defocus_nm" in frame for frame in frames):
        notes.append(f"{path.name}: {LENS_READING}")
    facts.update(from_header)
    infos = make_infos(path, n, {name: [frame.get(name) for frame in frames]
                                 for name in ("tilt_deg", "defocus_nm", "dose_e_A2")})
    return StackFile(path, lambda i, rows, columns: np.array(data[i, rows, columns]), (n_rows, n_columns), False,
                     header.dtype, infos, pixel_A, facts, tuple(notes))


def _refuse_volumes(path: Path, header: MrcHeader, n: int) -> None:
    is_stack = path.suffix.lower() in (".mrcs", ".st")
    if header.space_group > 1 or (header.space_group == 1 and n > 1 and header.n_sections_z == n and not is_stack):
        raise SeriesError(f"{path} holds a volume (space group {header.space_group}), no stack of images; a stack has "
                          f"space group 0 or the ending .mrcs or .st: if it is one, rename it to {path.stem}.mrcs")


def _extended(path: Path, header: MrcHeader, n: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Return the facts of each of n images, and of all of them."""
    order = ">" if header.dtype.byteorder == ">" else "<"
    if header.extended_type in ("FEI1", "FEI2"):
        return _fei(path, header.extended, n)
    size, flags = header.extended_sizes
    if header.extended_type == "SERI" or _is_seri(size, flags):
        return _seri(path, header.extended, order, size, flags, n), {}
    if header.extended_type in ("", "AGAR") and size == 0 and flags == 32 and len(header.extended) >= 128 * n:
        return _fei_old(header.extended, order, n)
    return [{} for _ in range(n)], {}


def _is_seri(size: int, flags: int) -> bool:
    return size > 0 and flags > 0 and size == sum(count for bit, count in _SERI_BYTES.items() if flags & bit)


def _seri(path: Path, extended: bytes, order: str, size: int, flags: int, n: int) -> list[dict[str, float]]:
    if not extended or not _is_seri(size, flags):
        return [{} for _ in range(n)]
    if flags & 2:
        raise SeriesError(f"{path} holds the pieces of a montage, no images of a tilt series")
    if len(extended) < size * n:
        return [{} for _ in range(n)]
    dose_at = sum(count for bit, count in _SERI_BYTES.items() if bit < _SERI_DOSE and flags & bit)
    frames = []
    for start in range(0, size * n, size):
        frame = {}
        if flags & 1:
            frame["tilt_deg"] = struct.unpack_from(order + "h", extended, start)[0] / 100
        if flags & _SERI_DOSE:
            dose = _seri_float(*struct.unpack_from(order + "2h", extended, start + dose_at))
            if dose > 0:
                frame["dose_e_A2"] = dose
        frames.append(frame)
    return frames


def _seri_float(first: int, second: int) -> float:
    """Return the number that SerialEM writes as two short integers.

    It is ±(256 |a| + |b| mod 256) 2^(±⌊|b|/256⌋), with the signs of a and b.
    """
    size = float(256 * abs(first) + abs(second) % 256)
    power = abs(second) // 256
    return (-size if first < 0 else size) * 2.0 ** (-power if second < 0 else power)


def _fei(path: Path, extended: bytes, n: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    frames, all_facts, start = [], [], 0
    for i in range(n):
        size = struct.unpack_from("<i", extended, start)[0] if start + 4 <= len(extended) else 0
        if size < _FEI_SMALLEST or start + size > len(extended):
            raise SeriesError(f"{path}: the extended header of image {i} is cut off or damaged")
        mask = struct.unpack_from("<I", extended, start + 8)[0]
        facts = {name: struct.unpack_from("<d", extended, start + byte)[0] for name, (byte, bit) in _FEI_ITEMS.items()
                 if mask >> bit & 1}
        mode = struct.unpack_from("<i", extended, start + _FEI_MODE_BYTE)[0] if mask >> _FEI_MODE_BIT & 1 else 0
        facts["mode"] = mode
        frames.append({name: value for name, value in (
            ("tilt_deg", facts.get("tilt_deg")), ("defocus_nm", _times(facts.get("defocus_m"), 1e9)),
            ("dose_e_A2", _times(facts.get("dose_e_m2"), 1e-20) or None)) if value is not None})
        all_facts.append(facts)
        start += size
    first, common = all_facts[0], {}
    if first.get("energy_V"):
        common["energy_keV"] = first["energy_V"] * 1e-3
    if first.get("axis_deg"):
        common["fei_axis_deg"] = first["axis_deg"]
    if first["mode"] in (1, 2):
        common["mode"] = "TEM" if first["mode"] == 1 else "STEM"
    if first.get("pixel_x_m", 0) > 0 and first.get("pixel_y_m", 0) > 0:
        common["pixel_A"] = (first["pixel_x_m"] * 1e10, first["pixel_y_m"] * 1e10)
    return frames, common


def _fei_old(extended: bytes, order: str, n: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The header before FEI1, 32 numbers per image: tilt (first, degrees), defocus (eighth, m), pixel (twelfth, m)."""
    values = np.frombuffer(extended, order + "f4", 32 * n).reshape(n, 32).astype(float)
    if not np.isfinite(values[:, [0, 7, 11]]).all() or (np.abs(values[:, 0]) > 180).any():
        return [{} for _ in range(n)], {}
    frames = [{"tilt_deg": float(row[0])} | ({"defocus_nm": float(row[7]) * 1e9} if 0 < abs(row[7]) < 1e-3 else {})
              for row in values]
    pixel_A = float(values[0, 11]) * 1e10
    return frames, {"pixel_A": (pixel_A, pixel_A)} if 0.01 < pixel_A < 1e5 else {}


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


ROW = Reader((".mrc", ".mrcs", ".st", ".map", ".ccp4", ".ali", ".preali"), open_mrc)
