"""Files that microscopes and other programs wrote, read as their own software reads them or refused with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import scipy.io

from aetlab.core.errors import SeriesError
from aetlab.exchange.mrc import read_mrc
from aetlab.series.angles import read_angles
from aetlab.series.collect import collect
from aetlab.series.readers import open_frames
from aetlab.series.serialem import read_mdoc
from aetlab.series.sidecars import describe

DATA = Path(os.environ.get("AETLAB_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FOREIGN = DATA / "foreign"
pytestmark = pytest.mark.skipif(not FOREIGN.is_dir(), reason="the folder of foreign files is not there")
rsciio = pytest.importorskip("rsciio")


def signals(module, name):
    from importlib import import_module
    return import_module(f"rsciio.{module}").file_reader(str(FOREIGN / name))


def frames_of(source):
    return np.stack([source.read(i) for i in range(source.n_frames)])


def from_the_top(data):
    """Frames (n, X, Y) of arrays (n, row, column) whose first row is the highest."""
    return data[:, ::-1].transpose(0, 2, 1)


def test_dm3_tilt_series_with_its_recorded_angles():
    source = open_frames(FOREIGN / "HAADF.dm3")
    (signal,) = signals("digitalmicrograph", "HAADF.dm3")
    np.testing.assert_array_equal(frames_of(source), from_the_top(signal["data"]))
    tags = signal["original_metadata"]["ImageList"]["TagGroup0"]["ImageTags"]
    recorded = [tag["stage angle (degree)"] for tag in
                tags["Tomography"]["Tracking data"]["Online tracking data"].values()]
    assert [info.tilt_deg for info in source.infos] == recorded == list(np.arange(-90.0, 91, 2))
    np.testing.assert_allclose(source.pixel_A, (179.94916, 179.94916), rtol=1e-7)
    assert source.header == {"energy_keV": 300.0, "Cs_mm": 1.0, "mode": "STEM"}
    assert (source.n_frames, source.shape_xy, source.dtype) == (91, (64, 64), np.uint16)
    with pytest.raises(SeriesError, match=r"scanned probe \(STEM\)"):
        collect([FOREIGN / "HAADF.dm3"])


def test_angle_file_of_another_length_is_refused():
    angles, _ = read_angles(FOREIGN / "HAADF.rawtlt")
    assert angles == list(np.arange(-76.0, 77, 2))  # 77 of the 91 images
    with pytest.raises(SeriesError, match="holds 77 angles, the files hold 91 images"):
        describe([open_frames(FOREIGN / "HAADF.dm3")], [], [FOREIGN / "HAADF.rawtlt"])
    (item,) = describe([open_frames(FOREIGN / "HAADF.dm3")], [], [])
    assert item.infos[0].tilt_deg == -90
    assert "HAADF.rawtlt, next to HAADF.dm3, is left out: 77 angles, 91 images" in item.notes


@pytest.mark.parametrize("ending", ["dm3", "dm4"])
def test_dm_image_that_is_not_square_and_has_two_pixel_sizes(ending, tmp_path):
    name = f"dmTest_float32_nonSquare_diffPixelSize.{ending}"
    source = open_frames(FOREIGN / name)
    np.testing.assert_array_equal(source.read(0), from_the_top(signals("digitalmicrograph", name)[0]["data"][None])[0])
    assert source.shape_xy == (128, 64)
    np.testing.assert_allclose(source.pixel_A, (10, 2))  # 1 nm and 2 Å
    (tmp_path / "t.csv").write_text("tilt_deg,defocus_nm\n0,-50\n")
    with pytest.raises(SeriesError, match=r"two sizes of pixels, 2 and 10 Å, along x and y"):
        collect([FOREIGN / name], tmp_path / "t.csv")


def test_velox_image():
    source = open_frames(FOREIGN / "velox_ceta_tem.emd")
    (signal,) = signals("emd", "velox_ceta_tem.emd")
    np.testing.assert_array_equal(source.read(0), from_the_top(signal["data"][None])[0])
    np.testing.assert_allclose(source.pixel_A, [10 * axis["scale"] for axis in signal["axes"]])  # nm
    np.testing.assert_allclose(source.pixel_A, (31.38837, 31.38837), rtol=1e-6)
    assert source.infos[0].tilt_deg == pytest.approx(np.degrees(-3.136e-6), rel=1e-6)
    assert (source.infos[0].defocus_nm, source.header) == (0.0, {"energy_keV": 300.0, "mode": "TEM"})


def test_velox_stack():
    source = open_frames(FOREIGN / "fei_example_tem_stack.emd")
    (signal,) = signals("emd", "fei_example_tem_stack.emd")
    np.testing.assert_array_equal(frames_of(source), from_the_top(signal["data"]))
    assert (source.n_frames, source.dtype) == (2, np.int16)
    np.testing.assert_allclose(source.pixel_A, (0.0817288319,) * 2)
    np.testing.assert_allclose([info.tilt_deg for info in source.infos], np.degrees(-0.2196736))
    np.testing.assert_allclose([info.defocus_nm for info in source.infos], 30.231699, rtol=1e-6)
    collection = collect([FOREIGN / "fei_example_tem_stack.emd"])
    assert any("the reading of the lens" in note for note in collection.notes)
    assert collection.grid.shape == (2, 1) and "1 tilts are there again" in collection.notes[-1]


def test_berkeley_array_of_four_dimensions_is_refused():
    with pytest.raises(SeriesError, match=r"its data are \(3, 4, 5, 6\), wanted \(image, y, x\)"):
        open_frames(FOREIGN / "emd_type1_stringDims.h5")


@pytest.mark.parametrize("name", ["64x64x5_TEM_preview.emi", "64x64x5_TEM_preview_1.ser"])
def test_ser_stack(name):
    source = open_frames(FOREIGN / name)
    (signal,) = signals("tia", name)
    np.testing.assert_array_equal(frames_of(source), from_the_top(signal["data"]))
    assert (source.n_frames, source.shape_xy, source.dtype) == (5, (64, 64), np.float32)
    np.testing.assert_allclose(source.pixel_A, (62.818336,) * 2, rtol=1e-7)
    assert {info.tilt_deg for info in source.infos} == {None}
    # The first element starts at the first data offset, after 50 bytes; its first row is the lowest one.
    raw = (FOREIGN / "64x64x5_TEM_preview_1.ser").read_bytes()
    start = int(np.frombuffer(raw, "<u4", 1, np.frombuffer(raw, "<u4", 1, 22)[0])[0])
    np.testing.assert_array_equal(source.read(0)[:, 0], np.frombuffer(raw, "<f4", 64, start + 50))
    assert source.header == ({"energy_keV": 200.0, "mode": "TEM"} if name.endswith("emi") else {})


def test_emi_and_its_ser_file_count_once(tmp_path):
    (tmp_path / "t.csv").write_text("tilt_deg,defocus_nm\n" + "".join(f"{i},-50\n" for i in range(5)))
    collection = collect([FOREIGN / "64x64x5_TEM_preview.emi", FOREIGN / "64x64x5_TEM_preview_1.ser"],
                         tmp_path / "t.csv")
    assert collection.grid.shape == (5, 1)
    assert "64x64x5_TEM_preview_1.ser is read through its EMI file" in collection.notes


@pytest.mark.parametrize(("name", "pixel_A"), [
    ("test_loading_image_saved_with_DM_stack.tif", (1686.74007, 16867.40041)),
    ("test_loading_image_saved_with_imageJ_stack.tif", (1686.74711, 1686.74711))])
def test_tiff_stacks(name, pixel_A):
    source = open_frames(FOREIGN / name)
    (signal,) = signals("tiff", name)
    np.testing.assert_array_equal(frames_of(source), from_the_top(signal["data"]))
    np.testing.assert_allclose(source.pixel_A, [1e4 * axis["scale"] for axis in signal["axes"][:0:-1]], rtol=1e-6)
    np.testing.assert_allclose(source.pixel_A, pixel_A, rtol=1e-6)


def test_mrc_with_an_extended_header_of_velox():
    source = open_frames(FOREIGN / "HAADFscan.mrc")
    with mrcfile.open(FOREIGN / "HAADFscan.mrc", permissive=True) as file:
        extended = file.indexed_extended_header[0]
        np.testing.assert_array_equal(source.read(0), file.data.T)
    assert (source.infos[0].tilt_deg, source.infos[0].defocus_nm) == (extended["Alpha tilt"], extended["Defocus"] * 1e9)
    np.testing.assert_allclose(source.pixel_A, (extended["Pixel size X"] * 1e10,) * 2, rtol=1e-6)
    assert source.infos[0].dose_e_A2 is None and source.header == {"energy_keV": 300.0, "mode": "STEM"}


def test_mrc_without_the_stamp():
    source = open_frames(FOREIGN / "temp.mrc")
    with pytest.warns(RuntimeWarning), mrcfile.open(FOREIGN / "temp.mrc", permissive=True) as file:
        np.testing.assert_array_equal(frames_of(source), file.data.transpose(0, 2, 1))
    assert (source.n_frames, source.shape_xy, source.pixel_A) == (3, (128, 128), (2.0, 2.0))
    assert "no MAP stamp" in source.notes[0]


def test_density_maps_are_volumes_and_not_stacks():
    for name, reason in (("EMD-3001.map", "a cell with angles of 90, 94.326, 90°"), ("EMD-3197.map", "holds a volume")):
        with pytest.raises(SeriesError, match=reason):
            open_frames(FOREIGN / name)
    volume, voxel_A = read_mrc(FOREIGN / "EMD-3197.map")
    with mrcfile.open(FOREIGN / "EMD-3197.map") as file:
        np.testing.assert_array_equal(volume, file.data.transpose(0, 2, 1))
    assert voxel_A == pytest.approx(11.4)


def test_log_of_serialem_with_41_tilts_in_the_order_of_acquisition():
    log = read_mdoc(FOREIGN / "tilt_series.mdoc")
    text = (FOREIGN / "tilt_series.mdoc").read_text()
    tilts = [float(line.split("=")[1]) for line in text.splitlines() if line.startswith("TiltAngle")]
    assert [frame.tilt_deg for frame in log.frames] == tilts and len(tilts) == 41
    np.testing.assert_allclose(tilts[:5], [0, 3, -3, -6, 6], atol=0.01)
    assert {frame.defocus_nm for frame in log.frames} == {-4000.0}  # underfocus, as the target of -4 µm says
    assert {frame.dose_e_A2 for frame in log.frames} == {None}  # ExposureDose = 0
    assert (log.pixel_A, log.size_xy, log.image_file) == (5.4, (924, 958), "TS_01.mrc")
    assert log.header == {"axis_deg": 85.3}
    assert np.all(np.diff([frame.time for frame in log.frames]) > 0)
    assert "TargetDefocus is taken" in log.notes[0] and "2.68083 against -4" in log.notes[0]


@pytest.mark.parametrize(("name", "image", "tilt"), [("test_000.mdoc", "test0.mrc", -0.000488),
                                                     ("test_001.mrc.mdoc", "test5.001.mrc", 5.00054)])
def test_logs_of_scanned_images(name, image, tilt):
    log = read_mdoc(FOREIGN / name)
    assert log.image_file == image and log.frames[0].tilt_deg == tilt
    assert log.header == {"energy_keV": 300.0, "axis_deg": -90.0, "counts_per_electron": 1.65, "mode": "STEM"}
    assert log.pixel_A == 7.88


@pytest.mark.parametrize(("projections", "angles", "n", "ends_deg"), [
    ("ta_film_projections.mat", "ta_film_angles.mat", 59, (-74.3, 66.4)),
    ("aSi_2nmFosCetr_Dose1p6e5_cov35pm_ForBM3D.mat", "Si_Angle.mat", 60, (0, 177))])
def test_projections_in_matlab_files_with_their_angles(tmp_path, projections, angles, n, ends_deg):
    data, table = (next(value for value in scipy.io.loadmat(FOREIGN / name).values() if isinstance(value, np.ndarray))
                   for name in (projections, angles))
    (tmp_path / "a.csv").write_text("defocus_nm\n" + n * "0\n")
    collection = collect([FOREIGN / projections, FOREIGN / angles], tmp_path / "a.csv", pixel_A=0.35)
    order = np.argsort(table[:, 1], kind="stable")
    assert collection.grid.shape == (n, 1)
    np.testing.assert_allclose(collection.tilt_deg, table[order, 1])
    # (row, column, image), the first row the highest.
    np.testing.assert_array_equal(collection.read_all()[:, 0],
                                  data[::-1].transpose(2, 1, 0)[order].astype(np.float32))
    assert collection.tilt_deg[[0, -1]] == pytest.approx(ends_deg, abs=0.06)
    assert any("the first row" in note and "as MATLAB shows images" in note for note in collection.notes)
    has_others = np.abs(table[:, [0, 2]]).max() > 0
    assert any("the second of three angles" in note for note in collection.notes) == has_others
    with pytest.raises(SeriesError, match=f"holds {n} angles, the files hold 3 images"):
        collect([FOREIGN / "temp.mrc", FOREIGN / angles])


def microscope_yaml(path, series):
    """The microscope as a laboratory writes it from its knowledge of a practice series."""
    known = json.loads((DATA / "practice" / series / "meta.json").read_text())
    detector = known["detector"]
    lines = {"energy_keV": known["energy_kV"], "Cs_mm": known["Cs_mm"],
             "aperture_mrad": known["objective_aperture_mrad"], "pixel_A": known["pixel_A"],
             "focal_spread_sigma_nm": known["focal_spread_sigma_nm"],
             "convergence_sigma_mrad": known["convergence_sigma_mrad"], "elements": known["elements"],
             "mtf": {"cycles_per_pixel": detector["cycles_per_pixel"], "mtf": detector["mtf_along_axis_with_pixel"]}}
    path.write_text(json.dumps(lines))
    return path


def copied(folder, series, *endings):
    paths = []
    for ending in endings:
        path = folder / f"{series}{ending}"
        path.write_bytes((DATA / "practice" / series / path.name).read_bytes())
        paths.append(path)
    return paths


@pytest.mark.parametrize(("series", "endings"), [
    ("P1", [".mrc", ".csv"]), ("P1", [".mrc", ".mrc.mdoc"]), ("P1", [".mrc", ".rawtlt", ".csv"]), ("P1", [".emd"]),
    ("P1", [".emd", ".csv"]), ("P2", [".tif", ".csv"]), ("P2", [".mrc", ".csv"]), ("P3", [".emd", ".csv"])])
def test_practice_series_by_each_of_its_files(tmp_path, series, endings):
    paths = copied(tmp_path, series, *endings)
    table = next((path for path in paths if path.suffix == ".csv"), None)
    collection = collect([path for path in paths if path is not table], table, microscope_yaml(tmp_path / "m.yaml",
                                                                                               series))
    truth = np.genfromtxt(DATA / "practice" / "truth" / series / "truth.csv", delimiter=",", names=True)
    with mrcfile.mmap(DATA / "practice" / series / f"{series}.mrc") as file:  # lowest row first
        stack = np.array(file.data)
    n_defoci = len(np.unique(truth["nominal_defocus_nm"]))
    n_tilts = len(stack) // n_defoci
    assert collection.grid.shape == (n_tilts, n_defoci) and (collection.weight == 1).all()
    assert sorted(collection.grid.ravel()) == list(range(len(stack)))
    assert (np.diff(collection.tilt_deg) > 0).all()
    nominal = truth["nominal_tilt_deg"][collection.grid]
    assert (nominal == nominal[:, :1]).all()
    np.testing.assert_allclose(collection.tilt_deg, truth["readback_tilt_deg"][collection.grid].mean(1), atol=1e-9)
    np.testing.assert_allclose(collection.defocus_A, 10 * truth["nominal_defocus_nm"][collection.grid])
    np.testing.assert_allclose(collection.dose_e_A2, truth["nominal_dose_e_A2"][collection.grid], rtol=1e-3)
    np.testing.assert_array_equal(collection.read_all(), stack[collection.grid].transpose(0, 1, 3, 2))
    assert collection.pixel_A == pytest.approx(0.42) and collection.shape_xy == (176, 160)
    assert collection.microscope.spec.aperture_per_A == pytest.approx(0.99048, rel=1e-4)  # 19.5 mrad at 1.9687 pm
    assert collection.elements == (("Pt",) if series != "P3" else ("Au", "Cu"))


def test_a_region_of_a_practice_series(tmp_path):
    region = (slice(40, 91), slice(10, 70))
    collection = collect(copied(tmp_path, "P1", ".mrc", ".mrc.mdoc"), region=region)
    with h5py.File(DATA / "practice" / "P1" / "P1.emd") as file:
        stack = file["data/tiltseries/data"][:, 10:70, 40:91]
    assert collection.shape_xy == (51, 60)
    np.testing.assert_array_equal(collection.read(146), stack[146].T)
