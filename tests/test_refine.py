"""Refinement of atoms against images: optimum, sites that come and go, elements, standard errors, poses."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries, TracedAtoms
from aetlab.core.poses import Poses, turn_matrix
from aetlab.forward import add_shot_noise
from aetlab.refinement import ImageFormation, refine_atoms
from aetlab.refinement.fisher import information_passes, invert_blocks, sample_information, standard_errors
from aetlab.refinement.fit import fit_to_images
from aetlab.refinement.geometry import settle
from aetlab.refinement.lbfgs import minimize_lbfgs
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.naming import name_sites, odds_of_best_place, separation
from aetlab.refinement.posterior import LEAST_STEPS, Sampled, sample_atoms
from aetlab.refinement.search import typical_information
from aetlab.refinement.start import first_sites, noise_imitates_atoms
from aetlab.spec import MicroscopeSpec, RefineSpec, SpecError

SHAPE, VOXEL_A = (36, 40, 44), 0.5
TILT_DEG, DEFOCUS_A = np.arange(0.0, 180.0, 20.0), np.array([200.0, 450.0, 1000.0])
ELEMENTS, ELECTRONS = (8, 14), 400.0
OPTIONS = {"microscope": MicroscopeSpec(), "parametrization": "lobato", "debye_waller_A2": {"default": 0.5}}


def make_truth() -> Sites:
    """Return a cubic grid of displaced atoms of two elements, both drawn at random."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*3 * [np.array([-4.2, -1.4, 1.4, 4.2])], indexing="ij"), -1).reshape(-1, 3)
    return Sites(grid + rng.normal(0, 0.2, grid.shape), np.ones(64), rng.integers(0, 2, 64))


def make_series(sites: Sites, poses: Poses, seed: int) -> TiltSeries:
    """Return noisy images of the sites at full slicing."""
    vacuum = TiltSeries(np.ones((len(TILT_DEG), 3, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    images = AtomModel(vacuum, SHAPE, ELEMENTS, n_layers_per_slice=1, **OPTIONS).images(sites, poses)
    return add_shot_noise(dataclasses.replace(vacuum, images=images), ELECTRONS, np.random.default_rng(seed))


def make_poses(turn_deg: np.ndarray, shift_A: np.ndarray) -> Poses:
    return dataclasses.replace(Poses.nominal(TILT_DEG, 3), turn_deg=turn_deg, shift_A=shift_A)


@pytest.fixture(scope="module")
def truth() -> Sites:
    return make_truth()


@pytest.fixture(scope="module")
def series(truth: Sites) -> TiltSeries:
    return make_series(truth, Poses.nominal(TILT_DEG, 3), 1)


def make_model(series: TiltSeries) -> AtomModel:
    return AtomModel(series, SHAPE, ELEMENTS, n_layers_per_slice=4, **OPTIONS)


def traced_from(positions_A: np.ndarray, numbers: np.ndarray) -> TracedAtoms:
    blank = np.zeros(len(numbers))
    return TracedAtoms(positions_A, blank, blank, blank, numbers, np.zeros((len(numbers), 3)), blank, blank, blank,
                       np.zeros(len(numbers), np.uint8), blank, np.zeros((len(numbers), 2)), blank)


def test_quasi_newton_reports_convergence_at_the_minimum_of_a_curved_valley() -> None:
    def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = 1 - x[0], x[1] - x[0] ** 2
        return a * a + 20 * b * b, np.array([-2 * a - 80 * x[0] * b, 40 * b])

    found = minimize_lbfgs(np.array([-1.0, 0.7]), rosenbrock, lambda v: 0.02 * v, n_passes=120, tolerance=1e-8,
                           limit=lambda step: step)
    assert found.stopped == "converged" and np.allclose(found.point, 1, atol=1e-6)
    short = minimize_lbfgs(np.array([-1.0, 0.7]), rosenbrock, lambda v: 0.02 * v, n_passes=5, tolerance=1e-8,
                           limit=lambda step: step)
    assert short.stopped == "passes" and len(short.costs) == 5
    assert short.cost == min(short.costs)


def test_a_fit_converges_to_the_bound_in_tens_of_passes(series: TiltSeries, truth: Sites) -> None:
    rng = np.random.default_rng(2)
    model, poses = make_model(series), Poses.nominal(TILT_DEG, 3)
    start = dataclasses.replace(truth, positions_A=truth.positions_A + rng.normal(0, 0.1, (64, 3)),
                                occupancy=rng.uniform(0.7, 1.3, 64))
    information = sample_information(model, start, poses, 2, 3)
    fit = fit_to_images(model, start, poses, information, n_passes=30, tolerance=0.1)
    assert fit.descent.stopped == "converged" and len(fit.descent.costs) < 25 and fit.remaining < 0.1
    errors = standard_errors(sample_information(model, fit.sites, poses, 12, 4), ELECTRONS)
    ratio = np.column_stack([fit.sites.positions_A - truth.positions_A, fit.sites.occupancy - 1]) / errors
    assert np.sqrt((ratio[:, :3] ** 2).mean()) == pytest.approx(1, abs=0.2)  # 192 values: a deviation of 0.05
    # χ² per pixel: 1 less the fitted parameters' share.
    n_values = series.images.size
    assert 8 * ELECTRONS * fit.descent.cost / n_values == pytest.approx(1 - 256 / n_values, abs=0.02)


def test_means_over_the_posterior_state_their_errors_beyond_the_linear_range(truth: Sites) -> None:
    """At 60 electrons a pixel the counts move atoms by a sixth of their width, at 10 000 by a hundredth."""
    rng, poses = np.random.default_rng(8), Poses.nominal(TILT_DEG, 3)
    vacuum = TiltSeries(np.ones((len(TILT_DEG), 3, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    images = make_model(vacuum).images(truth, poses)
    for electrons, n_drawn in ((60.0, 4), (10_000.0, 1)):
        off_A, linear, stated, factor = [], [], [], []
        for draw in range(n_drawn):
            counts = (rng.poisson(electrons * images) / electrons).astype(np.float32)
            model = make_model(dataclasses.replace(vacuum, images=counts,
                                                   electrons_per_pixel=np.full(images.shape[:2], electrons)))
            information = sample_information(model, truth, poses, 12, 9)
            fit = fit_to_images(model, truth, poses, information, n_passes=60, tolerance=0.02)
            errors = standard_errors(information, electrons)
            sampled = sample_atoms(model, fit.sites, poses, information, errors, n_steps=120, misfit=1.0, seed=draw,
                                   spec=RefineSpec(kind="atoms"), on_pass=lambda cost: None)
            off_A.append([fit.sites.positions_A - truth.positions_A, sampled.positions_A - truth.positions_A])
            linear.append(off_A[-1][0] / errors[:, :3])
            stays = sampled.present & ~sampled.moved
            assert np.count_nonzero(~stays) <= 2  # sites that exchange their places
            stated.append((off_A[-1][1] / sampled.errors_A)[stays])
            factor.append(sampled.factor)
        # Without the two hundredths that are farthest off: a few sites go to another place.
        n_kept = math.floor(0.98 * 192 * n_drawn)
        of_fit, of_mean = (np.sort(np.abs(off_A)[:, which].ravel())[:n_kept].mean() for which in (0, 1))
        of_linear, of_stated = (np.sqrt((np.concatenate(ratio) ** 2).mean()) for ratio in (linear, stated))
        assert of_stated == pytest.approx(1, abs=0.1)  # 768 and 192 values: deviations of 0.026 and 0.05
        assert of_mean == pytest.approx(of_fit, rel=0.06)  # the path is of about fourteen independent places
        if electrons == 60:
            assert of_linear > 1.1 and np.mean(factor) == pytest.approx(of_linear**2, rel=0.12)
        else:
            assert of_linear == pytest.approx(1, abs=0.1) and factor == pytest.approx([1], abs=0.1)


def test_a_path_too_short_for_its_parts_is_refused() -> None:
    assert LEAST_STEPS == 56
    assert [RefineSpec(kind="atoms", n_sampled=n).n_sampled for n in (0, 56)] == [0, 56]
    with pytest.raises(SpecError, match="refine.n_sampled=55 cannot be used: give 0, or 56 passes or more"):
        RefineSpec(kind="atoms", n_sampled=55)


def test_sites_vanish_appear_and_get_their_elements(series: TiltSeries, truth: Sites) -> None:
    rng = np.random.default_rng(5)
    kept = np.arange(64) % 16 != 3
    numbers = np.array(ELEMENTS)[truth.kinds]
    wrong = rng.random(64) < 0.15
    started = np.where(wrong, sum(ELEMENTS) - numbers, numbers)[kept]
    false_A = np.array([[0.0, 0.1, 0.2], [2.8, -2.7, 0.1], [-2.8, 2.9, -0.2]])
    traced = traced_from(np.concatenate([truth.positions_A[kept] + rng.normal(0, 0.06, (kept.sum(), 3)), false_A]),
                         np.append(started, [14, 8, 0]))
    refined = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms"),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=6)
    distance_A = np.linalg.norm(refined.positions_A[:, None] - truth.positions_A[None], axis=2)
    assert len(refined) == 64 and sorted(distance_A.argmin(axis=1)) == list(range(64))
    assert distance_A.min(axis=1).max() < 0.35
    assert (refined.numbers == numbers[distance_A.argmin(axis=1)]).all()
    assert refined.probability.min() > 0.5 and np.allclose(
        refined.posterior.sum(axis=1) + refined.not_atom_probability, 1)
    assert refined.summary["stopped"] == "converged"
    assert sum(entry["n_new"] for entry in refined.rounds) >= 4
    # Residuals of partly fitted sites look like atoms: every round must end with a converged fit.
    assert max(entry["remaining_standard_errors"] for entry in refined.rounds) < RefineSpec().tolerance
    again = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms"),
                         ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=6)
    assert np.array_equal(refined.positions_A, again.positions_A)
    assert len(refined.as_traced()) == len(refined)


def test_what_a_path_finds_is_reported(series: TiltSeries, truth: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site is renamed, one is gone, one of doubtful element is there, and occupancies are lower than fitted ones."""
    numbers, n = np.array(ELEMENTS)[truth.kinds], len(truth)
    formation = ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4)
    traced = traced_from(truth.positions_A, numbers)
    fitted = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms"), formation, seed=6)
    nearest = np.linalg.norm(fitted.positions_A[:, None] - truth.positions_A, axis=2).argmin(axis=1)
    renamed, gone, doubtful = (np.flatnonzero(truth.kinds == 0)[i] for i in (3, 7, 11))

    def found(model: AtomModel, sites: Sites, *_: object, **__: object) -> Sampled:
        of_truth = np.linalg.norm(sites.positions_A[:, None] - truth.positions_A, axis=2).argmin(axis=1)
        names, presence = np.eye(2)[sites.kinds], np.ones(n)
        names[of_truth == renamed], names[of_truth == doubtful] = [0.1, 0.9], [0.55, 0.45]
        presence[of_truth == gone], presence[of_truth == doubtful] = 0.4, 0.6
        return Sampled(sites.positions_A, np.full((n, 3), 0.02), 1.0, np.array([0.9, 0.8]), presence,
                       np.zeros(n, bool), names)

    monkeypatch.setattr("aetlab.refinement.refine.sample_atoms", found)
    refined = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms"), formation, seed=6)
    kept = nearest != gone
    assert len(refined) == n - 1
    np.testing.assert_array_equal(refined.numbers, np.where(nearest == renamed, 14, fitted.numbers)[kept])
    np.testing.assert_allclose(refined.not_atom_probability[nearest[kept] == doubtful], 0.4)
    np.testing.assert_allclose(refined.probability[nearest[kept] == doubtful], 0.33)
    ratio = refined.occupancy / fitted.occupancy[kept]
    same = nearest[kept] != renamed
    np.testing.assert_allclose(ratio[same], np.where(fitted.numbers[kept] == 8, 0.9, 0.8)[same], rtol=1e-12)
    # As silicon, an atom that scatters as one of oxygen has the occupancy at which both tell as much of themselves.
    assert ratio[~same] == pytest.approx([0.9 * 0.53], rel=0.08)
    relative = refined.occupancy_error / refined.occupancy
    np.testing.assert_allclose(relative, (fitted.occupancy_error / fitted.occupancy)[kept], rtol=1e-6)
    assert refined.summary["sampled_renamed"] == refined.summary["sampled_gone"] == 1


@pytest.mark.parametrize(("electrons", "imitates"), [(35.9, True), (36.1, False)])
def test_all_traced_sites_come_first_where_noise_cannot_imitate_an_atom(series: TiltSeries, truth: Sites,
                                                                        electrons: float, imitates: bool) -> None:
    """Half an atom stands ½ √(4 n i) above the noise: 6 standard deviations at 36 electrons and i = 1."""
    model = make_model(dataclasses.replace(series, electrons_per_pixel=np.full(series.images.shape[:2], electrons)))
    information, poses = np.tile(np.eye(4), (64, 1, 1)), Poses.nominal(TILT_DEG, 3)
    assert noise_imitates_atoms(model, truth, poses, information, 0.5) == imitates


def test_the_information_on_a_missing_element_follows_from_that_on_the_others(series: TiltSeries, truth: Sites) -> None:
    """Oxygen of SrTiO₃ where no site is oxygen yet: strontium has 15 times the information."""
    poses = Poses.nominal(TILT_DEG, 3)
    model = AtomModel(series, SHAPE, (8, 38), n_layers_per_slice=4, **OPTIONS)
    light, heavy = (dataclasses.replace(truth, kinds=np.full(64, kind)) for kind in (0, 1))
    known = [sample_information(model, sites, poses, 6, 1) for sites in (light, heavy)]
    oxygen, strontium = (float(np.median(each[:, 3, 3])) for each in known)
    assert strontium > 10 * oxygen
    assert typical_information(model, heavy, known[1], 0) == pytest.approx(oxygen, rel=0.3)
    assert typical_information(model, heavy, known[1], 1) == strontium


def test_the_first_round_has_the_strongest_sites_without_duplicates(series: TiltSeries, truth: Sites) -> None:
    signal = np.random.default_rng(8).permutation(65).astype(float)
    traced = dataclasses.replace(traced_from(np.concatenate([truth.positions_A, truth.positions_A[:1] + 0.3]),
                                             np.full(65, 8)), signal=signal)
    # Clear are signals from half of the median, 32, on.
    for spec, n_strong in ((RefineSpec(kind="atoms"), 53), (RefineSpec(kind="atoms", first_share=0.2), 13),
                           (RefineSpec(kind="atoms", n_rounds=1), 65),
                           (RefineSpec(kind="atoms", first_share="clear"), 49)):
        sites, strong = first_sites(traced, make_model(series), spec)
        assert len(sites) == len(strong) == 64
        weakest = np.sort(signal)[65 - n_strong]
        of_sites = signal[np.array([np.flatnonzero((traced.positions_A == place_A).all(axis=1))[0]
                                    for place_A in sites.positions_A])]
        assert (strong == (of_sites >= weakest)).all()


def test_information_is_sampled_by_as_many_tilts() -> None:
    assert [information_passes(RefineSpec(), n_tilts) for n_tilts in (7, 15, 60, 200)] == [
        (5, 18), (2, 8), (1, 2), (1, 1)]
    assert information_passes(RefineSpec(n_information=3, n_information_last=5), 60) == (3, 5)


def test_a_series_with_missing_images_and_different_electrons_is_refined(series: TiltSeries, truth: Sites) -> None:
    """Images of twice and half the electrons, a tilt that is missing, others of which one image is; χ² stays 1."""
    rng = np.random.default_rng(8)
    poses = Poses.nominal(TILT_DEG, 3)
    ideal = AtomModel(series, SHAPE, ELEMENTS, n_layers_per_slice=1, **OPTIONS).images(truth, poses)
    weight = np.ones((9, 3))
    weight[4], weight[2, 0], weight[6, 2] = 0, 0, 0
    vacuum = dataclasses.replace(series, images=ideal, weight=weight)
    uneven = add_shot_noise(vacuum, ELECTRONS * np.array([[2.0, 1.0, 0.5]] * 9), rng)
    images = uneven.images.copy()
    images[weight == 0] = np.nan
    traced = traced_from(truth.positions_A + rng.normal(0, 0.06, (64, 3)), np.array(ELEMENTS)[truth.kinds])
    uneven = dataclasses.replace(uneven, images=images)
    refined = refine_atoms(uneven, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms"),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=6)
    assert len(refined) == 64 and refined.summary["stopped"] == "converged"
    distance_A = np.linalg.norm(refined.positions_A[:, None] - truth.positions_A[None], axis=2)
    ratio = (refined.positions_A - truth.positions_A[distance_A.argmin(axis=1)]) / refined.position_error_A
    assert np.sqrt((ratio**2).mean()) == pytest.approx(1, abs=0.25)
    # 256 parameters of 22 images' 38 720 pixels.
    assert refined.summary["chi_square"] == pytest.approx(0.993, abs=0.03)


def test_error_over_standard_error_is_1_within_a_tenth(truth: Sites) -> None:
    """Eight noise realisations, 1536 coordinates: the root mean square has a standard error of 0.02."""
    poses, ratios = Poses.nominal(TILT_DEG, 3), []
    for seed in range(8):
        model = make_model(make_series(truth, poses, 100 + seed))
        information = sample_information(model, truth, poses, 8, seed)
        fit = fit_to_images(model, truth, poses, information, n_passes=15, tolerance=0.1)
        ratios.append((fit.sites.positions_A - truth.positions_A) / standard_errors(information, ELECTRONS)[:, :3])
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.1)


def test_poses_are_recovered(truth: Sites) -> None:
    """Start 0.5°, 1 Å and 2 nm off; a cluster of 64 atoms, 1 nm wide, determines angles poorly."""
    rng = np.random.default_rng(7)
    n = len(TILT_DEG)
    turn_deg = 0.5 * rng.standard_normal((n, 3))
    shift = np.column_stack([rng.normal(0, 1, (n, 2)), rng.normal(0, 20, n)])
    positions_A, poses = settle(truth.positions_A, make_poses(turn_deg, shift))
    series = make_series(dataclasses.replace(truth, positions_A=positions_A), poses, 8)
    traced = traced_from(positions_A + rng.normal(0, 0.05, (64, 3)), np.array(ELEMENTS)[truth.kinds])
    refined = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms", n_rounds=1, poses=True),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=9)
    turn_error = refined.poses.turn_deg - poses.turn_deg
    shift_error = refined.poses.shift_A - poses.shift_A
    assert len(refined) == 64 and 0.95 < refined.summary["chi_square"] < 1.03
    assert np.sqrt((turn_error**2).mean()) < 0.25
    assert np.abs(shift_error[:, :2]).max() < 0.05
    assert np.sqrt((shift_error[:, 2] ** 2).mean()) < 3.0


def test_missing_sites_are_found_with_misaligned_tilts(truth: Sites) -> None:
    rng = np.random.default_rng(21)
    n = len(TILT_DEG)
    shift = np.column_stack([rng.normal(0, 1, (n, 2)), np.zeros(n)])
    positions_A, poses = settle(truth.positions_A, make_poses(np.zeros((n, 3)), shift))
    series = make_series(dataclasses.replace(truth, positions_A=positions_A), poses, 22)
    kept = np.arange(64) % 5 != 2
    numbers = np.array(ELEMENTS)[truth.kinds]
    traced = traced_from(positions_A[kept] + rng.normal(0, 0.05, (kept.sum(), 3)), numbers[kept])
    refined = refine_atoms(series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms", poses=True, first_share=1.0),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=23)
    distance_A = np.linalg.norm(refined.positions_A[:, None] - positions_A[None], axis=2)
    assert len(refined) == 64 and sorted(distance_A.argmin(axis=1)) == list(range(64))
    assert distance_A.min(axis=1).max() < 0.35


def test_settling_keeps_the_positions_at_each_tilt() -> None:
    rng = np.random.default_rng(11)
    positions_A = rng.uniform(-5, 5, (6, 3))
    poses = make_poses(np.rad2deg(1e-4) * rng.standard_normal((9, 3)), rng.standard_normal((9, 3)))
    settled_A, rest = settle(positions_A, poses)
    for i in range(9):
        difference = rest.place(settled_A, i) - poses.place(positions_A, i)
        assert np.abs(difference[:, :2]).max() < 1e-4
    turned = turn_matrix(np.array([0.0, 90.0, 0.0])) @ [0.0, 0.0, 1.0]
    assert np.allclose(turned, [1, 0, 0])


def test_likelihood_of_elements_follows_the_amounts() -> None:
    """Two elements with information 1 : 4 on their amounts, fully alike in shape: only the amount tells them apart."""
    strength = np.array([1.0, 2.0])
    information = np.zeros((3, 5, 5))
    information[:, :3, :3] = np.eye(3)
    information[:, 3:, 3:] = np.outer(strength, strength)
    occupancy, kinds = np.array([1.05, 0.52, 0.02]), np.array([0, 1, 1])
    posterior = name_sites(occupancy, kinds, np.zeros((3, 2)), information, 100.0)
    assert posterior.argmax(axis=1).tolist() == [0, 0, 2]
    assert np.allclose(posterior.sum(axis=1), 1)
    assert separation(information, 0, 1) == pytest.approx(2 * np.ones(3))


def test_the_posterior_of_an_element_is_bayes_rule() -> None:
    """Amounts of 1.05 and 1.95 at three electrons: log-likelihoods -4 · 3 · ½ (amount - k)² for k = 1, 2 and 0."""
    information = np.zeros((40, 5, 5))
    information[:, :3, :3], information[:, 3:, 3:] = np.eye(3), np.outer([1.0, 2.0], [1.0, 2.0])
    posterior = name_sites(np.repeat([1.05, 0.975], 20), np.repeat([0, 1], 20), np.zeros((40, 2)), information, 3.0)
    for row, amount in ((posterior[0], 1.05), (posterior[-1], 1.95)):
        likelihood = np.exp(-6 * (amount - np.array([1.0, 2.0, 0.0])) ** 2) * [0.05, 0.05, 0.9]
        assert row == pytest.approx(likelihood / likelihood.sum(), abs=1e-3)


def test_the_odds_of_the_best_place_are_those_of_all_places() -> None:
    """A likelihood exp(-½ u·Σ⁻¹u) with deviations of 0.1, 0.2 and 0.1 Å, averaged over a cube of 2 Å by a sum."""
    information = np.zeros((2, 5, 5))
    information[:, :3, :3] = np.diag([100.0, 25.0, 100.0]) / 40  # ten electrons a pixel, and a factor of one
    information[:, 3:, 3:], information[1, :3, :3] = np.eye(2), information[0, :3, :3] * 0.64  # an occupancy of 0.8
    odds = odds_of_best_place(np.array([1.0, 0.8]), np.array([0, 1]), information, 10.0, 1.0, 8.0)
    u = np.stack(np.meshgrid(*3 * [np.linspace(-1, 1, 101)], indexing="ij"), -1)
    mean = np.exp(-0.5 * (u**2 @ [100.0, 25.0, 100.0])).mean() * (101 / 100) ** 3
    assert np.exp(odds) == pytest.approx(mean, rel=1e-4)


def test_an_occupancy_above_1_makes_no_position_better_known() -> None:
    """JᵀJ of a position is that of a whole atom, 4 per Å² here, times the square of the occupancy."""
    occupancy = np.array([0.5, 1.0, 1.5])
    information = np.stack([np.diag([4 * c * c, 4 * c * c, 4 * c * c, 9]) for c in occupancy])
    errors = standard_errors(information, 25.0, 1.0, occupancy)
    np.testing.assert_allclose(errors[:, :3], np.tile([[0.1], [0.05], [0.05]], 3), rtol=1e-6)
    np.testing.assert_allclose(errors[:, 3], 1 / 30, rtol=1e-6)


def test_blocks_without_information_keep_a_finite_variance() -> None:
    information = np.stack([np.diag([4.0, 4.0, 4.0, 1.0]), np.diag([4.0, 0.0, 4.0, 1.0])])
    inverse = invert_blocks(information)
    assert np.allclose(np.diagonal(inverse[0]), [0.25, 0.25, 0.25, 1])
    assert np.isfinite(inverse).all() and inverse[1, 1, 1] > 1e5
