"""The correction of the refinement for the sampling of potential and waves on the pixels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from test_refine import ELEMENTS, SHAPE, VOXEL_A, make_truth, traced_from

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise, simulate_tilt_series
from aetlab.refinement import ImageFormation, most_passes, refine_atoms
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.predicted import predict_images
from aetlab.refinement.sampling import (
    correct_again,
    correct_sampling,
    fine_amplitudes,
    sample_at_pixels,
    sampling_difference,
)
from aetlab.spec import MicroscopeSpec, RefineSpec, SimulateSpec

TILT_DEG, DEFOCUS_A = np.arange(10.0, 180.0, 34.0), np.array([200.0, 450.0])
B_A2 = {"default": 0.5}
#: Fivefold voxels, whose mean is no blur; the middle one of a pixel lies at its centre.
FINER = 5


def make_model(microscope: MicroscopeSpec, images: np.ndarray | None = None) -> AtomModel:
    blank = np.ones((len(TILT_DEG), 2, *SHAPE[1:]), np.float32)
    series = TiltSeries(blank if images is None else images, TILT_DEG, DEFOCUS_A, VOXEL_A)
    return AtomModel(series, SHAPE, ELEMENTS, microscope=microscope, n_layers_per_slice=4, parametrization="lobato",
                     debye_waller_A2=B_A2)


@pytest.mark.parametrize("mtf_half", [1.0, 0.4])
def test_images_that_are_means_over_their_pixels_are_corrected_as_such(mtf_half: float) -> None:
    sites, microscope = make_truth(), MicroscopeSpec(mtf_half=mtf_half)
    atoms = Atoms(np.array(ELEMENTS)[sites.kinds], sites.positions_A, np.zeros(len(sites), int))
    images = simulate_tilt_series(atoms, SHAPE, VOXEL_A, TILT_DEG[:2], DEFOCUS_A, microscope=microscope,
                                  simulate=SimulateSpec(n_layers=4 * FINER, oversample=FINER), debye_waller_A2=B_A2,
                                  rng=np.random.default_rng(0)).images
    series = TiltSeries(images, TILT_DEG[:2], DEFOCUS_A, VOXEL_A)
    left = {}
    for averaged in (False, True):
        model = AtomModel(series, SHAPE, ELEMENTS, microscope=microscope, n_layers_per_slice=4, averaged=averaged,
                          parametrization="lobato", debye_waller_A2=B_A2)
        poses = Poses.nominal(TILT_DEG[:2], 2)
        wanted = np.sqrt(images) - np.sqrt(model.images(sites, poses))
        left[averaged] = (wanted - sampling_difference(model, sites, poses)).std() / wanted.std()
    assert left[True] < 0.1 < 0.5 < left[False]


@cache
def simulate(microscope: MicroscopeSpec) -> np.ndarray:
    """Return images (T, F, X, Y) at the centres of the pixels, simulated on much finer voxels."""
    sites = make_truth()
    atoms = Atoms(np.array(ELEMENTS)[sites.kinds], sites.positions_A, np.zeros(len(sites), int))
    n_z, n_x, n_y = (FINER * n for n in SHAPE)
    fine = simulate_tilt_series(atoms, (n_z, n_x, n_y), VOXEL_A / FINER, TILT_DEG, DEFOCUS_A,
                                microscope=replace(microscope, mtf_half=microscope.mtf_half**FINER**2),
                                simulate=SimulateSpec(n_layers=4 * FINER), debye_waller_A2=B_A2,
                                rng=np.random.default_rng(0))
    return fine.images[..., FINER // 2::FINER, FINER // 2::FINER]


@pytest.mark.parametrize("microscope", [MicroscopeSpec(), MicroscopeSpec(mtf_half=0.4)])
def test_the_correction_is_the_difference_from_a_simulation_on_much_finer_voxels(microscope: MicroscopeSpec) -> None:
    sites, poses = make_truth(), Poses.nominal(TILT_DEG, 2)
    model, images = make_model(microscope), simulate(microscope)
    wanted = np.sqrt(images) - np.sqrt(model.images(sites, poses))
    found = sampling_difference(model, sites, poses)
    assert wanted.std() > 2e-3 and (wanted - found).std() < 0.1 * wanted.std()
    assert (wanted * found).sum() / (wanted**2).sum() == pytest.approx(1, abs=0.04)
    # Corrected, the cost is that of the finer model, which fits these images.
    measured = make_model(microscope, images)
    coarse, corrected = (sum(tilt.cost for tilt in each.gradients(sites, poses))
                         for each in (measured, correct_sampling(measured, sites, poses)))
    assert corrected < 0.01 * coarse and correct_again(measured, sites, poses) is measured


def test_without_atoms_nothing_is_corrected() -> None:
    nothing = Sites(np.zeros((0, 3)), np.zeros(0), np.zeros(0, int))
    assert np.abs(sampling_difference(make_model(MicroscopeSpec()), nothing, Poses.nominal(TILT_DEG, 2))).max() < 1e-6


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_waves_that_the_pixels_resolve_are_sampled_at_their_centres(factor: int) -> None:
    def wave(finer: int) -> np.ndarray:
        x, y = ((np.arange(finer * n) + 0.5) / finer for n in (10, 12))
        return 1 + np.cos(2 * np.pi * (3 * x[:, None] / 10 - 5 * y / 12) + 0.7)

    assert np.abs(sample_at_pixels(wave(factor), factor) - wave(1)).max() < 1e-12


def test_refined_atoms_are_as_wrong_as_they_say_only_where_the_sampling_is_corrected() -> None:
    truth, microscope = make_truth(), MicroscopeSpec()
    ideal = TiltSeries(simulate(microscope), TILT_DEG, DEFOCUS_A, VOXEL_A)
    series = add_shot_noise(ideal, 4e4, np.random.default_rng(1))
    traced = traced_from(truth.positions_A + np.random.default_rng(2).normal(0, 0.03, (64, 3)),
                         np.array(ELEMENTS)[truth.kinds])
    options = {"microscope": microscope, "n_layers_per_slice": 4}
    for sampling, low, high in (("coarse", 3.5, 6), ("corrected", 0.85, 1.3)):
        spec = RefineSpec(kind="atoms", n_rounds=1, sampling=sampling)
        refined = refine_atoms(series, SHAPE, traced, ELEMENTS, spec, ImageFormation(**options), seed=3)
        nearest = np.linalg.norm(refined.positions_A[:, None] - truth.positions_A, axis=2).argmin(axis=1)
        ratio = (refined.positions_A - truth.positions_A[nearest]) / refined.position_error_A
        assert len(refined) == 64 and low < np.sqrt((ratio**2).mean()) < high
        assert refined.summary["passes"] <= most_passes(spec, len(TILT_DEG))
        # The validation predicts the images by the same model.
        predicted = np.stack(list(predict_images(series, SHAPE, refined, ELEMENTS, spec, **options)))
        square = 4 * 4e4 * (predicted - np.sqrt(series.images)) ** 2
        assert square.mean() == pytest.approx(refined.summary["chi_square"], rel=2e-3)
    assert square.mean() < 1.0


def test_a_finer_model_averages_intensities_over_the_focal_spread() -> None:
    """Compare with the mean of 41 images at defoci of a normal distribution; the envelope alone is far from it."""
    spread = MicroscopeSpec(focal_spread_sigma_nm=4.0)
    sites = Sites(np.array([[0.0, 0.2, 0.1], [0.3, 0.1, 2.4], [2.1, -0.4, 0.3]]), np.ones(3), np.zeros(3, int))
    series = TiltSeries(np.ones((1, 1, 24, 24), np.float32), np.zeros(1), np.array([-120.0]), 0.5)
    poses, shape = Poses.nominal(np.zeros(1), 1), (16, 24, 24)
    options = {"parametrization": "lobato", "debye_waller_A2": {"default": 0.5}, "n_layers_per_slice": 4}
    models = {choice: AtomModel(series, shape, (79,), microscope=spread, focal_spread=choice, **options)
              for choice in ("envelope", "averaged")}
    (averaged,), (envelope,) = (list(fine_amplitudes(models[choice], sites, poses, 1))
                                for choice in ("averaged", "envelope"))
    change_A = np.linspace(-4, 4, 41) * 40
    share = np.exp(-0.5 * (change_A / 40) ** 2)
    sharp = AtomModel(series, shape, (79,), microscope=MicroscopeSpec(), **options).on_finer_pixels(1)
    planes = sharp.images_of_tilt(0, sites, poses, change_A.tolist())
    expected = np.sqrt(np.tensordot(share / share.sum(), planes, 1))
    contrast = np.abs(expected - 1).max()
    assert np.abs(averaged - expected).max() < 0.005 * contrast < 0.03 * contrast < np.abs(envelope - expected).max()
