"""Draws of single sites on a path through the posterior, and the path itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.refinement import path as path_module
from aetlab.refinement.fisher import sample_information, standard_errors
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.path import Path
from aetlab.refinement.posterior import LEAST_STEPS, sample_atoms
from aetlab.refinement.relocation import Draw, Relocation, State
from aetlab.refinement.response import PLACES_A, REACH_A, SMOOTH_A, AmountGradient
from aetlab.refinement.search import ResidualVolume, join, relative_information
from aetlab.refinement.surroundings import free_volume_A3
from aetlab.spec import MicroscopeSpec, RefineSpec

SHAPE, VOXEL_A = (36, 40, 44), 0.5
TILT_DEG, DEFOCUS_A = np.arange(0.0, 180.0, 20.0), np.array([200.0, 450.0, 1000.0])
ELECTRONS = 250.0
SPEC = RefineSpec(kind="atoms", surroundings=False)
POSES = Poses.nominal(TILT_DEG, 3)


def make_model(series: TiltSeries) -> AtomModel:
    return AtomModel(series, SHAPE, (8, 14), n_layers_per_slice=4, microscope=MicroscopeSpec(),
                     parametrization="lobato", debye_waller_A2={"default": 0.5})


@pytest.fixture(scope="module")
def truth() -> Sites:
    """A cubic grid of 64 displaced atoms, 2.8 Å apart, a third of them silicon."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*3 * [np.array([-4.2, -1.4, 1.4, 4.2])], indexing="ij"), -1).reshape(-1, 3)
    return Sites(grid + rng.normal(0, 0.15, grid.shape), np.ones(64), (np.arange(64) % 3 == 0).astype(int))


@pytest.fixture(scope="module")
def model(truth: Sites) -> AtomModel:
    vacuum = TiltSeries(np.ones((len(TILT_DEG), 3, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    images = make_model(vacuum).images(truth, POSES)
    return make_model(add_shot_noise(dataclasses.replace(vacuum, images=images), ELECTRONS, np.random.default_rng(1)))


@pytest.fixture(scope="module")
def information(model: AtomModel, truth: Sites) -> np.ndarray:
    return sample_information(model, truth, POSES, 14, 2)


def relocation_of(model: AtomModel, sites: Sites, information: np.ndarray, *, free: int | None = None,
                  misfit: float = 1.0) -> Relocation:
    """Return draws of all sites, or of the site ``free`` alone."""
    fixed = np.zeros(len(sites), bool) if free is None else np.arange(len(sites)) != free
    return Relocation(model, sites, POSES, 4 * ELECTRONS * information[:, 3, 3], fixed, per_cost=4 * ELECTRONS,
                      misfit=misfit, spec=SPEC, seed=3)


def state_of(model: AtomModel, sites: Sites, present: np.ndarray,
             relocation: Relocation) -> tuple[State, ResidualVolume, np.ndarray]:
    """Return the state of sites, the residual of the pass at it and the derivatives by the occupancies."""
    residual, by_occupancy = relocation.residual(), np.zeros(len(sites))
    shown = dataclasses.replace(sites, occupancy=np.where(present, sites.occupancy, 0.0))
    for tilt in model.gradients(shown, POSES, on_slices=residual.add):
        by_occupancy += 4 * ELECTRONS * tilt.gradient[0, :, 3]
    return State(sites.positions_A, present, sites.kinds, sites.occupancy, np.ones(2)), residual, by_occupancy


def draw_once(relocation: Relocation, at: tuple[State, ResidualVolume, np.ndarray], most: float = np.inf) -> Draw:
    """Return the draw of the first group of a step."""
    evidence = relocation.evidence(*at)
    group = next(relocation.groups(at[0].positions_A, most), np.zeros(0, np.int64))
    return relocation.draw(at[0], evidence, group, most)


def cost(model: AtomModel, sites: Sites) -> float:
    return 4 * ELECTRONS * sum(tilt.cost for tilt in model.gradients(sites, POSES))


SITE = 26


@pytest.fixture(scope="module")
def off(truth: Sites) -> Sites:
    """The atoms, with :data:`SITE` half an ångström off."""
    positions_A = truth.positions_A.copy()
    positions_A[SITE] += [0.3, -0.3, 0.3]
    return dataclasses.replace(truth, positions_A=positions_A)


@pytest.fixture(scope="module")
def gains(model: AtomModel, off: Sites) -> tuple[np.ndarray, np.ndarray]:
    """Places (P, 3) of the site in steps of 0.45 Å, and what atoms (P, K) there take from U, by the cost itself."""
    others = Sites(*(np.delete(values, SITE, axis=0) for values in (off.positions_A, off.occupancy, off.kinds)))
    steps = np.arange(-4, 5) * 0.45
    places_A = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    places_A = off.positions_A[SITE] + places_A[np.linalg.norm(places_A, axis=1) <= REACH_A]
    nearest_A = np.linalg.norm(places_A[:, None] - others.positions_A, axis=2).min(axis=1)
    places_A = places_A[nearest_A >= SPEC.min_distance_A]
    costs = [[cost(model, join(others, Sites(place_A[None], np.ones(1), np.array([kind])))) for kind in (0, 1)]
             for place_A in places_A]
    return places_A, cost(model, others) - np.array(costs)


@pytest.mark.parametrize("occupied", [True, False])
@pytest.mark.parametrize("misfit", [50.0, 200.0])
def test_frequencies_of_draws_are_those_of_the_exact_likelihood(
        model: AtomModel, off: Sites, gains: tuple[np.ndarray, np.ndarray], information: np.ndarray, occupied: bool,
        misfit: float) -> None:
    """A site that is off, drawn 400 times; the misfit leaves open where it is, and whether it is."""
    present = np.ones(64, bool)
    present[SITE] = occupied
    relocation = relocation_of(model, off, information, free=SITE, misfit=misfit)
    at = state_of(model, off, present, relocation)
    draws = [draw_once(relocation, at) for _ in range(400)]
    assert all(draw.sites.tolist() in ([], [SITE]) for draw in draws)
    draws = [draw for draw in draws if len(draw.sites)]
    drawn_A = np.array([draw.positions_A[0] for draw in draws if draw.present[0]])
    places_A, gain = gains
    by_kind = np.exp(gain / misfit) * np.bincount(off.kinds) / 64
    weights = by_kind.sum(axis=1)
    free_A3 = free_volume_A3(off.positions_A, SPEC.min_distance_A, SPEC.max_distance_A)
    odds = weights.sum() * 0.45**3 / free_A3
    mean_A = np.average(places_A, axis=0, weights=weights)
    spread_A = np.sqrt(np.average((places_A - mean_A) ** 2, axis=0, weights=weights))
    n = len(drawn_A)
    assert n / len(draws) == pytest.approx(odds / (1 + odds), abs=0.08)
    silicon = np.mean([draw.kinds[0] for draw in draws if draw.present[0]])
    assert silicon == pytest.approx(by_kind.sum(axis=0)[1] / weights.sum(), abs=0.08)
    np.testing.assert_allclose(relocation.names()[SITE], [1 - silicon, silicon], atol=0.08)
    # Three standard errors of the draws, and 0.05 Å: places are 0.3 and 0.45 Å apart.
    assert (np.abs(drawn_A.mean(axis=0) - mean_A) < 0.05 + 3 * spread_A / np.sqrt(n)).all()
    np.testing.assert_allclose(drawn_A.std(axis=0), spread_A, rtol=0.05 + 3 / np.sqrt(2 * n))


def test_sites_where_nothing_is_go_and_sites_beside_an_atom_move_there(model: AtomModel, truth: Sites,
                                                                       information: np.ndarray) -> None:
    gaps_A = 0.5 * (truth.positions_A[[0, 5, 21]] + truth.positions_A[[21, 26, 42]])  # centres of cubes of atoms
    sites = join(truth, Sites(gaps_A, np.ones(3), np.zeros(3, int)))
    lost = [9, 37]
    sites.positions_A[lost] += [[1.0, 0.0, 0.5], [-0.9, 0.7, 0.0]]
    information = np.concatenate([information, np.median(information[truth.kinds == 0], axis=0)[None].repeat(3, 0)])
    sampled = sample_atoms(model, sites, POSES, information, standard_errors(information, ELECTRONS), n_steps=112,
                           spec=SPEC, misfit=1.0, seed=4, on_pass=lambda cost: None)
    assert sampled.present.tolist() == [True] * 64 + [False] * 3
    assert np.flatnonzero(sampled.moved & sampled.present).tolist() == lost
    assert sampled.counts(sites.kinds) == {
        "sampled_occupancy": sampled.usual_occupancy, "sampled_moved": 2.0, "sampled_renamed": 0.0,
        "sampled_gone": 3.0, "sampled_cooled": sampled.n_cooled, "sampled_unstable": 0.0}
    assert sampled.n_cooled < 5
    off_A = np.linalg.norm(sampled.positions_A[:64] - truth.positions_A, axis=1)
    assert off_A.max() < 0.6 and np.median(off_A) < 0.15
    assert sampled.presence[:64].mean() > 0.97


@pytest.mark.parametrize("voxel_A", [0.5, 0.2])
def test_the_gradient_about_a_site_is_the_residual_smoothed_by_a_gaussian(voxel_A: float) -> None:
    """Of one voxel that is not 0 it is a Gaussian about it, wherever the voxel is; beyond the volume nothing counts."""
    residual = ResidualVolume((20, 24, 28), 4, POSES, voxel_A)
    for index in [(10, 12, 14), (0, 23, 3)]:
        residual.volume[:] = 0
        residual.volume[index] = 2.0
        voxel_at_A = (np.array(index) - (np.array([20, 24, 28]) - 1) / 2)[[1, 2, 0]] * voxel_A
        sites_A = voxel_at_A + np.random.default_rng(0).uniform(-1.5, 1.5, (40, 3))
        values = AmountGradient(residual.volume, voxel_A, 3.0).about(sites_A)
        apart_A = sites_A[:, None] + PLACES_A - voxel_at_A
        expected = (-3.0 * 2.0 * (voxel_A / SMOOTH_A) ** 3 * (2 * np.pi) ** -1.5
                    * np.exp(-0.5 * (apart_A**2).sum(axis=2) / SMOOTH_A**2))
        np.testing.assert_allclose(values, expected, atol=1e-3 * np.abs(expected).max())


def test_a_draw_takes_sites_apart_and_leaves_fixed_ones(model: AtomModel, truth: Sites,
                                                        information: np.ndarray) -> None:
    relocation = relocation_of(model, truth, information)
    at = state_of(model, truth, np.ones(64, bool), relocation)
    drawn = draw_once(relocation, at)
    distance_A = np.linalg.norm(truth.positions_A[drawn.sites][:, None] - truth.positions_A[drawn.sites], axis=2)
    assert len(drawn.sites) >= 4
    assert (distance_A[~np.eye(len(drawn.sites), dtype=bool)] > 2 * REACH_A + SPEC.min_distance_A).all()
    assert drawn.stays.all() and drawn.present.all()  # the noise leaves nothing open
    again = draw_once(relocation_of(model, truth, information), at)
    np.testing.assert_array_equal(again.positions_A, drawn.positions_A)


def test_sites_drawn_at_once_respond_by_no_more_than_is_asked(model: AtomModel, truth: Sites,
                                                              information: np.ndarray) -> None:
    """The response of a site is how its draws vary; one that alone responds by more is drawn in its turn."""
    relocation = relocation_of(model, truth, information, misfit=50.0)
    at = state_of(model, truth, np.ones(64, bool), relocation)
    response, limited = np.zeros(64), np.zeros(64, int)
    outcomes = np.zeros((64, 3, 2))  # away, at its place, elsewhere; as oxygen and silicon
    for _ in range(500):
        drawn = draw_once(relocation, at)
        response[drawn.sites] = drawn.response
        home = (drawn.positions_A == truth.positions_A[drawn.sites]).all(axis=1)
        outcomes[drawn.sites, np.where(drawn.present, np.where(home, 1, 2), 0), drawn.kinds] += 1
        some = draw_once(relocation, at, 2.0)
        assert len(some.sites) == 1 or some.response[:-1].sum() <= 2.0 < drawn.response.sum()
        limited[some.sites] += 1
    n_drawn = outcomes.sum(axis=(1, 2))
    often = n_drawn > 30
    frequency = outcomes[often, 1:] / n_drawn[often, None, None]
    amount = np.sqrt(relative_information(model))
    varied = ((frequency * amount**2).sum(axis=2) - (frequency * amount).sum(axis=2) ** 2).sum(axis=1)  # of two places
    expected = 4 * ELECTRONS / 50.0 * (information[:, 3, 3] / amount[truth.kinds] ** 2)[often] * varied
    assert often.sum() > 15
    assert response[often].sum() == pytest.approx(expected.sum(), rel=0.06)
    assert 0.2 < limited.sum() / outcomes.sum() < 0.6
    assert limited.min() >= 3, limited


def test_a_path_without_any_atom_goes_on(model: AtomModel, truth: Sites, information: np.ndarray) -> None:
    """The only site is where nothing is: it is gone after a few steps, and no step fails."""
    sites = truth.select(np.array([1]))
    empty = model.with_images(model.images(truth.select(np.zeros(0, int)), POSES))
    path = Path(empty, sites, POSES, information[[1]], np.full(1, 0.05), 5, lambda cost: None)
    relocation = relocation_of(empty, sites, information[[1]])
    for _ in range(12):
        path.step(relocation)
    assert not path.present.any() and np.isfinite(path.usual).all()


def test_steps_that_are_too_long_are_shortened(model: AtomModel, truth: Sites, information: np.ndarray,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that do not know of the overlap of the atoms heat their common motions, until they are shortened."""
    monkeypatch.setattr(path_module, "LONGEST_STEP", 2.4)
    monkeypatch.setattr(path_module, "STEP_BY_CURVATURE", 10.0)
    costs: list[float] = []
    errors = standard_errors(information, ELECTRONS)
    sampled = sample_atoms(model, truth, POSES, information, errors, n_steps=168, spec=SPEC, misfit=1.0, seed=6,
                           on_pass=costs.append)
    assert sampled.n_cooled >= 1
    spread = 0.5 * 4 * 64 / (4 * ELECTRONS)  # half a unit of U for each of 256 parameters
    lowest = cost(model, truth) / (4 * ELECTRONS)
    assert np.mean(costs[-60:]) - lowest < 3 * spread
    assert np.sqrt(np.mean((sampled.positions_A - truth.positions_A) ** 2)) < 2 * np.sqrt(np.mean(errors[:, :3] ** 2))


def test_a_path_that_heats_up_is_discarded(model: AtomModel, truth: Sites, information: np.ndarray,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are too long and not shortened, and from the fourth part on no force is cut."""
    monkeypatch.setattr(path_module, "SHORTER", 1.0)
    errors, n_passes = standard_errors(information, ELECTRONS), []

    def lengthen(_: float) -> None:
        n_passes.append(None)
        if len(n_passes) == 120:
            monkeypatch.setattr(path_module, "GREATEST_FORCE", 1e9)

    monkeypatch.setattr(path_module, "LONGEST_STEP", 2.4)
    monkeypatch.setattr(path_module, "STEP_BY_CURVATURE", 10.0)
    sampled = sample_atoms(model, truth, POSES, information, errors, n_steps=168, spec=SPEC, misfit=1.0, seed=6,
                           on_pass=lengthen)
    assert sampled.unstable and np.isnan(sampled.presence).all() and sampled.present.all()
    np.testing.assert_array_equal(sampled.positions_A, truth.positions_A)
    np.testing.assert_array_equal(sampled.errors_A, errors[:, :3])
    assert sampled.counts(truth.kinds)["sampled_unstable"] == 1


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("surroundings", [True, False])
def test_a_few_sites_are_sampled(model: AtomModel, truth: Sites, information: np.ndarray, n: int,
                                 surroundings: bool) -> None:
    few = truth.select(np.arange(n))
    spec = dataclasses.replace(SPEC, surroundings=surroundings)
    sampled = sample_atoms(model, few, POSES, information[:n], standard_errors(information[:n], ELECTRONS),
                           n_steps=LEAST_STEPS, spec=spec, misfit=1.0, seed=5, on_pass=lambda cost: None)
    assert sampled.positions_A.shape == sampled.errors_A.shape == (n, 3)
    assert np.isfinite(sampled.positions_A).all() and (sampled.errors_A > 0).all() and np.isfinite(sampled.factor)


def test_no_site_is_drawn_outside_the_volume(model: AtomModel, truth: Sites, information: np.ndarray) -> None:
    """A site without an atom, 0.3 Å from the end of the volume; the images leave open where it is."""
    sites = join(truth, Sites(np.array([[0.0, 10.7, 0.0]]), np.ones(1), np.zeros(1, int)))
    information = np.concatenate([information, np.median(information, axis=0)[None]])
    relocation = relocation_of(model, sites, information, free=64, misfit=1e4)
    at = state_of(model, sites, np.ones(65, bool), relocation)
    draws = [draw_once(relocation, at) for _ in range(60)]
    y_A = np.array([draw.positions_A[0, 1] for draw in draws if len(draw.sites) and draw.present[0]])
    assert len(y_A) > 8 and y_A.max() < 11 + 0.15 and y_A.min() < 10


def slope_of(model: AtomModel, sites: Sites) -> np.ndarray:
    """Return the derivatives (N, 4) of U by positions and occupancies."""
    slope = np.zeros((len(sites), 4))
    for tilt in model.gradients(sites, POSES):
        slope[:, :3] += 4 * ELECTRONS * tilt.gradient[0, :, :3] @ POSES.rotation(tilt.i_tilt)
        slope[:, 3] += 4 * ELECTRONS * tilt.gradient[0, :, 3]
    return slope


def test_a_gradient_that_follows_a_draw_is_that_of_the_next_pass(model: AtomModel, truth: Sites,
                                                                 information: np.ndarray) -> None:
    """Sites that go, move and change their element: against the pass over the data with the sites after it."""
    relocation = relocation_of(model, truth, information)
    before, residual, by_occupancy = state_of(model, truth, np.ones(64, bool), relocation)
    sites = np.array([21, 36, 26, 47, 42])
    along = np.array([0.0, 0.0, 0.9, -0.7, 0.0])[:, None] * [0.6, 0.0, -0.8]
    drawn = Draw(sites, np.array([False, False, True, True, True]), truth.kinds[sites] ^ (sites == 42),
                 truth.positions_A[sites] + along, np.zeros(5, bool), np.zeros(5))
    volume = residual.volume.copy()
    evidence = relocation.evidence(before, residual, by_occupancy)
    relocation.follow(before, evidence, drawn)
    changed = Sites(truth.positions_A.copy(), np.ones(64), truth.kinds.copy())
    changed.positions_A[sites], changed.kinds[sites], changed.occupancy[sites[:2]] = drawn.positions_A, drawn.kinds, 0
    now, residual_after, _ = state_of(model, changed, np.ones(64, bool), relocation)
    change, at_places = relocation.change(now, evidence), relocation.by_occupancy(now, evidence, sites)
    assert np.corrcoef((residual.volume - volume).ravel(), (residual_after.volume - volume).ravel())[0, 1] > 0.85
    after, others = slope_of(model, changed), np.setdiff1d(np.arange(64), sites)
    exact = (after - slope_of(model, truth))[others]
    alike = [np.corrcoef(change[others, i], exact[:, i])[0, 1] for i in range(4)]
    size = (change[others] * exact).sum(axis=0) / (exact**2).sum(axis=0)
    assert (np.array(alike) > [0.9, 0.9, 0.7, 0.9]).all(), alike  # z is the beam of the first tilt
    np.testing.assert_allclose(size, 1, atol=0.25)
    np.testing.assert_allclose(at_places, after[sites, 3], rtol=0.2)


def test_atoms_with_wrong_names_and_too_large_occupancies_are_mended(model: AtomModel, truth: Sites) -> None:
    """Six atoms are named wrongly; occupancies start 15 and 8 % too large, as fitted noise makes them."""
    wrong = np.array([3, 8, 20, 30, 41, 60])
    kinds = truth.kinds.copy()
    kinds[wrong] = 1 - kinds[wrong]
    sites = Sites(truth.positions_A, np.where(kinds == 0, 1.15, 1.08), kinds)
    information = sample_information(model, sites, POSES, 14, 2)
    path = Path(model, sites, POSES, information, np.full(64, 0.05), 5, lambda cost: None)
    relocation = relocation_of(model, sites, information)
    for _ in range(30):
        path.step(relocation)
    # The images leave 0.01 to 0.015 to the common occupancies of 43 and 21 atoms.
    np.testing.assert_allclose(path.factors * [1.15, 1.08], 1, atol=0.04)
    np.testing.assert_array_equal(path.kinds, truth.kinds)
    assert path.present.all()
    sampled = sample_atoms(model, sites, POSES, information, standard_errors(information, ELECTRONS),
                           n_steps=LEAST_STEPS, spec=SPEC, misfit=1.0, seed=5, on_pass=lambda cost: None)
    np.testing.assert_array_equal(sampled.names.argmax(axis=1), truth.kinds)
    np.testing.assert_allclose(sampled.names.sum(axis=1), 1)
    assert sampled.counts(kinds)["sampled_renamed"] == len(wrong)
    np.testing.assert_allclose(sampled.occupancy_factor * [1.15, 1.08], 1, atol=0.04)
    assert sampled.usual_occupancy == pytest.approx(1, abs=0.04)
