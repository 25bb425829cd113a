"""Reasons to doubt the atoms of a run."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core.doubts import describe_hand, doubts
from aetlab.refinement.fisher import neighbour_correlation
from aetlab.refinement.naming import misfit_factor, scatter_of_occupancies
from aetlab.validation.chemistry import count_odd_occupancies


@pytest.mark.parametrize(("of_volume", "of_atoms", "doubtful"), [
    (1.093, 1.368, True),    # 35 % of a cluster of gold found, 59 % false
    (1.066, 1.395, True),    # ceria traced with false oxygen
    (1.113, 1.022, False),   # all atoms of a platinum particle right
    (1.537, 1.291, False),   # all atoms of palladium and gold right, electrons of a pixel 6 % off
    (0.93, 1.04, False),     # a volume that follows the noise
])
def test_atoms_that_explain_the_images_worse_than_the_volume_are_doubted(of_volume, of_atoms, doubtful):
    found = doubts({"chi_square_volume": of_volume, "chi_square_atoms": of_atoms, "refined_contrast": 0.96})
    assert [f"{of_atoms:.3f} against {of_volume:.3f}" in line for line in found] == [True] * doubtful


def test_a_contrast_that_the_named_elements_do_not_explain_is_doubted():
    assert "heavier" in doubts({"refined_contrast": 1.4})[0] and "lighter" in doubts({"refined_contrast": 0.5})[0]
    assert not doubts({"refined_contrast": 0.94}) and not doubts({})


@pytest.mark.parametrize(("usual", "doubtful"), [(1.84, True), (1.08, False), (0.7, True), (1.0, False)])
def test_atoms_that_scatter_otherwise_than_tabulated_are_doubted_where_noise_imitates_atoms(usual, doubtful):
    found = doubts({"refined_sampled_occupancy": usual})
    assert [f"scatter {usual:.2f} times as much as tabulated" in line for line in found] == [True] * doubtful


def test_atoms_that_vibrate_more_than_a_solid_does_are_doubted():
    bonds = {"distance_Pd_Pd_A": 2.82, "distance_Pd_Pt_A": 2.76, "distance_Pt_Pt_A": 2.77}
    # 0.15 of the shortest bond of Pd, 2.76 Å, is u = 0.414 Å, and B = 26.32 u².
    line, = doubts({"refined_thermal_Pd_A2": 5.8, "refined_thermal_Pt_A2": 4.4} | bonds)
    assert "Pd 5.8 Å² is more" in line and "(4.5 Å²)" in line and "Pt" not in line and "focal spread" in line
    assert not doubts({"refined_thermal_Pd_A2": 1.8} | bonds) and not doubts({"refined_thermal_Pd_A2": 9.0})


def test_the_hand_is_doubted_where_the_mirror_image_fits_as_well_or_better():
    assert "mirror image of the atoms fits the images better" in doubts({"refined_hand": -12.0})[0]
    assert "do not tell" in doubts({"refined_hand": 1.2})[0]
    assert not doubts({"refined_hand": 9.0})


def test_a_hand_that_the_images_chose_is_described_and_no_doubt():
    metrics = {"refined_hand": 15.0, "refined_mirrored": 1.0, "refined_hand_chi_square": 1.02,
               "refined_hand_chi_square_mirrored": 1.05}
    assert "by 15.0 standard errors (χ² per value 1.0200" in describe_hand(metrics) and not doubts(metrics)
    assert not describe_hand({"refined_hand": 15.0, "refined_mirrored": 0.0})


def test_atoms_that_scatter_otherwise_than_their_element_are_doubted():
    numbers, error = np.full(100, 79), np.full(100, 0.02)
    occupancy = np.where(np.arange(100) < 30, 0.5, 1.0) + np.random.default_rng(0).normal(0, 0.02, 100)
    assert count_odd_occupancies(numbers, occupancy, error) == 30
    assert count_odd_occupancies(numbers, np.where(occupancy < 0.8, occupancy + 0.5, occupancy), error) == 0
    # The same spread within the errors.
    assert count_odd_occupancies(numbers, occupancy, np.full(100, 0.2)) == 0
    assert "30 of 100 atoms scatter otherwise" in doubts({"n_odd_occupancies": 30.0, "n_atoms_refined": 100.0})[0]
    assert not doubts({"n_odd_occupancies": 2.0, "n_atoms_refined": 100.0})
    assert "17 pairs of 100 atoms" in doubts({"n_too_near": 17.0, "n_atoms_refined": 100.0})[0]


def test_occupancies_that_scatter_more_than_their_errors_are_doubted():
    rng = np.random.default_rng(3)
    numbers, error = np.repeat([46, 78, 8], [200, 200, 5]), rng.uniform(0.01, 0.03, 405)
    truth = np.where(numbers == 46, 1.05, 0.98)
    # A scatter of 1 but for the sampling of a median; a misfit of 0.05 makes that of 78 about √(1 + (0.05 / 0.02)²).
    assert scatter_of_occupancies(numbers, truth + error * rng.normal(size=405), error) == pytest.approx(1, abs=0.15)
    misfit = np.where(numbers == 78, 0.05, 0.0) * rng.normal(size=405)
    scatter = scatter_of_occupancies(numbers, truth + misfit + error * rng.normal(size=405), error)
    assert scatter == pytest.approx(2.7, abs=0.4) and "by 2.7 times" in doubts({"occupancy_scatter": 2.71})[0]
    assert np.isnan(scatter_of_occupancies(numbers[-5:], truth[-5:], error[-5:]))
    assert not doubts({"occupancy_scatter": 1.5})
    # Names are weighed by it, and by how much the tilts differ, where either is more than chance.
    assert misfit_factor(numbers, truth + misfit, error, np.array([1.2, 1.1])) == pytest.approx(
        scatter_of_occupancies(numbers, truth + misfit, error) ** 2)
    assert misfit_factor(numbers, truth, error, np.array([3.0, 5.0])) == 4


@pytest.mark.parametrize(("walk", "lowest", "highest"), [(0.0, -0.07, 0.0), (1.0, 0.4, 0.65)])
def test_what_neighbouring_tilts_ask_is_correlated_only_where_atoms_move(walk, lowest, highest):
    rng = np.random.default_rng(5)
    information = np.tile(np.diag([4.0, 9.0, 2.0, 1.0]), (200, 1, 1))
    # Gradients of independent errors, and of a random walk of the atoms along y about its mean.
    places = walk * np.cumsum(rng.normal(size=(30, 200)), axis=0)
    gradients = rng.normal(size=(30, 200, 4)) * np.sqrt(np.diagonal(information[0]))
    gradients[..., 1] += 9.0 * (places - places.mean(axis=0)) / np.sqrt(30)
    found = neighbour_correlation(information, gradients)
    assert lowest < found < highest
    assert bool(doubts({"refined_neighbour_correlation": found})) == (walk > 0)
    assert np.isnan(neighbour_correlation(information, gradients[:7]))


def test_names_that_are_uncertain_by_their_own_probabilities_are_doubted():
    assert "about 21 of 296 atoms" in doubts({"n_expected_misnamed": 20.6, "n_atoms_refined": 296.0})[0]
    assert not doubts({"n_expected_misnamed": 2.0, "n_atoms_refined": 296.0})


def test_a_misfit_that_the_atoms_leave_is_doubted():
    assert "χ² per value at 1.244" in doubts({"chi_square_reduced_atoms": 1.244})[0]
    assert not doubts({"chi_square_reduced_atoms": 1.05}) and not doubts({"chi_square_reduced_atoms": float("nan")})
