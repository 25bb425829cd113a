"""Shift of single images and magnification of the planes of the defocus, found with the atoms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_refine import ELEMENTS, OPTIONS, VOXEL_A, make_truth, traced_from

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.core.tiling import cut_poses
from aetlab.forward import add_shot_noise
from aetlab.forward.resampling import magnify_images, magnify_weights
from aetlab.refinement.image_parameters import calibrate_images, take_common
from aetlab.refinement.model import AtomModel, ImageFormation, Sites
from aetlab.refinement.predicted import predict_images
from aetlab.refinement.refine import refine_atoms
from aetlab.spec import MicroscopeSpec, RefineSpec

#: Fresnel fringes of the atoms, within 5 Å of the centre, end before the edge of the images.
SHAPE, TILT_DEG, DEFOCUS_A = (36, 64, 60), np.arange(-60.0, 61.0, 30.0), np.array([100.0, -250.0, 300.0])
N_IMAGES, MAGNIFICATION = (5, 3), np.array([0.996, 1.0, 1.004])
SPEC = RefineSpec(kind="atoms", n_rounds=1, n_passes_last=8, imaging=True, poses=True, image_shifts=True,
                  magnification=True)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A tilt series whose images differ in shift, defocus, brightness and magnification from the nominal ones."""

    series: TiltSeries
    sites: Sites
    poses: Poses

    def refine(self, spec: RefineSpec) -> RefinedAtoms:
        """Return atoms refined from positions 0.05 Å off, all with the right element."""
        start_A = self.sites.positions_A + np.random.default_rng(4).normal(0, 0.05, (len(self.sites), 3))
        traced = traced_from(start_A, np.array(ELEMENTS)[self.sites.kinds])
        return refine_atoms(self.series, SHAPE, traced, ELEMENTS, spec,
                            ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=4)


def make_model(series: TiltSeries) -> AtomModel:
    return AtomModel(series, SHAPE, ELEMENTS, n_layers_per_slice=4, **OPTIONS)


def make_experiment(seed: int, electrons: float) -> Experiment:
    """Return images that are shifted by 0.2 Å, 10 Å and 2 % off, each by its own, with planes of different size."""
    rng = np.random.default_rng(seed)
    truth = make_truth()
    seen = dataclasses.replace(Poses.nominal(TILT_DEG, N_IMAGES[1]), image_shift_A=rng.normal(0, 0.2, (*N_IMAGES, 2)),
                               defocus_A=rng.normal(0, 10, N_IMAGES), brightness=1 + rng.normal(0, 0.02, N_IMAGES),
                               magnification=MAGNIFICATION)
    vacuum = TiltSeries(np.ones((*N_IMAGES, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    images = make_model(vacuum).images(truth, seen)
    for j, factor in enumerate(MAGNIFICATION):
        images[:, j] = magnify_images(images[:, j], factor)
    ideal = dataclasses.replace(vacuum, images=images)
    return Experiment(add_shot_noise(ideal, electrons, rng) if np.isfinite(electrons) else ideal, truth, seen)


def shifts_A(poses: Poses) -> np.ndarray:
    """Return the shift (T, F, 2) of every image."""
    return poses.shift_A[:, None, :2] + poses.image_shift_A


def test_a_magnified_image_has_its_features_farther_from_the_centre() -> None:
    """Compare Gaussians at 1.03 times their places, 1.03 times as wide."""
    x, y = (np.arange(n) - (n - 1) / 2 for n in (48, 61))

    def blobs(scale: float) -> np.ndarray:
        return np.asarray(sum(np.exp(-((x[:, None] / scale - a) ** 2 + (y / scale - b) ** 2) / 8)
                              for a, b in ((-14.0, 3.0), (5.5, -20.0), (12.0, 17.0))))

    np.testing.assert_allclose(magnify_images(blobs(1.0), 1.03), blobs(1.03), atol=2e-6)
    both = magnify_images(np.stack([blobs(1.0)] * 2).astype(np.float32), 1.03)
    assert both.dtype == np.float32 and np.abs(both - blobs(1.03)).max() < 1e-5


def test_noise_keeps_its_variance_when_an_image_is_magnified() -> None:
    """But for the rim, where the image is continued by its mirror image."""
    noise = np.random.default_rng(1).standard_normal((40, 64, 64))
    assert magnify_images(noise, 0.99)[:, 4:-4, 4:-4].var() == pytest.approx(1, abs=0.015)


def test_a_bad_pixel_spoils_the_pixels_that_it_is_magnified_into() -> None:
    weights = np.ones((41, 41), np.float32)
    weights[5, 30] = 0
    # From 15 pixels left of the centre and 10 above to 15.3 and 10.2.
    bad = np.argwhere(magnify_weights(weights, 1.02) == 0)
    assert bad.tolist() == [[4, 30], [4, 31], [5, 30], [5, 31]]
    assert magnify_weights(weights, 1.0).sum() == weights.sum()


def test_noise_free_images_determine_shifts_and_magnifications_at_known_sites() -> None:
    experiment = make_experiment(1, np.inf)
    model, poses = make_model(experiment.series), Poses.nominal(TILT_DEG, N_IMAGES[1])
    for _ in range(6):
        step = calibrate_images(model, experiment.sites, poses, SPEC)
        model, poses = step.model, step.poses
    assert step.found(0.1)
    np.testing.assert_allclose(poses.magnification, MAGNIFICATION, atol=4e-5)
    np.testing.assert_allclose(shifts_A(poses), shifts_A(experiment.poses), atol=2e-3)
    np.testing.assert_allclose(poses.defocus_change_A, experiment.poses.defocus_change_A, atol=0.3)
    np.testing.assert_allclose(poses.brightness, experiment.poses.brightness, atol=2e-4)
    settled = take_common(poses, np.ones(N_IMAGES, bool))
    assert np.abs(settled.image_shift_A.mean(axis=1)).max() < 1e-12
    np.testing.assert_allclose(shifts_A(settled), shifts_A(poses), atol=1e-12)


def test_shifts_and_magnifications_are_found_with_the_atoms() -> None:
    """Without them the images keep a misfit, and positions are several times as wrong."""
    experiment = make_experiment(2, 1000.0)
    refined = experiment.refine(SPEC)
    assert 0.95 < refined.summary["chi_square"] < 1.03
    error = refined.summary["magnification_error_percent"] / 100
    assert error < 1e-3 and np.abs(refined.poses.magnification - MAGNIFICATION).max() < 4 * error
    assert refined.summary["magnification_spread_percent"] == pytest.approx(100 * np.ptp(MAGNIFICATION), rel=0.2)
    own_A = take_common(experiment.poses, np.ones(N_IMAGES, bool)).image_shift_A  # the sample may lie elsewhere
    assert np.sqrt(((refined.poses.image_shift_A - own_A) ** 2).mean()) < 0.03
    predicted = np.stack(list(predict_images(experiment.series, SHAPE, refined, ELEMENTS, SPEC,
                                             microscope=MicroscopeSpec(), n_layers_per_slice=4)))
    assert 0.9 < 4000 * ((predicted - np.sqrt(experiment.series.images + 0.25e-3)) ** 2).mean() < 1.03
    plain = experiment.refine(dataclasses.replace(SPEC, image_shifts=False, magnification=False))
    assert plain.summary["chi_square"] > 1.1


def test_images_are_compared_at_the_magnification_of_their_poses() -> None:
    experiment = make_experiment(3, np.inf)
    with pytest.raises(ValueError, match="magnifications"):
        next(make_model(experiment.series).gradients(experiment.sites, experiment.poses))


def test_a_tile_sees_a_magnified_image_shifted() -> None:
    """A point 30 Å from the centre of the whole, in an image 1 % larger, lies 0.3 Å farther out."""
    poses = dataclasses.replace(Poses.nominal(np.zeros(1), 1), magnification=np.array([1.01]))
    cut = cut_poses(poses, 25.0)
    place_A = 1.01 * (5.0 + cut.image_shift_A[0, 0, 1])
    assert place_A + 25.0 == pytest.approx(30.3) and cut.image_shift_A[0, 0, 0] == 0
