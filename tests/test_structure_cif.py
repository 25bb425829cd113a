"""Crystals in CIF files: sites that elements share, symmetry, origins, axes, labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aetlab.spec import SpecError
from tests.structure_files import COLUMNS, cif, elements, read


@pytest.mark.parametrize("rows, chances", [
    (["A1 Au 0 0 0 0.5", "A2 Cu 0 0 0 0.5"], {"Au": 0.5, "Cu": 0.5}),
    (["A1 Au 0 0 0 0.4", "A2 Cu 0 0 0 0.4"], {"Au": 0.4, "Cu": 0.4}),  # and vacancies
    (["A1 Cu 0 0 0 0.333", "A2 Au 0 0 0 0.333", "A3 Ag 0 0 0 0.334"], {"Cu": 0.333, "Au": 0.333, "Ag": 0.334}),
    (["A1 Au 0 0 0 0.5", "A2 Au 0 0 0 0.25"], {"Au": 0.75}),
    (["A1 Au 0 0 0 0.7", "A2 Cu 0.05 0 0 0.3"], {"Au": 0.7, "Cu": 0.3}),  # split: 0.2 Å apart
])
def test_elements_that_share_a_site_of_a_cif_file_are_drawn_by_their_occupancies(tmp_path, rows, chances):
    text = cif([*rows, "B Si 0.5 0.5 0.5 1"], columns=COLUMNS, a=4.0)
    atoms = read(tmp_path / "a.cif", text, repeat=(10, 10, 10))
    found = elements(atoms)
    assert found.count("Si") == 1000 and set(found) == {"Si", *chances}
    for symbol, chance in chances.items():
        assert abs(found.count(symbol) - 1000 * chance) <= 4 * math.sqrt(1000 * chance * (1 - chance))
    assert len(np.unique(atoms.positions_A[np.array(found) != "Si"].round(1), axis=0)) == len(found) - 1000
    assert atoms.counts == {"n_partial": 1000 * len(rows), "n_drawn": len(found) - 1000}


@pytest.mark.parametrize("rows, message", [
    (["A1 Au 0 0 0 0.7", "A2 Cu 0 0 0 0.5"], r"add up to 1\.2: Au 0\.7, Cu 0\.5"),
    (["A1 Au 0 0 0 1", "A2 Cu 0 0 0 1"], "nearer to another than atoms can, Au and Cu 0 Å apart"),
    (["A1 Au 0 0 0 1.2"], "occupancy of 1.2"), (["A1 Au 0 0 0 x"], "the occupancy of site 1 is 'x'"),
    (["A1 Au 0 0 y 1"], "a coordinate of site 1 is 'y'"), (["A1 Au 0 0 0 1 1"], "as many values as its loop"),
])
def test_sites_of_a_cif_file_that_make_no_sense_are_refused(tmp_path, rows, message):
    with pytest.raises(SpecError, match=message):
        read(tmp_path / "a.cif", cif([*rows, "B Si 0.5 0.5 0.5 1"], columns=COLUMNS))


def test_unknown_occupancies_are_full_and_sites_listed_twice_are_counted(tmp_path):
    rows = ["A1 Au 0 0 0 ?", "A2 Au 0.0001 0 0 .", "B Si 0.5 0.5 0.5 1"]
    atoms = read(tmp_path / "a.cif", cif(rows, columns=COLUMNS, a=3.0))
    assert elements(atoms) == ["Au", "Si"] and "1 sites are listed twice" in atoms.notes[1]


def silicon(symmetry: str, at: float = 0.0, more: str = "") -> str:
    return cif([f"Si {at} {at} {at}"], symmetry=symmetry, a=5.431) + more


DIAMOND = "_symmetry_space_group_name_H-M 'F d -3 m{}'\n_symmetry_Int_Tables_number 227\n"
UNITS = "_chemical_formula_sum Si\n_cell_formula_units_Z 8\n"


@pytest.mark.parametrize("text", [
    silicon(DIAMOND.format(":1")), silicon(DIAMOND.format(" S")), silicon(DIAMOND.format(":2"), 0.125),
    silicon(DIAMOND.format(" Z"), 0.125), silicon(DIAMOND.format(""), 0.125, UNITS),
    silicon(DIAMOND.format(""), 0, UNITS),
    silicon(DIAMOND.format(""), 0.125, "_symmetry_space_group_name_Hall '-F 4vw 2vw 3'\n"),
    silicon(DIAMOND.format(""), 0.375, "_symmetry_space_group_name_Hall '-F 4vw 2vw 3'\n")])
def test_silicon_has_eight_atoms_with_either_origin(tmp_path, text):
    atoms = read(tmp_path / "a.cif", text, repeat=(2, 2, 2))
    assert len(atoms) == 64
    distance_A = np.linalg.norm(atoms.positions_A[:, None] - atoms.positions_A, axis=2) + 9 * np.eye(64)
    assert distance_A.min() == pytest.approx(5.431 * math.sqrt(3) / 4)


def test_an_origin_that_the_file_leaves_open_is_refused_or_told_by_distances(tmp_path):
    with pytest.raises(SpecError, match="which of origin choice 1 and origin choice 2 it means: both are possible"):
        read(tmp_path / "a.cif", silicon(DIAMOND.format("")))
    rows = ["Mg .125 .125 .125", "Al .5 .5 .5", "O .2624 .2624 .2624"]
    atoms = read(tmp_path / "a.cif", cif(rows, symmetry="_symmetry_space_group_name_H-M 'F d -3 m'\n", a=8.08))
    assert [elements(atoms).count(symbol) for symbol in ("Mg", "Al", "O")] == [8, 16, 32]
    assert "origin choice 2 is taken" in atoms.notes[0]


def test_listed_operations_count_above_the_name_of_a_setting(tmp_path):
    operations = ("loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'1/2-x, 1/2+y, 1/2-z'\n'-x,-y,-z'\n"
                  "'1/2+x,1/2-y,1/2+z'\n")
    name = "_symmetry_space_group_name_H-M 'P 1 21/n 1'\n"
    atoms = read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry=name + operations, a=5.0))
    expected = 5 * np.array([(0.1, 0.2, 0.3), (0.4, 0.7, 0.2), (0.9, 0.8, 0.7), (0.6, 0.3, 0.8)])
    np.testing.assert_allclose(atoms.positions_A, expected - (expected.min(0) + expected.max(0)) / 2, atol=1e-9)
    tabulated = read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry=name, a=5.0)).positions_A
    np.testing.assert_allclose(np.sort(tabulated, axis=0), np.sort(atoms.positions_A, axis=0), atol=1e-9)
    with pytest.raises(SpecError, match="'P 1 21/a 1' is in a setting that is not tabulated"):
        read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry=name.replace("/n", "/a")))
    with pytest.raises(SpecError, match="does not go with the angles"):
        read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry=name, gamma=100))
    with pytest.raises(SpecError, match="space group is 15 by number and 'P 1 21/n 1' by name"):
        read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry=name + "_symmetry_Int_Tables_number 15\n"))
    with pytest.raises(SpecError, match="'x,y,w' is no symmetry operation"):
        read(tmp_path / "a.cif", cif(["Si 0.1 0.2 0.3"], symmetry="_symmetry_equiv_pos_as_xyz 'x,y,w'\n"))


def test_symmetry_that_does_not_go_with_the_cell_or_the_group_is_refused_or_reported(tmp_path):
    name = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
    listed = "_symmetry_equiv_pos_as_xyz 'x,y,z'\n"
    with pytest.raises(SpecError, match="operations do not go with the sides and angles of its cell"):
        read(tmp_path / "a.cif", cif(["Au 0 0 0"], symmetry=name, a=4.08, gamma=120))
    whole = read(tmp_path / "a.cif", cif(["Au 0 0 0"], symmetry=name, a=4.08))
    assert (len(whole), whole.notes) == (4, ())
    few = read(tmp_path / "a.cif", cif(["Au 0 0 0"], symmetry=name + listed, a=4.08))
    assert len(few) == 1
    assert few.notes == ("it lists 1 symmetry operations, and its space group F m -3 m has 192: those listed are used",)
    assert read(tmp_path / "a.cif", cif(["Au 0 0 0"], symmetry="_symmetry_Int_Tables_number 1\n" + listed)).notes == ()
    assert read(tmp_path / "a.cif", cif(["Au 0 0 0"], symmetry="")).notes == (
        "it states no symmetry: its sites are taken as all atoms of the cell",)


def test_axes_of_rhombohedral_groups_follow_the_cell(tmp_path):
    """Corundum, R -3 c in hexagonal axes, called trigonal: 12 Al and 18 O, which ASE alone takes for another cell."""
    text = ("data_x\n_cell_length_a 4.76\n_cell_length_b 4.76\n_cell_length_c 12.99\n_cell_angle_alpha 90\n"
            "_cell_angle_beta 90\n_cell_angle_gamma 120\n_space_group_crystal_system trigonal\n"
            "_symmetry_Int_Tables_number 167\nloop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n"
            "_atom_site_fract_z\nAl1 0 0 0.352\nO1 0.306 0 0.25\n")
    found = elements(read(tmp_path / "a.cif", text))
    assert (found.count("Al"), found.count("O")) == (12, 18)


def test_labels_of_a_cif_file_without_types_are_refused_where_they_can_be_two_elements(tmp_path):
    assert elements(read(tmp_path / "a.cif", cif(["Si1 0 0 0", "O2- 0.4 0 0"]))) == ["Si", "O"]
    assert elements(read(tmp_path / "a.cif", cif(["X1 CA2+ 0 0 0 1"], columns=COLUMNS))) == ["Ca"]
    with pytest.raises(SpecError, match="'SI1' can be Si or a name of S"):
        read(tmp_path / "a.cif", cif(["SI1 0 0 0"]))
