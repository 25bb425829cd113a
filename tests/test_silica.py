"""The silica cell that ships with the project, and the script that makes such cells."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from aetlab.samples.needle import SILICA_FILE, SILICA_SHA256, load_silica

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def quality(scripts_on_the_path):
    from silica_quality import qualities

    return qualities(*load_silica())


def test_file_has_its_checksum_and_the_seed_of_the_script():
    content = SILICA_FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SILICA_SHA256
    (seed,) = re.findall(rb"seed=(\d+)", content)
    source = (SCRIPTS / "make_silica.py").read_text(encoding="utf-8")
    assert f"SEED = {int(seed)}\n" in source


def test_cell_is_a_periodic_cube_of_1000_sio2():
    numbers, positions_A, side_A = load_silica()
    assert (numbers == 14).sum() == 1000 and (numbers == 8).sum() == 2000
    assert side_A == pytest.approx(35.66, abs=0.01)
    assert positions_A.shape == (3000, 3) and positions_A.min() >= 0 and positions_A.max() <= side_A


def test_every_silicon_has_four_oxygen_and_every_oxygen_two_silicon(quality):
    assert quality["si_with_4_o_percent"] == 100
    assert quality["o_with_2_si_percent"] == 100


@pytest.mark.parametrize("name, expected, tolerance", [
    ("density_g_cm3", 2.20, 0.005),
    ("si_o_peak_A", 1.618, 0.008),
    ("o_si_o_mean_deg", 109.4, 0.3),
    ("o_si_o_spread_deg", 4.3, 0.5),
    ("si_o_si_mean_deg", 149.7, 1.5),
    ("si_o_si_spread_deg", 12.3, 1.5),
    ("first_sharp_peak_per_A", 1.53, 0.03),
])
def test_cell_has_the_structure_of_silica_glass(quality, name, expected, tolerance):
    assert quality[name] == pytest.approx(expected, abs=tolerance)


def test_no_two_atoms_are_too_near(quality):
    assert quality["si_o_least_A"] > 1.575
    assert quality["o_o_least_A"] > 2.2
    assert quality["si_si_least_A"] > 2.7


def test_cell_has_no_reflections_of_a_crystal(quality):
    # the strongest of some thousand exponentially distributed reflections; a crystal's has hundreds
    assert quality["strongest_reflection"] < 25


def test_qualities_of_ideal_cristobalite(scripts_on_the_path):
    """Si on the sites of diamond and O halfway between: a cube of 7.16 Å holds 8 SiO2, and bonds have a √3/8."""
    from silica_quality import qualities

    a_A = 7.16
    face = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0)]) / 4
    bonds = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / 8
    cell = np.concatenate([face, face + 0.25, (face[:, None] + bonds).reshape(-1, 3)])
    shifts = np.stack(np.meshgrid(*3 * [np.arange(5)], indexing="ij"), -1).reshape(-1, 1, 3)
    found = qualities(np.tile(np.repeat([14, 8], [8, 16]), 125), a_A * (shifts + cell).reshape(-1, 3), 5 * a_A)
    bond_A = a_A * np.sqrt(3) / 8
    # The reflection 111: amplitudes of 4 √2 b for Si and 8 b for O in each of 125 cells.
    strongest = 125 * (4 * np.sqrt(2) * 4.1491 + 8 * 5.803) ** 2 / (8 * 4.1491**2 + 16 * 5.803**2)
    expected = {"density_g_cm3": 8 * 60.0843 * 1.660539 / a_A**3, "si_with_4_o_percent": 100,
                "o_with_2_si_percent": 100, "si_o_mean_A": bond_A, "si_o_least_A": bond_A,
                "o_o_least_A": bond_A * np.sqrt(8 / 3), "si_si_least_A": 2 * bond_A,
                "o_si_o_mean_deg": 109.47122, "si_o_si_mean_deg": 180, "strongest_reflection": strongest}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found["si_o_peak_A"] == pytest.approx(bond_A, abs=0.01)
    assert found["o_si_o_spread_deg"] == pytest.approx(0, abs=1e-5)
    assert found["si_o_si_spread_deg"] == pytest.approx(0, abs=1e-4)
    assert found["first_sharp_peak_per_A"] == pytest.approx(2 * np.pi * np.sqrt(3) / a_A, abs=0.01)


@pytest.mark.slow
def test_network_keeps_its_bonds_and_repeats_with_its_seed(scripts_on_the_path):
    from silica_network import random_network

    networks = [random_network(2, 30, (0.5, 0.2), np.random.default_rng(seed)) for seed in (3, 3, 4)]
    positions_A, neighbours, side_A = networks[0]
    np.testing.assert_array_equal(positions_A, networks[1][0])
    assert not np.array_equal(neighbours, networks[2][1])
    sites = np.arange(len(neighbours))
    bonded = np.zeros((len(sites), len(sites)), dtype=bool)
    bonded[np.repeat(sites, 4), neighbours.ravel()] = True
    np.testing.assert_array_equal(bonded, bonded.T)
    assert (bonded.sum(1) == 4).all() and not bonded.diagonal().any()
    assert np.trace(np.linalg.matrix_power(bonded.astype(int), 3)) == 0  # closed walks of three: rings of three
    offset = positions_A[neighbours] - positions_A[:, None]
    offset -= side_A * np.round(offset / side_A)
    lengths_A = np.linalg.norm(offset, axis=-1)
    assert lengths_A.mean() == pytest.approx(2.35, abs=0.12) and lengths_A.std() < 0.3


def test_keating_energy_falls_back_to_the_crystal(scripts_on_the_path):
    from silica_network import diamond, relax_all

    positions_A, neighbours, side_A = diamond(2)
    moved_A = positions_A + np.random.default_rng(5).normal(0, 0.1, positions_A.shape)
    assert relax_all(moved_A, neighbours, side_A) == pytest.approx(0, abs=0.01)
    shift_A = moved_A - positions_A
    assert np.abs(shift_A - shift_A.mean(0)).max() < 0.05


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_pair_forces_are_the_derivatives_of_the_energies(scripts_on_the_path, kind):
    from silica_relax import CHIK, chik_pair

    for r_A in (1.2, 1.62, 2.6, 3.1, 6.3, 8.0, 10.0):
        values = [chik_pair(r_A + step, kind, CHIK)[0] for step in (-1e-5, 1e-5)]
        slope = chik_pair(r_A, kind, CHIK)[1]
        assert (values[1] - values[0]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-5)
