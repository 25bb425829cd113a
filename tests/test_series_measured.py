"""Measured images from the files of a camera to traced atoms, by the commands that users type."""

from __future__ import annotations

import csv
import json
import re
import shlex
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase
import ase.cluster
import ase.io
import numpy as np
import pytest

import aetlab
from aetlab import flow, keeper
from aetlab.cli.compose import compose_spec
from aetlab.cli.estimates import print_estimates
from aetlab.cli.measured_series import main
from aetlab.core.errors import SeriesError
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward.imaging import transfer_function
from aetlab.series.imported import ImportedSeries, bind_measured, read_imported, write_imported
from aetlab.series.microscope import Microscope, MtfTable
from aetlab.series.prepare import PrepareSpec
from aetlab.spec import MicroscopeSpec, SpecError
from aetlab.store.record import Places, Record, array_names, read_array
from tests.conftest import Once
from tests.series_files import write_mrc

GAIN = 20.0
MICROSCOPE = "energy_keV: 300\naperture_per_A: 1.0\n"


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Atoms]:
    """A folder with a stack of counts (MRC, rows upwards), its table and microscope; and the true atoms."""
    folder = tmp_path_factory.mktemp("laboratory")
    particle = ase.cluster.Octahedron("Pt", 5, cutoff=1)
    particle.rotate(20, (1, 2, 3))
    ase.io.write(folder / "particle.xyz", particle)
    spec = aetlab.settings(scale="smoke", sample="file", dose="50k", overrides={
        "sample.path": str(folder / "particle.xyz"), "scale.shape_zxy": [40, 60, 56], "tilts.start_deg": -70,
        "tilts.stop_deg": 70, "tilts.step_deg": 5, "defocus.planes_nm": [-30, -50], "dose.total_e_A2": 2e5,
        "simulate.n_layers": 2})
    atoms = aetlab.sample(spec)
    series = aetlab.simulate(spec, atoms)
    counts = np.rint(series.images * series.mean_electrons_per_pixel * GAIN).astype("<i2")
    order = np.argsort(np.abs(series.tilt_deg), kind="stable")
    stack = counts[order].reshape(-1, *counts.shape[2:]).transpose(0, 2, 1)
    n, n_y, n_x = stack.shape
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, n_x, n_y, n, 1, 0, 0, 0, n_x, n_y, n)
    struct.pack_into("<6f", header, 40, n_x * 0.5, n_y * 0.5, n * 0.5, 90, 90, 90)
    struct.pack_into("<3i3f", header, 64, 1, 2, 3, stack.min(), stack.max(), stack.mean())
    header[208:212], header[212:216] = b"MAP ", bytes([0x44, 0x44, 0, 0])
    (folder / "pt.mrc").write_bytes(bytes(header) + np.ascontiguousarray(stack).tobytes())
    dose_e_A2 = flow.electrons_per_pixel(spec) / 0.25
    rows = [f"{series.tilt_deg[i]:g},{series.defocus_A[i, j] / 10:g},{dose_e_A2:.6g}" for i in order for j in range(2)]
    (folder / "pt.csv").write_text("tilt_deg,defocus_nm,dose_e_A2\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (folder / "titan.yaml").write_text(MICROSCOPE, encoding="utf-8")
    return folder, atoms


@pytest.fixture(scope="module")
def series_file(laboratory: tuple[Path, Atoms], once: Once) -> Path:
    """The imported series; tests must not change it."""

    def fill(place: Path) -> str:
        folder = laboratory[0]
        assert main(["import", str(folder / "pt.mrc"), "--table", str(folder / "pt.csv"), "--microscope",
                     str(folder / "titan.yaml"), "--elements", "Pt", "--to", str(place / "pt.series.h5"),
                     "--no-bound"]) == 0
        return "imported"

    return once("measured_series", fill)[0] / "pt.series.h5"


@pytest.fixture(scope="module")
def made(series_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    spec = compose_spec(["data=measured", f"data.path={series_file}", "engine.n_iterations=15", "reg=tv", "binning=4"])
    return keeper.run(spec, places=Places(tmp_path_factory.mktemp("outputs"))).record


def test_import_orders_and_normalises_the_counts(series_file: Path) -> None:
    imported = read_imported(series_file)
    series = imported.series
    np.testing.assert_allclose(series.tilt_deg, np.arange(-70, 71, 5))
    np.testing.assert_allclose(series.defocus_A, np.tile([-500.0, -300.0], (29, 1)))
    assert series.pixel_A == 0.5 and imported.microscope.energy_keV == 300 and imported.elements == ("Pt",)
    # 2e5 e/Å² over 58 images and 0.25 Å² a pixel.
    assert series.mean_electrons_per_pixel == pytest.approx(2e5 / 58 * 0.25, rel=0.05)
    corner = series.images[:, :, :6, :6]
    assert corner.mean() == pytest.approx(1, abs=0.01)
    assert abs(imported.axis_deg) < 1
    assert set(imported.provenance["files"]) == {"pt.mrc", "pt.csv", "titan.yaml"}
    assert {step["name"] for step in imported.provenance["steps"]} >= {"bad pixels", "vacuum", "tilt axis", "shifts"}


def test_images_of_a_small_particle_stay_in_the_field_while_its_axis_is_searched(tmp_path: Path) -> None:
    """55 atoms in 64 x 64 pixels, one image blank: turned by wrong angles, images drove each other out of the field."""
    ase.io.write(tmp_path / "au.xyz", ase.cluster.Icosahedron("Au", 3))
    spec = aetlab.settings(scale="smoke", sample="file", dose="50k", tilts="-70:70:7", defocus=[-30, 40], overrides={
        "sample.path": str(tmp_path / "au.xyz"), "scale.shape_zxy": [64, 64, 64]})
    series = aetlab.simulate(spec, aetlab.sample(spec))
    counts = np.rint(series.images * series.mean_electrons_per_pixel * 7).reshape(-1, 64, 64)
    order = np.random.default_rng(1).permutation(42)
    counts[order[7]] = 0
    write_mrc(tmp_path / "au.mrc", counts[order])
    rows = [f"{series.tilt_deg[i // 2]:g},{(-30, 40)[i % 2]}" for i in order]
    (tmp_path / "au.csv").write_text("tilt_deg,defocus_nm\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "titan.yaml").write_text("energy_keV: 300\naperture_mrad: 19.7\n", encoding="utf-8")
    main(["import", str(tmp_path / "au.mrc"), "--table", str(tmp_path / "au.csv"), "--microscope", str(
        tmp_path / "titan.yaml"), "--elements", "Au", "--to", str(tmp_path / "au.series.h5"), "--no-bound"])
    imported = read_imported(tmp_path / "au.series.h5")
    verdicts = {step["name"]: step["verdict"] for step in imported.provenance["steps"]}
    # So few atoms may leave the direction open. A wrong one (66.1° with 2.7 standard errors) must not be believed.
    assert verdicts["tilt axis"] == "cannot be used" or abs(imported.axis_deg) < 5
    assert verdicts["shifts"] == "ok"


def test_some_rows_of_a_series_are_read_by_the_public_functions(series_file: Path) -> None:
    whole, rows = aetlab.read_imported(series_file).series, np.array([3, 20, 21])
    np.testing.assert_array_equal(aetlab.read_series(series_file, rows=rows).images, whole.images[..., rows])
    np.testing.assert_array_equal(aetlab.read_imported(series_file, rows).series.images, whole.images[..., rows])
    with pytest.raises(aetlab.AetlabError, match="rows is 3 "):
        aetlab.read_series(series_file, rows=3)


@pytest.mark.parametrize("name", ["pt.mrc", "pt.csv"])
def test_a_file_of_a_microscope_in_place_of_a_series_is_refused_in_one_line(name: str,
                                                                            laboratory: tuple[Path, Atoms]) -> None:
    path = laboratory[0] / name
    with pytest.raises(SpecError, match=rf"^data.path='{re.escape(str(path))}' cannot be used: .*is no tilt series"):
        compose_spec(["data=measured", f"data.path={path}"])


def test_a_measured_series_becomes_atoms_without_a_truth(made: Record, laboratory: tuple[Path, Atoms]) -> None:
    atoms = laboratory[1]
    assert made.spec.data.kind == "measured" and len(made.spec.data.digest) == 64
    assert made.spec.scale.shape_zxy[1:] == (60, 56) and made.spec.scale.voxel_A == 0.5
    assert made.spec.tilts.angles_deg is not None and len(made.spec.tilts.angles_deg) == 29
    assert not [name for name in array_names(made) if name.startswith(("truth/", "match/", "views/"))]
    assert "position_error_pm" not in made.metrics and made.metrics["final_cost"] > 0
    traced = read_array(made, "traced/positions_A").values
    assert set(read_array(made, "traced/numbers").values) <= {78}
    # The sample lies anywhere: distances between atoms do not depend on that.
    assert abs(len(traced) - len(atoms)) <= 0.1 * len(atoms)
    nearest = np.sort(np.linalg.norm(traced[:, None] - traced[None], axis=2), axis=1)[:, 1]
    true_nearest = np.sort(np.linalg.norm(atoms.positions_A[:, None] - atoms.positions_A[None], axis=2), axis=1)[:, 1]
    assert np.median(nearest) == pytest.approx(np.median(true_nearest), rel=0.03)


@pytest.mark.parametrize("tiles", [(), ("tile.n=2", "tile.halo_A=4")])
def test_the_time_of_a_measured_run_is_estimated_with_atoms_of_its_size(tiles: tuple[str, ...], series_file: Path,
                                                                        tmp_path: Path, capsys) -> None:
    words = ["data=measured", f"data.path={series_file}", "reg=tv", "binning=4", "refine=atoms", f"outputs={tmp_path}"]
    print_estimates([*words, *tiles], multirun=False, config_dir=None)
    said = capsys.readouterr().out
    found = re.search(r"some (\d+) atoms, needs about 0\.\d\d GB and [\d.]+ \w+ on the CPU \((.*); by a short", said)
    # The octahedron has 79 atoms and is 12.4 Å wide; the stand-in is a sphere in the depth of the volume.
    assert found is not None and 79 < int(found[1]) < 400
    stages = [part.rsplit(" ", 2)[0] for part in found[2].split(", ")]
    assert stages == (["cut"] if tiles else []) + ["reconstruct", "trace"] + (["join"] if tiles else []) + [
        "refine", "validate"]
    assert "1 runs, 0 of them complete: " in said and not list(tmp_path.iterdir())


def test_a_measured_series_is_cut_into_tiles(made: Record, series_file: Path, tmp_path: Path) -> None:
    """Halos of 4 Å instead of the 16 Å by the rule, with which two tiles of this particle would save no rows."""
    words = ["data=measured", f"data.path={series_file}", "engine.n_iterations=15", "reg=tv", "binning=4"]
    spec = compose_spec([*words, "tile.n=2", "tile.halo_A=4"])
    joined = keeper.run(spec, places=Places(tmp_path)).record
    one_A, other_A = (read_array(record, "traced/positions_A").values for record in (made, joined))
    distance_A = np.linalg.norm(one_A[:, None] - other_A[None], axis=2)
    assert (distance_A.min(axis=1) < 0.3).mean() > 0.9 and (distance_A.min(axis=0) < 0.3).mean() > 0.9
    assert (np.sort(np.linalg.norm(other_A[:, None] - other_A[None], axis=2), axis=1)[:, 1] > 1.5).all()
    one, other = (record.metrics["r_factor_volume"] for record in (made, joined))
    assert other == pytest.approx(one, rel=0.1)
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 1


def test_a_measured_run_is_found_again_by_the_content_of_its_file(made: Record, series_file: Path,
                                                                  tmp_path: Path) -> None:
    copy = tmp_path / "other.series.h5"
    copy.write_bytes(series_file.read_bytes())
    spec = compose_spec(["data=measured", f"data.path={copy}", "engine.n_iterations=15", "reg=tv", "binning=4"])
    again = keeper.run(spec, places=Places(made.folder.parents[1]))
    assert again.status == "skipped" and again.record.id == made.id
    copy.write_bytes(series_file.read_bytes() + b" ")
    with pytest.raises(SpecError, match="has changed since the settings were bound"):
        keeper.run(spec, places=Places(tmp_path / "outputs"))


@pytest.mark.parametrize(("words", "complaint"), [
    (["tilts=60"], "tilts cannot be set with data=measured"),
    (["scale.voxel_A=0.4"], "scale.voxel_A cannot be set with data=measured"),
    (["dose=7k"], "dose cannot be set with data=measured"),
    (["sample.elements=[Xy]"], "sample.elements='Xy' cannot be used"),
    (["data.depth_A=-1"], "data.depth_A=-1.0 cannot be used"),
    (["binning=64"], "binning.n_layers=64 cannot be used: the volume of scale=measured has only"),
    (["binning=97"], "binning.n_layers=97 cannot be used: the volume of scale=measured has only"),  # small has 96
    (["scale=fit"], "scale cannot be set with data=measured"),
    (["wedge=179"], "wedge cannot be set with data=measured"),
    (["tilts=60", "data.path=nothing.h5"], "tilts cannot be set with data=measured"),
])
def test_settings_that_a_series_brings_are_refused(series_file: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(SpecError) as refused:
        compose_spec(["data=measured", f"data.path={series_file}", *words])
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


def test_a_measured_run_needs_a_series_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="data.path='' cannot be used"):
        compose_spec(["data=measured"])
    with pytest.raises(aetlab.AetlabError, match="nothing.h5 cannot be read: No such file"):
        compose_spec(["data=measured", f"data.path={tmp_path / 'nothing.h5'}"])
    with pytest.raises(SpecError, match="data.path='a.h5' cannot be used"):
        compose_spec(["data.path=a.h5"])


def small_series() -> ImportedSeries:
    rng = np.random.default_rng(0)
    weight = np.ones((3, 2))
    weight[1, 1] = 0
    series = TiltSeries(rng.uniform(0.5, 1.5, (3, 2, 10, 12)).astype(np.float32), np.array([-10.0, 0, 10]),
                        np.array([-200.0, 100.0]), 0.4, 50.0, weight)
    poses = Poses.nominal(series.tilt_deg, 2)
    return ImportedSeries(series, poses, MicroscopeSpec(energy_keV=200.0, dqe=0.5),
                          MtfTable(np.array([0, 0.25, 0.5]), np.array([1, 0.8, 0.4])), (), 1.5, 1.3, {"files": {}})


def test_a_series_file_gives_back_what_was_written(tmp_path: Path) -> None:
    imported = small_series()
    write_imported(tmp_path / "a.h5", imported)
    back = read_imported(tmp_path / "a.h5")
    assert back.series.digest() == imported.series.digest() and back.microscope == imported.microscope
    assert back.mtf is not None and back.mtf.mtf.tolist() == [1, 0.8, 0.4]
    assert (back.axis_deg, back.radius_A, back.elements, back.provenance) == (1.5, 1.3, (), {"files": {}})
    np.testing.assert_array_equal(back.poses.turn_deg, imported.poses.turn_deg)
    assert aetlab.read_series(tmp_path / "a.h5").digest() == imported.series.digest()


def test_settings_are_bound_to_the_series(tmp_path: Path) -> None:
    write_imported(tmp_path / "a.h5", small_series())
    plain = aetlab.settings(scale="smoke", binning=1, data="simulated")
    with pytest.raises(SpecError, match="name the elements that the sample may hold"):
        bind_measured(aetlab.settings(binning=1, data="measured", overrides={"data.path": str(tmp_path / "a.h5")}))
    with pytest.raises(SpecError, match="tilts cannot be set with data=measured"):
        aetlab.settings(tilts=60, data="measured", overrides={"data.path": str(tmp_path / "a.h5")})
    bound = aetlab.bind_measured(aetlab.settings(binning=1, data="measured", overrides={
        "data.path": str(tmp_path / "a.h5"), "sample.elements": ["Cu", "Au"]}))
    # 2 (1.3 + 4) Å of 0.4 Å, rounded up to an even number.
    assert bound.scale.shape_zxy == (10, 10, 12) and bound.scale.voxel_A == 0.4
    assert bound.defocus.planes_nm == (-20.0, 10.0) and bound.microscope.energy_keV == 200
    # Five images of 50 electrons a pixel of 0.16 Å² at a DQE of 0.5.
    assert bound.dose.total_e_A2 == pytest.approx(5 * 50 / 0.16 / 0.5)
    assert flow.elements(bound) == (29, 79) and bind_measured(plain) == plain


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: content[:2000], lambda content: content.replace(b"version", b"vers\xffon"),
    lambda content: content.replace(b'"version": 2', b'"version": 7'),
    lambda content: content.replace(b"cycles_per_pixel", b"cycles_per_pixle"),
])
def test_a_damaged_series_file_ends_in_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.h5"
    write_imported(path, small_series())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(aetlab.AetlabError) as refused:
        read_imported(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_init_writes_a_table_to_fill_in_and_overwrites_nothing(laboratory: tuple[Path, Atoms], tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pt.mrc").write_bytes((laboratory[0] / "pt.mrc").read_bytes())
    assert main(["init", str(tmp_path)]) == 0
    lines = (tmp_path / "series.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "file,frame,tilt_deg,defocus_nm,dose_e_A2,exclude"
    assert lines[2] == "pt.mrc,0,,,," and len(lines) == 2 + 58
    assert "python -m aetlab.series import" in capsys.readouterr().out
    assert main(["init", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "none")]) == 2


def test_init_leaves_out_what_it_cannot_read_and_quotes_names(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "day 1, Größe"
    folder.mkdir()
    (folder / "cut.mrc").write_bytes(b"no header")
    np.save(folder / "pt, near.npy", np.zeros((2, 8, 9)))
    assert main(["init", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"left out: {folder / 'cut.mrc'} is no MRC file" in out
    words = shlex.split(out[out.index("python -m"):])
    assert words[4] == str(folder / "pt, near.npy") and words[-1] == str(folder / "measured.series.h5")
    table = (folder / "series.csv").read_text(encoding="utf-8").splitlines()
    assert list(csv.reader(table[2:])) == [["pt, near.npy", str(k), "", "", "", ""] for k in (0, 1)]


def test_show_prints_how_a_series_was_made(series_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(series_file)]) == 0
    said = capsys.readouterr().out
    assert "58 of 58 images, 29 tilts from -70 to 70°" in said and "bad pixels: " in said
    assert json.dumps(said).count("Traceback") == 0


@pytest.mark.parametrize(("words", "complaint"), [
    (["--set", "axis_deg"], "write KEY=VALUE"),
    (["--set", "axes=3"], "prepare.axes=3 is not a setting"),
    (["--set", "vacuum=guess"], "prepare.vacuum='guess' cannot be used"),
    (["--set", "bad_frames=yes"], "prepare.bad_frames='yes' cannot be used: choose one of find, keep"),
    (["--set", "size=[1"], "--set size=[1 cannot be used: '[1' is no number, text or list"),
    (["--elements", "Xy"], "'Xy' is no chemical symbol"),
])
def test_bad_words_of_an_import_end_in_one_line(laboratory: tuple[Path, Atoms], tmp_path: Path, words: list[str],
                                                complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = laboratory[0]
    assert main(["import", str(folder / "pt.mrc"), "--table", str(folder / "pt.csv"), "--microscope",
                 str(folder / "titan.yaml"), "--to", str(tmp_path / "a.h5"), *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and not (tmp_path / "a.h5").exists()


def test_series_errors_are_errors_of_aetlab() -> None:
    assert issubclass(SeriesError, aetlab.AetlabError)


@pytest.mark.parametrize(("axis_deg", "sense"), [(0.0, "right"), (90.0, "right"), (0.0, "left")])
def test_a_chiral_sample_keeps_its_hand_from_the_file_to_the_series(axis_deg: float, sense: str,
                                                                   tmp_path: Path) -> None:
    # Four balls without a mirror plane, projected as docs/conventions.md says: x' = x cos t + z sin t.
    balls = np.array([[8.0, 2.0, 0.0], [-3.0, 9.0, 4.0], [0.0, -7.0, 9.0], [-6.0, -4.0, -8.0]])
    tilt_deg, n = np.arange(-60.0, 61, 10), 64
    x = np.arange(n) - (n - 1) / 2

    def project(points: np.ndarray, t: float, turn: float) -> np.ndarray:
        p = np.stack([points[:, 0] * np.cos(t) + points[:, 2] * np.sin(t), points[:, 1]], 1) @ np.array(
            [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        return 1 - 0.4 * sum(np.exp(-((x[:, None] - a) ** 2 + (x - b) ** 2) / 8) for a, b in p)

    sign = -1 if sense == "left" else 1
    rng = np.random.default_rng(0)
    turn = np.deg2rad(axis_deg)
    images = np.stack([rng.poisson(20000 * project(balls, np.deg2rad(sign * t), turn)) for t in tilt_deg])
    np.save(tmp_path / "a.npy", images.transpose(0, 2, 1).astype(np.int16))
    (tmp_path / "a.csv").write_text("tilt_deg,defocus_nm,dose_e_A2\n" + "".join(f"{t},-20,80000\n" for t in tilt_deg))
    (tmp_path / "m.yaml").write_text(f"energy_keV: 300\npixel_A: 0.5\naxis_deg: {axis_deg}\nsense: {sense}\n"
                                     "A1_nm: 0.1\nA1_deg: 100\n")
    imported = aetlab.import_files([tmp_path / "a.npy"], table=tmp_path / "a.csv", microscope=tmp_path / "m.yaml",
                                 settings=PrepareSpec(axis="given", bad_frames="keep", bad_pixels="keep",
                                                      shifts="keep"))
    series = imported.series
    assert imported.microscope.A1_deg == pytest.approx(100 - axis_deg)  # as the images were rotated

    def agreement(points: np.ndarray) -> float:
        wanted = np.stack([project(points, np.deg2rad(t), 0.0) for t in series.tilt_deg])
        spectra = np.fft.fft2(series.images[:, 0] - 1) * np.fft.fft2(wanted - 1).conj()
        return float(np.fft.ifft2(spectra.sum(axis=0)).real.max() / (np.linalg.norm(series.images[:, 0] - 1)
                                                                     * np.linalg.norm(wanted - 1)))

    assert agreement(balls) > 0.9 > 0.75 > agreement(balls * [1, 1, -1])


def test_aberrations_turn_with_the_images() -> None:
    spec = MicroscopeSpec(A1_nm=4.0, A1_deg=25.0, B2_nm=60.0, B2_deg=190.0)
    turned = Microscope(spec).turned(90.0).spec
    before, after = (np.fft.fftshift(transfer_function((31, 31), 0.5, lens, 100.0)) for lens in (spec, turned))
    np.testing.assert_allclose(after, before[:, ::-1].T, atol=1e-12)  # (x, y) becomes (-y, x)
    assert turned.A2_deg == 0 and turned.B2_deg == 280


@pytest.mark.parametrize(("stated", "hand"), [("not given", "choose"), ("left", "compare")])
def test_the_images_choose_the_hand_only_where_the_series_does_not_state_its_sense(stated: str, hand: str) -> None:
    imported = replace(small_series(), provenance={"steps": [{"name": "sense of the tilt", "setting": stated}]})
    settings = aetlab.settings(data="measured", refine="atoms",
                               overrides={"data.path": "x.h5", "sample.elements": ["Pt"]})
    assert imported.bind(settings, "0" * 64).refine.hand == hand
    fixed = replace(settings, refine=replace(settings.refine, hand="none"))
    assert imported.bind(fixed, "0" * 64).refine.hand == "none"


def test_a_step_that_the_import_called_unusable_is_named_again() -> None:
    axis = {"name": "tilt axis", "setting": "find", "verdict": "cannot be used", "line": "no direction stands out"}
    imported = replace(small_series(), provenance={"steps": [axis, axis | {"verdict": "look"}]})
    assert imported.unusable == ["tilt axis cannot be used: no direction stands out"]
