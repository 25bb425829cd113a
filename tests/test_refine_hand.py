"""The hand of refined atoms, told by multiple scattering and the defocus of layers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from aetlab.core.hand import in_hand_of, mirror_reconstruction
from aetlab.core.nouns import Reconstruction, TiltSeries, TracedAtoms, Volume
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.refinement.fisher import sample_information
from aetlab.refinement.hand import fit_mirrored, mirror
from aetlab.refinement.model import AtomModel, ImageFormation, Sites
from aetlab.refinement.refine import refine_atoms
from aetlab.spec import MicroscopeSpec, RefineSpec

SHAPE = (32, 40, 48)
TILT_DEG = np.arange(-60.0, 61, 15)
OPTIONS = {"microscope": MicroscopeSpec(), "n_layers_per_slice": 4, "parametrization": "lobato",
           "debye_waller_A2": {"default": 0.5}}


def make_sites() -> Sites:
    """Return 40 atoms of gold within 5 Å of the centre, at least 2.2 Å apart, without any symmetry."""
    rng, p = np.random.default_rng(1), np.zeros((0, 3))
    while len(p) < 40:
        tried = rng.uniform(-5.5, 5.5, 3)
        if not len(p) or np.linalg.norm(p - tried, axis=1).min() > 2.2:
            p = np.vstack([p, tried])
    return Sites(p, np.ones(40), np.zeros(40, int))


@cache
def noisy_series() -> TiltSeries:
    """Return the images of :func:`make_sites` at two defoci, 500 electrons a pixel."""
    defocus_A = np.array([-200.0, -500.0])
    vacuum = TiltSeries(np.ones((9, 2, *SHAPE[1:]), np.float32), TILT_DEG, defocus_A, 0.5)
    images = AtomModel(vacuum, SHAPE, (79,), **OPTIONS).images(make_sites(), Poses.nominal(TILT_DEG, 2))
    return add_shot_noise(TiltSeries(images, TILT_DEG, defocus_A, 0.5), 500.0, np.random.default_rng(3))


def test_the_mirror_image_tilted_the_other_way_projects_alike() -> None:
    sites = make_sites()
    rng = np.random.default_rng(2)
    poses = replace(Poses.nominal(TILT_DEG, 1), turn_deg=rng.normal(0, 1, (9, 3)), shift_A=rng.normal(0, 1, (9, 3)))
    mirrored, turned = mirror(sites, poses)
    for i in range(9):
        placed, other = poses.place(sites.positions_A, i), turned.place(mirrored.positions_A, i)
        np.testing.assert_allclose(other, placed * [1, 1, -1], atol=1e-12)
    assert np.array_equal(mirror(mirrored, turned)[0].positions_A, sites.positions_A)


@pytest.mark.parametrize("right", [True, False])
def test_images_tell_atoms_from_their_mirror_image(right: bool) -> None:
    truth, poses = make_sites(), Poses.nominal(TILT_DEG, 2)
    model = AtomModel(noisy_series(), SHAPE, (79,), **OPTIONS)
    sites, seen = (truth, poses) if right else mirror(truth, poses)
    information = sample_information(model, sites, seen, 2, 4)
    twin = fit_mirrored(model, sites, seen, information, None, RefineSpec(kind="atoms"))
    assert twin.evidence > 5 if right else twin.evidence < -5
    assert (twin.mirrored_cost > twin.cost) == right


def test_missing_atoms_are_found_in_the_hand_that_the_first_round_chooses() -> None:
    """Two of five atoms are traced, mirrored; the summary tells the hand of the result against that stated."""
    sites, n = make_sites(), 40
    stated, some = replace(noisy_series(), tilt_deg=-TILT_DEG), np.arange(0, n) % 5 < 2
    m = int(some.sum())
    unknown = np.full(m, np.nan)
    traced = TracedAtoms(sites.positions_A[some] * [1, 1, -1], np.ones(m), np.ones(m), np.ones(m), np.full(m, 79),
                         np.full((m, 3), 0.1), unknown, unknown, np.ones(m), np.zeros(m, np.uint8), unknown,
                         np.ones((m, 1)), np.zeros(m))
    spec = RefineSpec(kind="atoms", hand="choose", first_share=1.0, max_distance_A=6.0)
    refined = refine_atoms(stated, SHAPE, traced, (79,), spec,
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=0)
    np.testing.assert_array_equal(refined.poses.tilt_deg, TILT_DEG)
    assert refined.summary["mirrored"] == 1 and refined.summary["hand"] > 5
    assert len(refined) == n and cKDTree(sites.positions_A).query(refined.positions_A)[0].max() < 0.1


@pytest.mark.parametrize("hand", ["choose", "compare"])
def test_of_a_series_tilted_the_other_way_the_mirror_image_is_taken_on_request(hand: str) -> None:
    sites, n = make_sites(), 40
    stated = replace(noisy_series(), tilt_deg=-TILT_DEG)
    wrong_A, unknown = sites.positions_A * [1, 1, -1], np.full(n, np.nan)
    traced = TracedAtoms(wrong_A, np.ones(n), np.ones(n), np.ones(n), np.full(n, 79), np.full((n, 3), 0.1), unknown,
                         unknown, np.ones(n), np.zeros(n, np.uint8), unknown, np.ones((n, 1)), np.zeros(n))
    refined = refine_atoms(stated, SHAPE, traced, (79,), RefineSpec(kind="atoms", hand=hand, n_rounds=1),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=0)
    taken = hand == "choose"
    expected_A = sites.positions_A if taken else wrong_A
    assert len(refined) == n and cKDTree(expected_A).query(refined.positions_A)[0].max() < 0.1
    np.testing.assert_array_equal(refined.poses.tilt_deg, TILT_DEG if taken else -TILT_DEG)
    assert refined.summary["mirrored"] == taken and (refined.summary["hand"] > 5) == taken
    assert (refined.summary["hand_chi_square"] < refined.summary["hand_chi_square_mirrored"]) == taken
    volume = Volume(np.arange(24.0).reshape(2, 3, 4), 0.5)
    made = Reconstruction(volume, np.ones(1), np.ones(1), (), (), "", 0.0, 0.0, poses=refined.poses)
    series, other, found = in_hand_of(refined, stated, made, traced)
    np.testing.assert_array_equal(series.tilt_deg, refined.poses.tilt_deg)
    np.testing.assert_array_equal(found.positions_A, sites.positions_A if taken else wrong_A)
    assert other.volume.potential_V[0, 0, 0] == (12 if taken else 0)
    back = mirror_reconstruction(mirror_reconstruction(made))
    np.testing.assert_array_equal(back.volume.potential_V, volume.potential_V)
    np.testing.assert_array_equal(back.poses.turn_deg, refined.poses.turn_deg)
