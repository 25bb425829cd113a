"""Files for other programs, and the command line for volumes from other programs."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import os
import struct
from pathlib import Path

import ase.io
import h5py
import mrcfile
import numpy as np
import pytest

from aetlab.cli.trace_volume import main, scale_lengths
from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Volume
from aetlab.exchange.atom_files import list_columns, write_csv, write_xyz
from aetlab.exchange.mrc import read_mrc, write_mrc
from aetlab.exchange.volume_files import FileError, read_volume
from aetlab.spec import SpecError, TraceSpec
from aetlab.tracing import trace_atoms
from tests.trace_volumes import VOXEL_A, as_volume, draw_volume, place_sites

SHAPE = (24, 28, 34)


@pytest.fixture(scope="module")
def potential_V():
    return draw_volume(place_sites(60, SHAPE, np.random.default_rng(1)), SHAPE)


@pytest.fixture(scope="module")
def traced(potential_V):
    return trace_atoms(as_volume(potential_V), TraceSpec(), (8, 14))


def test_xyz_is_read_by_ase_with_all_columns(traced, tmp_path):
    write_xyz(tmp_path / "atoms.xyz", traced, box_A=(14.0, 17.0, 12.0))
    atoms = ase.io.read(tmp_path / "atoms.xyz")
    np.testing.assert_allclose(atoms.positions, traced.positions_A, atol=1e-5)
    np.testing.assert_array_equal(atoms.numbers, traced.numbers)
    np.testing.assert_allclose(atoms.cell.lengths(), [14.0, 17.0, 12.0])
    assert not atoms.pbc.any()
    columns = list_columns(traced)
    assert {"intensity_V", "width_A", "signal_V_voxel", "x_error_A", "intensity_error_V", "probability", "flag",
            "not_atom_probability", "probability_Si", "probability_O"} <= set(columns)
    for name, values in columns.items():
        np.testing.assert_allclose(atoms.arrays[name], values, rtol=1e-5, atol=1e-12)


def test_csv_holds_one_atom_a_line(traced, tmp_path):
    write_csv(tmp_path / "atoms.csv", traced)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "atoms.csv").read_text())))
    assert len(rows) == len(traced)
    assert [row["species"] for row in rows] == [{8: "O", 14: "Si"}[n] for n in traced.numbers]
    np.testing.assert_allclose([float(row["z_A"]) for row in rows], traced.positions_A[:, 2], atol=1e-5)
    assert set(rows[0]) == {"species", "x_A", "y_A", "z_A", *list_columns(traced)}


def test_an_empty_list_of_atoms_can_be_written(tmp_path):
    nothing = trace_atoms(as_volume(np.zeros((8, 10, 12), dtype=np.float32)), TraceSpec(), (8, 14))
    write_xyz(tmp_path / "none.xyz", nothing)
    write_csv(tmp_path / "none.csv", nothing)
    assert (tmp_path / "none.xyz").read_text().startswith("0\n")
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 1


def test_mrc_files_are_valid_and_agree_with_mrcfile(potential_V, tmp_path):
    path = tmp_path / "volume.mrc"
    write_mrc(path, as_volume(potential_V))
    assert mrcfile.validate(path, print_file=io.StringIO())
    with mrcfile.open(path) as file:
        # mrcfile gives (z, y, x).
        np.testing.assert_array_equal(file.data, potential_V.transpose(0, 2, 1))
        assert file.voxel_size.x == file.voxel_size.y == file.voxel_size.z == np.float32(VOXEL_A)
        origin = [file.header.origin[axis] for axis in "xyz"]
        np.testing.assert_allclose(origin, [coordinates_A(n, VOXEL_A)[0] for n in (SHAPE[1], SHAPE[2], SHAPE[0])])
        assert file.header.dmax == potential_V.max()
        assert file.header.dmean == pytest.approx(potential_V.mean(), rel=1e-5)
        assert file.header.rms == pytest.approx(potential_V.std(), rel=1e-5)
    header = path.read_bytes()[:1024]  # by the bytes of MRC2014, table 1
    n_z, n_x, n_y = SHAPE
    assert struct.unpack("<10i", header[:40]) == (n_x, n_y, n_z, 2, 0, 0, 0, n_x, n_y, n_z)
    assert struct.unpack("<3f3f3i", header[40:76]) == (n_x / 2, n_y / 2, n_z / 2, 90, 90, 90, 1, 2, 3)
    assert (struct.unpack("<2i", header[88:96]), header[208:214]) == ((1, 0), b"MAP DD")
    assert struct.unpack("<i", header[220:224]) == (1,) and header[224:242] == b"aetlab: electrosta"
    array, voxel_A = read_mrc(path)
    np.testing.assert_array_equal(array, potential_V)
    assert voxel_A == VOXEL_A


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32", "float16"])
def test_mrc_files_of_others_are_read(potential_V, tmp_path, dtype):
    path = tmp_path / "other.mrc"
    data = (potential_V / 4).astype(dtype).transpose(0, 2, 1)
    with mrcfile.new(path) as file:
        file.set_data(np.ascontiguousarray(data))
        file.voxel_size = 0.75
    array, voxel_A = read_mrc(path)
    np.testing.assert_array_equal(array, data.transpose(0, 2, 1).astype(np.float32))
    assert voxel_A == pytest.approx(0.75)


def test_mrc_axes_extended_header_and_byte_order_are_obeyed(potential_V, tmp_path):
    whole = tmp_path / "whole.mrc"
    write_mrc(whole, as_volume(potential_V))
    raw = bytearray(whole.read_bytes())
    # The same volume with y slowest, z in the middle and x fastest, big endian, after an extended header.
    n_z, n_x, n_y = potential_V.shape
    words = struct.unpack("<10i6f3i3f2i", raw[:96])
    head = struct.pack(">10i6f3i3f2i", n_x, n_z, n_y, *words[3:7], n_x, n_y, n_z, *words[10:16], 1, 3, 2, *words[19:23],
                       160)
    other = tmp_path / "other.map"
    other.write_bytes(head + bytes(raw[96:1024]) + bytes(160) + potential_V.transpose(2, 0, 1).astype(">f4").tobytes())
    array, voxel_A = read_mrc(other)
    np.testing.assert_array_equal(array, potential_V)
    assert voxel_A == VOXEL_A


@pytest.mark.parametrize("change, found, why", [
    (lambda v: v, True, None), (lambda v: v + 500, None, "background is 5"), (lambda v: -v, False, "change the sign"),
    (lambda v: v + 0.08 * v.max(), None, "background is about"),
    (lambda v: v + v.max() * np.linspace(0, 0.25, v.shape[0])[:, None, None], None, "background varies from"),
    (lambda v: 1e-6 * v - 3, None, "subtract the background"), (lambda v: np.zeros_like(v), False, "voxels are 0"),
])
def test_a_volume_without_atoms_says_why(potential_V, tmp_path, capsys, change, found, why):
    zyx = np.ascontiguousarray(change(potential_V).transpose(0, 2, 1))
    np.save(tmp_path / "own.npy", zyx)
    status = main([str(tmp_path / "own.npy"), "--voxel-A", "0.5", "--min-intensity", "30"])
    said = capsys.readouterr()
    if found is not None:
        assert status == (0 if found else 1)
    assert (why in said.err) if why else not said.err
    if status:
        assert "no atoms were found" in said.err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_hide_no_other_atom(potential_V, traced, tmp_path, capsys, value):
    hollow = potential_V.copy()
    hollow[:6] = value
    np.save(tmp_path / "own.npy", hollow.transpose(0, 2, 1))
    words = ["--voxel-A", "0.5", "--elements", "Si,O", "--min-intensity", "30"]
    assert main([str(tmp_path / "own.npy"), *words]) == 0
    said = capsys.readouterr().err
    assert "own.npy: 5712 of 22848 voxels (25 %) are not finite: they are missing data" in said
    assert said.count("\n") == 1
    far_A = traced.positions_A[traced.positions_A[:, 2] > (10 - (SHAPE[0] - 1) / 2) * VOXEL_A]
    found_A = ase.io.read(tmp_path / "own.atoms.xyz").positions
    assert max(np.linalg.norm(found_A - place, axis=1).min() for place in far_A) < 0.02


def test_a_hot_voxel_is_named(potential_V, tmp_path, capsys):
    hot = potential_V.copy()
    hot[3, 4, 5] = 1e6
    np.save(tmp_path / "hot.npy", hot.transpose(0, 2, 1))
    assert main([str(tmp_path / "hot.npy"), "--voxel-A", "0.5"]) == 1
    said = capsys.readouterr().err
    assert "voxel (3, 4, 5)" in said and "--min-intensity" in said
    # With the lowest peak given, all atoms are found: the voxel is too narrow to be one.
    assert main([str(tmp_path / "hot.npy"), "--voxel-A", "0.5", "--min-intensity", "30"]) == 0


def test_removed_sites_and_names_are_in_the_summary(potential_V, tmp_path, capsys):
    np.save(tmp_path / "own.npy", potential_V.transpose(0, 2, 1))
    assert main([str(tmp_path / "own.npy"), "--voxel-A", "0.5", "--elements", "C,O,Si", "--min-intensity", "30"]) == 0
    said = capsys.readouterr().out
    assert "candidates; removed: " in said and "names are below a probability of 0.9" in said
    assert main([str(tmp_path / "own.npy"), "--voxel-A", "0.5", "--elements", "X,Si"]) == 2


def broken_mrc(raw, problem):
    changed = bytearray(raw)
    if problem == "short":
        return bytes(raw[:100])
    if problem == "cut off":
        return bytes(raw[:-4])
    if problem == "mode 4":
        changed[12:16] = struct.pack("<i", 4)
    if problem == "makes no sense":
        changed[64:76] = struct.pack("<3i", 1, 1, 3)
    if problem == "must be cubes":
        changed[40:44] = struct.pack("<f", 99.0)
    return bytes(changed)


@pytest.mark.parametrize("problem", ["short", "cut off", "mode 4", "makes no sense", "must be cubes"])
def test_broken_mrc_files_are_refused(potential_V, tmp_path, problem):
    path = tmp_path / "broken.mrc"
    write_mrc(path, as_volume(potential_V))
    path.write_bytes(broken_mrc(path.read_bytes(), problem))
    with pytest.raises(FileError, match=problem):
        read_volume(path)


def write_any(path, potential_V):
    """Write the volume as other programs store it; return the options that reading it needs."""
    zyx = np.ascontiguousarray(potential_V.transpose(0, 2, 1))
    if path.suffix == ".mrc":
        write_mrc(path, as_volume(potential_V))
        return []
    if path.suffix == ".npy":
        np.save(path, zyx)
        return ["--voxel-A", "0.5"]
    with h5py.File(path, "w") as file:
        file["other/table"] = np.zeros((4, 5))
        file["other/volume"] = zyx
    return ["--voxel-A", "0.5"]


@pytest.mark.parametrize("name", ["v.mrc", "v.npy", "v.h5"])
def test_command_line_traces_volumes_of_others(potential_V, traced, tmp_path, capsys, name):
    words = write_any(tmp_path / name, potential_V)
    assert main([str(tmp_path / name), *words, "--elements", "Si,O", "--min-intensity", "30"]) == 0
    atoms = ase.io.read(tmp_path / "v.atoms.xyz")
    np.testing.assert_allclose(atoms.positions, traced.positions_A, atol=2e-5)
    np.testing.assert_array_equal(atoms.numbers, traced.numbers)
    assert (tmp_path / "v.atoms.csv").is_file()
    told = capsys.readouterr().out
    assert f"{len(traced)} atoms" in told and "round 1 of" in told


def test_command_line_needs_neither_elements_nor_unit(potential_V, traced, tmp_path):
    np.save(tmp_path / "v.npy", potential_V.transpose(2, 0, 1) * 1e-3)
    words = [str(tmp_path / "v.npy"), "--voxel-A", "0.5", "--axes", "yzx", "--out", str(tmp_path / "o"), "--mrc"]
    assert main(words) == 0
    atoms = ase.io.read(tmp_path / "o.atoms.xyz")
    assert set(atoms.get_chemical_symbols()) == {"X"}
    np.testing.assert_array_equal(read_mrc(tmp_path / "o.volume.mrc")[0], (potential_V * 1e-3).astype(np.float32))
    np.testing.assert_allclose(atoms.positions, traced.positions_A, atol=1e-3)


def fail(*_: object, **__: object) -> None:
    raise AssertionError("the volume was read or traced before the results were checked")


def test_results_never_replace_the_volume_nor_files_that_are_there(potential_V, tmp_path, capsys, monkeypatch):
    """p.mrc and p.npy share the names of their results; tracing q.volume.mrc with --out q --mrc would rewrite it."""
    own, other = tmp_path / "q.volume.mrc", tmp_path / "q.npy"
    write_mrc(own, as_volume(potential_V))
    np.save(other, potential_V.transpose(0, 2, 1))
    content = own.read_bytes()
    (tmp_path / "q.atoms.csv").write_text("mine")
    monkeypatch.setattr("aetlab.cli.trace_volume.read_volume", fail)
    for words, problem in (([str(own), "--out", str(tmp_path / "q"), "--mrc", "--overwrite"], "is the volume itself"),
                           ([str(other), "--voxel-A", "0.5"], "q.atoms.csv is there already: choose another path"),
                           ([str(own), "--out", f"{own}/q"], "cannot write")):
        assert main(words) == 2
        told = capsys.readouterr().err.strip()
        assert problem in told and "\n" not in told
    monkeypatch.undo()
    assert main([str(other), "--voxel-A", "0.5", "--out", str(tmp_path / "q"), "--overwrite"]) == 0
    assert main([str(other), "--voxel-A", "0.5"]) == 0  # its own results are written again
    assert main([str(own), "--out", str(tmp_path / "q")]) == 2
    assert own.read_bytes() == content
    assert (tmp_path / "q.atoms.csv").read_text().startswith("species,") and not list(tmp_path.glob(".partial*"))


def test_a_folder_that_cannot_be_written_is_noticed_before_the_work(potential_V, tmp_path, capsys, monkeypatch):
    write_mrc(tmp_path / "v.mrc", as_volume(potential_V))

    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("aetlab.cli.trace_volume.read_volume", fail)
    assert main([str(tmp_path / "v.mrc")]) == 2
    assert capsys.readouterr().err.strip() == f"python -m aetlab.trace: cannot write {tmp_path}: Permission denied"


def test_the_command_says_what_a_header_decided(potential_V, tmp_path, capsys):
    write_mrc(tmp_path / "v.mrc", as_volume(potential_V))
    raw = bytearray((tmp_path / "v.mrc").read_bytes())
    raw[196:208] = struct.pack("<3f", 100.0, 0.0, 0.0)
    (tmp_path / "v.mrc").write_bytes(raw)
    assert main([str(tmp_path / "v.mrc")]) == 0
    assert "v.mrc: the origin in its header is left out" in capsys.readouterr().err


def test_records_state_their_axes_and_voxel_size(potential_V, tmp_path):
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file["volume/potential_V"] = potential_V
        file["volume/potential_V"].attrs["voxel_A"] = 0.5
        file["another"] = potential_V
    volume = read_volume(tmp_path / "arrays.h5")
    np.testing.assert_array_equal(volume.potential_V, potential_V)
    assert volume.voxel_A == 0.5
    assert read_volume(tmp_path / "arrays.h5", voxel_A=0.4).voxel_A == 0.4


def make_problem(tmp_path, problem):
    """Return a command line that cannot work because of ``problem``, which its error must name."""
    path = tmp_path / "v.npy"
    array = np.zeros((8, 10, 12), dtype=np.float32)
    array[4, 5, 6] = 100.0
    np.save(path, array)
    words = [str(path), "--voxel-A", "0.5"]
    if problem == "is not there":
        words[0] = str(tmp_path / "none.npy")
    elif problem == "no voxel size":
        words = words[:1]
    elif problem == "--elements=Sx cannot be used":
        words += ["--elements", "Sx"]
    elif problem == "known ending":
        words[0] = str(path.rename(tmp_path / "v.tif"))
    elif problem == "cannot be read":
        np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    elif problem == "is no volume":
        np.save(path, array[0])
    elif problem == "axes=xyy":
        words += ["--axes", "xyy"]
    elif problem == "voxel_A=-1":
        words[2] = "-1"
    elif problem == "--min-intensity=0":
        words += ["--min-intensity", "0"]
    elif problem.startswith("v.npy cannot be traced: all of its finite voxels are 0: it shows nothing"):
        np.save(path, 0 * array)
    elif problem.endswith("change the sign (multiply it by -1)"):
        np.save(path, -array)
    elif problem.endswith("none of its voxels is finite"):
        np.save(path, np.nan * array)
    elif problem.endswith("subtract the background first"):
        np.save(path, array - 500)
    elif problem == "--width-A=0":
        words += ["--width-A", "0"]
    elif problem.startswith("voxels of"):
        words[2] = problem.split()[2]
    elif problem.startswith("has 1 x"):
        np.save(path, array[4:5])
    elif problem == "datasets of three dimensions":
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file["a"] = file["b"] = array
        words[0] = str(tmp_path / "v.h5")
    elif problem == "has no dataset c":
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file["a"] = array
        words = [str(tmp_path / "v.h5"), *words[1:], "--dataset", "c"]
    return words


@pytest.mark.parametrize("problem", [
    "is not there", "no voxel size", "--elements=Sx cannot be used", "known ending", "cannot be read", "is no volume",
    "axes=xyy", "voxel_A=-1", "--min-intensity=0", "--width-A=0", "datasets of three dimensions",
    "voxels of 2 Å cannot be traced with atoms of --width-A=0.35: trace.fit_radius=",
    "voxels of 0.05 Å cannot be traced",
    "has 1 x 12 x 10 voxels along z, x, y; an atom needs 4: is it an image, or part of a volume?",
    "has no dataset c", "v.npy cannot be traced: all of its finite voxels are 0: it shows nothing; take another file",
    "v.npy cannot be traced: its peaks are negative (from -100 to 0, median 0): atoms must be bright, change the sign "
    "(multiply it by -1)", "v.npy cannot be traced: none of its voxels is finite",
    "its background is -500, not 0 (maximum -500): subtract the background first"])
def test_problems_are_reported_in_one_line(tmp_path, capsys, problem):
    assert main(make_problem(tmp_path, problem)) == 2
    told = capsys.readouterr().err.strip()
    assert problem in told and "\n" not in told and "Traceback" not in told


def test_lengths_scale_with_voxels_and_widths():
    sites = place_sites(40, SHAPE, np.random.default_rng(2))
    fine = sites * [2, 2, 2, 1, 2] + [0.5, 0.5, 0.5, 0, 0]
    volume = draw_volume(fine, tuple(2 * n for n in SHAPE))
    spec = scale_lengths(TraceSpec(), 2.0)
    assert spec.fit_radius == 3.6 and spec.width_bounds == (0.8, 2.4) and spec.min_intensity_V == 30.0
    coarse = trace_atoms(as_volume(draw_volume(sites, SHAPE)), TraceSpec(), (8, 14))
    found = trace_atoms(Volume(volume, VOXEL_A / 2), spec, (8, 14))
    np.testing.assert_allclose(found.positions_A, coarse.positions_A, atol=2e-3)
    with pytest.raises(SpecError, match="fit_radius"):
        scale_lengths(TraceSpec(), 0.25)
    names = {field.name for field in dataclasses.fields(TraceSpec)}
    spec = scale_lengths(dataclasses.replace(TraceSpec(), smoothing=0.5), 2.0)
    changed = {name for name in names if getattr(spec, name) != getattr(TraceSpec(), name)}
    assert changed == {"filter_sigma_narrow", "filter_sigma_wide", "fit_radius", "max_shift_per_fit", "width_bounds",
                       "width_start", "neighbour_radius", "merge_distance", "min_width", "smoothing"}
