"""Volumes in MRC files (MRC2014), the format of ChimeraX, tomviz and IMOD.

In the file x runs fastest, then y, then z. The origin holds the coordinates of the first voxel's centre in Å, so atoms
that are written about the volume's centre lie on the volume.
Source: Cheng et al., J. Struct. Biol. 192, 146 (2015), table 1.

Files are written by mrcfile and read here: old headers, IMOD's stamps, permuted axes and damaged files need more than
mrcfile reads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aetlab.core.files import write_atomically
from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Volume

HEADER_BYTES = 1024
MODES: dict[int, np.dtype] = {
    mode: np.dtype(code) for mode, code in ((0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2"))}

#: Space groups from here on are stacks of volumes.
FIRST_STACK_OF_VOLUMES = 401
#: Greatest deviation of a cell's angle from 90°.
RIGHT_ANGLE_DEG = 0.05

#: Stamp of files that IMOD or SerialEM wrote; the flags behind it say whether bytes are signed.
IMOD_STAMP = 1146047817


def write_mrc(path: Path | str, volume: Volume) -> None:
    """Write a volume (Z, X, Y) in V as MRC mode 2, with its voxel size and the origin."""
    import mrcfile

    n_z, n_x, n_y = volume.potential_V.shape
    zyx = np.asarray(volume.potential_V, np.float32).transpose(0, 2, 1)

    def write(partial: Path) -> None:
        with np.errstate(invalid="ignore"), mrcfile.new(partial, zyx, overwrite=True) as file:
            file.voxel_size = volume.voxel_A
            header: Any = file.header
            for axis, n in (("x", n_x), ("y", n_y), ("z", n_z)):
                header.origin[axis] = coordinates_A(n, volume.voxel_A)[0]
            header.label[0] = "aetlab: electrostatic potential in V"

    write_atomically(Path(path), write)


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
    first_A : (float, float, float)
        Coordinates x, y, z of the first voxel's centre in Å as the file states them; 0 where it does not.
    bytes_are : str
        How the sign of bytes (mode 0) is known; empty: another mode.
    n_more_bytes : int
        Bytes of the file behind the data.
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
    first_A: tuple[float, float, float]
    bytes_are: str
    n_more_bytes: int

    @property
    def array_axes(self) -> tuple[int, int, int]:
        """Axes of the data array that are z, y and x."""
        axis_of = {axis: 2 - place for place, axis in enumerate(self.axes)}
        return axis_of[3], axis_of[2], axis_of[1]


def read_mrc_header(path: Path | str) -> MrcHeader:
    """Return the header of an MRC or CCP4 file whose data are all there.

    Bytes (mode 0) have the sign that IMOD's stamp states; without one the least and greatest value of the header
    decide, or else the data: values that lie next to each other in an image are near each other.

    Raises
    ------
    ValueError
        If the file is no such map, holds no real numbers, is truncated, holds several volumes, or has a cell whose axes
        are not at right angles.
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
        starts = struct.unpack(order + "3i", header[16:28])
        samplings = struct.unpack(order + "3i", header[28:40])
        cell = struct.unpack(order + "6f", header[40:64])
        space_group, n_extended = struct.unpack(order + "2i", header[88:96])
        if sorted(axes) != [1, 2, 3] or min(n_fast, n_mid, n_slow) < 1 or n_extended < 0:
            raise ValueError(f"{path} is no MRC file: its header makes no sense")
        if mode not in MODES:
            raise ValueError(f"{path} has MRC mode {mode}; modes {', '.join(map(str, MODES))} can be read")
        _check_cell(path, cell[3:], space_group, n_slow, samplings[2])
        shape, dtype = (n_slow, n_mid, n_fast), MODES[mode].newbyteorder(order)
        n_voxels = n_fast * n_mid * n_slow
        there = max(file.seek(0, 2) - HEADER_BYTES - n_extended, 0)
        if there < n_voxels * dtype.itemsize:
            raise ValueError(f"{path} is cut off: {there // dtype.itemsize} of {n_voxels} voxels are there")
        file.seek(HEADER_BYTES)
        extended = file.read(n_extended)
    bytes_are = ""
    if mode == 0:
        signed, bytes_are = _sign_of_bytes(header, order, np.memmap(path, "u1", "r", HEADER_BYTES + n_extended, shape))
        dtype = np.dtype("i1" if signed else "u1")
    sides = None
    if min(samplings) >= 1 and min(cell[:3]) > 0 and np.isfinite(cell[:3]).all():
        sides = (cell[0] / samplings[0], cell[1] / samplings[1], cell[2] / samplings[2])
    return MrcHeader(shape, axes, mode, dtype, sides, HEADER_BYTES + n_extended, extended,
                     header[104:108].decode("latin-1").strip("\0 "), struct.unpack(order + "2h", header[128:132]),
                     space_group, samplings[2], header[208:211] == b"MAP",
                     _first_A(struct.unpack(order + "3f", header[196:208]), starts, axes, sides), bytes_are,
                     there - n_voxels * dtype.itemsize)


def _check_cell(path: Path | str, angles_deg: tuple[float, ...], space_group: int, n_slow: int, n_z: int) -> None:
    if space_group >= FIRST_STACK_OF_VOLUMES:
        count = f"{n_slow // n_z} volumes" if 0 < n_z < n_slow else "a stack of volumes"
        raise ValueError(f"{path} holds {count} (space group {space_group}); save one of them")
    if any(angles_deg) and not np.allclose(angles_deg, 90, atol=RIGHT_ANGLE_DEG):
        raise ValueError(f"{path} has a cell with angles of {', '.join(f'{angle:g}' for angle in angles_deg)}°; its "
                         "axes must be at right angles: resample it")


def _sign_of_bytes(header: bytes, order: str, data: np.ndarray) -> tuple[bool, str]:
    """Return whether bytes are signed, and how that is known."""
    stamp, flags = struct.unpack(order + "2i", header[152:160])
    if stamp == IMOD_STAMP:
        return bool(flags & 1), "by the stamp of IMOD"
    least, greatest, _ = struct.unpack(order + "3f", header[76:88])
    if least <= greatest:
        if greatest > 127:
            return False, f"by the greatest value of the header, {greatest:g}"
        if least < 0:
            return True, f"by the least value of the header, {least:g}"
    sample = data[:: max(len(data) // 8, 1)]
    if not (sample > 127).any():
        return True, "which makes no difference here"
    jumps = [float(np.abs(np.diff(sample.view(kind).astype(np.int16), axis=-1)).mean()) for kind in ("i1", "u1")]
    return jumps[0] < jumps[1], "by the differences of neighbours; no stamp and no range says so"


def _first_A(origin: tuple[float, ...], starts: tuple[int, ...], axes: tuple[int, int, int],
             sides: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Return the coordinates of the first voxel: the origin, else the numbers of the first column, row and section."""
    if any(origin) and np.isfinite(origin).all():
        return origin[0], origin[1], origin[2]
    if not any(starts) or sides is None:
        return 0.0, 0.0, 0.0
    start = {axis: number for axis, number in zip(axes, starts, strict=True)}
    return start[1] * sides[0], start[2] * sides[1], start[3] * sides[2]


def describe_mrc(header: MrcHeader) -> tuple[str, ...]:
    """Return what was decided on reading a volume, one line each: bytes left over, their sign, an origin left out."""
    notes = []
    if header.n_more_bytes:
        notes.append(f"{header.n_more_bytes} bytes follow the voxels that the header announces")
    if header.bytes_are:
        notes.append(f"bytes are {'signed' if header.dtype.kind == 'i' else 'unsigned'}, {header.bytes_are}")
    if header.voxel_A is not None and any(header.first_A):
        n_xyz = [header.shape[axis] for axis in reversed(header.array_axes)]
        centre = [first - coordinates_A(n, side)[0] for first, n, side in
                  zip(header.first_A, n_xyz, header.voxel_A, strict=True)]
        if max(abs(value) for value in centre) > 1e-3 * min(header.voxel_A):
            notes.append("the origin in its header is left out: positions count from the centre of the volume, which "
                         f"it puts at ({', '.join(f'{value:.6g}' for value in centre)}) Å")
    return tuple(notes)


def read_mrc(path: Path | str) -> tuple[np.ndarray, float | None]:
    """Return the volume (Z, X, Y) float32 of an MRC or CCP4 map, and its voxel size in Å or None if it states none.

    Raises
    ------
    ValueError
        If :func:`read_mrc_header` refuses the file, or its voxels are not cubes.
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
