"""Matching and scoring: the paper's greedy rule, the optimal assignment, confidence intervals, profiles."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from aetlab.core.nouns import Atoms
from aetlab.scoring import match_atoms
from aetlab.scoring.profile import distance_from_axis_A, profile_scores, score_against
from tests.trace_volumes import make_traced


def make_atoms(positions_A, numbers):
    positions_A = np.asarray(positions_A, dtype=np.float64).reshape(len(numbers), 3)
    return Atoms(np.asarray(numbers), positions_A, np.zeros(len(numbers), dtype=np.int64))


def match(traced, atoms, traced_inside=None, true_inside=None, **settings):
    traced_inside = np.ones(len(traced), dtype=bool) if traced_inside is None else np.asarray(traced_inside)
    true_inside = np.ones(len(atoms), dtype=bool) if true_inside is None else np.asarray(true_inside)
    return match_atoms(traced, atoms, traced_inside=traced_inside, true_inside=true_inside, max_distance_A=1.0,
                       **{"n_resamples": 0, **settings})


def random_case(seed, n=400):
    rng = np.random.default_rng(seed)
    true_A = rng.uniform(-10, 10, (n, 3)) * [1.0, 1.4, 0.8]
    numbers = rng.choice([8, 14], n)
    kept = rng.random(n) < 0.9
    traced_A = np.concatenate([(true_A + rng.normal(0, 0.25, (n, 3)))[kept], rng.uniform(-10, 10, (n // 10, 3))])
    names = np.where(rng.random(len(traced_A)) < 0.9, np.append(numbers[kept], np.full(n // 10, 8)), 14)
    return make_traced(traced_A, names, rng.uniform(30, 300, len(traced_A))), make_atoms(true_A, numbers)


def test_the_brighter_atom_is_matched_first():
    atoms = make_atoms([[0, 0, 0], [0.9, 0, 0]], [8, 14])
    # The dim one is nearer to atom 0, but the bright one is matched to it; atom 1 is too far from the dim one.
    traced = make_traced([[0.3, 0, 0], [-0.2, 0, 0]], [8, 8], [200.0, 100.0])
    paper = match(traced, atoms)
    assert list(zip(paper.traced, paper.true, strict=True)) == [(0, 0)]
    assert list(paper.unmatched_traced) == [1] and list(paper.unmatched_true) == [1]
    assert sorted(zip(paper.strict_traced, paper.strict_true, strict=True)) == [(0, 1), (1, 0)]
    # With the intensities exchanged the greedy rule finds both.
    both = match(make_traced([[0.3, 0, 0], [-0.2, 0, 0]], [8, 8], [100.0, 200.0]), atoms)
    assert sorted(zip(both.traced, both.true, strict=True)) == [(0, 1), (1, 0)]


def test_greedy_rule_is_the_papers_loop():
    traced, atoms = random_case(1)
    free = np.ones(len(atoms), dtype=bool)
    expected = {}
    for i in np.argsort(-traced.intensity_V, kind="stable"):
        distance = np.linalg.norm(atoms.positions_A - traced.positions_A[i], axis=1)
        distance[~free] = np.inf
        j = int(np.argmin(distance))
        if distance[j] <= 1.0:
            free[j] = False
            expected[int(i)] = j
    found = match(traced, atoms)
    assert dict(zip(found.traced.tolist(), found.true.tolist(), strict=True)) == expected


def test_strict_assignment_is_the_best_of_all():
    rng = np.random.default_rng(2)
    for _ in range(30):
        true_A, traced_A = rng.uniform(0, 1.6, (5, 3)), rng.uniform(0, 1.6, (4, 3))
        distance = np.linalg.norm(traced_A[:, None] - true_A[None], axis=2)
        best = (0, 0.0)
        for places in itertools.permutations(range(5), 4):
            allowed = [distance[i, j] for i, j in enumerate(places) if distance[i, j] <= 1.0]
            best = min(best, (-len(allowed), sum(d**2 for d in allowed)))
        found = match(make_traced(traced_A, np.full(4, 8)), make_atoms(true_A, np.full(5, 8)))
        square = (distance[found.strict_traced, found.strict_true] ** 2).sum()
        assert (-len(found.strict_traced), pytest.approx(square)) == best


def test_metrics_are_the_papers_and_the_strict_definitions():
    atoms = make_atoms([[0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]], [14, 14, 8, 8])
    traced = make_traced([[0.3, 0, 0], [5, 0.4, 0], [0, 5, 0.5], [9, 9, 9]], [14, 8, 8, 8])
    metrics = match(traced, atoms).metrics
    expected = {"n_true": 4, "n_traced": 4, "n_found": 3, "found_percent": 75, "false_positive_percent": 25,
                "correct_species_percent": 200 / 3, "position_error_pm": 40,
                "sigma_x_pm": 100 * np.std([0.3, 0, 0]), "sigma_y_pm": 100 * np.std([0, 0.4, 0]),
                "sigma_z_pm": 100 * np.std([0, 0, 0.5]), "strict_precision": 0.75, "strict_recall": 0.75,
                "strict_f1": 0.75, "strict_rmsd_pm": 100 * np.sqrt((0.09 + 0.16 + 0.25) / 3),
                "strict_species_percent": 50, "found_percent_Si": 100, "found_percent_O": 50,
                "correct_species_percent_Si": 50, "correct_species_percent_O": 100, "position_error_pm_Si": 35,
                "position_error_pm_O": 50, "within_sigma_percent": np.nan, "error_over_sigma_x": np.nan,
                "error_over_sigma_y": np.nan, "error_over_sigma_z": np.nan}
    assert metrics == pytest.approx(expected, nan_ok=True)


def test_errors_are_compared_with_their_standard_errors():
    rng = np.random.default_rng(12)
    true_A = rng.uniform(-20, 20, (1500, 3))
    sigma_A = rng.uniform(0.02, 0.1, (1500, 3))
    traced = make_traced(true_A + rng.normal(size=(1500, 3)) * sigma_A * [1.0, 1.0, 2.0], np.full(1500, 8))
    sigma_A[:3] = np.nan
    metrics = match(dataclasses.replace(traced, position_error_A=sigma_A), make_atoms(true_A, np.full(1500, 8)),
                    n_resamples=200).metrics
    for axis, expected in (("x", 1), ("y", 1), ("z", 2)):
        assert metrics[f"error_over_sigma_{axis}"] == pytest.approx(expected, rel=0.08)
        assert metrics[f"error_over_sigma_{axis}_low"] < expected < metrics[f"error_over_sigma_{axis}_high"]
    assert metrics["within_sigma_percent"] == pytest.approx((2 * 68.27 + 38.29) / 3, abs=2.5)


def test_confusion_counts_every_atom_once():
    atoms = make_atoms([[0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]], [14, 14, 8, 8])
    traced = make_traced([[0.3, 0, 0], [5, 0.4, 0], [0, 5, 0.5], [9, 9, 9]], [14, 8, 8, 8])
    found = match(traced, atoms)
    np.testing.assert_array_equal(found.confusion_numbers, [8, 14, 0])
    np.testing.assert_array_equal(found.confusion, [[1, 0, 1], [1, 1, 0], [1, 0, 0]])
    traced, atoms = random_case(3)
    found = match(traced, atoms)
    assert found.confusion[:2].sum() == len(atoms) and found.confusion[:, :2].sum() == len(traced)


def test_sites_named_no_atom_are_left_out():
    atoms = make_atoms([[0, 0, 0], [5, 0, 0]], [14, 8])
    traced = make_traced([[0.1, 0, 0], [5.1, 0, 0], [9, 9, 9]], [14, 0, 0])
    traced.species["elements"] = (8, 14)
    found = match(traced, atoms)
    assert list(found.traced) == [0] and list(found.unmatched_true) == [1] and len(found.unmatched_traced) == 0
    assert found.metrics["n_traced"] == 1
    assert found.confusion[0].tolist() == [0, 0, 1]


def test_border_of_the_region_makes_no_errors():
    # Atom 0 inside is traced just outside, atom 1 outside is traced just inside: neither is missing nor false.
    atoms = make_atoms([[0.95, 0, 0], [1.05, 3, 0], [5, 0, 0]], [8, 8, 8])
    traced = make_traced([[1.05, 0, 0], [0.95, 3, 0], [7, 0, 0]], [8, 8, 8])
    found = match(traced, atoms, traced.positions_A[:, 0] < 1, atoms.positions_A[:, 0] < 1)
    assert found.metrics["n_true"] == 1 and found.metrics["found_percent"] == 100
    assert found.metrics["false_positive_percent"] == 0
    assert list(found.traced) == [0] and list(found.true) == [0]


@pytest.mark.parametrize("n_traced, n_true", [(0, 0), (0, 3), (3, 0)])
def test_empty_lists_of_atoms_match_nothing(n_traced, n_true):
    traced = make_traced(np.eye(3)[:n_traced], np.full(n_traced, 8))
    atoms = make_atoms(np.eye(3)[:n_true], np.full(n_true, 8))
    found = match(traced, atoms, n_resamples=20)
    assert len(found.traced) == 0 and len(found.unmatched_traced) == n_traced and len(found.unmatched_true) == n_true
    assert found.metrics["n_found"] == 0
    assert np.isnan(found.metrics["position_error_pm"])
    if n_true:
        assert found.metrics["found_percent"] == found.metrics["strict_recall"] == 0


def test_atoms_at_the_same_place_match():
    atoms = make_atoms([[1, 2, 3], [1, 2, 3]], [8, 14])
    found = match(make_traced([[1, 2, 3]], [8]), atoms)
    assert len(found.traced) == 1 and found.metrics["position_error_pm"] == 0


def test_masks_of_another_length_are_refused():
    traced, atoms = random_case(4, 20)
    with pytest.raises(ValueError, match="masks of shape"):
        match(traced, atoms, np.ones(3, dtype=bool))


def test_order_of_the_atoms_changes_no_score():
    traced, atoms = random_case(5)
    order = np.random.default_rng(0).permutation(len(traced))
    other = make_traced(traced.positions_A[order], traced.numbers[order], traced.intensity_V[order])
    assert match(other, atoms).metrics == pytest.approx(match(traced, atoms).metrics, nan_ok=True)


def test_intervals_contain_the_value_and_repeat_with_the_seed():
    traced, atoms = random_case(6)
    traced = dataclasses.replace(traced, position_error_A=np.full((len(traced), 3), 0.2))
    metrics = match(traced, atoms, n_resamples=400, seed=7).metrics
    assert metrics == match(traced, atoms, n_resamples=400, seed=7).metrics
    assert metrics != match(traced, atoms, n_resamples=400, seed=8).metrics
    figures = [name for name in metrics if f"{name}_low" in metrics]
    assert len(figures) >= 13
    counted = {"n_true", "n_traced", "n_found"}
    assert {name for name in metrics if not name.endswith(("_low", "_high"))} == {*figures, *counted}
    for name in figures:
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(8)
    true_A = rng.uniform(-30, 30, (1200, 3))
    atoms = make_atoms(true_A, np.full(1200, 8))
    covered, widths = 0, []
    for seed in range(60):
        kept = np.random.default_rng(100 + seed).random(1200) < 0.9
        metrics = match(make_traced(true_A[kept], np.full(kept.sum(), 8)), atoms, n_resamples=300, seed=seed).metrics
        covered += metrics["found_percent_low"] <= 90 <= metrics["found_percent_high"]
        widths.append(metrics["found_percent_high"] - metrics["found_percent_low"])
    assert 51 <= covered <= 60
    # Independent atoms: the interval of a binomial share, 2 × 1.96 √(0.9 × 0.1 / 1200).
    assert np.mean(widths) == pytest.approx(3.39, rel=0.1)


def test_a_profile_has_the_scores_of_each_bin():
    # Distances from the axis y: 1, 1, 3 and 3 Å; the last true atom is missing, one traced atom at 3 Å is false.
    atoms = make_atoms([[1, 0, 0], [0, 5, 1], [3, 0, 0], [0, 9, 3]], [14, 8, 8, 8])
    traced = make_traced([[1.3, 0, 0], [0, 5.1, 1], [3, 0.5, 0], [0, 0, 3]], [14, 14, 8, 8])
    profile = score_against(np.array([1.0, 1, 3, 3]), np.array([1.3, 1, 3, 3]), np.array([0.0, 2, 4]),
                            match(traced, atoms), traced, atoms)
    expected = {"edges_A": [0, 2, 4], "n_true": [2, 2], "found_percent": [100, 50], "false_positive_percent": [0, 50],
                "position_error_pm": [20, 50], "correct_species_percent": [50, 100]}
    assert set(profile) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(profile[name], values, err_msg=name)


def test_profiles_add_up_to_the_scores():
    traced, atoms = random_case(9)
    found = match(traced, atoms)
    true_A, traced_A = distance_from_axis_A(atoms.positions_A), distance_from_axis_A(traced.positions_A)
    np.testing.assert_allclose(true_A, np.sqrt(atoms.positions_A[:, 0] ** 2 + atoms.positions_A[:, 2] ** 2))
    profile = score_against(true_A, traced_A, np.array([0.0, 4.0, 8.0, 100.0]), found, traced, atoms)
    n_true = profile["n_true"]
    assert n_true.sum() == len(atoms)
    n_found = profile["found_percent"] * n_true / 100
    assert n_found.sum() == pytest.approx(found.metrics["n_found"])
    for name, weight in (("found_percent", n_true), ("false_positive_percent", n_true), ("position_error_pm", n_found),
                         ("correct_species_percent", n_found)):
        assert (profile[name] * weight).sum() / weight.sum() == pytest.approx(found.metrics[name])
    empty = score_against(true_A, traced_A, np.array([200.0, 300.0]), found, traced, atoms)
    assert empty["n_true"] == 0 and np.isnan(empty["found_percent"]).all()
    np.testing.assert_array_equal(profile["edges_A"], [0.0, 4.0, 8.0, 100.0])


def test_profiles_of_axis_and_surface_count_every_atom_and_bound_their_values():
    traced, atoms = random_case(10, 900)
    found = match(traced, atoms)
    profiles = profile_scores(found, traced, atoms, n_resamples=200, seed=1)
    assert set(profiles) == {"axis", "surface"}
    for profile in profiles.values():
        assert profile["n_true"].sum() == len(atoms)
        assert (profile["found_percent"] * profile["n_true"]).sum() / 100 == pytest.approx(found.metrics["n_found"])
        for name in ("found_percent", "false_positive_percent", "position_error_pm", "correct_species_percent"):
            assert (profile[f"{name}_low"] <= profile[name]).all() and (profile[name] <= profile[f"{name}_high"]).all()
            assert (profile[f"{name}_high"] > profile[f"{name}_low"]).any()
    # The faces of the box that the atoms fill are 10 Å, 14 Å and 8 Å from its middle.
    assert 7 < profiles["surface"]["edges_A"][-1] < 8
    same = profile_scores(found, traced, atoms, n_resamples=200, seed=1)
    np.testing.assert_array_equal(same["axis"]["found_percent_low"], profiles["axis"]["found_percent_low"])


def test_bounds_of_a_profile_leave_out_resamples_without_a_true_atom():
    """One true and one false atom a bin, far apart: without the true one, the share of false atoms is infinite."""
    places = np.array([[0.0, 30 * k, 0] for k in range(4)])
    atoms = make_atoms(places, [14] * 4)
    traced = make_traced(np.concatenate([places, places + [0, 15, 0]]), [14] * 8)
    near_A, edges_A = np.array([0.5, 1.5, 2.5, 3.5]), np.arange(5.0)
    found = match(traced, atoms)
    profile = score_against(near_A, np.concatenate([near_A, near_A]), edges_A, found, traced, atoms, n_resamples=300)
    np.testing.assert_array_equal(profile["false_positive_percent"], 100)
    for bound in ("low", "high"):
        assert np.isfinite(profile[f"false_positive_percent_{bound}"]).all()
    assert (profile["false_positive_percent_low"] == 0).all()
    assert (profile["false_positive_percent_high"] >= 200).all()


@pytest.mark.parametrize("n_true", [0, 3])
def test_profiles_of_nothing_have_no_surface(n_true):
    atoms = make_atoms(np.eye(3)[:n_true], np.full(n_true, 8))
    traced = make_traced(np.zeros((0, 3)), np.zeros(0, dtype=int))
    profiles = profile_scores(match(traced, atoms), traced, atoms, n_resamples=10)
    assert set(profiles) == {"axis"} and profiles["axis"]["n_true"].sum() == n_true
