"""CIF for deposition: other programs read positions, elements and uncertainties back."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from aetlab.core.nouns import RefinedAtoms
from aetlab.core.poses import Poses
from aetlab.exchange.cif_file import with_uncertainties, write_cif
from aetlab.samples.cif import read_cif

BOX_A = (40.0, 44.0, 36.0)


def make_refined() -> RefinedAtoms:
    """Return 30 Cu and Au atoms and one site that is no atom."""
    rng = np.random.default_rng(1)
    n = 31
    numbers = rng.choice([29, 79], n)
    numbers[7] = 0
    return RefinedAtoms(
        rng.uniform(-15, 15, (n, 3)), rng.normal(1, 0.05, n), np.ones(n), numbers, rng.uniform(0.005, 0.05, (n, 3)),
        np.full(n, 0.02), rng.uniform(0.9, 1, n), np.ones((n, 2)), np.zeros(n), Poses.nominal(np.zeros(2), 1),
        np.array([0.52, 0.61]), np.array([0.013, 0.0]), np.zeros(1), (), {})


@pytest.mark.parametrize(("value", "error", "text"), [
    (0.482131, 0.00151, "0.4821(15)"), (0.482131, 0.0026, "0.482(3)"), (-0.5, 0.0195, "-0.50(2)"),
    (0.5, 0.000194, "0.50000(19)"), (12.4, 3.2, "12(3)"), (12.4, 150.0, "12(150)"), (0.25, 0.0, "0.250000"),
    (0.25, np.nan, "0.250000"), (1.0, 0.0999, "1.00(10)")])
def test_uncertainties_stand_in_units_of_the_last_digit(value: float, error: float, text: str) -> None:
    assert with_uncertainties(np.array([value]), np.array([error])) == [text]


def test_ase_and_the_own_reader_find_the_atoms_of_a_cif(tmp_path: Path) -> None:
    atoms, path = make_refined(), tmp_path / "a.cif"
    write_cif(path, atoms, box_A=BOX_A, name="aetlab 3f2a", made_by="aetlab 0.1", elements=(29, 79))
    named = atoms.numbers > 0
    read = ase.io.read(path)
    np.testing.assert_array_equal(read.numbers, atoms.numbers[named])
    off_A = read.positions - np.array(BOX_A) / 2 - atoms.positions_A[named]
    assert (np.abs(off_A) <= 0.5 * atoms.position_error_A[named]).all()  # rounding stays below the uncertainty
    np.testing.assert_allclose(read.cell.lengths(), BOX_A)
    [read_sites] = read_cif(path.read_text(encoding="utf-8"))
    sites = read_sites()
    assert len(sites.numbers) == 30 and (sites.occupancy == 1).all()


def test_a_cif_states_b_and_its_uncertainty_by_element_and_holds_no_long_lines(tmp_path: Path) -> None:
    write_cif(tmp_path / "a.cif", make_refined(), box_A=BOX_A, name="a'b\n", made_by="x" * 200, elements=(29, 79))
    lines = (tmp_path / "a.cif").read_text(encoding="ascii").splitlines()
    assert lines[0] == "data_a_b_" and max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith(("Cu", "Au"))]
    assert {row[1]: row[5] for row in rows} == {"Cu": "0.520(13)", "Au": "0.610000"}
    assert [row[0] for row in rows if row[1] == "Cu"][:3] == ["Cu1", "Cu2", "Cu3"]
