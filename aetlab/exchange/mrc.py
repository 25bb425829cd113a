"""Volumes in MRC files (MRC2014), the format of ChimeraX, tomviz and IMOD.

In the file x runs fastest, then y, then z. The origin holds the coordinates of the first voxel's centre in Å, so atoms
that are written about the volume's centre lie on the volume.
Source: Cheng et al., J. Struct. Biol. 192, 146 (2015), table 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Volume

HEADER_BYTES = 1024
MODES: dict[int, np.dtype] = {
    mode: np.dtype(code) for mode, code in ((0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2"))}

#: Stamp of files that IMOD or SerialEM wrote; the flags behind it say whether bytes are signed.
IMOD_STAMP = 1146047817


def write_mrc(path: Path | str, volume: Volume) -> None:
    """Write a volume (Z, X, Y) in V as MRC mode 2, layer by layer."""
    potential_V = volume.potential_V
    n_z, n_x, n_y = potential_V.shape
    total, square = 0.0, 0.0
    for layer in potential_V:
        total += float(layer.sum(dtype=np.float64))
        square += float((layer.astype(np.float64) ** 2).sum())
    mean = total / potential_V.size
    rms = max(square / potential_V.size - mean**2, 0.0) ** 0.5
    origin = [coordinates_A(n, volume.voxel_A)[0] for n in (n_x, n_y, n_z)]
    cell = [n * volume.voxel_A for n in (n_x, n_y, n_z)]
    label = b"aetlab: electrostatic potential in V"
    header = struct.pack("<10i6f3i3f2i", n_x, n_y, n_z, 2, 0, 0, 0, n_x, n_y, n_z, *cell, 90.0, 90.0, 90.0, 1, 2, 3,
                         float(potential_V.min()), float(potential_V.max()), mean, 1, 0)
    header += struct.pack("<8x4si84x3f4s4sfi", b"", 20140, *origin, b"MAP ", b"\x44\x44\x00\x00", rms, 1)
    header += label.ljust(80)
    with open(path, "wb") as file:
        file.write(header.ljust(HEADER_BYTES, b"\0"))
        for layer in potential_V:
            file.write(np.ascontiguousarray(layer.T, dtype="<f4").tobytes())


@dataclass(frozen=True)
class MrcHeader:
    """The header of an MRC file.

    Parameters
    ----------
    shape : (int, int, int)
        Slow, middle and fast axis of the data.
    axes : (int, int, int)
        Axis (1: x, 2: y, 3: z) that is the fast, middle and slow one.
    mode : int
        Kind of numbers, see :data:`MODES`.
    dtype : numpy.dtype
        Numbers in the file, their byte order included.
    voxel_A : (float, float, float) or None
        Size of a voxel along x, y, z in Å; None: not stated.
    data_offset : int
        Byte at which the data start.
    extended : bytes
        The extended header.
    extended_type : str
        Its type, such as "SERI" or "FEI1"; empty: not stated.
    extended_sizes : (int, int)
        The two 16-bit numbers at byte 128; their meaning depends on the type.
    space_group : int
        0 for images, 1 or more for volumes.
    n_sections_z : int
        Samplings along z in the unit cell.
    has_stamp : bool
        Whether "MAP" stands where MRC2014 wants it.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    voxel_A: tuple[float, float, float] | None
    data_offset: int
    extended: bytes
    extended_type: str
    extended_sizes: tuple[int, int]
    space_group: int
    n_sections_z: int
    has_stamp: bool

    @property
    def array_axes(self) -> tuple[int, int, int]:
        """Axes of the data array that are z, y and x."""
        axis_of = {axis: 2 - place for place, axis in enumerate(self.axes)}
        return axis_of[3], axis_of[2], axis_of[1]


def read_mrc_header(path: Path | str) -> MrcHeader:
    """Return the header of an MRC or CCP4 file whose data are all there.

    Bytes (mode 0) are signed, as MRC2014 says, unless IMOD's stamp or a greatest value above 127 says otherwise.

    Raises
    ------
    ValueError
        If the file is no such map, holds no real numbers, or is truncated.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            raise ValueError(f"{path} is no MRC file: it is shorter than a header")
        order: Literal["<", ">"] = "<" if struct.unpack("<i", header[64:68])[0] in (1, 2, 3) else ">"
        axes = struct.unpack(order + "3i", header[64:76])
        if not any(axes):  # old files leave them out
            axes = (1, 2, 3)
            order = "<" if 0 <= struct.unpack("<i", header[12:16])[0] < 256 else ">"
        n_fast, n_mid, n_slow, mode = struct.unpack(order + "4i", header[:16])
        samplings = struct.unpack(order + "3i", header[28:40])
        cell = struct.unpack(order + "3f", header[40:52])
        space_group, n_extended = struct.unpack(order + "2i", header[88:96])
        if sorted(axes) != [1, 2, 3] or min(n_fast, n_mid, n_slow) < 1 or n_extended < 0:
            raise ValueError(f"{path} is no MRC file: its header makes no sense")
        if mode not in MODES:
            raise ValueError(f"{path} has MRC mode {mode}; modes {', '.join(map(str, MODES))} can be read")
        dtype = MODES[mode].newbyteorder(order)
        if mode == 0 and not _bytes_are_signed(header, order):
            dtype = np.dtype("u1")
        there = max(file.seek(0, 2) - HEADER_BYTES - n_extended, 0) // dtype.itemsize
        if there < n_fast * n_mid * n_slow:
            raise ValueError(f"{path} is cut off: {there} of {n_fast * n_mid * n_slow} voxels are there")
        file.seek(HEADER_BYTES)
        extended = file.read(n_extended)
    sides = None
    if min(samplings) >= 1 and min(cell) > 0 and np.isfinite(cell).all():
        sides = (cell[0] / samplings[0], cell[1] / samplings[1], cell[2] / samplings[2])
    return MrcHeader((n_slow, n_mid, n_fast), axes, mode, dtype, sides, HEADER_BYTES + n_extended, extended,
                     header[104:108].decode("latin-1").strip("\0 "), struct.unpack(order + "2h", header[128:132]),
                     space_group, samplings[2], header[208:211] == b"MAP")


def _bytes_are_signed(header: bytes, order: str) -> bool:
    stamp, flags = struct.unpack(order + "2i", header[152:160])
    if stamp == IMOD_STAMP:
        return bool(flags & 1)
    return not struct.unpack(order + "f", header[80:84])[0] > 127


def read_mrc(path: Path | str) -> tuple[np.ndarray, float | None]:
    """Return the volume (Z, X, Y) float32 of an MRC or CCP4 map, and its voxel size in Å or None if it states none.

    Raises
    ------
    ValueError
        If the file is no such map, holds no real numbers, is truncated, or has voxels that are not cubes.
    """
    header = read_mrc_header(path)
    data = np.fromfile(path, dtype=header.dtype, count=int(np.prod(header.shape)), offset=header.data_offset)
    z, y, x = header.array_axes
    volume = np.ascontiguousarray(data.reshape(header.shape).transpose(z, x, y), dtype=np.float32)
    if header.voxel_A is None:
        return volume, None
    sides = np.array(header.voxel_A)
    if np.ptp(sides) > 1e-3 * sides.mean():
        raise ValueError(f"{path} has voxels of {sides[0]:g} x {sides[1]:g} x {sides[2]:g} Å; they must be cubes")
    return volume, float(sides.mean())
