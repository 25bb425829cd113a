"""Samples from structure files: formats, placing, cropping, and damaged files, which raise a SpecError."""

import dataclasses
import math
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aetlab.samples import build_sample, in_scoring_region, sample_elements
from aetlab.samples.structure_file import FORMATS, read_structure
from aetlab.spec import SampleSpec, ScaleSpec, SpecError, VacancyRegion

SCALE = ScaleSpec(name="small", shape_zxy=(96, 98, 100), voxel_A=0.5, core_radius_A=12, shell_thickness_A=6,
                  length_A=42)
L_SHAPE = np.array([(0, 0, 0), (2, 0, 0), (0, 3, 0), (0, 0, 5.0)])  # no two axes alike, and handed
L_NUMBERS = np.array([79, 14, 8, 26])


def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.fixture
def l_file(tmp_path: Path) -> str:
    path = tmp_path / "l.xyz"
    ase.io.write(path, ase.Atoms(numbers=L_NUMBERS, positions=L_SHAPE + 7.0))
    return str(path)


#: Names of files and ASE's names of their formats.
WRITTEN = [("a.xyz", "extxyz"), ("a.extxyz", "extxyz"), ("a.cif", "cif"), ("a.pdb", "proteindatabank"),
           ("a.ent", "proteindatabank"), ("POSCAR", "vasp"), ("CONTCAR_2", "vasp"), ("a.vasp", "vasp"),
           ("a.poscar", "vasp"), ("a.gen", "gen"), ("a.xsf", "xsf"), ("a.cfg", "cfg"), ("a.cube", "cube"),
           ("a.sdf", "sdf"), ("a.mol", "mol")]


@pytest.mark.parametrize("name, ase_format", WRITTEN)
def test_formats_give_the_atoms_that_were_written(tmp_path, name, ase_format):
    structure = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    path = tmp_path / name
    if ase_format in ("sdf", "mol"):  # ASE only reads these
        rows = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {s:3s} 0  0  0  0  0  0  0  0  0  0  0  0\n"
                       for s, (x, y, z) in zip(structure.get_chemical_symbols(), structure.positions, strict=True))
        path.write_text(f"title\n  made\n\n{len(structure):3d}  0  0  0  0  0  0  0  0  0999 V2000\n{rows}M  END\n")
    else:
        ase.io.write(path, structure, format=ase_format)
    atoms = build_sample(SampleSpec(kind="file", path=str(path)), SCALE, rng())
    assert sample_elements(atoms) == (11, 17)
    distances = np.linalg.norm(atoms.positions_A[:, None] - atoms.positions_A[None], axis=-1)
    expected = structure.get_all_distances()
    np.testing.assert_allclose(np.sort(distances.ravel()), np.sort(expected.ravel()), atol=2e-3)
    assert in_scoring_region(atoms.positions_A, SampleSpec(kind="file", path=str(path)), SCALE).all()


def test_every_known_ending_is_tested():
    assert set(FORMATS) == {Path(name).suffix for name, _ in WRITTEN} - {""}


def test_structure_is_centred(l_file):
    atoms = read_structure(SampleSpec(kind="file", path=l_file), rng())
    np.testing.assert_allclose(atoms.positions_A, L_SHAPE - [1, 1.5, 2.5], atol=1e-6)
    np.testing.assert_array_equal(atoms.numbers, L_NUMBERS)
    assert atoms.part_names == ("all",) and not atoms.part.any()


@pytest.mark.parametrize("tilt_axis, extent", [("x", (5, 2, 3)), ("y", (2, 3, 5)), ("z", (3, 5, 2))])
def test_tilt_axis_becomes_y_without_mirroring(l_file, tilt_axis, extent):
    atoms = read_structure(SampleSpec(kind="file", path=l_file, tilt_axis=tilt_axis), rng())
    np.testing.assert_allclose(np.ptp(atoms.positions_A, axis=0), extent, atol=1e-6)
    arms = atoms.positions_A[1:] - atoms.positions_A[0]
    assert np.linalg.det(arms) == pytest.approx(30, abs=1e-4)


@pytest.mark.parametrize("rotate_deg, arm", [((90, 0, 0), (2, 0, 0)), ((0, 90, 0), (0, 0, -2)), ((0, 0, 90), (0, 2, 0)),
                                             ((90, 90, 0), (0, 0, -2)), ((90, 0, 90), (0, 2, 0))])
def test_turns_are_right_handed_about_x_then_y_then_z(l_file, rotate_deg, arm):
    atoms = read_structure(SampleSpec(kind="file", path=l_file, rotate_deg=rotate_deg), rng())
    np.testing.assert_allclose(atoms.positions_A[1] - atoms.positions_A[0], arm, atol=1e-6)


@pytest.mark.parametrize("crop, size, inside", [
    ("sphere", (20.0,), lambda p: np.linalg.norm(p, axis=1) <= 10),
    ("cylinder", (16.0, 30.0), lambda p: (np.hypot(p[:, 0], p[:, 2]) <= 8) & (np.abs(p[:, 1]) <= 15)),
    ("box", (8.0, 20.0, 30.0), lambda p: np.all(np.abs(p) <= [4, 10, 15], axis=1)),
])
def test_crops_cut_about_the_centre(tmp_path, crop, size, inside):
    path = tmp_path / "gold.cif"
    ase.io.write(path, ase.build.bulk("Au", "fcc", a=4.08, cubic=True))
    settings_ = SampleSpec(kind="file", path=str(path), repeat=(9, 9, 9), crop=crop, crop_size_A=size)
    atoms = build_sample(settings_, SCALE, rng())
    whole = read_structure(dataclasses.replace(settings_, crop="none", crop_size_A=()), rng()).positions_A
    kept = whole[inside(whole)]
    assert len(kept) > 100
    np.testing.assert_allclose(atoms.positions_A, kept - (kept.min(0) + kept.max(0)) / 2, atol=1e-9)


def test_vacancies_of_a_file_take_no_part(l_file):
    with pytest.raises(SpecError, match=r"sample\.vacancies\[0\]\.part='core'.*all"):
        build_sample(SampleSpec(kind="file", path=l_file, vacancies=(VacancyRegion(fraction=0.5, part="core"),)), SCALE,
                     rng())


@pytest.mark.parametrize("name, text, message", [
    ("a.xyz", "", "cannot be read"),
    ("a.xyz", "0\n\n", "no atoms"),
    ("a.xyz", "99999999999999999999\n\nSi 0 0 0\n", "it ends before all"),
    ("a.xyz", "1\n\nXx 0 0 0\n", "cannot be read"),
    ("a.xyz", "1\n\nX 0 0 0\n", "atomic number 0"),
    ("a.xyz", "1\n\nLr 0 0 0\n", "atomic number 103"),
    ("a.xyz", "1\n\nSi nan 0 0\n", "not finite"),
    ("a.xyz", "2\n\nSi -1e308 0 0\nSi 1e308 0 0\n", "not finite or beyond"),
    ("a.xyz", "2\n\nSi 0 0 0\nO 0 0 0.01\n", "nearer"),
    ("a.xyz", "2\n\nSi 0 0 0\nO 0 0 80\n", "does not fit"),
    ("a.xyz", "2\n\nSi 0 0 0\nO 0 80 0\n", "does not fit"),
    ("a.py", "raise SystemExit", "known format"),
    ("a.traj", "x", "known format"),
    ("a", "x", "known format"),
])
def test_unusable_files_are_refused_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        build_sample(SampleSpec(kind="file", path=str(path)), SCALE, rng())
    assert "\n" not in str(caught.value) and "sample." in str(caught.value)


def test_missing_files_folders_and_impossible_repeats_are_refused(tmp_path, l_file):
    for path in (tmp_path / "no.xyz", tmp_path / "folder.xyz"):
        if path.stem == "folder":
            path.mkdir()
        with pytest.raises(SpecError, match="cannot be read"):
            read_structure(SampleSpec(kind="file", path=str(path)), rng())
    with pytest.raises(SpecError, match="no unit cell"):
        read_structure(SampleSpec(kind="file", path=l_file, repeat=(2, 1, 1)), rng())
    with pytest.raises(SpecError, match="leaves no atoms"):
        read_structure(SampleSpec(kind="file", path=l_file, crop="sphere", crop_size_A=(0.1,)), rng())


PIECES = st.sampled_from(["1", "2", "-1", "99999999999", "Si", "O 0 0 0", "Lattice=\"1 0 0 0 1 0 0 0 1\"", "nan", "inf",
                          "Properties=species:S:1:pos:R:3", "Properties=pos:R:3", "\n", " ", "data_x", "loop_",
                          "_atom_site_label", "_cell_length_a 5", "ATOM      1 SI   MOL", "CRYSTAL", "PRIMVEC",
                          "Direct", "1.0", "0 0 0", "'", "\"", "_(", "{", "\x00", "eval(", "é", "M  END", "V2000",
                          "Number of particles = 1", "H0(1,1) = 1 A", "entry_count = 3", ".NO_VELOCITY."])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ending=st.sampled_from(sorted(FORMATS)), pieces=st.lists(PIECES | st.text(max_size=8), max_size=25))
def test_any_file_gives_atoms_or_a_spec_error(tmp_path, ending, pieces):
    path = tmp_path / f"fuzz{ending}"
    path.write_text(" ".join(pieces), encoding="utf-8", errors="replace")
    try:
        atoms = build_sample(SampleSpec(kind="file", path=str(path)), SCALE, rng())
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert len(atoms) > 0 and math.isfinite(atoms.positions_A.sum())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["a.xyz", "a.cif", "a.pdb", "POSCAR", "a.gen", "a.xsf", "a.cfg", "a.cube"]),
       data=st.data())
def test_damaged_files_give_atoms_or_a_spec_error(tmp_path, name, data):
    path = tmp_path / name
    ase_format = "vasp" if name == "POSCAR" else FORMATS[path.suffix]
    ase.io.write(path, ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True), format=ase_format)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place:place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    try:
        atoms = build_sample(SampleSpec(kind="file", path=str(path)), SCALE, rng())
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert len(atoms) > 0 and math.isfinite(atoms.positions_A.sum())
