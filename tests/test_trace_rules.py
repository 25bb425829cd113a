"""Tracing: rounds, and the rules that remove sites; every removed site is counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aetlab.tracing import describe, trace_atoms
from tests.test_trace import SPEC, trace
from tests.trace_volumes import VOXEL_A, as_volume, draw_volume, place_sites


def test_rounds_are_reported_and_end_by_the_stop_rule():
    sites = place_sites(200, (40, 44, 48), np.random.default_rng(13))
    volume = draw_volume(sites, (40, 44, 48))
    heard = []
    traced = trace_atoms(as_volume(volume), SPEC, (8, 14), lambda *told: heard.append(told))
    assert [round_["round"] for round_ in traced.rounds] == [done for done, _, _ in heard]
    assert len(traced.rounds) < SPEC.n_refine_first + 1 + SPEC.n_rounds_max == heard[0][1]
    last = traced.rounds[-1]
    assert last["n_gone"] < SPEC.stop_sites and last["shift_rms_voxels"] < SPEC.stop_shift
    never = dataclasses.replace(SPEC, stop_sites=0)
    assert len(trace(volume, spec=never).rounds) == SPEC.n_refine_first + 1 + SPEC.n_rounds_max


def test_weak_and_narrow_sites_are_dropped():
    shape = (24, 28, 32)
    sites = np.array([[12.0, 8.0, 8.0, 120.0, 0.7], [12.0, 8.0, 24.0, 28.0, 0.7], [12.0, 20.0, 16.0, 300.0, 0.3]])
    traced = trace(draw_volume(sites, shape))
    assert len(traced) == 1
    np.testing.assert_allclose(traced.intensity_V, 120.0, rtol=1e-3)
    low = trace(draw_volume(sites, shape), spec=dataclasses.replace(SPEC, min_intensity_V=20.0, min_width=0.41))
    assert len(low) == 2


def test_faint_sites_are_dropped_by_the_lightest_element() -> None:
    shape = (44, 52, 60)
    rng = np.random.default_rng(15)
    places = place_sites(90, shape, rng, distance=6.0)
    places[:, 3] = np.repeat([100.0, 200.0, 45.0], [45, 39, 6]) * (1 + 0.05 * rng.standard_normal(90))
    volume = draw_volume(places, shape)
    all_of_them = trace(volume)
    bright = trace(volume, spec=dataclasses.replace(SPEC, min_signal=0.55))
    assert len(all_of_them) == 90 and len(bright) == 84
    np.testing.assert_allclose(np.sort(bright.intensity_V), np.sort(places[:84, 3]), rtol=1e-2)


def test_lone_sites_are_dropped_and_groups_stay() -> None:
    shape = (40, 44, 60)
    chain = [[20.0, 20.0, 8.0 + 4.5 * k, 120.0, 0.7] for k in range(6)]
    alone, pair = [[8.0, 8.0, 30.0, 300.0, 0.7]], [[30.0, 36.0, 40.0, 120.0, 0.7], [30.0, 36.0, 45.0, 120.0, 0.7]]
    volume = draw_volume(np.array(chain + pair + alone), shape)
    assert len(trace(volume)) == 9
    # No group has 7: a sample of small groups loses none of them.
    for min_group, left in ((1, 9), (2, 8), (3, 6), (6, 6), (7, 9), (10, 9)):
        traced = trace(volume, spec=dataclasses.replace(SPEC, min_group=min_group))
        assert len(traced) == left and traced.removed["lone"] == 9 - left
    # O and Si: bonds of up to 2.9 Å, or 5.8 voxels, are links as well.
    assert len(trace(volume, spec=dataclasses.replace(SPEC, min_group=2, link_factor=1.05))) == 8
    assert len(trace(volume, (0,), spec=dataclasses.replace(SPEC, min_group=2, link_factor=1.05))) == 6


def test_a_cluster_of_heavy_atoms_on_a_light_flake_is_found():
    """The median distance of neighbours is that of C, 1.42 Å; those of Au are 2.9 Å apart."""
    shape, voxel_A = (40, 72, 72), VOXEL_A
    cells = np.array([[x, y] for x in range(7) for y in range(4)])
    flake = (cells[:, None] * [2.46, 4.26] + np.array([[0, 0], [1.23, 0.71], [1.23, 2.13], [0, 2.84]])).reshape(-1, 2)
    cube = np.array([[z, x, y] for z in range(3) for x in range(3) for y in range(3)]) * 2.9
    places = np.concatenate([np.column_stack([np.zeros(len(flake)), flake]), cube + [4.0, 5.0, 5.0]]) / voxel_A
    sites = np.column_stack([places + [10, 18, 18], np.repeat([90.0, 560.0], [len(flake), 27]),
                             np.full(len(places), 0.7)])
    sites[:, 3] *= 1 + 0.05 * np.random.default_rng(40).standard_normal(len(sites))
    volume = draw_volume(sites, shape)
    traced = trace_atoms(as_volume(volume), dataclasses.replace(SPEC, min_group=10, min_signal=0.45), (6, 79),
                         expected_signal={6: 66.4, 79: 349.4}, in_volts=True)
    assert len(traced) == len(sites) == 139
    assert (traced.numbers == 79).sum() == 27 and (traced.intensity_V[traced.numbers == 79] > 300).all()
    assert traced.probability.min() > 0.9
    assert sum(traced.removed.values()) == traced.n_candidates - len(traced)


@pytest.mark.parametrize("n_atoms", [1, 2, 5, 9])
def test_a_sample_smaller_than_a_group_is_found(n_atoms):
    sites = place_sites(n_atoms, (30, 34, 38), np.random.default_rng(41), distance=6.0)
    traced = trace(draw_volume(sites, (30, 34, 38)), spec=dataclasses.replace(SPEC, min_group=10))
    assert len(traced) == n_atoms and traced.removed["lone"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_every_site_that_is_removed_is_counted(seed):
    rng = np.random.default_rng(seed)
    shape = (36, 40, 44)
    sites = place_sites(int(rng.integers(1, 150)), shape, rng, distance=rng.uniform(1.5, 4.0), spread=0.3)
    volume = draw_volume(sites, shape) + rng.normal(0, rng.uniform(1, 40), shape).astype(np.float32)
    spec = dataclasses.replace(SPEC, min_group=int(rng.integers(0, 12)), min_signal=rng.choice([0.0, 0.6]),
                               min_significance=rng.uniform(2, 7), smoothing=rng.choice([0.0, 0.5]),
                               n_residual_searches=int(rng.integers(0, 3)))
    traced = trace(volume, spec=spec)
    assert all(count >= 0 for count in traced.removed.values())
    assert traced.n_candidates == len(traced) + sum(traced.removed.values())
    first = describe(traced)[0]
    assert str(traced.n_candidates) in first
    assert all(str(count) in first for count in traced.removed.values() if count)
