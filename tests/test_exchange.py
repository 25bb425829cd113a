"""Round trips of volumes, atoms and tilt series through files and the objects of other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import h5py
import mrcfile
import numpy as np
import pytest

from aetlab.core.errors import AetlabError
from aetlab.core.nouns import Atoms, RefinedAtoms, TiltSeries, Volume
from aetlab.core.poses import Poses
from aetlab.exchange.abtem_arrays import from_abtem, to_abtem
from aetlab.exchange.ase_atoms import from_ase, to_ase
from aetlab.exchange.atom_files import read_atoms, write_atoms
from aetlab.exchange.hyperspy_signals import to_hyperspy
from aetlab.exchange.volume_files import FileError, read_volume, write_volume
from tests.structure_files import cif
from tests.trace_volumes import make_traced

POSITIONS_A = np.array([[0.12345, -1.5, 2.0], [3.25, 0.00001, -7.125], [-10.0, 11.0, 12.5]])
NUMBERS = np.array([14, 8, 0])


def make_volume() -> Volume:
    return Volume(np.random.default_rng(1).normal(0, 50, (4, 6, 10)).astype(np.float32), 0.5)


def make_atoms() -> Atoms:
    return Atoms(NUMBERS, POSITIONS_A, np.array([1, 0, 1]), ("core", "shell"))


def make_refined() -> RefinedAtoms:
    per_element = np.array([0.4, 0.5])
    return RefinedAtoms(
        positions_A=POSITIONS_A, occupancy=np.array([1.0, 0.5, 0.25]), scattering_V_A3=np.array([300.0, 150.0, 75.0]),
        numbers=NUMBERS, position_error_A=np.arange(9.0).reshape(3, 3) / 100, occupancy_error=np.full(3, 0.01),
        probability=np.array([0.9, 0.8, 0.7]), posterior=np.full((3, 2), 0.4), not_atom_probability=np.full(3, 0.2),
        poses=Poses.nominal(np.zeros(3), 3), thermal_A2=per_element, thermal_error_A2=per_element,
        cost=np.array([3.0, 2.0, 1.0]), rounds=(), summary={})


@pytest.mark.parametrize("name", ["v.mrc", "v.map", "v.h5", "v.emd", "V.HDF5"])
def test_a_volume_survives_a_round_trip_with_its_voxel_size(tmp_path: Path, name: str) -> None:
    volume = make_volume()
    write_volume(tmp_path / name, volume)
    back = read_volume(tmp_path / name)
    np.testing.assert_array_equal(back.potential_V, volume.potential_V)
    assert back.voxel_A == 0.5 and back.potential_V.dtype == np.float32


def test_reading_an_npy_file_needs_a_voxel_size(tmp_path: Path) -> None:
    volume = make_volume()
    write_volume(tmp_path / "v.npy", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.npy", voxel_A=0.5).potential_V, volume.potential_V)
    with pytest.raises(FileError, match="states no voxel size"):
        read_volume(tmp_path / "v.npy")


def test_files_have_the_axes_of_their_formats(tmp_path: Path) -> None:
    potential_V = np.zeros((4, 6, 10), dtype=np.float32)
    potential_V[1, 2, 7] = 30.0  # z, x, y
    for name in ("v.mrc", "v.h5", "v.npy"):
        write_volume(tmp_path / name, Volume(potential_V, 0.5))
    assert np.argwhere(np.load(tmp_path / "v.npy")).tolist() == [[1, 7, 2]]
    with mrcfile.open(tmp_path / "v.mrc") as file:
        assert np.argwhere(file.data).tolist() == [[1, 7, 2]]
    with h5py.File(tmp_path / "v.h5") as file:
        assert np.argwhere(file["potential_V"][...]).tolist() == [[1, 2, 7]]
        assert dict(file["potential_V"].attrs) == {"voxel_A": 0.5, "axes": "zxy", "unit": "V"}


@pytest.mark.parametrize("name", ["v.tif", "v", "v.xyz"])
def test_an_unknown_suffix_of_a_volume_is_one_line_with_the_choices(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for call in (lambda: write_volume(tmp_path / name, make_volume()), lambda: read_volume(tmp_path / name)):
        with pytest.raises(FileError, match=r"no known ending: give \.mrc, .*\.h5, .* or \.npy$") as problem:
            call()
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".csv"])
@pytest.mark.parametrize("make", [make_atoms, lambda: make_traced(POSITIONS_A, NUMBERS), make_refined])
def test_atoms_survive_a_round_trip_to_the_written_digits(tmp_path: Path, suffix: str, make) -> None:
    atoms = make()
    write_atoms(tmp_path / f"a{suffix}", atoms)
    back = read_atoms(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.positions_A, POSITIONS_A)
    np.testing.assert_array_equal(back.numbers, NUMBERS)
    np.testing.assert_array_equal(back.part, [1, 0, 1] if isinstance(atoms, Atoms) else [0, 0, 0])
    if suffix != ".csv":
        assert back.part_names == (("core", "shell") if isinstance(atoms, Atoms) else ("all",))


def test_quantities_of_refined_atoms_are_columns(tmp_path: Path) -> None:
    write_atoms(tmp_path / "a.csv", make_refined())
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == ("species,x_A,y_A,z_A,occupancy,scattering_V_A3,x_error_A,y_error_A,z_error_A,occupancy_error,"
                        "probability,posterior_0,posterior_1,not_atom_probability")
    assert lines[2] == "O,3.25000,0.00001,-7.12500,0.5,150,0.03,0.04,0.05,0.01,0.8,0.4,0.4,0.2"


def test_an_empty_list_of_atoms_survives_a_round_trip(tmp_path: Path) -> None:
    nothing = Atoms(NUMBERS[:0], POSITIONS_A[:0], NUMBERS[:0])
    for name in ("a.xyz", "a.csv"):
        write_atoms(tmp_path / name, nothing)
        assert read_atoms(tmp_path / name).positions_A.shape == (0, 3)


@pytest.mark.parametrize(("name", "text", "problem"), [
    ("a.pdb", "", r"no known ending: give \.xyz, \.extxyz or \.csv"), ("none.xyz", None, "is not there"),
    ("a.xyz", "99999999999999999999\n\nSi 0 0 0\n", "all 99999999999999999999 atoms that it announces"),
    ("a.xyz", "-1\n\nSi 0 0 0\n", "line 1 should hold a number of atoms"), ("a.xyz", "", "cannot be read"),
    ("a.xyz", "1\n\nSi 0 0 nan\n", "not finite"), ("a.xyz", "1\n\nQq 0 0 0\n", "cannot be read"),
    ("a.csv", "species,x_A,y_A\nSi,0,0\n", "no column z_A"), ("a.csv", "", "it is empty"),
    ("a.csv", "species,x_A,y_A,z_A\nQq,0,0,0\n", "'Qq' is not a chemical symbol"),
    ("a.csv", "species,x_A,y_A,z_A\nSi,0,0,inf\n", "not finite"),
    ("a.csv", "species,x_A,y_A,z_A,part\nSi,0,0,0,-1\n", "numbers from 0")])
def test_files_that_hold_no_atoms_are_refused_in_one_line(tmp_path: Path, name: str, text: str | None,
                                                          problem: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=problem) as error:
        read_atoms(tmp_path / name)
    assert "\n" not in str(error.value)
    if name == "a.pdb":
        with pytest.raises(FileError, match=problem):
            write_atoms(tmp_path / name, make_atoms())


def test_ase_atoms_carry_every_quantity_of_an_atom() -> None:
    refined = to_ase(make_refined())
    np.testing.assert_allclose(refined.positions, POSITIONS_A + [13, 14, 15.5], rtol=0, atol=1e-12)
    np.testing.assert_allclose(refined.cell.lengths(), [26, 28, 31], rtol=0, atol=1e-12)  # 3 Å beyond the last atoms
    assert refined.get_chemical_symbols() == ["Si", "O", "X"] and not refined.pbc.any()
    assert set(refined.arrays) == {
        "numbers", "positions", "occupancy", "scattering_V_A3", "position_error_A", "occupancy_error", "probability",
        "posterior", "not_atom_probability"}
    assert refined.arrays["position_error_A"].shape == (3, 3) and refined.arrays["occupancy"].tolist() == [1, 0.5, 0.25]
    traced = to_ase(make_traced(POSITIONS_A, NUMBERS))
    assert {"intensity_V", "width_A", "signal", "flag", "residual_V", "posterior"} <= set(traced.arrays)
    assert "species" not in traced.arrays and traced.arrays["signal"].tolist() == [70, 70, 70]


def test_atoms_survive_a_round_trip_through_ase() -> None:
    atoms = make_atoms()
    back = from_ase(to_ase(atoms))
    np.testing.assert_allclose(back.positions_A, atoms.positions_A, rtol=0, atol=1e-12)
    for name in ("numbers", "part", "part_names"):
        np.testing.assert_array_equal(getattr(back, name), getattr(atoms, name))
    from ase.build import bulk

    cell = bulk("Si", cubic=True)
    silicon = from_ase(cell)
    assert silicon.numbers.tolist() == [14] * 8 and silicon.part_names == ("all",) and not silicon.part.any()
    np.testing.assert_array_equal(silicon.positions_A, cell.positions)
    silicon.positions_A[0] = 99.0  # a copy
    assert cell.positions[0, 0] == 0.0


def test_atoms_survive_a_file_of_ase_in_the_box_of_the_volume(tmp_path: Path) -> None:
    atoms = make_atoms()
    in_box = to_ase(atoms, (30.0, 32.0, 34.0))
    assert in_box.cell.lengths().tolist() == [30, 32, 34] and (in_box.positions > 0).all()
    in_box.write(tmp_path / "a.extxyz")
    back = from_ase(ase.io.read(tmp_path / "a.extxyz"))
    np.testing.assert_allclose(back.positions_A, atoms.positions_A, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="beyond a box of 30 x 20 x 34 Å"):
        to_ase(atoms, (30.0, 20.0, 34.0))


def test_abtem_sees_the_potential_and_the_images_of_a_volume() -> None:
    volume = make_volume()
    potential = to_abtem(volume)
    assert potential.sampling == (0.5, 0.5) and potential.thickness == pytest.approx(2.0)
    np.testing.assert_allclose(potential.project().array, 0.5 * volume.potential_V.sum(axis=0), rtol=1e-4, atol=1e-4)
    back = from_abtem(potential)
    assert back.voxel_A == 0.5
    np.testing.assert_allclose(back.potential_V, volume.potential_V, rtol=1e-6)
    images = np.random.default_rng(2).random((3, 2, 6, 10), np.float32)
    series = TiltSeries(images, np.array([-60.0, 1.5, 40.0]), np.array([-100.0, 250.0]), 0.42)
    seen = to_abtem(series)
    assert seen.shape == (3, 2, 6, 10) and seen.sampling == (0.42, 0.42)
    assert [axis.label for axis in seen.ensemble_axes_metadata] == ["tilt", "C10"]
    again = from_abtem(seen)
    for name in ("images", "tilt_deg", "defocus_A", "pixel_A"):
        np.testing.assert_array_equal(getattr(again, name), getattr(series, name))


def test_a_potential_of_abtem_that_is_not_of_cubes_and_other_images_are_refused() -> None:
    import abtem  # this takes four seconds

    flat = abtem.PotentialArray(np.zeros((2, 4, 4), np.float32), slice_thickness=1.0, sampling=0.5)
    with pytest.raises(ValueError, match="0.5 to 1 Å are not cubes"):
        from_abtem(flat)
    with pytest.raises(ValueError, match="they need tilt"):
        from_abtem(abtem.Images(np.zeros((4, 4), np.float32), sampling=0.5))
    uneven = TiltSeries(np.ones((2, 1, 4, 4), np.float32), np.array([0.0, 9]), np.array([[10.0], [20]]), 0.5)
    with pytest.raises(ValueError, match="differ between tilts"):
        to_abtem(uneven)


def test_hyperspy_shows_lengths_from_the_centre_and_the_tilts() -> None:
    pytest.importorskip("hyperspy")
    volume = make_volume()
    signal = to_hyperspy(volume)
    assert [axis.name for axis in signal.axes_manager.signal_axes] == ["x", "y"]
    np.testing.assert_array_equal(signal.data[2, 7], volume.potential_V[2, :, 7])
    np.testing.assert_allclose(signal.axes_manager["y"].axis, 0.5 * (np.arange(10) - 4.5))
    series = TiltSeries(np.ones((3, 2, 6, 10), np.float32), np.array([-60.0, 1.5, 40.0]), np.array([-100.0, 250.0]),
                        0.42)
    shown = to_hyperspy(series)
    assert shown.data.shape == (3, 2, 10, 6) and shown.axes_manager["tilt"].axis.tolist() == [-60, 1.5, 40]
    assert np.array(shown.metadata.Acquisition_instrument.TEM.defocus_A)[0].tolist() == [-100, 250]


@pytest.mark.parametrize(("convert", "package"), [(to_abtem, "abtem"), (to_hyperspy, "hyperspy")])
def test_without_the_package_of_a_conversion_it_is_named(convert: Callable[[Volume], object], package: str,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (package, f"{package}.api", f"{package}.core.axes"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AetlabError, match=f"^{convert.__name__} needs {package}, which is not installed: pip install"):
        convert(Volume(np.zeros((8, 8, 8), np.float32), 0.5))


def test_invalid_ase_atoms_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        from_ase(ase.Atoms("Si", positions=[[0, 0, np.nan]]))
    wrong = ase.Atoms("Si2", positions=np.zeros((2, 3)))
    wrong.set_array("part", np.array([0, -1]))
    with pytest.raises(ValueError, match="one number from 0"):
        from_ase(wrong)


def test_atoms_of_other_programs_are_read_by_the_words_of_structure_files(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes("3\nÅ\nSi1 0 0 0\nO2- 0 0 2\n79 0 0 4\n".encode("utf-16"))
    assert read_atoms(tmp_path / "a.xyz").numbers.tolist() == [14, 8, 79]
    (tmp_path / "a.xyz").write_text("1\nProperties=species:S:1:pos:R:3:q:R:100000\nSi 0 0 0\n")
    with pytest.raises(FileError, match="line 3 has fewer than the 100004 columns"):
        read_atoms(tmp_path / "a.xyz")


def test_ase_atoms_whose_sites_are_shared_are_refused(tmp_path: Path) -> None:
    """ASE names such a site by the commonest element, at full occupancy."""
    columns = "label type_symbol fract_x fract_y fract_z occupancy"
    for rows, shared in ((["A Au 0 0 0 0.6", "B Cu 0 0 0 0.4"], True), (["A Au 0 0 0 1"], False)):
        (tmp_path / "a.cif").write_text(cif(rows, columns=columns))
        atoms = ase.io.read(tmp_path / "a.cif")
        if shared:
            with pytest.raises(ValueError, match="occupied in part or by several elements"):
                from_ase(atoms)
        else:
            assert from_ase(atoms).numbers.tolist() == [79]
