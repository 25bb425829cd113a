"""Volumes in MRC files (MRC2014), the format of ChimeraX, tomviz and IMOD.

In the file x runs fastest, then y, then z. The origin holds the coordinates of the first voxel's centre in Å, so atoms
that are written about the volume's centre lie on the volume.
Source: Cheng et al., J. Struct. Biol. 192, 146 (2015), table 1.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import numpy as np

from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Volume

HEADER_BYTES = 1024
MODES: dict[int, np.dtype] = {
    mode: np.dtype(code) for mode, code in ((0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2"))}


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


def read_mrc(path: Path | str) -> tuple[np.ndarray, float | None]:
    """Return the volume (Z, X, Y) float32 of an MRC or CCP4 map, and its voxel size in Å or None if it states none.

    Raises
    ------
    ValueError
        If the file is no such map, holds no real numbers, is truncated, or has voxels that are not cubes.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            raise ValueError(f"{path} is no MRC file: it is shorter than a header")
        order: Literal["<", ">"] = "<" if struct.unpack("<i", header[64:68])[0] in (1, 2, 3) else ">"
        n_fast, n_mid, n_slow, mode = struct.unpack(order + "4i", header[:16])
        samplings = np.array(struct.unpack(order + "3i", header[28:40]))
        cell = np.array(struct.unpack(order + "3f", header[40:52]))
        axes = struct.unpack(order + "3i", header[64:76])
        extended = struct.unpack(order + "i", header[92:96])[0]
        if sorted(axes) != [1, 2, 3] or min(n_fast, n_mid, n_slow) < 1 or extended < 0:
            raise ValueError(f"{path} is no MRC file: its header makes no sense")
        if mode not in MODES:
            raise ValueError(f"{path} has MRC mode {mode}; modes {', '.join(map(str, MODES))} can be read")
        dtype = MODES[mode].newbyteorder(order)
        file.seek(extended, 1)
        data = np.fromfile(file, dtype=dtype, count=n_fast * n_mid * n_slow)
    if data.size < n_fast * n_mid * n_slow:
        raise ValueError(f"{path} is cut off: {data.size} of {n_fast * n_mid * n_slow} voxels are there")
    axis_of = {axis: 2 - place for place, axis in enumerate(axes)}
    array = data.reshape(n_slow, n_mid, n_fast).transpose(axis_of[3], axis_of[1], axis_of[2])
    volume = np.ascontiguousarray(array, dtype=np.float32)
    if samplings.min() < 1 or cell.min() <= 0:
        return volume, None
    sides = cell / samplings
    if np.ptp(sides) > 1e-3 * sides.mean():
        raise ValueError(f"{path} has voxels of {sides[0]:g} x {sides[1]:g} x {sides[2]:g} Å; they must be cubes")
    return volume, float(sides.mean())
