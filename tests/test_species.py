"""Species: the paper's rule, more elements, no atoms, and signals that do not decide between the elements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aetlab.tracing.species import name_species


def draw(rng, *classes):
    """Return shuffled signals and their classes; each class is (count, mean, std)."""
    signal = np.concatenate([rng.normal(mean, std, count) for count, mean, std in classes])
    label = np.repeat(np.arange(len(classes)), [count for count, _, _ in classes])
    order = rng.permutation(len(signal))
    return signal[order], label[order]


def test_threshold_is_where_the_two_gaussians_cross():
    signal, _ = draw(np.random.default_rng(1), (40000, 100, 10), (20000, 150, 15))
    species = name_species(signal, (14, 8))
    assert species.summary["elements"] == species.summary["classes"] == (8, 14)
    assert species.summary["rule"] == "gaussians"
    x = np.linspace(100, 150, 100001)
    lower = 40000 / 10 * np.exp(-0.5 * ((x - 100) / 10) ** 2)
    upper = 20000 / 15 * np.exp(-0.5 * ((x - 150) / 15) ** 2)
    crossing = x[np.argmin(np.abs(lower - upper))]
    assert species.summary["threshold"][0] == pytest.approx(crossing, abs=1.0)
    np.testing.assert_allclose(species.summary["mean"], [100, 150], atol=1.0)
    np.testing.assert_allclose(species.summary["std"], [10, 15], rtol=0.08)
    np.testing.assert_allclose(species.summary["share"], [2 / 3, 1 / 3], atol=0.02)
    np.testing.assert_array_equal(species.numbers, np.where(signal < species.summary["threshold"][0], 8, 14))


def test_posteriors_are_calibrated():
    signal, label = draw(np.random.default_rng(2), (30000, 100, 15), (20000, 140, 15))
    species = name_species(signal, (8, 14))
    np.testing.assert_allclose(species.posterior.sum(axis=1) + species.not_atom, 1.0)
    for low, high in ((0.05, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.95)):
        chosen = (species.posterior[:, 1] >= low) & (species.posterior[:, 1] < high)
        assert label[chosen].mean() == pytest.approx(species.posterior[chosen, 1].mean(), abs=0.04)
    assert species.probability.min() >= 0.5 - 1e-9
    # Bayes' rule with the densities that the signals were drawn from.
    densities = [count * np.exp(-0.5 * ((signal - mean) / 15) ** 2) for count, mean in ((30000, 100), (20000, 140))]
    np.testing.assert_allclose(species.posterior[:, 1], densities[1] / sum(densities), atol=0.05)
    correct = (species.numbers == np.array([8, 14])[label]).mean()
    assert correct == pytest.approx(species.probability.mean(), abs=0.01)


def test_overlap_and_expected_errors_are_reported():
    signal, label = draw(np.random.default_rng(3), (20000, 100, 20), (20000, 140, 20))
    species = name_species(signal, (8, 14))
    # Two unit Gaussians two standard deviations apart share 2 Φ(-1) of their area.
    assert species.summary["overlap_percent"][0] == pytest.approx(31.7, abs=2.5)
    expected = species.summary["expected_percent"]
    np.testing.assert_allclose(expected.sum(axis=1), 100)
    seen = np.array([[(species.numbers[label == k] == z).mean() for z in (8, 14)] for k in (0, 1)]) * 100
    np.testing.assert_allclose(expected, seen, atol=2.5)
    apart = name_species(draw(np.random.default_rng(3), (2000, 100, 4), (2000, 180, 4))[0], (8, 14))
    assert apart.summary["overlap_percent"][0] < 1e-3


def test_a_lower_signal_never_favours_the_heavier_element():
    signal, _ = draw(np.random.default_rng(4), (3000, 100, 5), (3000, 160, 30))
    signal = np.append(signal, [20.0, -50.0, 400.0])
    species = name_species(signal, (8, 14))
    assert list(species.numbers[-3:]) == [8, 8, 14]
    assert (species.probability[-3:] > 0.5).all()
    order = np.argsort(signal)
    assert (np.diff(species.posterior[order, 1]) >= -1e-12).all()


@pytest.mark.parametrize("elements", [(6, 14, 79), (26, 28, 46, 78)])
def test_three_and_four_elements_are_separated(elements):
    means = 60.0 * np.arange(2, 2 + len(elements))
    signal, label = draw(np.random.default_rng(5), *[(1500 + 300 * k, mean, 8.0) for k, mean in enumerate(means)])
    expected = dict(zip(elements, 0.8 * means, strict=True))
    species = name_species(signal, elements, expected)
    assert species.summary["rule"] == "ratios"
    assert species.posterior.shape == (len(signal), len(elements))
    assert (species.numbers == np.array(elements)[label]).mean() > 0.998
    np.testing.assert_allclose(species.summary["mean"], means, atol=1.5)
    middle = 0.5 * (means[:-1] + means[1:])
    np.testing.assert_allclose(species.summary["threshold"], middle, atol=6)


def test_unequal_shares_are_found():
    signal, label = draw(np.random.default_rng(6), (5000, 100, 8), (60, 190, 10))
    species = name_species(signal, (8, 14))
    assert species.summary["rule"] == "gaussians"
    assert (species.numbers == np.array([8, 14])[label]).mean() > 0.998


def test_one_element_needs_no_histogram():
    species = name_species(np.random.default_rng(7).normal(100, 10, 500), (79,))
    assert (species.numbers == 79).all() and (species.probability == 1).all()
    assert species.summary["threshold"].shape == (0,)


def test_a_weak_peak_beside_those_of_the_elements_is_no_atom():
    signal, label = draw(np.random.default_rng(8), (600, 40, 6), (1000, 145, 6), (1200, 212, 7))
    species = name_species(signal, (8, 14))
    assert species.summary["classes"] == (0, 8, 14)
    assert (species.numbers == np.array([0, 8, 14])[label]).mean() > 0.998
    np.testing.assert_allclose(species.posterior.sum(axis=1) + species.not_atom, 1.0)
    assert species.not_atom[label == 0].min() > 0.5 and species.not_atom[label > 0].max() < 0.5
    assert (species.probability > 0.5).all()
    # Without known elements no peak can be named no atom.
    unknown = name_species(signal, (0,))
    assert (unknown.not_atom == 0).all() and (unknown.probability == 1).all()


def test_a_third_peak_is_no_reason_to_drop_an_element():
    # Atoms of Si in two surroundings: the two upper peaks are nearer than O and Si can be.
    signal, label = draw(np.random.default_rng(9), (1500, 140, 5), (1000, 205, 5), (1000, 240, 5))
    species = name_species(signal, (8, 14))
    assert (species.numbers > 0).all()
    assert (species.numbers[label == 0] == 8).mean() > 0.99


@pytest.mark.parametrize("signal", [[], [100.0], [100.0, 100.0, 100.0], [-3.0, -3.0]])
def test_nothing_can_be_told_from_too_few_signals(signal):
    species = name_species(np.array(signal), (8, 14))
    assert species.summary["rule"] == "ratios"
    assert species.posterior.shape == (len(signal), 2)
    assert (species.numbers == 14).all() and (species.probability < 0.75).all()
    assert species.summary["n_undecided"] == len(signal)


def test_a_single_peak_is_named_the_heaviest_element():
    """436 Si and 3 O at 7 000 e/Å² without a regulariser: a few of the strongest are no class of their own."""
    for seed in range(4):
        signal, _ = draw(np.random.default_rng(seed), (430, 274, 13), (8, 304, 1))
        species = name_species(signal, (8, 14))
        assert species.summary["rule"] == "ratios" and (species.numbers == 14).all()
        assert species.probability.max() < 0.9
        # In V, 270 V voxel are too many for O.
        in_volts = name_species(signal, (8, 14), {8: 69.0, 14: 119.0}, in_volts=True)
        assert (in_volts.numbers == 14).all() and np.median(in_volts.probability) > 0.97
    # As far apart as the elements should be, a few are a class.
    signal, label = draw(np.random.default_rng(0), (8, 180, 6), (430, 274, 13))
    assert (name_species(signal, (8, 14)).numbers == np.array([8, 14])[label]).all()


def test_few_atoms_are_named_by_their_ratio():
    species = name_species(np.array([100.0, 104.0, 98.0, 160.0, 155.0]), (8, 14))
    assert species.summary["rule"] == "ratios"
    np.testing.assert_array_equal(species.numbers, [8, 8, 8, 14, 14])
    assert species.summary["threshold"][0] == pytest.approx(0.5 * (104 + 155))
    assert (species.probability >= 0.5).all()


@pytest.mark.parametrize("n", [5, 40, 3000])
@pytest.mark.parametrize("elements", [(8, 14), (6, 8, 29, 79), (28, 29)])
def test_one_mode_is_never_split(n, elements):
    signal = np.random.default_rng(10).normal(100, 10, n)
    species = name_species(signal, elements)
    assert len(set(species.numbers)) == 1 or species.probability.max() < 0.9


EXPECTED = {1: 14.1, 6: 66.4, 8: 69.3, 13: 108.0, 14: 119.2, 22: 173.7, 29: 165.1, 42: 256.0, 74: 340.0, 79: 349.4}


@pytest.mark.parametrize("in_volts, least", [(True, 0.99), (False, 0.85)])
def test_an_element_that_is_not_seen_takes_no_name_of_another(in_volts, least):
    """H, C and Au at random on an fcc lattice: 52 C of 59.6 V voxel, 68 Au of 437 V voxel, no H is found."""
    signal, label = draw(np.random.default_rng(20), (52, 59.6, 7.2), (68, 437, 18))
    species = name_species(signal, (1, 6, 79), EXPECTED, in_volts=in_volts)
    np.testing.assert_array_equal(species.numbers, np.array([6, 79])[label])
    assert np.median(species.probability) > least
    assert np.isnan(species.summary["mean"][0]) or species.summary["share"][0] < 0.1


def test_elements_without_atoms_take_no_part_of_a_mode():
    """Two brightnesses, C and O in the list of elements: neither mode is halved between them."""
    signal, label = draw(np.random.default_rng(21), (99, 181, 13.6), (105, 419, 16.8))
    species = name_species(signal, (6, 8, 29, 79), EXPECTED, in_volts=True)
    np.testing.assert_array_equal(species.numbers, np.array([29, 79])[label])
    assert np.median(species.probability) > 0.95
    low, _ = draw(np.random.default_rng(22), (300, 79, 5), (100, 310, 12))
    of_low = name_species(low, (6, 8, 29, 79), EXPECTED, in_volts=True)
    assert of_low.probability[low < 150].max() < 0.9  # C or O, the signals do not tell


def test_signals_need_not_rise_with_the_atomic_number():
    """Ti is brighter than Cu, and what is expected says so."""
    signal, label = draw(np.random.default_rng(23), (400, 100, 2), (300, 130, 2.6))
    species = name_species(signal, (22, 29), {22: 130.0, 29: 100.0}, in_volts=True)
    assert (species.numbers == np.array([29, 22])[label]).mean() > 0.99
    assert np.isnan(species.summary["threshold"]).all()


def test_eight_atoms_of_eight_elements_are_not_named_for_certain_where_signals_are_near():
    elements = (6, 8, 13, 22, 29, 42, 74, 79)
    signal = np.array([56.8, 59.9, 105.7, 195.1, 173.6, 282.3, 384.8, 392.9])
    species = name_species(signal, elements, EXPECTED, in_volts=True)
    wrong = species.numbers != np.array(elements)
    assert wrong.sum() <= 3 and species.probability[wrong].max(initial=0) < 0.9


@pytest.mark.slow
def test_probabilities_are_calibrated_over_random_samples():
    """Random elements, absences, scales, powers and spreads: of names given at 90 to 99 %, 90 to 99 % are right."""
    rng = np.random.default_rng(24)
    given, right = [], []
    for i_case in range(60):
        elements, expected, signal, numbers = draw_sample(rng, in_volts=i_case % 2 == 0)
        species = name_species(signal, elements, expected, in_volts=i_case % 2 == 0)
        chosen = rng.permutation(len(signal))[:20]
        given.append(species.probability[chosen])
        right.append(species.numbers[chosen] == numbers[chosen])
    probability, correct = np.concatenate(given), np.concatenate(right)
    likely, sure = (probability >= 0.9) & (probability < 0.99), probability >= 0.99
    assert likely.sum() > 50 and sure.sum() > 200
    # Sites of a case are right or wrong together: the standard error over 60 cases is about 0.05.
    assert 0.85 < correct[likely].mean() <= 1.0
    assert correct[sure].mean() > 0.97
    assert abs(correct.mean() - probability.mean()) < 0.1


def draw_sample(rng, *, in_volts):
    """Return elements, expected signals, signals and true numbers of a random sample; one in seven elements is absent.
    """
    elements = tuple(sorted(rng.choice(sorted(EXPECTED), rng.integers(2, 6), replace=False).tolist()))
    strength = np.array([EXPECTED[z] for z in elements])
    share = rng.dirichlet(np.ones(len(elements))) * (rng.random(len(elements)) < 0.85)
    share = share / share.sum() if share.any() else np.eye(len(elements))[0]
    label = rng.choice(len(elements), round(np.exp(rng.uniform(np.log(3), np.log(1500)))), p=share)
    factor = rng.normal(-0.05, 0.35) if in_volts else rng.normal(3, 2)
    mean = factor + rng.normal(1.1, 0.15) * np.log(strength / 100) + rng.normal(0, 0.05, len(elements))
    spread = 0.07 * np.exp(rng.normal(0, 0.4))
    # Normal and skewed spreads.
    noise = rng.normal(size=len(label)) if rng.random() < 0.5 else (rng.gamma(4, 1, len(label)) - 4) / 2
    signal = 100 * np.exp(mean[label] + spread * noise)
    found = signal > 22 * (1 if in_volts else np.exp(factor))
    if not found.any():
        return draw_sample(rng, in_volts=in_volts)
    return elements, EXPECTED, signal[found], np.array(elements)[label][found]


@pytest.mark.parametrize("elements", [(), (14, 14), (0, 8)])
def test_elements_must_differ(elements):
    with pytest.raises(ValueError, match="cannot be separated"):
        name_species(np.array([1.0, 2.0]), elements)


def test_every_element_needs_an_expected_signal():
    with pytest.raises(ValueError, match="expected signals"):
        name_species(np.array([1.0, 2.0]), (8, 14), {8: 69.0})


@settings(max_examples=30)
@given(arrays(np.float64, st.integers(0, 60), elements=st.floats(1e-3, 1e4)),
       st.sampled_from([(14,), (8, 14), (1, 8, 79)]))
def test_any_signals_get_names_and_probabilities(signal, elements):
    species = name_species(signal, elements)
    assert set(species.numbers) <= {0, *elements}
    assert np.isfinite(species.posterior).all()
    np.testing.assert_allclose(species.posterior.sum(axis=1) + species.not_atom, 1.0, atol=1e-9)


def test_order_of_the_atoms_changes_no_name():
    signal, _ = draw(np.random.default_rng(11), (300, 100, 12), (200, 150, 12))
    order = np.random.default_rng(0).permutation(len(signal))
    expected = name_species(signal, (8, 14)).numbers[order]
    np.testing.assert_array_equal(name_species(signal[order], (8, 14)).numbers, expected)


@pytest.mark.parametrize("power", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_few_atoms_of_a_heavy_element_do_not_make_the_others_heavy(factor, power):
    """2 % are twice as bright as the rest, a sixth of which is faint: that is no reason to call the rest gold."""
    rng = np.random.default_rng(1)
    expected = {29: 239.0, 79: 505.0}
    gold = rng.random(800) < 0.02
    signal = factor * 239 * np.where(gold, (505 / 239) ** power, 1) * np.exp(0.08 * rng.standard_normal(800))
    signal *= np.where(rng.random(800) < 0.15, rng.uniform(0.5, 1, 800), 1)
    species = name_species(signal, (29, 79), expected, in_volts=True)
    assert species.summary["rule"] == "bright"
    assert (species.numbers == np.where(gold, 79, 29)).mean() > 0.995
    assert (species.probability > 0.9).mean() > 0.98


def test_bright_sites_that_are_not_as_far_away_as_the_element_is_expected_change_no_name():
    rng = np.random.default_rng(2)
    signal = np.repeat([240.0, 505.0, 3000.0], [600, 300, 6]) * np.exp(0.05 * rng.standard_normal(906))
    species = name_species(signal, (29, 79), {29: 239.0, 79: 505.0}, in_volts=True)
    assert species.summary["rule"] != "bright"
    assert (species.numbers[:900] == np.repeat([29, 79], [600, 300])).mean() > 0.99


def _faint_and_atoms(rng: np.random.Generator, n_faint: int, faint: float, atoms: float) -> np.ndarray:
    return np.concatenate([faint * np.exp(0.3 * rng.standard_normal(n_faint)),
                           atoms * (1 + 0.15 * rng.standard_normal(55))])


@pytest.mark.parametrize("n_faint", [40, 400])
def test_sites_of_noise_are_no_atoms_of_the_only_element_however_many_they_are(n_faint: int) -> None:
    """Gold at 500 e/Å²: its 55 atoms have 350 V voxel, as expected, sites of noise a third of it."""
    signal = _faint_and_atoms(np.random.default_rng(n_faint), n_faint, 120.0, 380.0)
    found = name_species(signal, (79,), {79: 349.4}, in_volts=True)
    assert np.count_nonzero(found.numbers[-55:] == 79) >= 53
    assert np.count_nonzero(found.numbers[:-55] == 0) >= 0.95 * n_faint


@pytest.mark.parametrize(("faint", "atoms"), [(349.0, 1000.0), (250.0, 400.0), (5.0, 30.0)])
def test_two_modes_are_the_only_element_if_the_upper_one_is_not_its_own(faint: float, atoms: float) -> None:
    """Pairs of atoms that are one site; atoms of two environments; signals of which neither is expected."""
    signal = _faint_and_atoms(np.random.default_rng(1), 60, faint, atoms)
    assert (name_species(signal, (79,), {79: 349.4}, in_volts=True).numbers == 79).all()
