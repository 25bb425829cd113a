"""Images in MRC stacks: modes, bytes, axes, cells, and the extended headers of FEI and SerialEM."""

from __future__ import annotations

import struct

import mrcfile
import numpy as np
import pytest
from series_files import (
    chiral_images,
    fei_header,
    rows_up,
    with_extended_header,
    write_mrc,
)

from aetlab.core.errors import SeriesError
from aetlab.series.readers import open_frames

pytest.importorskip("rsciio")


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
def test_mrc_of_every_mode(tmp_path, dtype):
    write_mrc(tmp_path / "a.mrc", chiral_images(), dtype)
    source = open_frames(tmp_path / "a.mrc")
    assert source.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(source.read(2), chiral_images()[2])


@pytest.mark.parametrize(("stamp", "flags", "greatest", "value"), [
    (1146047817, 1, 255.0, -56), (1146047817, 0, 100.0, 200), (0, 0, 100.0, -56), (0, 0, 200.0, 200)])
def test_mrc_bytes_are_signed_as_the_stamp_of_imod_or_the_greatest_value_says(tmp_path, stamp, flags, greatest, value):
    write_mrc(tmp_path / "a.mrc", chiral_images(), "i1")
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    raw[152:160] = struct.pack("<2i", stamp, flags)
    raw[80:84] = struct.pack("<f", greatest)
    raw[1024] = 200
    (tmp_path / "a.mrc").write_bytes(raw)
    source = open_frames(tmp_path / "a.mrc")
    assert source.read(0)[0, 0] == value
    assert any("signed" in note for note in source.notes)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 1, 2), (2, 1, 3), (2, 3, 1)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_mrc_axes_and_byte_order_are_obeyed(tmp_path, axes, order):
    images = chiral_images()
    along = {1: 2, 2: 1, 3: 0}  # x, y, z are axes 2, 1, 0 of (image, row, column)
    stored = rows_up(images).transpose([along[axis] for axis in axes[::-1]])
    header = bytearray(1024)
    struct.pack_into(order + "10i", header, 0, *stored.shape[::-1], 1, 0, 0, 0, 7, 9, 3)
    struct.pack_into(order + "6f", header, 40, 7 * 0.5, 9 * 0.5, 3, 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, *axes)
    (tmp_path / "a.mrc").write_bytes(bytes(header) + stored.astype(order + "i2").tobytes())
    source = open_frames(tmp_path / "a.mrc")
    np.testing.assert_array_equal([source.read(i) for i in range(3)], images)
    np.testing.assert_allclose(source.pixel_A, (0.5, 0.5))
    assert "no MAP stamp" in source.notes[0]


def test_the_cell_of_an_mrc_file_is_divided_by_its_samplings(tmp_path):
    write_mrc(tmp_path / "a.mrc", chiral_images())
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    raw[28:36] = struct.pack("<2i", 14, 18)
    (tmp_path / "a.mrc").write_bytes(raw)
    np.testing.assert_allclose(open_frames(tmp_path / "a.mrc").pixel_A, (0.25, 0.25))


@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2"])
def test_extended_headers_of_fei_as_mrcfile_writes_them(tmp_path, kind):
    write_mrc(tmp_path / "a.mrc", chiral_images(), pixel_A=(0.5, 0.5))
    items = {"HT": [3e5] * 3, "Alpha_tilt": [-3.0, 0.0, 3.0], "Defocus": [-2e-8, -4.5e-8, -7.5e-8],
             "Dose": [6.8e22] * 3, "Tilt_axis_angle": [85.3] * 3, "Pixel_size_X": [6e-11] * 3,
             "Pixel_size_Y": [6e-11] * 3, "Instrument_mode": [1] * 3}
    raw = with_extended_header((tmp_path / "a.mrc").read_bytes(), kind, fei_header(kind, 3, **items))
    (tmp_path / "a.mrc").write_bytes(raw)
    with mrcfile.open(tmp_path / "a.mrc") as file:
        np.testing.assert_array_equal(file.indexed_extended_header["Alpha tilt"], [-3, 0, 3])
    source = open_frames(tmp_path / "a.mrc")
    assert [info.tilt_deg for info in source.infos] == [-3, 0, 3]
    np.testing.assert_allclose([info.defocus_nm for info in source.infos], [-20, -45, -75])
    np.testing.assert_allclose([info.dose_e_A2 for info in source.infos], [680] * 3)
    assert source.header == {"energy_keV": 300.0, "fei_axis_deg": 85.3, "mode": "TEM"}
    assert "pixel 0.5 Å from the header is used; the extended header says 0.6 Å" in source.notes[0]
    np.testing.assert_array_equal(source.read(2), chiral_images()[2])
    plain = raw[:1024] + raw[1024 + len(fei_header(kind, 3)):]
    (tmp_path / "b.mrc").write_bytes(with_extended_header(plain, kind, fei_header(kind, 3, HT=[3e5] * 3)))
    assert {info.tilt_deg for info in open_frames(tmp_path / "b.mrc").infos} == {None}  # not in its mask of items
    (tmp_path / "c.mrc").write_bytes(with_extended_header(plain, kind, fei_header(kind, 2, HT=[3e5] * 2)))
    with pytest.raises(SeriesError, match="the extended header of image 2 is cut off or damaged"):
        open_frames(tmp_path / "c.mrc")


def test_extended_headers_before_fei1(tmp_path):
    write_mrc(tmp_path / "a.mrc", chiral_images(), pixel_A=(0.5, 0.5))
    values = np.zeros((1024, 32), "<f4")
    values[:3, 0], values[:3, 7], values[:3, 11] = [-3, 0, 3], -4.5e-8, 5e-11
    raw = with_extended_header((tmp_path / "a.mrc").read_bytes(), b"", values.tobytes(), (0, 32))
    (tmp_path / "a.mrc").write_bytes(raw)
    source = open_frames(tmp_path / "a.mrc")
    assert [info.tilt_deg for info in source.infos] == [-3, 0, 3]
    np.testing.assert_allclose([info.defocus_nm for info in source.infos], [-45] * 3, rtol=1e-6)


def test_extended_headers_of_serialem(tmp_path):
    write_mrc(tmp_path / "a.mrc", chiral_images())
    plain = (tmp_path / "a.mrc").read_bytes()
    sections = b"".join(struct.pack("<h2h", round(100 * tilt), 7, 8) for tilt in (-3.01, 0.0, 3.02))
    (tmp_path / "a.mrc").write_bytes(with_extended_header(plain, b"SERI", sections, (6, 1 | 4)))
    assert [info.tilt_deg for info in open_frames(tmp_path / "a.mrc").infos] == [-3.01, 0.0, 3.02]
    # Dose 7.4375 = 238 · 2^-5 as SerialEM writes it: ±(256 |a| + |b| mod 256) 2^(±[|b|/256]).
    with_dose = b"".join(struct.pack("<h2h", round(100 * tilt), 0, -(5 * 256 + 238)) for tilt in (-3, 0, 3))
    (tmp_path / "a.mrc").write_bytes(with_extended_header(plain, b"SERI", with_dose, (6, 1 | 32)))
    assert [(info.tilt_deg, info.dose_e_A2) for info in open_frames(tmp_path / "a.mrc").infos] == [
        (-3, 7.4375), (0, 7.4375), (3, 7.4375)]
    large = b"".join(struct.pack("<2h", 2, 256 + 44) for _ in range(3))
    (tmp_path / "a.mrc").write_bytes(with_extended_header(plain, b"SERI", large, (4, 32)))
    assert [info.dose_e_A2 for info in open_frames(tmp_path / "a.mrc").infos] == [1112] * 3  # (512 + 44) · 2
    montage = with_extended_header(plain, b"SERI", bytes(8 * 3), (8, 1 | 2))
    (tmp_path / "a.mrc").write_bytes(montage)
    with pytest.raises(SeriesError, match="montage"):
        open_frames(tmp_path / "a.mrc")
