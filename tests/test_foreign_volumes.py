"""Volumes of other programs: order, direction, unit and place of their axes, signs of bytes, data kept elsewhere."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest

from aetlab.core.errors import SeriesError
from aetlab.exchange.foreign_hdf5 import Axis, _axis_of
from aetlab.exchange.mrc import IMOD_STAMP
from aetlab.exchange.volume_files import FileError, read_volume
from aetlab.series.readers import open_frames

#: A volume (Z, X, Y) that equals none of its mirror images.
VOLUME = np.random.default_rng(4).normal(0, 30, (4, 5, 6)).astype(np.float32)


def stored(axes: str) -> np.ndarray:
    """Return the volume as an array with these axes, slowest first."""
    return np.ascontiguousarray(VOLUME.transpose(["zxy".index(axis) for axis in axes]))


def write_emd(path: Path, axes: str = "xyz", names: tuple[str, ...] = (), unit: str = "[n_m]", step: float = 0.05,
              falling: str = "", two_numbers: bool = False) -> None:
    """Write Berkeley's file with axes of these names, of which those in ``falling`` count down."""
    array = stored(axes)
    with h5py.File(path, "w") as file:
        group = file.create_group("data/tomogram")
        group.attrs["emd_group_type"] = 1
        group["data"] = np.flip(array, tuple(axes.index(axis) for axis in falling)) if falling else array
        for k, axis in enumerate(axes):
            values = np.arange(array.shape[k]) * step
            scale = group.create_dataset(f"dim{k + 1}", data=(values[::-1] if axis in falling else values)[
                : 2 if two_numbers else None])
            scale.attrs["name"], scale.attrs["units"] = (names or axes)[k], unit


@pytest.mark.parametrize("axes", ["xyz", "zyx", "zxy", "yzx"])
@pytest.mark.parametrize(("unit", "step"), [("[n_m]", 0.05), ("nm", 0.05), ("Å", 0.5), ("[m]", 5e-11), ("pm", 50)])
def test_order_and_unit_of_the_axes_of_an_emd_file_are_read(tmp_path, axes, unit, step):
    write_emd(tmp_path / "v.emd", axes, unit=unit, step=step)
    volume = read_volume(tmp_path / "v.emd")
    np.testing.assert_array_equal(volume.potential_V, VOLUME)
    assert volume.voxel_A == pytest.approx(0.5) and volume.notes == ()


def test_names_in_other_spellings_and_falling_axes_are_obeyed(tmp_path):
    write_emd(tmp_path / "v.emd", names=("X axis", "Y (nm)", "z_position"), falling="xz", two_numbers=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.emd").potential_V, VOLUME)
    with h5py.File(tmp_path / "v.emd", "r+") as file:
        file["data/other"] = np.zeros((3, 4, 5))  # the only volume of EMD is meant
    np.testing.assert_array_equal(read_volume(tmp_path / "v.emd").potential_V, VOLUME)


def test_axes_without_names_are_z_y_x_and_said(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = stored("zyx")
    volume = read_volume(tmp_path / "v.h5", voxel_A=0.5)
    np.testing.assert_array_equal(volume.potential_V, VOLUME)
    assert volume.notes == ("the axes of /v have no names: read as zyx",)


@pytest.mark.parametrize(("names", "unit", "message"), [
    (("x", "y", "angles"), "[n_m]", "its axes are named x, y, angles; give their order"),
    (("x", "y", "x"), "[n_m]", "named x, y, x"), (("x", "y", "z"), "1/nm", "axes are in 1/nm")])
def test_emd_files_of_other_quantities_are_refused(tmp_path, names, unit, message):
    write_emd(tmp_path / "v.emd", names=names, unit=unit)
    with pytest.raises(FileError, match=message):
        read_volume(tmp_path / "v.emd")


def test_voxels_that_are_no_cubes_are_refused_and_unknown_units_need_a_size(tmp_path):
    write_emd(tmp_path / "v.emd")
    with h5py.File(tmp_path / "v.emd", "r+") as file:
        file["data/tomogram/dim3"][...] *= 2
    with pytest.raises(FileError, match=r"voxels of 0\.5 x 0\.5 x 1 Å"):
        read_volume(tmp_path / "v.emd")
    write_emd(tmp_path / "v.emd", unit="px")
    with pytest.raises(FileError, match="states no voxel size"):
        read_volume(tmp_path / "v.emd")
    assert read_volume(tmp_path / "v.emd", voxel_A=0.4).voxel_A == 0.4


@pytest.mark.parametrize("axes", ["zxy", "ZXY", "z, x, y", "z;x;y", "[z, x, y]", "('z', 'x', 'y')", "z x y"])
def test_the_attribute_and_the_option_axes_are_read_in_any_spelling(tmp_path, axes):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = VOLUME
        file["v"].attrs.update({"axes": axes, "voxel_A": 0.5})
        file["w"] = VOLUME
        file["w"].attrs["axes"] = ["z", "x", "y"]
    for dataset, stated in (("v", ""), ("w", ""), ("w", axes)):
        volume = read_volume(tmp_path / "v.h5", dataset=dataset, axes=stated, voxel_A=0.5)
        np.testing.assert_array_equal(volume.potential_V, VOLUME)


def test_axes_of_nexus_hyperspy_and_hdf5_itself_are_read(tmp_path):
    with h5py.File(tmp_path / "nexus.h5", "w") as file:
        file["entry/data"], file["entry"].attrs["axes"] = stored("yzx"), ["y", "z", "x"]
        for axis, n in zip("yzx", stored("yzx").shape):
            file[f"entry/{axis}"] = np.arange(n) * 0.05
            file[f"entry/{axis}"].attrs["units"] = "nm"
    with h5py.File(tmp_path / "hyperspy.hdf5", "w") as file:
        file["Experiments/a/data"] = stored("yzx")
        for k, axis in enumerate("yzx"):
            file.create_group(f"Experiments/a/axis-{k}").attrs.update({"name": axis, "units": "nm", "scale": 0.05})
    with h5py.File(tmp_path / "scales.h5", "w") as file:
        file["v"] = stored("yzx")
        for k, axis in enumerate("yzx"):
            file[axis] = np.arange(stored("yzx").shape[k]) * 0.5
            file[axis].attrs["units"] = "Å"
            file[axis].make_scale(axis)
            file["v"].dims[k].attach_scale(file[axis])
    for name in ("nexus.h5", "hyperspy.hdf5", "scales.h5"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.potential_V, VOLUME)
        assert volume.voxel_A == pytest.approx(0.5)


def test_virtual_datasets_of_files_beside_are_read_and_missing_ones_refused(tmp_path):
    part, whole = tmp_path / "part.h5", tmp_path / "whole.h5"
    with h5py.File(part, "w") as file:
        file["v"] = VOLUME
    layout = h5py.VirtualLayout(VOLUME.shape, np.float32)
    layout[...] = h5py.VirtualSource("part.h5", "v", VOLUME.shape)
    inner = h5py.VirtualLayout(VOLUME.shape, np.float32)
    inner[...] = h5py.VirtualSource(".", "raw/v", VOLUME.shape)
    with h5py.File(whole, "w") as file:
        file.create_virtual_dataset("out", layout)
        file["raw/v"] = VOLUME
        file.create_virtual_dataset("in", inner)
    for dataset in ("out", "in"):
        volume = read_volume(whole, dataset=dataset, axes="zxy", voxel_A=0.5)
        np.testing.assert_array_equal(volume.potential_V, VOLUME)
    part.unlink()
    with pytest.raises(FileError, match=r"assembled from part\.h5, which is not there"):
        read_volume(whole, dataset="out", axes="zxy", voxel_A=0.5)


def test_data_outside_the_folder_of_the_file_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(480))
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["v"] = VOLUME
    layout = h5py.VirtualLayout(VOLUME.shape, np.float32)
    layout[...] = h5py.VirtualSource("../other.h5", "v", VOLUME.shape)
    with h5py.File(tmp_path / "in" / "v.h5", "w") as file:
        file.create_dataset("external", VOLUME.shape, "f4", external=[(str(tmp_path / "secret"), 0, 480)])
        file.create_virtual_dataset("virtual", layout)
        file["link"] = h5py.ExternalLink("../other.h5", "v")
    for dataset, message in (("external", "stored in other files, which is refused"),
                             ("virtual", r"from \.\./other\.h5, outside the folder"), ("link", "is a link")):
        with pytest.raises(FileError, match=message):
            read_volume(tmp_path / "in" / "v.h5", dataset=dataset, voxel_A=0.5)


def test_sparse_datasets_are_read_and_claims_without_content_refused(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        sparse = file.create_dataset("sparse", (16, 16, 160), "f4", chunks=(4, 4, 4))
        sparse[8:12, 4:8, 0:4] = 7.0
        file.create_dataset("large", (10_000, 10_000, 10_000), "f4", chunks=(4, 4, 4))[:4, :4, :4] = 1.0
        file.create_dataset("nothing", (64, 64, 64), "f4", chunks=(4, 4, 4))
        file.create_dataset("unwritten", (64, 64, 64), "f4")
    volume = read_volume(path, dataset="sparse", axes="zxy", voxel_A=0.5).potential_V
    assert volume.shape == (16, 16, 160) and volume.sum() == 7 * 64 and volume[8, 4, 0] == 7
    for dataset in ("large", "nothing", "unwritten"):
        with pytest.raises(FileError, match="claims .* bytes, more than the file holds"):
            read_volume(path, dataset=dataset, voxel_A=0.5)


def write_mrc(path: Path, change: Callable[[bytearray], None], array: np.ndarray | None = None) -> None:
    """Write the volume, or another array, by mrcfile with a voxel of 0.5 Å and ``change`` its bytes."""
    with mrcfile.new(path, stored("zyx") if array is None else array, overwrite=True) as file:
        file.voxel_size = 0.5
        file.set_volume()
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def put(raw: bytearray, at: int, layout: str, *values: float) -> None:
    raw[at:at + struct.calcsize(layout)] = struct.pack(layout, *values)


def test_a_stack_of_volumes_is_not_one_tall_volume(tmp_path):
    with mrcfile.new(tmp_path / "v.mrc", np.zeros((3, 4, 6, 5), np.float32)) as file:
        file.voxel_size = 0.5
    for call, error in ((read_volume, FileError), (open_frames, SeriesError)):
        with pytest.raises(error, match=r"holds 3 volumes \(space group 401\); save one"):
            call(tmp_path / "v.mrc")


def test_a_cell_that_is_not_at_right_angles_is_refused(tmp_path):
    write_mrc(tmp_path / "v.mrc", lambda raw: put(raw, 52, "<3f", 90, 90, 120))
    with pytest.raises(FileError, match="angles of 90, 90, 120°"):
        read_volume(tmp_path / "v.mrc")
    write_mrc(tmp_path / "v.mrc", lambda raw: put(raw, 52, "<3f", 0, 0, 0))  # old programs leave them out
    np.testing.assert_array_equal(read_volume(tmp_path / "v.mrc").potential_V, VOLUME)


@pytest.mark.parametrize(("change", "centre"), [
    (lambda raw: put(raw, 196, "<3f", 10, 20, 30), "(11, 21.25, 30.75)"),  # 5, 6 and 4 voxels along x, y and z
    (lambda raw: put(raw, 16, "<3i", 2, 4, 6), "(2, 3.25, 3.75)"),
    (lambda raw: put(raw, 196, "<3f", -1, -1.25, -0.75), ""), (lambda raw: None, "")])
def test_an_origin_that_positions_leave_out_is_said(tmp_path, change, centre):
    write_mrc(tmp_path / "v.mrc", change)
    notes = read_volume(tmp_path / "v.mrc").notes
    assert bool(notes) == bool(centre)
    if centre:
        assert f"which it puts at {centre} Å" in notes[0] and "positions count from the centre" in notes[0]


SMOOTH = np.round(127 + 100 * np.sin(np.arange(120) / 9)).reshape(4, 6, 5)


@pytest.mark.parametrize(("least", "greatest", "stamp", "flags", "values", "how"), [
    (0, 255, IMOD_STAMP, 0, SMOOTH, "unsigned, by the stamp of IMOD"),
    (-128, 127, IMOD_STAMP, 1, SMOOTH - 127, "signed, by the stamp of IMOD"),
    (27, 227, 0, 0, SMOOTH, "unsigned, by the greatest value of the header, 227"),
    (-100, 100, 0, 0, SMOOTH - 127, "signed, by the least value of the header, -100"),
    (0, -1, 0, 0, SMOOTH, "unsigned, by the differences of neighbours"),
    (0, -1, 0, 0, SMOOTH - 127, "signed, by the differences of neighbours"),
    (0, -1, 0, 0, SMOOTH // 2, "signed, which makes no difference")])
def test_bytes_have_the_sign_of_the_stamp_or_of_the_statistics(tmp_path, least, greatest, stamp, flags, values, how):
    def change(raw: bytearray) -> None:
        put(raw, 76, "<2f", least, greatest)
        put(raw, 152, "<2i", stamp, flags)
        raw[1024:] = values.astype(np.int16).astype(np.uint8).tobytes()

    write_mrc(tmp_path / "v.mrc", change, np.zeros((4, 6, 5), np.int8))
    volume = read_volume(tmp_path / "v.mrc")
    np.testing.assert_array_equal(volume.potential_V, values.transpose(0, 2, 1))
    assert f"bytes are {how}" in volume.notes[0]
    (tmp_path / "v.mrc").rename(tmp_path / "v.st")
    assert any(f"bytes are {how}" in note for note in open_frames(tmp_path / "v.st").notes)


def test_images_of_hdf5_files_obey_the_names_and_directions_of_their_axes(tmp_path):
    images = np.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)  # image, x, y
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images
        file["images"].attrs["axes"] = "tilt, x, y"
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("data/series")
        group.attrs["emd_group_type"] = 1
        group["data"] = images[:, ::-1]
        for k, (axis, values) in enumerate((("tilt", [-3, 3]), ("x", [10, 5, 0]), ("y", [0, 5, 10, 15])), 1):
            group[f"dim{k}"] = np.array(values, float)
            group[f"dim{k}"].attrs["name"], group[f"dim{k}"].attrs["units"] = axis, "pm"
    for name in ("a.h5", "a.emd"):
        source = open_frames(tmp_path / name)
        np.testing.assert_array_equal([source.read(k) for k in range(2)], images)
        np.testing.assert_array_equal(source.read(1, (slice(1, 3), slice(0, 2))), images[1, 1:3, :2])
    assert source.pixel_A == pytest.approx((0.05, 0.05)) and source.infos[0].tilt_deg == -3


def test_a_scale_without_values_gives_its_axis_no_places(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        assert _axis_of(file.create_dataset("x", data=h5py.Empty("f4")), 3, "x") == Axis("x")
