"""Images that fit much worse than the others lose weight in a refinement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aetlab.core.nouns import TiltSeries, TracedAtoms
from aetlab.core.outlying import find_outlying, robust_factors
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.forward.resampling import magnify_images
from aetlab.refinement.model import AtomModel, ImageFormation, Sites
from aetlab.refinement.refine import refine_atoms
from aetlab.refinement.robust import Left, describe_weakened
from aetlab.spec import MicroscopeSpec, RefineSpec

SHAPE, TILT_DEG, DEFOCUS_A = (28, 36, 40), np.arange(-60.0, 61, 20), np.array([-200.0, -450.0])
OPTIONS = {"microscope": MicroscopeSpec(), "n_layers_per_slice": 4, "parametrization": "lobato",
           "debye_waller_A2": {"default": 0.5}}


def test_only_a_misfit_that_stands_out_loses_weight_by_its_square() -> None:
    misfit = np.array([[1.0, 1.02], [0.98, 1.01], [0.99, np.nan], [2.0, 1.0], [1.03, 10.0], [1.01, 0.97]])
    factors = robust_factors(misfit)
    assert abs(factors[3, 0] - 0.25) < 0.01
    assert factors[4, 1] < 0.011 and (np.delete(factors.ravel(), [6, 9]) == 1).all()
    assert not find_outlying(np.full((3, 2), np.nan))[0].any()


def test_one_displaced_image_hardly_moves_the_atoms() -> None:
    rng = np.random.default_rng(4)
    grid = np.stack(np.meshgrid(*[[-4.0, -1.3, 1.3, 4.0]] * 3, indexing="ij"), -1).reshape(-1, 3)[::2]
    truth = Sites(grid + rng.normal(0, 0.2, grid.shape), np.ones(len(grid)), np.zeros(len(grid), int))
    vacuum = TiltSeries(np.ones((7, 2, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, 0.5)
    images = AtomModel(vacuum, SHAPE, (79,), **OPTIONS).images(truth, Poses.nominal(TILT_DEG, 2))
    series = add_shot_noise(TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5), 2000.0, rng)
    images = series.images.copy()
    images[2, 1] = np.roll(images[2, 1], 2, axis=0)
    series = replace(series, images=images)
    n, unknown = len(grid), np.full(len(grid), np.nan)
    traced = TracedAtoms(truth.positions_A + rng.normal(0, 0.05, grid.shape), np.ones(n), np.ones(n), np.ones(n),
                         np.full(n, 79), np.full((n, 3), 0.1), unknown, unknown, np.ones(n), np.zeros(n, np.uint8),
                         unknown, np.ones((n, 1)), np.zeros(n))
    error_A, found = {}, {}
    for robust in (False, True):
        spec = RefineSpec(kind="atoms", n_rounds=2, first_share=1.0, robust=robust)
        found[robust] = refine_atoms(series, SHAPE, traced, (79,), spec,
                                     ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=0)
        off = found[robust].positions_A[:, None] - truth.positions_A[None]
        error_A[robust] = np.linalg.norm(off, axis=2).min(axis=1).mean()
    assert error_A[True] < 0.01 and error_A[True] < 0.6 * error_A[False]
    assert [entry[:2] for entry in found[True].summary["weakened"]] == [(2, 1)]
    assert "1 images fit much worse" in describe_weakened(found[True], series)[0]
    assert "-20° at -45 nm" in describe_weakened(found[True], series)[0]
    assert not describe_weakened(found[False], series)


def test_what_atoms_leave_is_counted_per_value_at_any_brightness_and_magnification() -> None:
    """The true atoms leave χ² of 1 for each pixel that counts; the cost itself grows with 1 / brightness."""
    rng = np.random.default_rng(6)
    truth = Sites(rng.uniform(-4, 4, (12, 3)), np.ones(12), np.zeros(12, int))
    vacuum = TiltSeries(np.ones((7, 2, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, 0.5)
    images = AtomModel(vacuum, SHAPE, (79,), **OPTIONS).images(truth, Poses.nominal(TILT_DEG, 2))
    weights = np.ones(images.shape, np.float32)
    weights[:, :, 3, 5] = 0
    costs = []
    for brightness, larger in ((1.0, 1.0), (0.5, 1.0), (1.0, 1.02)):
        seen = brightness * np.stack([magnify_images(images[:, 0], larger), images[:, 1]], axis=1)
        series = add_shot_noise(replace(vacuum, images=seen.astype(np.float32), pixel_weight=weights), 500.0, rng)
        model, poses = AtomModel(series, SHAPE, (79,), **OPTIONS), Poses.nominal(TILT_DEG, 2)
        poses = replace(poses, brightness=brightness * poses.brightness, magnification=np.array([larger, 1.0]))
        left = Left.of(model.at_magnification(poses.magnification), truth, poses)
        assert abs(left.per_value(np.ones((7, 2))) - 1) < 0.04
        costs.append(left.cost)
    assert costs[1] > 1.8 * costs[0] > 1.8 * costs[2]
