"""The hand of refined atoms, told by multiple scattering and the defocus of layers."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.refinement.fisher import sample_information
from aetlab.refinement.hand import evidence_of_hand, mirror
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec

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


def test_the_mirror_image_tilted_the_other_way_projects_alike() -> None:
    sites = make_sites()
    rng = np.random.default_rng(2)
    poses = Poses(TILT_DEG, rng.normal(0, 1, (9, 3)), rng.normal(0, 1, (9, 3)), np.zeros((9, 1)), np.ones((9, 1)))
    mirrored, turned = mirror(sites, poses)
    for i in range(9):
        placed, other = poses.place(sites.positions_A, i), turned.place(mirrored.positions_A, i)
        np.testing.assert_allclose(other, placed * [1, 1, -1], atol=1e-12)
    assert np.array_equal(mirror(mirrored, turned)[0].positions_A, sites.positions_A)


@pytest.mark.parametrize("right", [True, False])
def test_images_tell_atoms_from_their_mirror_image(right: bool) -> None:
    defocus_A = np.array([-200.0, -500.0])
    truth, poses = make_sites(), Poses.nominal(TILT_DEG, 2)
    vacuum = TiltSeries(np.ones((9, 2, *SHAPE[1:]), np.float32), TILT_DEG, defocus_A, 0.5)
    ideal = TiltSeries(AtomModel(vacuum, SHAPE, (79,), **OPTIONS).images(truth, poses), TILT_DEG, defocus_A, 0.5)
    model = AtomModel(add_shot_noise(ideal, 500.0, np.random.default_rng(3)), SHAPE, (79,), **OPTIONS)
    sites, seen = (truth, poses) if right else mirror(truth, poses)
    information = sample_information(model, sites, seen, 2, 4)
    evidence = evidence_of_hand(model, sites, seen, information, None, tolerance=0.1)
    assert evidence > 5 if right else evidence < -5
