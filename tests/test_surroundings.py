"""Likelihood of the elements at a place from its neighbours, learnt from the sites themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from aetlab.refinement.model import Sites
from aetlab.refinement.surroundings import RATIOS, UNUSUAL, Surroundings, _calibrate, log_surroundings

O, SI = 0, 1
SPACING_A = 3.2


def chain_lattice(n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (N, 3) and kinds of Si on a cubic lattice and O halfway along its edges, 1.6 Å from two Si."""
    corners = SPACING_A * np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    bridges = [corners + 0.5 * SPACING_A * axis for axis in np.eye(3)]
    places_A = np.concatenate([corners, *bridges])
    return places_A, np.repeat([SI, O, O, O], len(corners))


def noisy_sites(seed: int = 0) -> tuple[Sites, np.ndarray]:
    """Return the lattice less a tenth of its oxygen, with errors of 0.1 Å, and the places of the missing atoms."""
    rng = np.random.default_rng(seed)
    places_A, kinds = chain_lattice()
    missing = (kinds == O) & (rng.random(len(kinds)) < 0.1)
    seen_A = places_A[~missing] + rng.normal(0, 0.1, (np.count_nonzero(~missing), 3))
    return Sites(seen_A, np.ones(len(seen_A)), kinds[~missing]), places_A[missing]


def surroundings(places_A: np.ndarray, sites: Sites, *, own: bool = False, seed: int = 1) -> np.ndarray:
    return log_surroundings(places_A, sites, 2, own=own, min_distance_A=1.1, max_distance_A=3.0, seed=seed)


def test_places_of_missing_atoms_are_distinguished_from_others() -> None:
    sites, missing_A = noisy_sites()
    at_missing = surroundings(missing_A, sites)
    between_A = missing_A + np.random.default_rng(2).normal(0, 1, missing_A.shape)
    at_random = surroundings(between_A, sites)
    assert np.quantile(at_missing[:, O] - at_missing[:, -1], 0.2) > 1.0
    assert np.median(at_random[:, O] - at_random[:, -1]) < 0


def test_neighbours_determine_the_elements() -> None:
    sites, _ = noisy_sites()
    own = surroundings(sites.positions_A, sites, own=True)
    for kind, other in ((O, SI), (SI, O)):
        favour = (own[:, kind] - own[:, other])[sites.kinds == kind]
        assert np.mean(favour > 0) > 0.9


def test_an_atom_is_expected_beside_a_site_that_lacks_a_neighbour() -> None:
    """Both places are 1.6 Å from one Si: one where a bond is empty, the other between bonds that are all there."""
    places_A, kinds = chain_lattice()
    middle = np.argmin(np.abs(places_A[kinds == SI] - 3 * SPACING_A).sum(axis=1))
    at_A = places_A[kinds == SI][middle]
    empty_A = at_A + [0.5 * SPACING_A, 0, 0]
    # The Si on the other side of the empty bond is missing as well.
    gone = [np.argmin(np.abs(places_A - place).sum(axis=1)) for place in (empty_A, at_A + [SPACING_A, 0, 0])]
    left = np.delete(np.arange(len(kinds)), gone)
    sites = Sites(places_A[left], np.ones(len(left)), kinds[left])
    full_A = at_A + 0.5 * SPACING_A * np.array([1, 1, 1]) / np.sqrt(3)
    log = surroundings(np.stack([empty_A, full_A]), sites)
    favour = log[:, O] - log[:, -1]
    assert favour[0] > favour[1] + 2


def test_a_site_is_not_its_own_neighbour() -> None:
    sites, _ = noisy_sites()
    own = surroundings(sites.positions_A, sites, own=True)
    as_places = surroundings(sites.positions_A, sites)
    assert (own[:, :2].mean() - as_places[:, :2].mean()) > 1.0


def test_unusual_surroundings_have_a_least_likelihood() -> None:
    sites, _ = noisy_sites()
    anywhere_A = np.random.default_rng(3).uniform(-20, 60, (500, 3))
    ratio = surroundings(anywhere_A, sites)[:, :2] - surroundings(anywhere_A, sites)[:, 2:]
    assert ratio.min() >= np.log(UNUSUAL) - 1e-9 and np.isfinite(ratio).all()


def test_order_and_seed_change_little() -> None:
    sites, missing_A = noisy_sites()
    first = surroundings(missing_A, sites)
    order = np.random.default_rng(4).permutation(len(sites))
    favour = first[:, :2] - first[:, 2:]
    np.testing.assert_array_equal(surroundings(missing_A, sites), first)
    for other in (surroundings(missing_A, sites.select(order)), surroundings(missing_A, sites, seed=9)):
        assert np.median(np.abs(other[:, :2] - other[:, 2:] - favour), axis=0).max() < 0.25
        assert np.median(np.abs((other - first)[:, -1])) < 0.4


def test_ratios_are_those_of_the_frequencies() -> None:
    """Averaged over random places, the ratio of atom to nothing is 1; a product of dependent histograms gives more."""
    sites, _ = noisy_sites()
    learnt = Surroundings(sites, 2, min_distance_A=1.1, max_distance_A=3.0, seed=1)
    rng = np.random.default_rng(7)
    places_A = rng.uniform(sites.positions_A.min() - 2, sites.positions_A.max() + 2, (60_000, 3))
    distance_A, _ = cKDTree(sites.positions_A).query(places_A)
    places_A = places_A[(distance_A >= 1.1) & (distance_A <= 3.0)]
    log = learnt.log_density(places_A, sites, np.full(len(places_A), -1))
    for kind in (O, SI):
        assert np.exp(log[:, kind] - log[:, -1]).mean() == pytest.approx(1, abs=0.25)
    assert surroundings(places_A[:5], sites).shape == (5, 3)


def test_a_few_atoms_in_unusual_places_change_the_ratios_of_these_alone() -> None:
    """No random place claims less than e⁻³; 30 of 10 000 atoms that do must not raise the ratio of all others."""
    rng = np.random.default_rng(0)
    nothing, atoms = rng.normal(-2, 0.3, 50_000), rng.normal(5, 1, 10_000)
    atoms[:30] = -6.0
    ratio = dict(zip(RATIOS.tolist(), _calibrate(atoms, nothing), strict=True))
    assert ratio[-2.0] < -4 and ratio[-5.0] == ratio[-2.0] and ratio[5.0] > 4
    assert (np.diff(list(ratio.values())) >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_sites_give_no_information(n: int) -> None:
    sites = Sites(np.arange(3.0 * n).reshape(n, 3), np.ones(n), np.zeros(n, np.int64))
    np.testing.assert_array_equal(surroundings(np.ones((4, 3)), sites), np.zeros((4, 3)))
    full, _ = noisy_sites()
    assert surroundings(np.empty((0, 3)), full).shape == (0, 3)
