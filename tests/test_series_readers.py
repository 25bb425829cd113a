"""Readers of image files: values, orientation, pixels and angles of files that the tests write, for each format."""

from __future__ import annotations

import math
import struct
import sys

import h5py
import mrcfile
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import scipy.io
from series_files import (
    SHAPE_XY,
    chiral_images,
    rows_down,
    rows_up,
    write_berkeley,
    write_dm,
    write_mrc,
    write_ser,
    write_tiff,
    write_tomviz,
    write_velox,
)

from aetlab.core.errors import SeriesError
from aetlab.series.readers import ENDINGS, READERS, open_frames

pytest.importorskip("rsciio")
TILTS_RAD = [-0.1, 0.0, 0.1]

WRITERS = {
    "a.mrc": write_mrc, "a.st": write_mrc, "a.mrcs": write_mrc, "a.emd": write_berkeley, "a.h5": write_berkeley,
    "tomviz.emd": lambda path, images: write_tomviz(path, images, [-3.0, 0.0, 3.0]),
    "velox.emd": lambda path, images: write_velox(path, images, TILTS_RAD),
    "a.dm3": lambda path, images: write_dm(path, images, 3), "a.dm4": lambda path, images: write_dm(path, images, 4),
    "a.ser": write_ser, "a.tif": write_tiff, "a.tiff": lambda path, images: write_tiff(path, images, "f4"),
    "a.npy": lambda path, images: np.save(path, rows_up(images)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_shows_the_letter_upright_and_in_order(tmp_path, name):
    images = chiral_images()
    WRITERS[name](tmp_path / name, images)
    source = open_frames(tmp_path / name)
    assert (source.n_frames, source.shape_xy) == (3, SHAPE_XY)
    assert [info.index for info in source.infos] == [0, 1, 2] and source.infos[0].source == name
    for index in (2, 0, 1):
        frame = source.read(index)
        assert frame.dtype == np.float32 and frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, images[index])
    if name != "a.npy" and not name.startswith("a.tif"):
        np.testing.assert_allclose(source.pixel_A, (0.5, 0.5), rtol=1e-6)
    else:
        assert source.pixel_A is None


@pytest.mark.parametrize("name", WRITERS)
def test_a_region_is_that_part_of_the_image(tmp_path, name):
    images = chiral_images()
    WRITERS[name](tmp_path / name, images)
    source = open_frames(tmp_path / name)
    part = source.read(1, (slice(2, 6), slice(3, None)))
    np.testing.assert_array_equal(part, images[1, 2:6, 3:])
    with pytest.raises(SeriesError, match="y from 3 to 10 is not inside an image of 9 pixels"):
        source.read(1, (slice(2, 6), slice(3, 10)))
    with pytest.raises(SeriesError, match="no image 3; it holds 3"):
        source.read(3)


def test_the_highest_row_of_a_tiff_is_that_of_an_image_on_the_screen(tmp_path):
    picture = PIL.Image.new("L", (12, 8))  # Pillow draws from the upper left corner
    PIL.ImageDraw.Draw(picture).point((2, 1), 200)
    picture.save(tmp_path / "a.tif")
    frame = open_frames(tmp_path / "a.tif").read(0)
    assert frame.shape == (12, 8) and frame[2, 8 - 1 - 1] == 200 and frame.sum() == 200


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}])
def test_tiff_of_every_depth(tmp_path, dtype, options):
    images = chiral_images()
    images[:, 0, 8] = -100 if dtype[0] in "if" else 200
    write_tiff(tmp_path / "a.tif", images, dtype, **options)
    source = open_frames(tmp_path / "a.tif")
    assert source.dtype.newbyteorder("=") == np.dtype(dtype)
    np.testing.assert_array_equal([source.read(i) for i in range(3)], images)


def test_tiff_pixels_of_imagej_count_and_those_of_a_printer_do_not(tmp_path):
    write_tiff(tmp_path / "a.tif", chiral_images(), imagej=True, resolution=(20, 20), metadata={"unit": "nm"})
    np.testing.assert_allclose(open_frames(tmp_path / "a.tif").pixel_A, (0.5, 0.5))
    write_tiff(tmp_path / "b.tif", chiral_images(), resolution=(300, 300), resolutionunit="INCH")
    assert open_frames(tmp_path / "b.tif").pixel_A is None














@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_stacks_have_their_first_row_on_top(tmp_path, version):
    stack = rows_down(chiral_images()).transpose(1, 2, 0)
    tilts = np.array([[-3.0, 0.0, 3.0]])
    if version == "5":
        scipy.io.savemat(tmp_path / "a.mat", {"images": stack, "tilt": tilts}, do_compression=True)
    else:
        with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
            file["images"], file["tilt"] = stack.T, tilts.T
        with open(tmp_path / "a.mat", "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file")
    source = open_frames(tmp_path / "a.mat")
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(3)]), chiral_images())
    np.testing.assert_array_equal(source.read(1, (slice(2, 6), slice(1, 9))), chiral_images()[1, 2:6, 1:9])
    assert [info.tilt_deg for info in source.infos] == [-3, 0, 3] and source.pixel_A is None
    assert "as MATLAB shows images" in source.notes[0]




def test_tilts_and_defoci_of_velox_are_in_si_units(tmp_path):
    write_velox(tmp_path / "a.emd", chiral_images(), TILTS_RAD)
    source = open_frames(tmp_path / "a.emd")
    np.testing.assert_allclose([info.tilt_deg for info in source.infos], np.degrees(TILTS_RAD))
    np.testing.assert_allclose([info.defocus_nm for info in source.infos], [-45] * 3)
    assert source.header == {"energy_keV": 300.0, "mode": "TEM"}


def test_an_axis_of_angles_of_tomviz_gives_the_tilts(tmp_path):
    write_tomviz(tmp_path / "a.emd", chiral_images(), [-math.pi, 0.0, 3.5])
    assert [info.tilt_deg for info in open_frames(tmp_path / "a.emd").infos] == [-math.pi, 0.0, 3.5]


@pytest.mark.parametrize("version", [3, 4])
def test_the_axis_of_a_dm_stack_gives_the_tilts(tmp_path, version):
    path = tmp_path / f"a.dm{version}"
    write_dm(path, chiral_images(), version)
    source = open_frames(path)
    assert [info.tilt_deg for info in source.infos] == [-3, 0, 3]
    assert source.header == {"energy_keV": 300.0, "mode": "TEM"}
    assert "from the calibration of the stack's axis" in source.notes[0]


def test_an_emi_file_describes_its_ser_file(tmp_path):
    write_ser(tmp_path / "a_1.ser", chiral_images(1))
    (tmp_path / "a.emi").write_bytes(b"\x4a\0\xff" + "".join(
        f"<Data><Label>{label}</Label><Value>{value}</Value><Unit>{unit}</Unit></Data>" for label, value, unit in (
            ("High tension", 300, "kV"), ("Mode", " TEM uP", ""), ("Defocus", -0.05, "um"), ("Stage A", -3.0, "deg"))
        ).encode())
    source = open_frames(tmp_path / "a.emi")
    np.testing.assert_array_equal(source.read(0), chiral_images(1)[0])
    (info,) = source.infos
    assert (info.source, info.tilt_deg, info.defocus_nm) == ("a.emi", -3, -50)
    assert source.header == {"energy_keV": 300.0, "mode": "TEM"}
    write_ser(tmp_path / "a_2.ser", chiral_images(1))
    with pytest.raises(SeriesError, match="needs its one SER file a_1.ser in its folder; 2 are there"):
        open_frames(tmp_path / "a.emi")


def test_spectra_diffraction_patterns_and_stopped_series_of_tia(tmp_path):
    write_ser(tmp_path / "a.ser", chiral_images())
    raw = (tmp_path / "a.ser").read_bytes()
    (tmp_path / "a.ser").write_bytes(raw[:6] + struct.pack("<I", 0x4120) + raw[10:])
    with pytest.raises(SeriesError, match="holds spectra"):
        open_frames(tmp_path / "a.ser")
    (tmp_path / "a.ser").write_bytes(raw[:14] + struct.pack("<2I", 5, 2) + raw[22:])
    source = open_frames(tmp_path / "a.ser")
    assert source.n_frames == 2 and source.notes == ("a.ser: 2 of 5 images were taken",)
    write_ser(tmp_path / "b.ser", chiral_images(), 1e8)
    with pytest.raises(SeriesError, match="diffraction patterns"):
        open_frames(tmp_path / "b.ser")


def test_numbers_beside_an_hdf5_stack(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/images"] = rows_up(chiral_images())
        file["scan/images"].attrs["pixel_A"] = 0.42
        file["scan/tilt_deg"], file["scan/dose_e_A2"] = [-3.0, 0.0, 3.0], [680.0] * 3
    source = open_frames(tmp_path / "a.h5")
    assert source.pixel_A == (0.42, 0.42)
    assert [(info.tilt_deg, info.defocus_nm, info.dose_e_A2) for info in source.infos] == [
        (-3, None, 680), (0, None, 680), (3, None, 680)]


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_colours(path):
    PIL.Image.new("RGB", (7, 9)).save(path)


def write_complex(path):
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((3, 9, 7), np.complex64))


def write_volume(path):
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((3, 9, 7), np.float32))
        file.set_volume()


def write_diffraction(path):
    write_berkeley(path, chiral_images())
    with h5py.File(path, "r+") as file:
        for k in (2, 3):
            file[f"data/series/dim{k}"].attrs["units"] = "1/nm"


@pytest.mark.parametrize(("name", "write", "reason"), [
    ("a.mrc", write_complex, "MRC mode 4"),
    ("a.mrc", write_volume, "holds a volume"),
    ("a.tif", write_colours, "holds colours"),
    ("a.tif", lambda path: write_tiff(path, chiral_images(), extratags=[(274, 3, 1, 6, True)]), "orientation 6"),
    ("a.npy", lambda path: np.save(path, np.zeros((2, 2, 2, 2))), "no stack of images"),
    ("a.npy", lambda path: np.save(path, np.zeros((2, 2), complex)), "no stack of images"),
    ("a.npy", lambda path: np.save(path, np.array([None]), allow_pickle=True), "cannot be read"),
    ("a.h5", lambda path: write_hdf5(path, a=np.zeros((3, 4, 5)), b=np.zeros((3, 4, 5))), "2 stacks of images, a, b"),
    ("a.h5", lambda path: write_hdf5(path, a=np.zeros(3)), "no stack of images"),
    ("a.h5", lambda path: write_hdf5(path, a=np.zeros((2, 4, 5)), tilt_deg=np.zeros(3)), "numbers tilt_deg, 2 images"),
    ("a.h5", lambda path: write_hdf5(path, images=np.zeros((2, 2, 4, 5))), "needs no import"),
    ("a.emd", write_diffraction, "diffraction patterns"),
    ("a.dm3", lambda path: write_dm(path, chiral_images(), 3, (0.1, "1/nm")), "diffraction patterns"),
    ("a.mat", lambda path: path.write_bytes(b"MATLAB"), "is no MATLAB file, or damaged"),
    ("a.mat", lambda path: scipy.io.savemat(path, {"a": np.zeros((4, 5, 2)), "b": np.zeros((4, 5, 3))}),
     r"2 stacks of images \(row, column, image\): a \(4, 5, 2\), b \(4, 5, 3\)"),
    ("a.mat", lambda path: scipy.io.savemat(path, {"a": np.zeros((4, 5, 2), complex)}), "0 stacks of images"),
    ("a.png", lambda path: path.write_bytes(b"PNG"), "no known ending"),
    ("a.mrc", lambda path: None, "is not there"),
])
def test_the_wrong_kind_of_file_is_refused_with_the_reason(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(SeriesError, match=reason) as problem:
        open_frames(tmp_path / name)
    assert "\n" not in str(problem.value)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    write_dm(tmp_path / "a.dm3", chiral_images(), 3)
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    with pytest.raises(SeriesError, match=r"pip install 'aetlab\[formats\]'"):
        open_frames(tmp_path / "a.dm3")


@pytest.mark.parametrize("name", WRITERS)
def test_files_cut_anywhere_end_in_one_line(tmp_path, name):
    WRITERS[name](tmp_path / name, chiral_images())
    raw = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    n_refused = 0
    for size in [0, 1, 10, len(raw) // 2, *rng.integers(0, len(raw), 20)]:
        (tmp_path / name).write_bytes(raw[:size])
        try:
            source = open_frames(tmp_path / name)
            for index in range(source.n_frames):
                source.read(index)
        except SeriesError as problem:
            assert "\n" not in str(problem)
            n_refused += 1
    assert n_refused > 20


@pytest.mark.parametrize("name", WRITERS)
def test_files_with_changed_bytes_are_read_or_end_in_one_line(tmp_path, name):
    WRITERS[name](tmp_path / name, chiral_images())
    raw = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(60):
        changed = bytearray(raw)
        for place in rng.integers(0, min(len(raw), 1500), 3):
            changed[place] = rng.integers(256)
        (tmp_path / name).write_bytes(changed)
        try:
            source = open_frames(tmp_path / name)
            for index in range(min(source.n_frames, 4)):
                source.read(index)
        except SeriesError as problem:
            assert "\n" not in str(problem)


def linked_elsewhere(path):
    with h5py.File(path.with_name("secret.h5"), "w") as file:
        file["images"] = rows_up(chiral_images())
    with h5py.File(path, "w") as file:
        file["images"] = h5py.ExternalLink("secret.h5", "images")
        file["Data/Image/0123/Data"] = h5py.ExternalLink("secret.h5", "images")


def packed(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (100, 10_000, 10_000), "u2", chunks=(1, 1000, 1000), compression="gzip")


@pytest.mark.parametrize(("name", "write", "reason"), [
    ("a.h5", linked_elsewhere, "no images of real numbers"),
    ("a.h5", packed, "claims 20000000000 bytes, more than the file holds")])
def test_links_to_other_files_and_claims_without_content_are_refused(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(SeriesError, match=reason):
        open_frames(tmp_path / name)


def test_every_ending_has_one_reader():
    assert len(ENDINGS) == len(set(ENDINGS)) and all(ending.startswith(".") for ending in ENDINGS)
    assert {".mrc", ".emd", ".dm4", ".ser", ".tif", ".npy", ".mat"} <= set(ENDINGS) and len(READERS) >= 7
