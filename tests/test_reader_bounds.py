"""Counts that a file declares are checked against its size before memory is taken, and its end is not believed."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import tifffile

from aetlab.core.errors import AetlabError, SeriesError
from aetlab.exchange.atom_files import read_atoms
from aetlab.exchange.volume_files import FileError, read_volume
from aetlab.series.readers import open_frames
from tests.series_files import chiral_images, write_mrc, write_ser, write_tiff
from tests.structure_files import read

#: Imported before memory is measured.
LIBRARIES = (ase.io, tifffile)
MOST_BYTES = 4 * 2**20
HUGE = 2_000_000_000


def mrc(path: Path) -> None:
    write_mrc(path, chiral_images())
    raw = bytearray(path.read_bytes())
    raw[0:12] = struct.pack("<3i", 40_000, 40_000, 40_000)
    path.write_bytes(raw)


def npy(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (HUGE, 10, 10)})
    path.write_bytes(header.getvalue() + bytes(400))


def ser(path: Path) -> None:
    write_ser(path, chiral_images())
    raw = bytearray(path.read_bytes())
    raw[18:22] = struct.pack("<I", HUGE)
    path.write_bytes(raw)


def tiff(path: Path) -> None:
    """The second of three pages claims 4 · 10⁹ rows."""
    write_tiff(path, chiral_images(), compression="zlib")
    raw = bytearray(path.read_bytes())
    rows = [struct.pack("<HHI", 257, kind, 1) for kind in (3, 4)]
    at = [k for k in range(len(raw) - 12) if raw[k:k + 8] in rows][1]
    raw[at:at + 12] = struct.pack("<HHII", 257, 4, 1, 4_000_000_000)
    path.write_bytes(raw)


def blocks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("v", (4, 4, 4), "f8", maxshape=(None,) * 3, chunks=(700, 700, 700),
                                   compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(100)))


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


CFG = "Number of particles = 1\nA = 1\nentry_count = {}\n28\nSi\n0 0 0\n"


@pytest.mark.parametrize(("name", "write", "call", "message"), [
    ("a.mrc", mrc, read_volume, "cut off"), ("a.st", mrc, open_frames, "cut off"),
    ("a.npy", npy, lambda path: read_volume(path, voxel_A=1.0), "cannot be read"),
    ("b.npy", npy, open_frames, "cannot be read"),
    ("a.ser", ser, open_frames, "cut off"), ("a.tif", tiff, open_frames, "page claims 28000000000 pixels"),
    ("a.h5", blocks, lambda path: read_volume(path, voxel_A=1.0), "has blocks of"),
    ("b.h5", blocks, open_frames, "has blocks of"),
    ("a.xyz", text(f"{HUGE}\n\nSi 0 0 0\n"), read, "ends before all"),
    ("b.xyz", text("1\nProperties=species:S:1:pos:R:3:a:R:999999\nSi 0 0 0\n"), read, "fewer than the 1000003"),
    ("c.xyz", text("1\nProperties=species:S:1:pos:R:100000000\nSi 0 0 0\n"), read_atoms, "no list of name"),
    ("a.cfg", text(CFG.format(HUGE)), read, "entry_count = 2000000000"),
    ("a.gen", text(f"{HUGE} C\nSi\n1 1 0 0 0\n"), read, "ends before all"),
    ("a.cube", text(f"\n\n{HUGE} 0 0 0\n1 1 0 0\n1 0 1 0\n1 0 0 1\n14 0 0 0 0\n"), read, "ends before all"),
    ("POSCAR", text(f"x\n1\n4 0 0\n0 4 0\n0 0 4\nSi\n{HUGE}\nDirect\n0 0 0\n"), read, "ends before all"),
    ("a.sdf", text("\n\n\n  9  0  0  0  0  0  0  0  0  0999 V2000\n    0 0 0 Si\nM  END\n"), read, "ends before all 9"),
])
def test_counts_beyond_the_file_are_refused_without_their_memory(tmp_path, name, write, call, message):
    write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(AetlabError, match=message) as problem:
            call(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES + 40 * (tmp_path / name).stat().st_size
    finally:
        tracemalloc.stop()
    assert "\n" not in str(problem.value)


def second_page(raw: bytes) -> int:
    """Return where the first page of a little-endian TIFF file holds the byte of the second one."""
    at = struct.unpack_from("<I", raw, 4)[0]
    return at + 2 + 12 * struct.unpack_from("<H", raw, at)[0]


@pytest.mark.parametrize(("place", "message"), [
    (lambda raw: struct.unpack_from("<I", raw, 4)[0], "page 1 is one before it"),
    (lambda raw: len(raw) + 8, "page 1 lies beyond its end")])
def test_a_broken_chain_of_tiff_pages_is_not_the_end_of_the_file(tmp_path, place, message):
    """Pages that form a loop would be followed without end, and a chain that is cut off taken for a shorter stack."""
    write_tiff(tmp_path / "a.tif", chiral_images(), compression="zlib")
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    raw[second_page(raw):second_page(raw) + 4] = struct.pack("<I", place(raw))
    (tmp_path / "a.tif").write_bytes(raw)
    with pytest.raises(SeriesError, match=message):
        open_frames(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.9])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}])
def test_a_tiff_file_that_is_cut_off_is_refused_wherever(tmp_path, options, share):
    write_tiff(tmp_path / "a.tif", chiral_images(), **options)
    assert open_frames(tmp_path / "a.tif").n_frames == 3
    raw = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(SeriesError):
        open_frames(tmp_path / "a.tif")


def test_bytes_behind_what_a_header_announces_are_refused_or_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4), "f4"))
    write_mrc(tmp_path / "a.mrc", chiral_images(), pixel_A=(1.0, 1.0))
    for name in ("a.npy", "a.mrc"):
        with open(tmp_path / name, "ab") as file:
            file.write(bytes(100))
    for call, error in ((lambda path: read_volume(path, voxel_A=1.0), FileError), (open_frames, SeriesError)):
        with pytest.raises(error, match="100 bytes follow the array"):
            call(tmp_path / "a.npy")
    for notes in (read_volume(tmp_path / "a.mrc", voxel_A=1.0).notes, open_frames(tmp_path / "a.mrc").notes):
        assert any("100 bytes follow" in note for note in notes)
    np.savez(tmp_path / "z.npz", np.ones(3))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(FileError, match="archive of arrays"):
        read_volume(tmp_path / "z.npy", voxel_A=1.0)
