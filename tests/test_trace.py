"""Tracing: sites, positions, standard errors, and invariances of the result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numba
import numpy as np
import pytest
import yaml
from scipy import stats
from scipy.ndimage import gaussian_filter

from aetlab.scoring import match_atoms
from aetlab.spec import SpecError, TraceSpec
from aetlab.spec.bind import bind
from aetlab.tracing import trace_atoms
from aetlab.tracing.candidates import LAYERS_PER_SLAB, find_candidates
from aetlab.tracing.errors import Flag
from aetlab.tracing.noise import measure_noise
from tests.trace_volumes import VOXEL_A, as_atoms, as_volume, draw_volume, place_sites

SHAPE = (44, 52, 60)
SPEC = TraceSpec()
EMPTY = np.empty((0, 5))


def trace(potential_V, elements=(8, 14), spec=SPEC):
    return trace_atoms(as_volume(potential_V), spec, elements)


def match_all(traced, atoms):
    return match_atoms(traced, atoms, traced_inside=np.ones(len(traced), bool), true_inside=np.ones(len(atoms), bool),
                       max_distance_A=1.0, n_resamples=0)


def test_the_defaults_are_those_of_the_configuration():
    text = (Path(__file__).parents[1] / "conf" / "trace" / "paper.yaml").read_text("utf-8")
    assert bind(TraceSpec, yaml.safe_load(text)) == SPEC


def test_noise_free_gaussians_are_found_exactly():
    sites = place_sites(300, SHAPE, np.random.default_rng(1))
    traced = trace(draw_volume(sites, SHAPE))
    atoms = as_atoms(sites, SHAPE)
    match = match_all(traced, atoms)
    assert len(match.traced) == len(traced) == len(atoms)
    np.testing.assert_allclose(traced.positions_A[match.traced], atoms.positions_A[match.true], atol=2e-4)
    np.testing.assert_allclose(traced.intensity_V[match.traced], sites[match.true, 3], rtol=2e-3)
    np.testing.assert_allclose(traced.width_A[match.traced], 0.7 * VOXEL_A, rtol=2e-3)
    np.testing.assert_array_equal(traced.numbers[match.traced], atoms.numbers[match.true])
    assert (traced.flag == 0).all()


def test_positions_are_x_y_z_about_the_centre():
    sites = np.array([[10.0, 30.0, 45.0, 200.0, 0.7]])
    traced = trace(draw_volume(sites, SHAPE))
    centre = (np.array(SHAPE) - 1) / 2
    expected = (np.array([30.0, 45.0, 10.0]) - centre[[1, 2, 0]]) * VOXEL_A
    np.testing.assert_allclose(traced.positions_A, expected[None], atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_position_error_reaches_the_cramer_rao_bound_at_snr_10(clip):
    rng = np.random.default_rng(2)
    noise_V = 12.0
    sites = place_sites(1400, (80, 84, 88), rng, distance=5.0, spread=0.0)
    sites[:, 3] = 120.0
    clean = draw_volume(sites, (80, 84, 88))
    traced = trace(clean + rng.normal(0, noise_V, clean.shape).astype(np.float32), (8,),
                   dataclasses.replace(SPEC, clip_at_zero=clip))
    atoms = as_atoms(sites, clean.shape)
    match = match_all(traced, atoms)
    assert len(match.unmatched_true) == len(match.unmatched_traced) == 0
    bound = np.mean([cramer_rao_variances(site, noise_V) for site in sites], axis=0)
    error = (traced.positions_A[match.traced] - atoms.positions_A[match.true])[:, [2, 0, 1]] / VOXEL_A
    ratio = np.sqrt((error**2).mean() / bound[:3].mean())
    assert 0.95 < ratio < 1.05
    assert np.abs(error.mean(axis=0)).max() < 4 * np.sqrt(bound[:3].max() / len(sites))


def cramer_rao_variances(site, noise_V):
    """Diagonal of the inverse Fisher information of the fit's five parameters over its voxels, from differences."""
    axes = [np.arange(np.floor(c) - 3, np.floor(c) + 5) for c in site[:3]]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    inside = ((grid - site[:3]) ** 2).sum(axis=-1) <= SPEC.fit_radius**2

    def model(p):
        return p[3] * np.exp(-0.5 * ((grid[inside] - p[:3]) ** 2).sum(axis=-1) / p[4] ** 2)

    jacobian = np.stack([(model(site + h) - model(site - h)) / 2e-5 for h in 1e-5 * np.eye(5)], axis=1)
    return noise_V**2 * np.diag(np.linalg.inv(jacobian.T @ jacobian))


@pytest.mark.parametrize("noise_V, blur", [(5.0, 0.0), (12.0, 0.0), (6.0, 0.5), (5.0, 0.6)])
def test_errors_are_calibrated_for_white_and_for_correlated_noise(noise_V, blur):
    rng = np.random.default_rng(30)
    shape = (72, 76, 80)
    sites = place_sites(1100, shape, rng, distance=3.2)
    noise = rng.normal(size=shape)
    if blur:
        noise = gaussian_filter(noise, blur, mode="wrap")
    noise *= noise_V / noise.std()
    traced = trace((draw_volume(sites, shape) + noise).astype(np.float32))
    atoms = as_atoms(sites, shape)
    match = match_all(traced, atoms)
    assert len(match.unmatched_true) == len(match.unmatched_traced) == 0
    error_A = traced.positions_A[match.traced] - atoms.positions_A[match.true]
    position = error_A / traced.position_error_A[match.traced]
    intensity = (traced.intensity_V[match.traced] - sites[match.true, 3]) / traced.intensity_error_V[match.traced]
    width = (traced.width_A[match.traced] - 0.7 * VOXEL_A) / traced.width_error_A[match.traced]
    assert 0.9 < position.std() < 1.1
    assert 0.9 < intensity.std() < 1.1
    assert 0.9 < width.std() < 1.1
    # And the distribution is a normal one as far as its usual range goes.
    assert abs((np.abs(position) < 1).mean() - 0.683) < 0.05


def test_errors_scale_with_the_noise_of_each_region():
    rng = np.random.default_rng(4)
    shape = (60, 64, 100)
    sites = place_sites(800, shape, rng, distance=4.0)
    level = np.where(np.arange(100) < 50, 2.0, 8.0)
    traced = trace((draw_volume(sites, shape) + level * rng.normal(size=shape)).astype(np.float32))
    quiet = traced.positions_A[:, 1] < 0
    ratio = np.median(traced.residual_V[~quiet]) / np.median(traced.residual_V[quiet])
    assert 3.6 < ratio < 4.4
    ratio = np.median(traced.position_error_A[~quiet]) / np.median(traced.position_error_A[quiet])
    assert 3.0 < ratio < 5.0


def test_nothing_is_found_in_noise():
    rng = np.random.default_rng(5)
    assert len(trace(rng.normal(0, 20.0, (50, 54, 58)).astype(np.float32))) == 0


@pytest.mark.parametrize("value", [0.0, 75.0, -20.0, np.nan, np.inf])
def test_constant_volumes_have_no_atoms(value):
    traced = trace(np.full((12, 10, 14), value, dtype=np.float32))
    assert len(traced) == 0
    assert traced.positions_A.shape == traced.position_error_A.shape == (0, 3)
    assert traced.posterior.shape == (0, 2)
    assert traced.flag.shape == traced.not_atom_probability.shape == traced.residual_V.shape == (0,)


def test_invalid_volumes_are_refused():
    with pytest.raises(ValueError, match=r"float32 of shape \(4, 5\), wanted real numbers"):
        trace(np.zeros((4, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="complex64"):
        trace(np.zeros((8, 10, 12), dtype=np.complex64))


def test_the_input_is_not_changed_and_its_layout_does_not_matter():
    sites = place_sites(60, (24, 28, 32), np.random.default_rng(6))
    volume = draw_volume(sites, (24, 28, 32))
    before = volume.copy()
    plain = trace(volume)
    np.testing.assert_array_equal(volume, before)
    for other in (np.asfortranarray(volume), volume.astype(np.float64)):
        again = trace(other)
        np.testing.assert_array_equal(again.positions_A, plain.positions_A)


def test_missing_voxels_are_used_by_no_fit():
    shape = (24, 28, 32)
    sites = np.array([[8.2, 9.1, 9.7, 200.0, 0.7], [15.8, 18.3, 22.4, 120.0, 0.7]])
    volume = draw_volume(sites, shape)
    volume[8, 9, 10] = np.nan
    volume[17, 18, 22] = np.inf
    traced = trace(volume)
    atoms = as_atoms(sites, shape)
    match = match_all(traced, atoms)
    assert len(match.traced) == len(traced) == 2
    np.testing.assert_allclose(traced.positions_A[match.traced], atoms.positions_A[match.true], atol=1e-3)
    assert (traced.flag & Flag.CUT).all()


def test_artefacts_outside_the_cylinder_that_all_tilts_see_are_no_atoms():
    rng = np.random.default_rng(15)
    shape = (40, 44, 36)
    sites = place_sites(40, shape, rng, distance=5.0, margin=11.0)
    volume = draw_volume(sites, shape) + rng.normal(0, 3.0, shape).astype(np.float32)
    corners = np.array([[z, x, 18.0, 200.0, 0.7] for z in (3.0, 36.0) for x in (4.0, 39.0)])
    # Outside the cylinder the noise is ten times as strong.
    outside = np.hypot(np.arange(40)[:, None] - 19.5, np.arange(44) - 21.5) > 19
    volume[outside] += rng.normal(0, 30.0, (outside.sum(), 36)).astype(np.float32)
    volume += draw_volume(corners, shape)
    assert len(trace(volume)) > len(sites)
    traced = trace(volume, spec=dataclasses.replace(SPEC, cylinder_margin=2.0))
    match = match_all(traced, as_atoms(sites, shape))
    assert len(match.traced) == len(traced) == len(sites)
    assert (traced.position_error_A < 0.05).all()


def test_missing_voxels_do_not_lower_the_noise_level():
    rng = np.random.default_rng(16)
    volume = rng.normal(0, 5.0, (48, 40, 44)).astype(np.float32) + 20.0
    whole = measure_noise(volume, EMPTY, SPEC)
    volume[:, :18] = np.nan
    part = measure_noise(volume, EMPTY, SPEC)
    assert part.level_V == pytest.approx(whole.level_V, rel=0.1)
    assert np.median(part.cubes_V[:, 3:]) == pytest.approx(np.median(whole.cubes_V), rel=0.1)
    assert not part.cubes_V[:, 0].any()
    volume[:] = np.nan
    assert measure_noise(volume, EMPTY, SPEC).level_V == 0


def test_atoms_at_the_edge_are_found_and_flagged():
    shape = (24, 28, 32)
    sites = np.array([[0.3, 14.0, 16.0, 200.0, 0.7], [12.0, 26.6, 16.0, 200.0, 0.7], [12.0, 14.0, 31.0, 200.0, 0.7],
                      [12.0, 14.0, 16.0, 200.0, 0.7]])
    traced = trace(draw_volume(sites, shape))
    atoms = as_atoms(sites, shape)
    match = match_all(traced, atoms)
    assert len(match.traced) == len(traced) == 4
    error_A = np.linalg.norm(traced.positions_A[match.traced] - atoms.positions_A[match.true], axis=1)
    assert error_A.max() < 0.01
    cut = (traced.flag[match.traced] & Flag.CUT) > 0
    np.testing.assert_array_equal(cut, match.true != 3)
    # An atom whose centre lies outside may be found at the border, but never beyond it.
    outside = trace(draw_volume(np.array([[-0.9, 14.0, 16.0, 300.0, 0.7]]), shape))
    assert (outside.positions_A[:, 2] >= -0.5 * shape[0] * VOXEL_A).all()


def test_touching_atoms_stay_two_and_nearer_ones_become_one():
    shape = (24, 28, 32)
    for distance, n_expected in ((2.6, 2), (1.2, 1)):
        pair = np.array([[12.0, 14.0, 16.0 - distance / 2, 200.0, 0.7], [12.0, 14.0, 16.0 + distance / 2, 200.0, 0.7]])
        traced = trace(draw_volume(pair, shape))
        assert len(traced) == n_expected
        if n_expected == 2:
            match = match_all(traced, as_atoms(pair, shape))
            assert len(match.traced) == 2
            assert match.metrics["position_error_pm"] < 2.0
            assert (traced.flag & Flag.CLOSE).all()
        else:
            np.testing.assert_allclose(traced.positions_A[0], as_atoms(pair, shape).positions_A.mean(axis=0), atol=0.01)


def test_a_weak_neighbour_is_found_in_the_residual():
    shape = (24, 28, 32)
    sites = np.array([[12.0, 14.0, 16.0, 900.0, 0.85], [12.0, 14.0, 18.5, 60.0, 0.5]])
    volume = draw_volume(sites, shape)
    assert len(find_candidates(volume, SPEC)) == 1
    assert len(trace(volume)) == 2
    assert len(trace(volume, spec=dataclasses.replace(SPEC, n_residual_searches=0))) == 1


def test_candidates_compare_with_18_neighbours_and_break_ties_once():
    volume = np.zeros((9, 10, 11), dtype=np.float32)
    volume[4, 5, 5] = volume[4, 5, 6] = 100.0
    assert len(find_candidates(volume, SPEC)) == 1
    # Across a corner two voxels are no neighbours: both are maxima.
    volume = np.zeros((9, 10, 11), dtype=np.float32)
    volume[4, 5, 5] = volume[5, 6, 6] = 100.0
    assert len(find_candidates(volume, SPEC)) == 2
    volume[5, 6, 6] = 0.0
    volume[5, 6, 5] = 100.0
    assert len(find_candidates(volume, SPEC)) == 1


def test_candidates_start_between_the_voxels():
    site = np.array([[12.3, 13.8, 15.6, 200.0, 0.7]])
    found = find_candidates(draw_volume(site, (24, 28, 32)), SPEC)
    np.testing.assert_allclose(found[:, :3], site[:, :3], atol=0.12)
    np.testing.assert_allclose(found[:, 3], 200.0, rtol=0.15)


def test_slabs_change_no_candidate(monkeypatch):
    sites = place_sites(300, (70, 30, 34), np.random.default_rng(7))
    volume = draw_volume(sites, (70, 30, 34))
    assert 70 > 2 * LAYERS_PER_SLAB
    expected = find_candidates(volume, SPEC, subtract=sites[:150])
    monkeypatch.setattr("aetlab.tracing.candidates.LAYERS_PER_SLAB", 70)
    whole = find_candidates(volume, SPEC, subtract=sites[:150])
    np.testing.assert_allclose(expected, whole, rtol=1e-6)


def test_result_is_the_same_for_any_number_of_threads():
    rng = np.random.default_rng(8)
    sites = place_sites(700, (60, 56, 64), rng, distance=3.0)
    volume = draw_volume(sites, (60, 56, 64)) + rng.normal(0, 4.0, (60, 56, 64)).astype(np.float32)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = trace(volume)
    finally:
        numba.set_num_threads(before)
    many = trace(volume)
    for name in ("positions_A", "intensity_V", "width_A", "position_error_A", "numbers", "flag", "posterior"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name), err_msg=name)


def test_flags_mark_fits_that_do_not_describe_their_voxels():
    shape = (24, 28, 32)
    volume = draw_volume(np.array([[12.0, 8.0, 8.0, 120.0, 0.7]]), shape)
    volume[10:15, 18:23, 20:25] = 200.0
    traced = trace(volume, (8,))
    wide = np.argmax(traced.width_A)
    assert traced.flag[wide] & Flag.AT_BOUND
    assert traced.flag[np.argmin(np.abs(traced.intensity_V - 120.0))] == 0


@pytest.mark.parametrize("change, message", [
    ({"fit_radius": 0.5}, "trace.fit_radius"), ({"width_bounds": (1.2, 0.4)}, "trace.width_bounds"),
    ({"width_start": 2.0}, "trace.width_start"), ({"filter_sigma_wide": 0.4}, "trace.filter_sigma_narrow"),
    ({"min_significance": -1.0}, "trace.min_significance"), ({"candidate_fraction": 0.0}, "trace.candidate_fraction"),
    ({"min_signal": 1.0}, "trace.min_signal"), ({"link_factor": 0.0}, "trace.link_factor"),
    ({"min_group": -1}, "trace.min_group")])
def test_unusable_settings_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(SPEC, **change)


def test_neighbours_cause_no_bias():
    rng = np.random.default_rng(14)
    shape = (30, 32, 34)
    errors = []
    for _ in range(40):
        pair = np.array([[15.0, 16.0, 15.4, 200.0, 0.7], [15.0, 16.0, 18.6, 120.0, 0.7]])
        pair[:, :3] += rng.uniform(-0.5, 0.5, 3)
        traced = trace(draw_volume(pair, shape) + rng.normal(0, 3.0, shape).astype(np.float32))
        match = match_all(traced, as_atoms(pair, shape))
        assert len(match.traced) == 2
        order = np.argsort(match.true)
        errors.append((traced.positions_A[match.traced] - as_atoms(pair, shape).positions_A[match.true])[order, 1])
    for column in np.array(errors).T:
        assert stats.ttest_1samp(column, 0.0).pvalue > 1e-3
