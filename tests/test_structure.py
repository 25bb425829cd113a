"""Structure measures against lattices whose bonds, angles and shells are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aetlab.core.nouns import Atoms
from aetlab.core.structure import (
    count_coordination,
    depth_below_surface,
    find_bonds,
    find_tetrahedra,
    measure_angles,
    pair_distribution,
)
from aetlab.reporting.figures.atoms import ShownAtoms
from aetlab.scoring import match_atoms
from aetlab.scoring.structure import compare_structure, compare_tetrahedra
from tests.trace_volumes import make_traced

CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


def make_tetrahedra(centres, length_A=1.6):
    numbers, positions = [], []
    for centre in np.asarray(centres, dtype=np.float64):
        numbers += [14, 8, 8, 8, 8]
        positions += [centre, *(centre + length_A * CORNERS)]
    return np.array(numbers), np.array(positions)


def make_diamond(n=4, a_A=5.431):
    face = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cell = np.concatenate([face, face + 0.25])
    return np.concatenate([cell + shift for shift in itertools.product(range(n), repeat=3)]) * a_A


def test_bonds_and_angles_of_a_tetrahedron():
    numbers, positions = make_tetrahedra([[0, 0, 0], [10, 0, 0]])
    bonds = find_bonds(numbers, positions, 14, 8)
    np.testing.assert_array_equal(bonds.centre, [0, 0, 0, 0, 5, 5, 5, 5])
    np.testing.assert_array_equal(bonds.end, [1, 2, 3, 4, 6, 7, 8, 9])
    np.testing.assert_allclose(bonds.length_A, 1.6)
    angles = measure_angles(bonds, positions)
    assert len(angles) == 12
    np.testing.assert_allclose(angles, np.rad2deg(np.arccos(-1 / 3)), rtol=1e-9)
    np.testing.assert_array_equal(count_coordination(bonds, numbers, 14), [4, 4])
    back = find_bonds(numbers, positions, 8, 14)
    np.testing.assert_array_equal(count_coordination(back, numbers, 8), np.ones(8))


def test_bonds_outside_the_tolerance_do_not_count():
    numbers = np.array([14, 8, 8, 8])
    positions = np.array([[0, 0, 0], [1.98, 0, 0], [0, 1.2, 0], [0, 0, 1.3]])
    np.testing.assert_allclose(find_bonds(numbers, positions, 14, 8).length_A, 1.3)
    assert len(find_bonds(numbers, positions, 14, 6).centre) == 0
    assert len(measure_angles(find_bonds(numbers, positions, 14, 6), positions)) == 0


def test_silicon_has_four_neighbours_and_known_shells():
    positions = make_diamond()
    numbers = np.full(len(positions), 14)
    bonds = find_bonds(numbers, positions, 14, 14, length_A=2.352, tolerance_A=0.2)
    deep = depth_below_surface(positions, positions) > 2.5
    coordination = count_coordination(bonds, numbers, 14)
    assert deep.sum() > 50 and (coordination[deep] == 4).all()
    r_A, g = pair_distribution(positions, 6.0, 0.1)
    assert len(r_A) == len(g) == 60 and (g >= 0).all() and g[0] == 0
    peaks = r_A[g > 0]
    for distance in (2.352, 3.840, 4.503, 5.431):
        assert np.abs(peaks - distance).min() < 0.06
    for distance in (1.5, 3.0, 5.0):
        assert g[np.argmin(np.abs(r_A - distance))] == 0
    # The first shell holds four atoms.
    density = 8 / 5.431**3
    first = (r_A > 2) & (r_A < 2.7)
    n_first = (g[first] * 4 * np.pi * r_A[first] ** 2 * 0.1).sum() * density
    assert n_first == pytest.approx(4, rel=0.06)


def test_atoms_at_random_have_no_structure():
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 30, (6000, 3))
    r_A, g = pair_distribution(positions, 6.0, 0.5)
    np.testing.assert_allclose(g[2:], 1.0, atol=0.05)
    numbers = rng.choice([8, 14], 6000)
    _, partial = pair_distribution(positions, 6.0, 0.5, numbers=numbers, pair=(14, 8))
    np.testing.assert_allclose(partial[3:], 1.0, atol=0.1)


def test_pair_distribution_needs_deep_atoms():
    with pytest.raises(ValueError, match="r_max_A=9"):
        pair_distribution(make_diamond(2), 9.0)
    with pytest.raises(ValueError, match="r_max_A=1"):
        pair_distribution(np.zeros((2, 3)), 1.0)


def test_depth_is_the_distance_from_the_hull():
    cube = np.array(list(itertools.product([0.0, 10.0], repeat=3)))
    points = np.array([[5, 5, 5], [1, 5, 5], [5, 5, 12], [0, 0, 0]])
    np.testing.assert_allclose(depth_below_surface(points, cube), [5, 1, -2, 0], atol=1e-9)
    assert np.isnan(depth_below_surface(points, cube[:3])).all()
    assert np.isnan(depth_below_surface(points, cube[:4] * [0, 1, 1])).all()


def test_tetrahedra_need_four_bonds_in_range():
    numbers, positions = make_tetrahedra([[0, 0, 0], [10, 0, 0], [0, 10, 0]])
    positions[6] = positions[5] + 2.0 * CORNERS[0]
    found = find_tetrahedra(numbers, positions)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])
    # Of five the four nearest to the mean length count.
    numbers, positions = np.append(numbers, 8), np.append(positions, [[1.9, 0, 0]], axis=0)
    np.testing.assert_array_equal(find_tetrahedra(numbers, positions), found)
    assert find_tetrahedra(numbers[:4], positions[:4]).shape == (0, 5)
    assert find_tetrahedra(np.array([8]), np.zeros((1, 3))).shape == (0, 5)


@pytest.mark.parametrize(("length_A", "n"), [(1.23, 1), (1.22, 0), (1.97, 1), (1.98, 0)])
def test_a_bond_of_a_tetrahedron_is_within_0_375_A_of_1_6(length_A, n):
    numbers, positions = make_tetrahedra([[0, 0, 0]])
    positions[2] = length_A * CORNERS[1]
    assert len(find_tetrahedra(numbers, positions)) == n


def test_the_drawn_tetrahedra_are_the_counted_ones():
    numbers, positions = make_tetrahedra([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    numbers = np.append(numbers, 8)  # a fifth neighbour of the first centre, the four nearest to 1.6 Å count
    positions = np.append(positions, [[1.9, 0, 0]], axis=0)
    numbers[5] = 8  # an O at the centre
    numbers[11] = 0  # a corner that is named no atom
    traced = make_traced(positions, numbers)
    _, metrics = compare(traced, Atoms(numbers[numbers > 0], positions[numbers > 0], np.zeros(20, dtype=int)))
    drawn = ShownAtoms(traced.positions_A, traced.numbers, traced.signal, None).tetrahedra
    np.testing.assert_array_equal(drawn, [[0, 1, 2, 3, 4], [15, 16, 17, 18, 19]])
    assert metrics["tetrahedra_n_traced"] == metrics["tetrahedra_n_true"] == metrics["tetrahedra_n_common"] == 2


def test_traced_tetrahedra_are_compared_atom_by_atom():
    numbers, positions = make_tetrahedra([[0, 0, 0], [10, 0, 0]])
    true = find_tetrahedra(numbers, positions)
    order = np.random.default_rng(2).permutation(10)
    traced = find_tetrahedra(numbers[order], positions[order])
    whole = compare_tetrahedra(traced, true, np.arange(10), order)
    assert whole == {"n_true": 2, "n_traced": 2, "n_common": 2, "recall": 1, "precision": 1}
    lost = order != 7
    part = compare_tetrahedra(traced, true, np.arange(10)[lost], order[lost])
    assert part["n_common"] == 1 and part["recall"] == part["precision"] == 0.5
    none = compare_tetrahedra(traced[:0], true[:0], np.arange(0), np.arange(0))
    assert np.isnan(none["recall"]) and none["n_common"] == 0


def compare(traced, atoms, traced_inside=None, true_inside=None):
    everywhere = [np.ones(len(some), dtype=bool) for some in (traced, atoms)]
    match = match_atoms(traced, atoms, traced_inside=everywhere[0], true_inside=everywhere[1], max_distance_A=1.0,
                        n_resamples=0)
    return compare_structure(match, traced, atoms,
                             traced_inside=everywhere[0] if traced_inside is None else traced_inside,
                             true_inside=everywhere[1] if true_inside is None else true_inside)


def test_structures_of_traced_and_true_atoms_are_both_measured():
    centres = np.array(list(itertools.product([0.0, 8.0, 16.0], repeat=3)))
    numbers, positions = make_tetrahedra(centres)
    atoms = Atoms(numbers, positions, np.zeros(len(numbers), dtype=int))
    order = np.random.default_rng(3).permutation(len(numbers))
    arrays, metrics = compare(make_traced(1.05 * positions[order], numbers[order]), atoms)
    assert metrics["bond_Si_O_true_A"] == pytest.approx(1.6) and metrics["bond_Si_O_traced_A"] == pytest.approx(1.68)
    for kind in ("true", "traced"):
        assert metrics[f"angle_Si_O_{kind}_deg"] == pytest.approx(109.4712)
    assert metrics["coordination_Si_O_true"] == metrics["coordination_Si_O_traced"] == 4
    assert metrics["coordination_O_Si_true"] == 1 and metrics["coordination_Si_Si_true"] == 0
    assert metrics["tetrahedra_n_true"] == metrics["tetrahedra_n_traced"] == 27
    for kind in ("true", "traced"):
        assert arrays[f"Si-O/length_{kind}"].sum() == 108 and arrays[f"Si-O/angle_{kind}"].sum() == 6 * 27
        np.testing.assert_array_equal(arrays[f"Si-O/coordination_{kind}"], 27 * (np.arange(13) == 4))
    lengths_A = arrays["Si-O/length_edges_A"]
    assert lengths_A[0] == pytest.approx(1.225) and lengths_A[-1] == pytest.approx(1.975)
    peak = np.argmax(arrays["Si-O/length_traced"])
    assert lengths_A[peak] <= 1.68 <= lengths_A[peak + 1]


def test_only_atoms_inside_are_compared_and_tetrahedra_keep_their_partners():
    numbers, positions = make_tetrahedra([[0, 0, 0], [10, 0, 0], [0, 10, 0]])
    atoms = Atoms(numbers, positions, np.zeros(15, dtype=int))
    order = np.random.default_rng(4).permutation(15)
    traced = make_traced(positions[order] + 0.01, numbers[order])
    inside = positions[:, 0] < 5
    _, metrics = compare(traced, atoms, traced.positions_A[:, 0] < 5, inside)
    assert (metrics["tetrahedra_n_true"], metrics["tetrahedra_n_traced"], metrics["tetrahedra_n_common"]) == (2, 2, 2)
    _, metrics = compare(make_traced(positions[order], np.where(order == 11, 0, numbers[order])), atoms)
    assert metrics["tetrahedra_n_traced"] == 2 and metrics["tetrahedra_recall"] == pytest.approx(2 / 3)


def test_pair_distributions_of_a_crystal_are_compared():
    positions = make_diamond(5)
    numbers = np.full(len(positions), 14)
    shaken = positions + np.random.default_rng(5).normal(0, 0.05, positions.shape)
    arrays, metrics = compare(make_traced(shaken, numbers), Atoms(numbers, positions, np.zeros(len(numbers), int)))
    r_A, true, traced = (arrays[f"pair_distribution/{name}"] for name in ("r_A", "g_true", "g_traced"))
    assert r_A[-1] > 7 and true.max() > 2 * traced.max() > 4
    assert metrics["bond_Si_Si_true_A"] == pytest.approx(2.352, abs=1e-3)
    nothing, _ = compare(make_traced(np.zeros((0, 3)), np.zeros(0, int)), Atoms(numbers, positions, 0 * numbers))
    assert "pair_distribution/r_A" not in nothing and not nothing["Si-Si/length_traced"].any()
