"""The fits of single sites, how close ones merge, and who is whose neighbour."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from aetlab.spec import TraceSpec
from aetlab.tracing.sites import fit_sites, list_neighbours, merge_sites
from tests.trace_volumes import draw_volume, place_sites

SPEC = TraceSpec()


def test_fits_do_not_depend_on_the_order_of_the_sites():
    rng = np.random.default_rng(9)
    sites = place_sites(200, (40, 44, 48), rng, distance=2.4)
    volume = draw_volume(sites, (40, 44, 48)) + rng.normal(0, 3.0, (40, 44, 48)).astype(np.float32)
    start = sites + rng.normal(0, 0.05, sites.shape) * [1, 1, 1, 20, 0.1]
    fitted, status = fit_sites(volume, start, SPEC)
    order = rng.permutation(len(sites))
    again, status_again = fit_sites(volume, start[order], SPEC)
    np.testing.assert_array_equal(again, fitted[order])
    np.testing.assert_array_equal(status_again, status[order])
    merged = merge_sites(start, 3.0)
    np.testing.assert_allclose(merge_sites(start[order], 3.0), merged, rtol=1e-12)
    assert len(merged) < len(start)


def test_fits_obey_their_bounds():
    rng = np.random.default_rng(10)
    shape = (20, 22, 24)
    volume = rng.normal(0, 60.0, shape).astype(np.float32)
    places = rng.uniform(0, np.array(shape) - 1, (400, 3))
    start = np.column_stack([places, rng.uniform(30, 200, 400), np.full(400, 0.7)])
    fitted, _ = fit_sites(volume, start, SPEC)
    assert np.abs(fitted[:, :3] - start[:, :3]).max() <= SPEC.max_shift_per_fit + 1e-12
    ratio = fitted[:, 3] / start[:, 3]
    assert 0.5 - 1e-12 <= ratio.min() and ratio.max() <= 1.5 + 1e-12
    assert 0.7 * 0.75 - 1e-12 <= fitted[:, 4].min() and fitted[:, 4].max() <= 0.7 * 1.25 + 1e-12


def test_bounded_fit_matches_scipy():
    rng = np.random.default_rng(11)
    shape = (16, 18, 20)
    centre = np.array([7.3, 9.1, 10.4])
    volume = draw_volume(np.array([[*(centre + 0.4), 180.0, 0.8]]), shape) + rng.normal(0, 4, shape).astype(np.float32)
    start = np.array([[*centre, 150.0, 0.7]])
    fitted, _ = fit_sites(volume, start, SPEC)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    inside = ((grid - centre) ** 2).sum(axis=-1) <= SPEC.fit_radius**2

    def residual(p):
        return p[3] * np.exp(-0.5 * ((grid[inside] - p[:3]) ** 2).sum(axis=-1) / p[4] ** 2) - volume[inside]

    bounds = ([*(centre - 0.25), 75.0, 0.525], [*(centre + 0.25), 225.0, 0.875])
    expected = least_squares(residual, start[0], bounds=bounds, x_scale=[1, 1, 1, 100, 1], xtol=1e-12, ftol=1e-12,
                             gtol=1e-12)
    np.testing.assert_allclose(fitted[0], expected.x, rtol=1e-4)


def test_merging_joins_the_closest_pairs_first_with_weights():
    row = np.array([[5.0, 5.0, y, i, 0.5] for y, i in ((5.0, 100.0), (6.0, 300.0), (7.9, 100.0))])
    merged = merge_sites(row, 2.0)
    np.testing.assert_allclose(merged[:, 2], [5.75, 7.9])
    np.testing.assert_allclose(merged[0, 3], 250.0)
    same_place = np.repeat(row[:1], 4, axis=0)
    assert len(merge_sites(same_place, 2.0)) == 1
    square = np.array([[5.0, x, y, 100.0, 0.7] for x in (5.0, 6.0) for y in (5.0, 6.0)])
    assert len(merge_sites(square, 2.0)) == 1
    assert merge_sites(np.empty((0, 5)), 2.0).shape == (0, 5)


def test_neighbours_are_those_of_brute_force():
    rng = np.random.default_rng(12)
    sites = np.column_stack([rng.uniform(0, 15, (80, 3)), np.ones(80), np.ones(80)])
    first, neighbours = list_neighbours(sites, 5.0)
    distance = np.linalg.norm(sites[:, None, :3] - sites[None, :, :3], axis=2)
    for i in range(80):
        expected = np.flatnonzero((distance[i] <= 5.0) & (np.arange(80) != i))
        np.testing.assert_array_equal(neighbours[first[i] : first[i + 1]], expected)
