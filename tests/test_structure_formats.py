"""Structure files of others: elements by their words, occupancies that are drawn, symmetry, units, encodings."""

from __future__ import annotations

import io
import math
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aetlab.core.nouns import Atoms
from aetlab.core.physics import SYMBOLS
from aetlab.exchange.atom_files import read_atoms, write_atoms
from aetlab.samples import describe_reading
from aetlab.samples.structure_file import site_positions_A
from aetlab.spec import SampleSpec, SpecError
from aetlab.store.identity import NOT_IN_IDENTITY, identity_of
from tests.structure_files import COLUMNS, cif, elements, pdb_line, read

OXYGEN = "\nO 0 0 2.0\n"


@pytest.mark.parametrize("word, symbol", [
    ("14", "Si"), ("Si1", "Si"), ("O2-", "O"), ("Si4+", "Si"), ("D", "H"), ("SI", "Si"), ("cu", "Cu"),
    ("CU2+", "Cu"),
    ("AU1", "Au"), ("Ca", "Ca"), ("C1'", "C"), ("Fe_2", "Fe")])
def test_numbers_labels_ions_and_isotopes_of_an_xyz_file_name_elements(tmp_path, word, symbol):
    assert elements(read(tmp_path / "a.xyz", f"2\n\n{word} 0 0 0{OXYGEN}")) == [symbol, "O"]


@pytest.mark.parametrize("word, message", [
    ("CA", "'CA' can be Ca or a name of C"), ("SI1", "'SI1' can be Si or a name of S"), ("Ow", "'Ow' names no"),
    ("1H", "'1H' names no"), ("999", "no atomic number 999"), ("119", "no atomic number 119")])
def test_a_word_that_names_no_element_or_two_is_refused_with_its_line(tmp_path, word, message):
    with pytest.raises(SpecError, match=f"line 4: .*{message}"):
        read(tmp_path / "a.xyz", f"2\n\nO 0 0 2.0\n{word} 0 0 0\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_do_not_matter(tmp_path, encoding, line_end):
    text = "2\nÅ, µm, é\nSi 0 0 0\nO 0 0 1.6\n".replace("\n", line_end)
    atoms = read(tmp_path / "a.xyz", text.encode(encoding))
    assert elements(atoms) == ["Si", "O"]
    np.testing.assert_allclose(np.ptp(atoms.positions_A, axis=0), [0, 0, 1.6])


@pytest.mark.parametrize("content, message", [
    (b"", "it is empty"), (b" \n\n", "it is empty"), ("1\n\nSi 0 0 0\n".encode("utf-16-le"), "UTF-16 without a mark"),
    (b"\xff\xfe1", "say utf-16, which the rest is not"), (b"2\n\nSi 0 0 0\n", "ends before all 2 atoms"),
    (b"1\n\nSi 0 0 0\nO 0 0 2\n", "line 4 should hold a number"), (b"1\n\nSi 0 0\n", "line 3 has fewer than the 4"),
    (b"1\nProperties=species:S:1:pos:R:3:q:R:999999\nSi 0 0 0\n", "line 3 has fewer than"),
    (b"1\nProperties=species:S:1:pos:R:100000000\nSi 0 0 0\n", "no list of name:type:count")])
def test_xyz_files_that_are_not_whole_are_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(SpecError, match=f"cannot be read as extxyz: .*{message}") as caught:
        read(tmp_path / "a.xyz", content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, symbol", [
    (" CA ", "C"), ("CA  ", "Ca"), ("HG11", "H"), (" HG1", "H"), ("HG  ", "Hg"), (" ND1", "N"), ("AU  ", "Au"),
    ("  AU", "Au"), ("1HB ", "H"), (" Fe ", "Fe"), ("SI1 ", "Si"), ("ZN  ", "Zn"), (" CL ", "C"), ("CL  ", "Cl")])
def test_names_of_a_pdb_file_without_elements_are_read_by_their_alignment(tmp_path, name, symbol):
    assert elements(read(tmp_path / "a.pdb", pdb_line(name))) == [symbol]


def test_an_element_column_of_a_pdb_file_counts_above_the_name(tmp_path):
    lines = [pdb_line(" CA ", element="CA"), pdb_line("CA  ", y=3, element="C"), pdb_line(" H  ", z=3, element="D")]
    assert elements(read(tmp_path / "a.pdb", "".join(lines))) == ["Ca", "C", "H"]


def test_a_pdb_file_with_names_that_are_not_aligned_is_refused_unless_its_residues_tell(tmp_path):
    lines = [pdb_line("N   ", record="ATOM", residue="GLY"), pdb_line("CA  ", x=1.5, record="ATOM", residue="GLY")]
    assert elements(read(tmp_path / "a.pdb", "".join(lines))) == ["N", "C"]
    with pytest.raises(SpecError, match="line 2: the name 'CA' can be more than one element"):
        read(tmp_path / "b.pdb", "".join(lines).replace("GLY", "UNK"))


def several(name: str) -> str:
    """Return a file of C, then O2, in the format of ``name``."""
    one, two = pdb_line(" C  "), pdb_line(" O  ") + pdb_line(" O  ", x=1.3)
    if name == "a.pdb":
        return f"MODEL 1\n{one}ENDMDL\nMODEL 2\n{two}ENDMDL\nMASTER\nEND\n"
    if name == "vmd.pdb":
        return f"CRYST1\n{one}END\n{two}END\n"
    if name == "a.cif":
        return f"data_global\n_journal_year 2018\n{cif(['C1 0 0 0'])}{cif(['O1 0 0 0', 'O2 0.26 0 0'])}"
    if name == "a.xyz":
        return "1\nfirst\nC 0 0 0\n2\nsecond\nO 0 0 0\nO 1.3 0 0\n"
    molecules = [ase.Atoms("C"), ase.Atoms("O2", [(0, 0, 0), (1.3, 0, 0)])]
    if name == "a.sdf":
        return "".join(mol_text(molecule) + "$$$$\n" for molecule in molecules)
    text = io.StringIO()
    ase.io.write(text, [ase.Atoms("O2", [(0, 0, 0), (1.2, 0, 0)]), molecules[1]], format="xsf")
    return text.getvalue()


def mol_text(structure: ase.Atoms) -> str:
    """Return a molecule in the V2000 format of MOL and SDF, which ASE writes from version 3.28 on only."""
    lines = ["", "", "", f"{len(structure):3d}  0  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3s} 0  0  0  0  0  0  0  0  0  0  0  0"
              for symbol, (x, y, z) in zip(structure.symbols, structure.positions, strict=True)]
    return "\n".join([*lines, "M  END", ""])


@pytest.mark.parametrize("name", ["a.pdb", "vmd.pdb", "a.cif", "a.xyz", "a.sdf", "a.xsf"])
def test_a_file_with_several_structures_is_refused_unless_one_is_chosen_and_named(tmp_path, name):
    """One of them was taken without a word."""
    path = tmp_path / name
    with pytest.raises(SpecError, match="holds 2 structures; choose one of them by its number, sample.frame=1 to") as e:
        read(path, several(name))
    assert "\n" not in str(e.value)
    chosen = [read(path, frame=number) for number in (1, 2)]
    assert [elements(atoms) for atoms in chosen] == [["O", "O"] if name == "a.xsf" else ["C"], ["O", "O"]]
    assert np.ptp(chosen[1].positions_A) == pytest.approx(1.3, abs=0.01)
    assert chosen[1].notes[0] == "structure 2 of 2 is taken"
    with pytest.raises(SpecError, match=r"sample\.frame=3 cannot be used: .* holds 2 structures"):
        read(path, frame=3)


def test_read_atoms_refuses_several_structures_unless_one_is_chosen(tmp_path):
    (tmp_path / "a.xyz").write_text(several("a.xyz"))
    with pytest.raises(SpecError, match="frame=0 cannot be used: .* holds 2 structures"):
        read_atoms(tmp_path / "a.xyz")
    assert elements(read_atoms(tmp_path / "a.xyz", frame=1)) == ["C"]


def test_only_a_chosen_structure_of_several_changes_the_identity():
    sample = {"kind": "file", "path": "a.xyz", "digest": "0" * 64}
    settings_ = {group: {} for group in NOT_IN_IDENTITY} | {"data": {"kind": "", "path": ""}, "reg": {"kind": "tv"}}
    found = [identity_of({**settings_, "sample": sample | chosen})["sample"]
             for chosen in ({}, {"frame": 0}, {"frame": 2})]
    assert found[0] == found[1] and found[2] == {"kind": "file", "path": "0" * 64 + ".xyz:2"}


def test_an_asymmetric_unit_of_a_pdb_file_is_not_repeated(tmp_path):
    text = "CRYST1   20.000   30.000   40.000  90.00  90.00  90.00 {:11s}1\n" + pdb_line(" O  ")
    assert len(read(tmp_path / "a.pdb", text.format("P 1"), repeat=(2, 1, 1))) == 2
    with pytest.raises(SpecError, match="no unit cell"):
        read(tmp_path / "a.pdb", text.format("P 21 21 21"), repeat=(2, 1, 1))
    assert "not the whole cell of its space group P 21 21 21" in read(tmp_path / "a.pdb").notes[0]


def residues(n: int, occupancy_b: float = 0.3) -> str:
    """Return CO molecules 5 Å apart, each at one of two places 0.6 Å apart, at B by chance ``occupancy_b``."""
    return "".join(pdb_line(f" {symbol}  ", x=5 * i, y=y, z=z, number=i, altloc=letter, occupancy=chance,
                            element=symbol)
                   for i in range(n) for letter, chance, y in (("A", 0.7, 0.0), ("B", occupancy_b, 0.6))
                   for symbol, z in (("C", 0.0), ("O", 1.13)))


def test_each_residue_has_one_of_its_alternate_locations_as_a_whole(tmp_path):
    n = 900
    atoms = read(tmp_path / "a.pdb", residues(n))
    assert (atoms.counts, len(atoms)) == ({"n_partial": 4 * n, "n_drawn": 2 * n}, 2 * n)
    y = atoms.positions_A[:, 1].reshape(n, 2) - atoms.positions_A[:, 1].min()
    np.testing.assert_allclose(y[:, 0], y[:, 1], atol=1e-9)  # C and O of a residue belong to one location
    assert abs((y[:, 0] > 0.3).mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    other = read(tmp_path / "a.pdb", seed=3)
    assert (np.abs(other.positions_A - atoms.positions_A).max(axis=1) > 0.3).sum() > n / 3
    np.testing.assert_array_equal(read(tmp_path / "a.pdb").positions_A, atoms.positions_A)


def test_occupancies_of_a_pdb_file_are_drawn_and_nonsense_is_refused(tmp_path):
    n = 1000
    text = "".join(pdb_line(" C  ", x=3 * i, number=i, occupancy=0.25) for i in range(n))
    atoms = read(tmp_path / "a.pdb", text)
    assert atoms.counts == {"n_partial": n, "n_drawn": len(atoms)}
    assert abs(len(atoms) - 0.25 * n) < 4 * math.sqrt(0.25 * 0.75 * n)
    assert len(read(tmp_path / "a.pdb", pdb_line(" C  ", occupancy=None))) == 1
    for text, message in ((residues(2, 0.7), "add up to 1.4"), (pdb_line(" C  ", occupancy=0), "occupancies are 0"),
                          (pdb_line(" C  ", occupancy=1.5), "must lie between 0 and 1")):
        with pytest.raises(SpecError, match=message):
            read(tmp_path / "a.pdb", text)


def test_occupancies_of_other_formats_are_drawn(tmp_path):
    text = ('2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:occupancy:R:1\n'
            "Au 0 0 0 0.2\nSi 2 2 2 1.0\n")
    kirkland = "gold in silicon\n4 4 4\n79 0 0 0 0.2 0.08\n14 2 2 2 1 0.08\n-1\n"
    for name, content in (("a.xyz", text), ("k.xyz", kirkland)):
        atoms = read(tmp_path / name, content, repeat=(10, 10, 10))
        assert abs(elements(atoms).count("Au") - 200) < 4 * math.sqrt(160)
        assert atoms.counts["n_partial"] == 1000
    (tmp_path / "shared.cif").write_text(cif(["A Au 0 0 0 0.5", "B Cu 0 0 0 0.5"], columns=COLUMNS, a=4.0))
    ase.io.write(tmp_path / "shared.xyz", ase.io.read(tmp_path / "shared.cif"))
    found = elements(read(tmp_path / "shared.xyz", repeat=(10, 10, 10)))
    assert len(found) == 1000 and abs(found.count("Au") - 500) < 4 * math.sqrt(250)


def test_a_structure_in_nm_is_refused_and_one_in_pm_is_warned_of(tmp_path):
    rows = np.array([(0, 0, 0), (1.6, 0, 0), (0, 1.6, 0)])
    for scale in (0.1, 100):
        ase.io.write(tmp_path / f"{scale}.xyz", ase.Atoms("SiO2", rows * scale))
    with pytest.raises(SpecError, match=r"3 of its 3 atoms .* Si and O 0\.16 Å apart; are its coordinates in nm"):
        read(tmp_path / "0.1.xyz")
    assert "160 Å in the median; are its coordinates in Å?" in read(tmp_path / "100.xyz").notes[0]


def test_what_the_readers_of_ase_take_on_trust_is_checked(tmp_path):
    cell = "1\n4 0 0\n0 4 0\n0 0 4\n"
    for name, text, message in (
            ("POSCAR", f"As relaxed GaN\n{cell}1 1\nDirect\n0 0 0\n.5 .5 .5\n", "names no elements"),
            ("POSCAR", f"x\n{cell}Ga\n1000000000\nDirect\n0 0 0\n", "ends before all 1000000000 atoms"),
            ("a.gen", "1 C\nSi\n1 1 0 0 0\n1 C\nSi\n1 1 0 0 0\n", "lines follow the structure that ends in line 3"),
            ("POSCAR", f"x\n{cell}Ga\n1\n" + "Direct configuration= 1\n0 0 0\n" * 2, "it holds 2 structures"),
            ("POSCAR", f"x\n{cell}Ga N\n1 1\nDirect\n0 0 0\n.5 .5 .5\n.2 .2 .2\n", "more coordinates than the 2 atoms"),
            ("POSCAR", f"x\n{cell}Ga N\n1 1\nSelective\nDirect\n0 0 0 T T T\n", "ends before all 2 atoms"),
            ("a.xyz", "x\n4 4 4\n79 0 0 0 1\n-1\n", "line 3 has 5 numbers"),
            ("a.xyz", "x\n4 4 4\n79.9 0 0 0 1 0\n-1\n", "79.9 is no atomic number"),
            ("a.cfg", "Number of particles = 1\n" * 2, "it holds 2 structures"),
            ("a.gen", "1 C\nSi\n1 0 0 0 0\n", "line 3 has the species 0, and the second line names 1"),
            ("a.gen", "5 C\nSi\n1 1 0 0 0\n2 1 0 0 3\n", "ends before all 5 atoms"),
            ("a.cfg", "Number of particles = 99999999\n", "Number of particles = 99999999"),
            ("a.mol", "\n\n\n  2  0            999 V3000\n", "version V3000"),
            ("a.cube", "c\nc\n1 0 0 0\n-2 1 0 0\n-2 0 1 0\n-2 0 0 1\n14 0 0 0 0\n", "negative numbers of voxels")):
        with pytest.raises(SpecError, match=message):
            read(tmp_path / name, text)
    assert elements(read(tmp_path / "POSCAR", f"GaN relaxed\n{cell}1 1\nDirect\n0 0 0\n.5 .5 .5\n")) == ["Ga", "N"]
    unit = ("Number of particles = 1\nA = 4.0 Angstrom\nH0(1,1) = 1 A\nH0(2,2) = 1 A\nH0(3,3) = 1 A\n.NO_VELOCITY.\n"
            "entry_count = 3\n28.0\nSi\n.1 .1 .1\n")
    assert np.ptp(read(tmp_path / "a.cfg", unit, repeat=(2, 1, 1)).positions_A[:, 0]) == pytest.approx(4.0)


#: Digits of the coordinates that a format keeps, in Å, and the greatest number of atoms.
WRITTEN = {"a.xyz": ("extxyz", 1e-6, 5000), "a.cif": ("cif", 1e-6, 5000), "a.pdb": ("proteindatabank", 2e-3, 5000),
           "POSCAR": ("vasp", 1e-6, 5000), "a.gen": ("gen", 1e-6, 5000), "a.xsf": ("xsf", 1e-6, 5000),
           "a.cfg": ("cfg", 2e-3, 5000), "a.cube": ("cube", 1e-5, 5000), "a.sdf": ("mol", 1e-3, 999),
           "a.mol": ("mol", 1e-3, 999), "aetlab.xyz": ("", 2e-5, 5000),
           "aetlab.csv": ("", 2e-5, 5000)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(WRITTEN)), n_atoms=st.integers(1, 5000), n_elements=st.integers(1, 12),
       spacing_A=st.floats(4.5, 6.0), seed=st.integers(0, 2**32 - 1))
def test_what_is_read_is_what_was_written(tmp_path: Path, name: str, n_atoms: int, n_elements: int, spacing_A: float,
                                          seed: int) -> None:
    """Random structures of 1 to 12 elements and 1 to 5 000 atoms, written by ASE and aetlab, in all formats."""
    ase_format, tolerance_A, n_most = WRITTEN[name]
    rng = np.random.default_rng(seed)
    n_atoms = min(n_atoms, n_most)
    n_side = math.ceil(n_atoms ** (1 / 3))
    grid = np.stack(np.unravel_index(rng.permutation(n_side**3)[:n_atoms], (n_side,) * 3), axis=1)
    positions_A = spacing_A * (grid + 0.5) + rng.uniform(-0.3, 0.3, (n_atoms, 3))
    symbols = rng.choice(rng.choice(SYMBOLS[1:], n_elements, replace=False), n_atoms)
    structure = ase.Atoms(list(symbols), positions_A, cell=3 * [spacing_A * n_side], pbc=True)
    path = tmp_path / name
    if ase_format == "mol":
        path.write_text(mol_text(structure) + "$$$$\n" * (path.suffix == ".sdf"))
    elif ase_format:
        ase.io.write(path, structure, format=ase_format)
    else:
        write_atoms(path, Atoms(structure.numbers, positions_A, np.zeros(n_atoms, dtype=np.int64)))
        np.testing.assert_array_equal(read_atoms(path).numbers, structure.numbers)
        np.testing.assert_allclose(read_atoms(path).positions_A, positions_A, atol=tolerance_A)
    if path.suffix == ".csv":
        return
    atoms = read(path)
    np.testing.assert_array_equal(atoms.numbers, structure.numbers)
    expected_A = positions_A - (positions_A.min(axis=0) + positions_A.max(axis=0)) / 2
    np.testing.assert_allclose(atoms.positions_A, expected_A, atol=tolerance_A)
    assert atoms.counts == {}


def test_the_place_of_a_structure_does_not_depend_on_what_is_drawn(tmp_path):
    text = cif(["A Au 0 0 0 0.5"], columns=COLUMNS, a=4.0)
    sites_A = 4.0 * (np.array(list(np.ndindex(4, 4, 4))) - 1.5)
    for seed in (1, 2):
        found = read(tmp_path / "a.cif", text, repeat=(4, 4, 4), seed=seed).positions_A
        assert 0 < len(found) < 64 and {tuple(row) for row in found.round(6)} <= {tuple(row) for row in sites_A}
    sample = SampleSpec(kind="file", path=str(tmp_path / "a.cif"), repeat=(4, 4, 4))
    np.testing.assert_allclose(np.ptp(site_positions_A(sample), axis=0), 12.0)


def test_what_was_drawn_and_decided_is_said(tmp_path):
    path = tmp_path / "a.cif"
    atoms = read(path, cif(["A1 Au 0 0 0 0.5", "A2 Cu 0 0 0 0.3"], columns=COLUMNS, a=6.0), repeat=(3, 3, 3))
    symmetry, far, drawn = describe_reading(atoms, SampleSpec(kind="file", path=str(path)), 7)
    assert symmetry == f"{path}: it states no symmetry: its sites are taken as all atoms of the cell"
    assert far == f"{path}: its atoms are farther apart than bonded ones, 6 Å in the median; are its coordinates in Å?"
    assert drawn == (f"{path}: 54 sites are occupied in part; {len(atoms)} atoms were drawn for them at random with "
                     "seed=7")
    assert 0 < len(atoms) < 27
