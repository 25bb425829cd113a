"""Fits of single sites, merging of close ones, and lists of neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from aetlab.core.structure import least_distance_A
from aetlab.spec import TraceSpec
from aetlab.tracing.kernels_numba import measure_amplitudes, subtract_gaussians
from aetlab.tracing.sites import drop_crowded_sites, fit_sites, gather_fits, list_neighbours, merge_sites
from aetlab.tracing.tracer import at_voxel
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


def test_gaussians_are_subtracted_within_the_radius():
    shape, first_layer = (18, 20, 22), 2
    sites = np.array([[9.3, 10.2, 11.6, 180.0, 0.8], [2.4, 0.3, 21.2, -70.0, 0.6]])
    block = np.full((12, *shape[1:]), 5.0, dtype=np.float32)
    subtract_gaussians(block, first_layer, sites, 3.0)
    grid = np.stack(np.meshgrid(np.arange(2, 14), np.arange(20), np.arange(22), indexing="ij"), axis=-1)
    expected = np.full(block.shape, 5.0)
    for *centre, intensity, width in sites:
        r2 = ((grid - centre) ** 2).sum(axis=-1)
        expected -= np.where(r2 <= 9.0, intensity * np.exp(-0.5 * r2 / width**2), 0.0)
    np.testing.assert_allclose(block, expected, atol=1e-4)


def test_an_amplitude_is_that_of_least_squares():
    shape, width = (16, 18, 20), 0.7
    volume = np.random.default_rng(13).normal(20, 5, shape).astype(np.float32)
    sites = np.array([[7.3, 9.1, 10.4, 150.0, 0.8], [8.1, 9.0, 12.2, 90.0, 0.6]])
    amplitudes = np.empty(2)
    measure_amplitudes(gather_fits(volume, sites, SPEC, clip=False), 0, 2, width, amplitudes)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    for own, other, amplitude in ((0, 1, amplitudes[0]), (1, 0, amplitudes[1])):
        left = volume - draw_volume(sites[other : other + 1], shape)
        r2 = ((grid - sites[own, :3]) ** 2).sum(axis=-1)
        inside = r2 <= SPEC.fit_radius**2
        design = np.exp(-0.5 * r2[inside] / width**2)[:, None]
        expected = np.linalg.lstsq(design, left[inside], rcond=None)[0][0]
        # A fit whose voxels hold less of the Gaussian than a whole one is scaled down by its noise.
        whole = (np.pi * width**2) ** 1.5
        assert amplitude == pytest.approx(expected * min(1, np.sqrt((design**2).sum() / whole)), rel=1e-5)


def test_neighbours_are_those_of_brute_force():
    rng = np.random.default_rng(12)
    sites = np.column_stack([rng.uniform(0, 15, (80, 3)), np.ones(80), np.ones(80)])
    first, neighbours = list_neighbours(sites, 5.0)
    distance = np.linalg.norm(sites[:, None, :3] - sites[None, :, :3], axis=2)
    for i in range(80):
        expected = np.flatnonzero((distance[i] <= 5.0) & (np.arange(80) != i))
        np.testing.assert_array_equal(neighbours[first[i] : first[i + 1]], expected)


def test_of_two_sites_nearer_than_atoms_lie_the_weaker_goes_and_the_stronger_stays_where_it_is() -> None:
    """A chain of sites 3 voxels apart: every other one is faint; then one that is near to a dropped site only."""
    chain = np.array([[3.0 * i, 0, 0, 30.0 if i % 2 else 100.0, 1.0] for i in range(6)] + [[18.5, 0, 0, 20.0, 1.0]])
    kept = drop_crowded_sites(chain, 4.0)
    np.testing.assert_array_equal(kept[:, 0], [0, 6, 12, 18.5])
    np.testing.assert_array_equal(drop_crowded_sites(chain, 2.0), chain)
    assert len(drop_crowded_sites(chain[:0], 4.0)) == 0


def test_least_distances_come_from_the_smallest_element() -> None:
    """Platinum atoms are 2.77 Å apart, carbon atoms in graphene 1.42 Å, oxygen atoms in O2 1.21 Å."""
    assert least_distance_A((78,), 0.75) == pytest.approx(2.04, abs=0.01)
    assert 1.1 < least_distance_A((6, 78), 0.75) < 1.2
    assert least_distance_A((8, 14), 0.75) < 1.0
    assert least_distance_A((0,), 0.75) == 0


def test_lengths_keep_their_length_on_finer_voxels() -> None:
    spec = TraceSpec(smoothing=0.6)
    assert at_voxel(spec, 0.5) is spec and at_voxel(spec, 0.8) is spec
    fine = at_voxel(spec, 0.25)
    assert (fine.smoothing, fine.fit_radius, fine.merge_distance, fine.width_bounds) == (1.2, 3.6, 4.5, (0.8, 2.4))
    assert fine.min_intensity_V == spec.min_intensity_V
    assert at_voxel(spec, 0.05).fit_radius == pytest.approx(8)
