"""Files, logs, angles and tables joined into a grid of tilts and defoci, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
from series_files import SHAPE_XY, chiral_images, rows_up, write_berkeley, write_mrc, write_tiff

from aetlab.core.errors import AetlabError, DataError, SeriesError
from aetlab.series.collect import PIXEL_DOUBT, collect
from aetlab.series.frames import FrameInfo
from aetlab.series.microscope import read_microscope
from aetlab.series.ordering import order_frames
from aetlab.series.serialem import read_mdoc


def write_table(path, text):
    path.write_text(text)
    return path


def mdoc(path, sections, top="PixelSpacing = 0.5\nVoltage = 300\n", title="Tilt axis angle = 85.3, binning = 1"):
    lines = [top, f"[T = {title}]", ""]
    for name, items in sections:
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in items.items()), ""]
    path.write_text("\n".join(lines))
    return path


def stack(path, n=6):
    images = chiral_images(n)
    write_mrc(path, images)
    return images


TABLE = "tilt_deg,defocus_nm,dose_e_A2\n3,-20,680\n3,-45,680\n-3,-20,680\n-3,-45,680\n0,-45,680\n0,-20,680\n"


def test_one_stack_and_a_table(tmp_path):
    images = stack(tmp_path / "a.mrc")
    collection = collect([tmp_path / "a.mrc"], write_table(tmp_path / "t.csv", TABLE))
    np.testing.assert_array_equal(collection.grid, [[3, 2], [4, 5], [1, 0]])
    np.testing.assert_array_equal(collection.tilt_deg, [-3, 0, 3])
    np.testing.assert_array_equal(collection.defocus_A, [[-450, -200]] * 3)
    np.testing.assert_array_equal(collection.dose_e_A2, np.full((3, 2), 680))
    np.testing.assert_array_equal(collection.weight, np.ones((3, 2)))
    np.testing.assert_array_equal(collection.read_all(), images[[[3, 2], [4, 5], [1, 0]]])
    assert (collection.shape_xy, collection.pixel_A, collection.n_frames) == (SHAPE_XY, 0.5, 6)
    assert collection.notes[-1] == ("6 images: 3 tilts from -3° to 3°, 2 defoci (-45, -20 nm), 0 cells empty, 0 images "
                                    "left out")


def test_one_stack_per_defocus_and_one_file_per_image_give_the_same_grid(tmp_path):
    images = chiral_images(6)
    for k, name in enumerate(("near.mrc", "far.mrc")):
        write_mrc(tmp_path / name, images[k::2])
    for k, image in enumerate(images):
        write_tiff(tmp_path / f"{k}.tif", image[None])
    table = "file,frame,tilt_deg,defocus_nm\n" + "".join(
        f"{name},{i},{tilt},{defocus}\n" for name, defocus in (("far.mrc", -45), ("near.mrc", -20))
        for i, tilt in enumerate((3, -3, 0)))
    of_stacks = collect([tmp_path / "near.mrc", tmp_path / "far.mrc"], write_table(tmp_path / "s.csv", table))
    rows = [f"{k}.tif,{(3, -3, 0)[k // 2]},{(-20, -45)[k % 2]}" for k in range(6)]
    single = "file,tilt_deg,defocus_nm\n" + "\n".join(rows[::-1])
    of_images = collect([tmp_path / f"{k}.tif" for k in range(6)], write_table(tmp_path / "i.csv", single), pixel_A=0.5)
    expected = images[[[3, 2], [5, 4], [1, 0]]]
    for collection in (of_stacks, of_images):
        np.testing.assert_array_equal(collection.read_all(), expected)
        np.testing.assert_array_equal(collection.tilt_deg, [-3, 0, 3])
        np.testing.assert_array_equal(collection.defocus_A, [[-450, -200]] * 3)
        assert np.isnan(collection.dose_e_A2).all()


def test_a_log_in_any_order_with_doses_and_times(tmp_path):
    stack(tmp_path / "a.mrc", 3)
    mdoc(tmp_path / "a.mrc.mdoc", [
        ("ZValue = 2", {"TiltAngle": 3.0, "TargetDefocus": -0.045, "Defocus": 1.0, "DateTime": "30-Nov-15  15:21:38",
                        "ExposureDose": 680, "CountsPerElectron": 37.5}),
        ("ZValue = 0", {"TiltAngle": -3.0, "TargetDefocus": -0.045, "DateTime": "30-Nov-15  15:23:00",
                        "ExposureDose": 0}),
        ("ZValue = 1", {"TiltAngle": 0.0, "TargetDefocus": -0.045, "DateTime": "30-Nov-15  15:22:00"})])
    collection = collect([tmp_path / "a.mrc"])
    np.testing.assert_array_equal(collection.grid, [[0], [1], [2]])
    np.testing.assert_array_equal(collection.defocus_A, [[-450]] * 3)
    np.testing.assert_array_equal(collection.dose_e_A2, [[np.nan], [np.nan], [680]])
    assert [info.order for info in collection.infos] == [2, 1, 0]
    assert collection.header == {"energy_keV": 300.0, "axis_deg": 85.3, "counts_per_electron": 37.5}
    assert collection.microscope.spec.energy_keV == 300
    notes = " ".join(collection.notes)
    assert "found next to it" in notes and "TargetDefocus is taken" in notes and "by the times in the logs" in notes
    assert "energy_keV 300 from the headers" in notes and "left at the default: aperture_per_A 1, Cs_mm 0" in notes


def test_a_log_of_files_of_their_own(tmp_path):
    for k, image in enumerate(chiral_images(2)):
        write_tiff(tmp_path / f"{k}.tif", image[None])
    log = mdoc(tmp_path / "all.mdoc", [(f"Image = {k}.tif", {"TiltAngle": 3 * k, "Defocus": -0.05}) for k in (1, 0)])
    collection = collect([tmp_path / "0.tif", tmp_path / "1.tif", log])
    np.testing.assert_array_equal(collection.tilt_deg, [0, 3])
    assert collection.pixel_A == 0.5 and "no TargetDefocus" in " ".join(collection.notes)


def test_the_table_wins_and_every_disagreement_is_a_line(tmp_path):
    stack(tmp_path / "a.mrc", 2)
    mdoc(tmp_path / "a.mdoc", [(f"ZValue = {k}", {"TiltAngle": 3 * k, "TargetDefocus": -0.02}) for k in (0, 1)])
    (tmp_path / "a.rawtlt").write_text(" 0.00\n 3.40\n")
    collection = collect([tmp_path / "a.mrc"], write_table(
        tmp_path / "t.csv", "# from the notebook\ntilt_deg;defocus_nm\n0.01;\n2.5;-25\n"))
    np.testing.assert_array_equal(collection.tilt_deg, [0.01, 2.5])
    np.testing.assert_array_equal(collection.defocus_A, [[-200], [-250]])
    notes = "\n".join(collection.notes)
    assert "a.rawtlt: tilt_deg of 1 of 2 images differs from what was known; a.rawtlt is used (a.mrc image 1:" in notes
    assert "t.csv: tilt_deg of 1 of 2 images differs from the headers; the table is used (a.mrc image 1: 2.5" in notes
    assert "t.csv: defocus_nm of 1 of 2 images differs" in notes


def test_excluded_images_stay_in_the_grid_without_weight(tmp_path):
    images = chiral_images(3)
    images[1, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", rows_up(images))
    table = "tilt_deg,defocus_nm,exclude\n0,-20,\n3,-20,drifted\n6,-20,no\n"
    collection = collect([tmp_path / "a.npy"], write_table(tmp_path / "t.csv", table), pixel_A=0.5)
    np.testing.assert_array_equal(collection.grid, [[0], [1], [2]])
    np.testing.assert_array_equal(collection.weight, [[1], [0], [1]])
    assert "a.npy image 1 is left out: drifted" in collection.notes


def test_files_found_beside_a_stack_that_do_not_fit_are_left_out_and_named(tmp_path):
    stack(tmp_path / "a.mrc", 2)
    mdoc(tmp_path / "a.mrc.mdoc", [("ZValue = 0", {"TiltAngle": 40})])
    (tmp_path / "a.mdoc").write_text("no log")
    (tmp_path / "a.rawtlt").write_text("1\n2\n3\n")
    collection = collect([tmp_path / "a.mrc"], write_table(tmp_path / "t.csv", TWO))
    np.testing.assert_array_equal(collection.tilt_deg, [0, 3])
    notes = "\n".join(collection.notes)
    assert "a.mrc.mdoc describes 1 images, a.mrc holds 2; it is left out" in notes
    assert "a.mdoc, next to a.mrc, is left out: " in notes and "no log of SerialEM" in notes
    assert "a.rawtlt, next to a.mrc, is left out: 3 angles, 2 images" in notes


def infos(*pairs):
    return [FrameInfo("a", i, tilt, defocus, order=i) for i, (tilt, defocus) in enumerate(pairs)]


def test_missing_and_double_images():
    grid = order_frames(infos((0, -20), (0, -45), (3, -20), (0.02, -20), (0.02, -45), (6, -45), (6, -20)))
    np.testing.assert_array_equal(grid.index, [[1, 0], [4, 3], [-1, 2], [5, 6]])
    np.testing.assert_array_equal(grid.weight, [[1, 1], [1, 1], [0, 1], [1, 1]])
    np.testing.assert_allclose(grid.tilt_deg, [0, 0.02, 3, 6])
    np.testing.assert_allclose(grid.defocus_A, [[-450, -200]] * 4)
    assert "1 tilts are there again (0.02°); their images are kept as further tilts" in grid.notes[1]


def test_measured_defoci_share_the_column_of_their_nominal_one():
    rng = np.random.default_rng(3)
    nominal = [(3 * t, defocus) for t in range(9) for defocus in (-20, -22, -75)]
    grid = order_frames(infos(*((t + 0.01 * rng.normal(), d + 0.1 * rng.normal()) for t, d in nominal)))
    np.testing.assert_array_equal(grid.index, [[3 * t + 2, 3 * t + 1, 3 * t] for t in range(9)])
    one = order_frames(infos(*((t, -50 + 5 * rng.normal()) for t in (*range(0, 30, 3), 0))))
    assert one.index.shape == (11, 1)  # one defocus that scatters, one tilt twice


def test_fine_steps_of_tilt_stay_apart():
    grid = order_frames(infos(*((0.1 * t, -50.0) for t in range(40))))
    assert grid.index.shape == (40, 1) and len(grid.notes) == 1


def test_pixels_that_differ_by_0_02_percent_count_as_one(tmp_path):
    write_mrc(tmp_path / "a.mrc", chiral_images(2), pixel_A=(0.42, 0.42 * 1.0002))
    table = write_table(tmp_path / "t.csv", "tilt_deg,defocus_nm\n0,-20\n3,-20\n")
    collection = collect([tmp_path / "a.mrc"], table)
    assert collection.pixel_A == pytest.approx(0.42 * 1.0001, rel=1e-6)
    assert "pixels of 0.42 and 0.420084 Å count as 0.420042 Å" in collection.notes
    given = collect([tmp_path / "a.mrc"], table, pixel_A=0.43)
    assert given.pixel_A == 0.43 and "is overruled by the given 0.43 Å" in " ".join(given.notes)


def saturated(n_pixels):
    images = np.full((1, 40, 50), 1000.0)
    images[0].flat[:n_pixels] = 16383
    return images


def test_a_few_hot_pixels_are_no_saturation(tmp_path):
    np.save(tmp_path / "a.npy", rows_up(saturated(9)))
    collect([tmp_path / "a.npy"], write_table(tmp_path / "t.csv", "tilt_deg,defocus_nm\n0,-20\n"), pixel_A=1)


ONE = "tilt_deg,defocus_nm\n0,-20\n"
TWO = ONE + "3,-20\n"


@pytest.mark.parametrize(("arrange", "reason"), [
    (lambda d: ([d / "no.mrc"], None), "no.mrc is not there"),
    (lambda d: ([d], None), "a folder; name its files"),
    (lambda d: ([write_table(d / "t.csv", ONE)], None), "t.csv is no file of images; give it as the table"),
    (lambda d: ([], None), "no file of images is given"),
    (lambda d: (stacks(d, "a.mrc") * 2, TWO), "a.mrc is given twice"),
    (lambda d: (stacks(d, "a.mrc"), ONE), "has 1 rows, the files hold 2 images$"),
    (lambda d: (stacks(d, "a.mrc"), "frame,tilt_deg\n0,1\n"), "hold 2 images; no row for a.mrc image 1: an image that"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,note\n0,good\n3,good\n"), r"unknown column 'note'\. Columns are file"),
    (lambda d: (angled(d, "a.rawtlt", "0\n3\n6\n")[:1], None), "; a.rawtlt, next to a.mrc, is left out: 3 angles"),
    (lambda d: (stacks(d, "a.mrc"), None), r"tilt angle of 2 of 2 images is not known \(a.mrc image 0, a.mrc"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg\n0\n3\n"), "the defocus of 2 of 2 images is not known"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,defocus_nm\n0,-20\n,-20\n"), "the tilt angle of 1 of 2 images"),
    (lambda d: (stacks(d, "a.mrc"), "tilt,defocus_nm\n0,-20\n3,-20\n"), "unknown column 'tilt', did you mean tilt_deg"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,tilt_deg\n0,-20\n3,-20\n"), "stands there twice"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,defocus_nm\n0,-20\n3\n"), "line 3: 1 cells, wanted 2"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,defocus_nm\n0,-20\nnan,-20\n"), "line 3: tilt_deg 'nan' is no number"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,defocus_nm\n0,-20\n999,-20\n"), "999 is no tilt angle"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,dose_e_A2\n0,-1\n3,1\n"), "must not be negative"),
    (lambda d: (stacks(d, "a.mrc"), "frame,tilt_deg\n0,1\n0,2\n"), "line 3: a.mrc image 0 has a row already"),
    (lambda d: (stacks(d, "a.mrc"), "frame,tilt_deg\n1,1\n2,2\n"), "has no image 2; it holds 2, numbered from 0"),
    (lambda d: (stacks(d, "a.mrc"), "frame,tilt_deg\n0,1\n-1,2\n"), "no whole number"),
    (lambda d: (stacks(d, "a.mrc"), "file,tilt_deg\nb.mrc,1\na.mrc,2\n"), "b.mrc is none of the files of images, a"),
    (lambda d: (stacks(d, "a.mrc"), "file,tilt_deg\na.mrc,1\n,2\n"), "some rows name a file and some do not"),
    (lambda d: (stacks(d, "a.mrc", "b.mrc"), "frame,tilt_deg\n0,1\n1,2\n0,1\n1,2\n"), "give the column file"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg,defocus_nm\n"), "has no rows"),
    (lambda d: (stacks(d, "a.mrc"), "# nothing\n"), "is empty, wanted columns"),
    (lambda d: (stacks(d, "a.mrc"), "tilt_deg\0,defocus_nm\n"), "is no text"),
    (lambda d: (angled(d, "b.rawtlt", "0\n3\n6\n"), TWO), "holds 3 angles, the files hold 2"),
    (lambda d: (angled(d, "a.tlt", "0\nx\n"), TWO), "line 2: 'x' is no tilt angle"),
    (lambda d: (angled(d, "a.tlt", "\n"), TWO), "holds no tilt angles"),
    (lambda d: (logged(d, [("ZValue = 0", {})]), TWO), "describes 1 images, a.mrc holds 2"),
    (lambda d: (logged(d, []), TWO), r"no section \[ZValue"),
    (lambda d: (logged(d, [("ZValue = 0", {"TiltAngle": "x"})]), TWO), "TiltAngle = x is no"),
    (lambda d: (logged(d, [("ZValue = 0", {}), ("ZValue = 0", {})]), TWO), "an image twice"),
    (lambda d: (logged(d, [("ZValue = 0", {"PieceCoordinates": "0 0 0"})]), TWO), "montage"),
    (lambda d: (logged(d, [("ZValue = -1", {})]), TWO), "no number of an image"),
    (lambda d: (logged(d, [("ZValue = 0", {"PixelSpacing": 0.6})]), TWO), "several pixel"),
    (lambda d: (logged(d, [("ZValue = 0", {}), ("ZValue = 1", {})], "ImageSize = 9 7\n"),
                TWO), "describes images of 9 x 7 pixels, a.mrc holds 7 x 9"),
    (lambda d: ([*stacks(d, "a.mrc", "b.mrc"), mdoc(d / "c.mdoc", [("ZValue = 0", {})])], TWO), "which is not given"),
    (lambda d: (logged(d, [("Image = z.tif", {})]), TWO), "not given, such as z.tif"),
    (lambda d: (logged(d, [(f"ZValue = {k}", {"ChannelName": "HAADF"}) for k in (0, 1)]),
                TWO), "scanned probe"),
    (lambda d: (two_files(d, (7, 9), (9, 7)), TWO), "images of 9 x 7 pixels, a.npy of 7 x 9"),
    (lambda d: (two_pixels(d), TWO), "two sizes of pixels, 0.5 and 0.51 Å, in a.mrc and b.emd"),
    (lambda d: (one_array(d, np.zeros((2, 5, 5))), TWO), "the pixel is not known; give pixel_A"),
    (lambda d: (one_array(d, np.full((2, 5, 5), np.nan)), TWO), "2 images hold NaN or infinity: a.npy image 0"),
    (lambda d: (one_array(d, saturated(200)), ONE), "1 images are saturated, .*: a.npy image 0"),
])
def test_bad_input_ends_in_one_line(tmp_path, arrange, reason):
    files, table = arrange(tmp_path)
    path = None if table is None else write_table(tmp_path / "table.csv", table)
    needs_pixel = any(word in reason for word in ("NaN", "saturated"))
    with pytest.raises(SeriesError, match=reason) as problem:
        collect(files, path, pixel_A=0.5 if needs_pixel else None)
    assert "\n" not in str(problem.value)
    assert isinstance(problem.value, AetlabError) and isinstance(problem.value, DataError)


def test_angles_in_radians_and_defoci_in_micrometres_are_asked_about(tmp_path):
    stack(tmp_path / "a.mrc")
    rows = [(angle, -20) for angle in range(-50, 51, 20)]
    notes = {}
    for name, scale, focus in (("right", 1, 1), ("wrong", np.pi / 180, 1e-3)):
        text = "tilt_deg,defocus_nm\n" + "".join(f"{t * scale},{f * focus}\n" for t, f in rows)
        notes[name] = " ".join(collect([tmp_path / "a.mrc"], write_table(tmp_path / "t.csv", text)).notes)
    assert "within 0.8727° of 0: are the angles in radians?" in notes["wrong"]
    assert "within 0.02 nm of 0: are they in µm?" in notes["wrong"]
    assert "radians" not in notes["right"] and "µm" not in notes["right"]


def test_a_pixel_of_exactly_one_angstrom_in_a_header_is_asked_about(tmp_path):
    write_mrc(tmp_path / "a.mrc", chiral_images(2), pixel_A=(1.0, 1.0))
    table = write_table(tmp_path / "t.csv", "tilt_deg,defocus_nm\n0,-20\n5,-20\n")
    doubts = [note for note in collect([tmp_path / "a.mrc"], table).notes if note.startswith(PIXEL_DOUBT)]
    assert len(doubts) == 1 and "exactly 1 Å" in doubts[0]
    assert not [note for note in collect([tmp_path / "a.mrc"], table, pixel_A=1.0).notes
                if note.startswith(PIXEL_DOUBT)]


def test_elements_that_yaml_takes_for_no_are_asked_for_in_quotes(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text("energy_keV: 300\nelements: [No, Y]\n")
    with pytest.raises(SeriesError, match="write them in quotes"):
        read_microscope(file, {})


def stacks(folder, *names):
    for name in names:
        stack(folder / name, 2)
    return [folder / name for name in names]


def logged(folder, sections, top="PixelSpacing = 0.5\n"):
    return [*stacks(folder, "a.mrc"), mdoc(folder / "a.mdoc", sections, top)]


def angled(folder, name, text):
    return [*stacks(folder, "a.mrc"), write_table(folder / name, text)]


def two_files(folder, *shapes_xy):
    paths = [folder / f"{name}.npy" for name in "ab"]
    for path, shape_xy in zip(paths, shapes_xy):
        np.save(path, np.zeros(shape_xy[::-1]))
    return paths


def two_pixels(folder):
    write_mrc(folder / "a.mrc", chiral_images(1))
    write_berkeley(folder / "b.emd", chiral_images(1), 0.51)
    return [folder / "a.mrc", folder / "b.emd"]


def one_array(folder, array):
    np.save(folder / "a.npy", array)
    return [folder / "a.npy"]


def test_a_region_outside_the_image_is_refused(tmp_path):
    stack(tmp_path / "a.mrc", 2)
    with pytest.raises(SeriesError, match="x from 0 to 8 is not inside an image of 7 pixels"):
        collect([tmp_path / "a.mrc"], write_table(tmp_path / "t.csv", TWO), region=(slice(0, 8), slice(0, 9)))


def test_the_signs_of_a_log_are_those_of_the_package(tmp_path):
    log = read_mdoc(mdoc(tmp_path / "a.mdoc", [("ZValue = 0", {"TiltAngle": -3, "Defocus": -0.05})]))
    assert (log.frames[0].tilt_deg, log.frames[0].defocus_nm, log.header["axis_deg"]) == (-3, -50, 85.3)


YAML = "energy_keV: 300\naperture_mrad: 19.5\nCs_mm: 0.001\n"


def test_a_microscope_from_its_file(tmp_path):
    path = write_table(tmp_path / "m.yaml", YAML + "elements: [Pt, Au]\npixel_A: 0.42\n"
                       "mtf: {cycles_per_pixel: [0, 0.25, 0.5], mtf: [1, 0.7, 0.4]}\n")
    scope = read_microscope(path, {"energy_keV": 200.0, "Cs_mm": 0.001})
    assert scope.spec.energy_keV == 300 and scope.pixel_A == 0.42 and scope.elements == ("Pt", "Au")
    assert scope.spec.aperture_per_A == pytest.approx(19.5e-3 / 0.0196875, rel=1e-5)  # λ of 300 keV: 1.96875 pm
    np.testing.assert_array_equal(scope.mtf.mtf, [1, 0.7, 0.4])
    assert f"energy_keV 300 from {path} is used; the headers say 200" in scope.notes[0]
    assert read_microscope(path, {}, ("Cu",)).elements == ("Cu",)
    nested = write_table(tmp_path / "n.yaml", "microscope: {energy_keV: 80, mtf_half: 0.5}\nelements: C N\n")
    assert read_microscope(nested, {}).spec.mtf_half == 0.5 and read_microscope(nested, {}).elements == ("C", "N")


@pytest.mark.parametrize(("text", "reason"), [
    ("Cs_mm: 1", "energy_keV is missing, and no header gives it"),
    (YAML + "Cs: 1", "microscope.Cs=1 is not a setting"),
    (YAML + "aperture_per_A: 1", "give aperture_mrad or aperture_per_A"),
    ("energy_keV: many", "microscope.energy_keV='many' cannot be used"),
    ("energy_keV: 5", "energy_keV"),
    (YAML + "mtf: 0.5", "mtf: wanted the lists"),
    (YAML + "mtf: {cycles_per_pixel: [0, 0.4], mtf: [1, 0.5]}", "rise from 0 to at least 0.5"),
    (YAML + "mtf: {cycles_per_pixel: [0, 0.5], mtf: [1, 2]}", r"lie in \(0, 1\]"),
    (YAML + "mtf: {cycles_per_pixel: [0, 0.5], mtf: [1, x]}", "mtf: "),
    (YAML + "mtf: {cycles_per_pixel: [0, 0.5], mtf: [1]}", "two lists of one length"),
    (YAML + "mtf_half: 0.5\nmtf: {cycles_per_pixel: [0, 0.5], mtf: [1, 0.5]}", "as a table or mtf_half"),
    (YAML + "elements: [Xx]", "'Xx' is no chemical symbol"),
    (YAML + "pixel_A: -1", "wanted a number greater than 0"),
    ("- a list", "holds no settings"),
    ("a: [", "cannot be read"),
    ("!!python/object/apply:os.system [ls]", "cannot be read"),
])
def test_a_wrong_microscope_ends_in_one_line(tmp_path, text, reason):
    with pytest.raises(SeriesError, match=reason) as problem:
        read_microscope(write_table(tmp_path / "m.yaml", text), {})
    assert "\n" not in str(problem.value)
