"""Thermal factors, defocus and brightness of every image: derivatives, and their fit with sites and poses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree
from test_refine import (
    DEFOCUS_A,
    ELECTRONS,
    ELEMENTS,
    OPTIONS,
    SHAPE,
    TILT_DEG,
    VOXEL_A,
    make_model,
    make_truth,
    traced_from,
)

from aetlab.core.nouns import RefinedAtoms, TiltSeries
from aetlab.core.poses import Poses, turn_matrix
from aetlab.forward import add_shot_noise
from aetlab.refinement import ImageFormation, Known, most_passes, refine_atoms
from aetlab.refinement.fisher import sample_information, separate_thermal, spread_of_tilts, tilt_factors
from aetlab.refinement.fit import LEAST_THERMAL_A2
from aetlab.refinement.geometry import settle
from aetlab.refinement.image_parameters import calibrate_images, take_common
from aetlab.refinement.kept import carry_along, count_lost, well_traced, why_kept
from aetlab.refinement.model import THERMAL_STEP_A2, AtomModel, Sites
from aetlab.refinement.planes import between_planes
from aetlab.refinement.tables import broaden
from aetlab.spec import MicroscopeSpec, RefineSpec

TRUE_B_A2 = {"O": 0.9, "Si": 0.35, "default": 0.5}
B_A2 = np.array([0.9, 0.35])
N_IMAGES = (len(TILT_DEG), len(DEFOCUS_A))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A noisy tilt series whose defocus, brightness, thermal factors and poses differ from the nominal ones."""

    series: TiltSeries
    sites: Sites
    poses: Poses

    def refine(self, seed: int, known: Known | None = None, **settings: bool | int) -> RefinedAtoms:
        """Return atoms refined from positions 0.05 Å off, all with the right element."""
        start_A = self.sites.positions_A + np.random.default_rng(seed).normal(0, 0.05, (len(self.sites), 3))
        traced = traced_from(start_A, np.array(ELEMENTS)[self.sites.kinds])
        spec = RefineSpec(kind="atoms", n_rounds=1, **settings)
        refined = refine_atoms(self.series, SHAPE, traced, ELEMENTS, spec,
                               ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=seed,
                               known=known)
        most = most_passes(spec, len(self.series.tilt_deg))
        assert len(refined) == len(self.sites) and refined.summary["passes"] <= most
        return refined

    def defocus_error_A(self, refined: RefinedAtoms) -> float:
        """Return the RMS error of the defocus of all images relative to the sample."""
        error_A = refined.poses.defocus_change_A - self.poses.defocus_change_A
        return float(np.sqrt((error_A**2).mean()))

    def brightness_error(self, refined: RefinedAtoms) -> float:
        """Return the RMS relative error of the brightness."""
        return float(np.sqrt(((refined.poses.brightness / self.poses.brightness - 1) ** 2).mean()))


def make_experiment(seed: int, *, true_B_A2: dict[str, float] | None = None, imaging: bool = False,
                    poses: bool = False, electrons: float = ELECTRONS) -> Experiment:
    """Return images at full slicing; random errors are 20 Å, 3 % (``imaging``) and 0.5°, 1 Å, 2 nm (``poses``)."""
    rng = np.random.default_rng(seed)
    truth, seen = make_truth(), Poses.nominal(TILT_DEG, N_IMAGES[1])
    if poses:
        turn_deg = 0.5 * rng.standard_normal((len(TILT_DEG), 3))
        shift_A = rng.normal(0, [1.0, 1.0, 20.0], (len(TILT_DEG), 3))
        positions_A, seen = settle(truth.positions_A, dataclasses.replace(seen, turn_deg=turn_deg, shift_A=shift_A))
        truth = dataclasses.replace(truth, positions_A=positions_A)
    if imaging:
        seen = dataclasses.replace(seen, defocus_A=rng.normal(0, 20, N_IMAGES),
                                   brightness=1 + rng.normal(0, 0.03, N_IMAGES))
    vacuum = TiltSeries(np.ones((*N_IMAGES, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    model = AtomModel(vacuum, SHAPE, ELEMENTS, n_layers_per_slice=1,
                      **(OPTIONS | ({"debye_waller_A2": true_B_A2} if true_B_A2 else {})))
    ideal = dataclasses.replace(vacuum, images=model.images(truth, seen))
    series = add_shot_noise(ideal, electrons, rng) if np.isfinite(electrons) else ideal
    return Experiment(series, truth, seen)


def test_broadened_tables_are_those_of_an_atom_that_vibrates_more() -> None:
    """Compare with Gaussians fitted at the other B, which differ by their fit and their cutoff."""
    experiment = make_experiment(1)
    base = AtomModel(experiment.series, SHAPE, ELEMENTS, n_layers_per_slice=4, dtype=np.float64, **OPTIONS)
    anew = AtomModel(experiment.series, SHAPE, ELEMENTS, n_layers_per_slice=4, dtype=np.float64,
                     **(OPTIONS | {"debye_waller_A2": TRUE_B_A2}))
    broad = base.with_thermal(anew.thermal_A2)
    slices = [model.slices(experiment.sites, experiment.poses, 2) for model in (base, broad, anew)]
    assert np.abs(slices[0] - slices[2]).max() > 0.03 * slices[2].max()
    assert np.abs(slices[1] - slices[2]).max() < 1e-3 * slices[2].max()
    assert (broad.tables.window, broad.tables.n_reach) == (base.tables.window, base.tables.n_reach)
    again = broaden(broad.tables, base.thermal_A2, VOXEL_A)
    assert np.allclose(again.cumulative, base.tables.cumulative, atol=1e-14)
    with pytest.raises(ValueError, match="leave no width"):
        broaden(base.tables, np.array([-1.0, 0.5]), VOXEL_A)


def test_the_derivative_by_a_thermal_factor_is_that_of_the_cost() -> None:
    rng = np.random.default_rng(3)
    shape, tilt_deg, defocus_A = (20, 24, 32), np.array([0.0, 37.0]), np.array([100.0, 300.0])
    sites = Sites(rng.uniform(-4, 4, (12, 3)), rng.uniform(0.5, 1.2, 12), rng.integers(0, 2, 12))
    series = TiltSeries(1 + 0.1 * rng.standard_normal((2, 2, 24, 32)), tilt_deg, defocus_A, VOXEL_A)
    poses = Poses.nominal(tilt_deg, len(defocus_A))
    first = AtomModel(series, shape, ELEMENTS, n_layers_per_slice=3, dtype=np.float64, **OPTIONS)
    at_A2 = B_A2

    def cost(thermal_A2: np.ndarray) -> float:
        return sum(tilt.cost for tilt in first.with_thermal(thermal_A2).gradients(sites, poses))

    by_site = np.sum([tilt.by_thermal for tilt in first.with_thermal(at_A2).gradients(sites, poses, thermal=True)], 0)
    for k in range(2):
        step = 1e-4 * np.eye(2)[k]
        slope = (cost(at_A2 + step) - cost(at_A2 - step)) / 2e-4
        assert by_site[sites.kinds == k].sum() == pytest.approx(slope, rel=2e-4)
    assert THERMAL_STEP_A2 < LEAST_THERMAL_A2


def test_thermal_factors_are_found_within_their_standard_errors() -> None:
    """From 0.5 Å²; 28 and 36 atoms leave standard errors of 0.24 and 0.13 Å². Over 60 noises the means were 0.72 ± 0.03
    and 0.30 ± 0.02 before, 0.87 and 0.36 after the correction for the errors of positions, 0.15 and 0.05 Å²."""
    found, errors = [], []
    for seed in range(6):
        experiment = make_experiment(20 + seed, true_B_A2=TRUE_B_A2)
        refined = experiment.refine(seed, thermal=True)
        assert 0.95 < refined.summary["chi_square"] < 1.03
        assert refined.summary["thermal_O_A2"] == refined.thermal_A2[0]
        found.append(refined.thermal_A2 - B_A2)
        errors.append(refined.thermal_error_A2)
    assert np.mean(errors, axis=0) == pytest.approx([0.25, 0.13], rel=0.15)
    ratio = np.array(found) / errors
    assert np.abs(ratio).max() < 3.0  # twelve values
    assert np.abs(ratio.mean(axis=0)).max() < 3.0 / np.sqrt(6)


def test_thermal_factors_are_fitted_after_sites_were_added_and_removed() -> None:
    """Four sites are missing and three are false at first; their residuals look like vibration."""
    experiment = make_experiment(36, true_B_A2=TRUE_B_A2)
    kept = np.arange(64) % 16 != 3
    false_A = np.array([[0.0, 0.1, 0.2], [2.8, -2.7, 0.1], [-2.8, 2.9, -0.2]])
    start_A = experiment.sites.positions_A[kept] + np.random.default_rng(8).normal(0, 0.05, (60, 3))
    traced = traced_from(np.concatenate([start_A, false_A]),
                         np.append(np.array(ELEMENTS)[experiment.sites.kinds[kept]], [14, 8, 0]))
    refined = refine_atoms(experiment.series, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms", thermal=True),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=9)
    distance_A = np.linalg.norm(refined.positions_A[:, None] - experiment.sites.positions_A[None], axis=2)
    assert len(refined) == 64 and sorted(distance_A.argmin(axis=1)) == list(range(64))
    assert distance_A.min(axis=1).max() < 0.35
    assert (np.abs(refined.thermal_A2 - B_A2) < 3 * refined.thermal_error_A2).all()


def test_thermal_factors_of_noise_free_images_are_found() -> None:
    experiment = make_experiment(1, true_B_A2=TRUE_B_A2, electrons=np.inf)
    refined = experiment.refine(2, thermal=True)
    # Fits end at a tenth of the errors that 10 000 electrons a pixel would leave, 0.05 and 0.026 Å² for B.
    assert np.abs(refined.thermal_A2 - B_A2).max() < 0.08
    assert not refined.thermal_error_A2.any()


def test_thermal_factors_stay_above_the_least_that_tables_can_hold() -> None:
    experiment = make_experiment(1, true_B_A2={"default": 0.02}, electrons=np.inf)
    refined = experiment.refine(2, thermal=True)
    assert (refined.thermal_A2 >= LEAST_THERMAL_A2).all()
    assert np.abs(refined.thermal_A2 - LEAST_THERMAL_A2).max() < 0.05
    assert np.isfinite(refined.cost).all()


def test_a_single_site_determines_its_thermal_factor_poorly() -> None:
    experiment = make_experiment(3)
    information = sample_information(make_model(experiment.series), experiment.sites, experiment.poses, 6, 4,
                                     thermal=True)
    assert information.shape == (64, 5, 5)
    separate = separate_thermal(information)
    assert (separate > 0).all() and (separate < information[:, 4, 4]).all()
    error_A2 = 1 / np.sqrt(4 * ELECTRONS * np.median(separate))
    assert 0.5 < error_A2 < 1.5


def test_defocus_and_brightness_of_every_image_are_found() -> None:
    """Ten seeds: 1.2 to 2.3 Å, 0.10 to 0.15 % and χ² of 0.97 to 1.00; of 1.28 to 1.54 where neither is fitted."""
    experiment = make_experiment(31, imaging=True)
    plain = experiment.refine(5)
    refined = experiment.refine(5, imaging=True)
    assert plain.summary["chi_square"] > 1.2
    assert 0.95 < refined.summary["chi_square"] < 1.03
    assert experiment.defocus_error_A(refined) < 3.0
    assert experiment.brightness_error(refined) < 0.005
    assert refined.summary["defocus_offset_rms_A"] == pytest.approx(20, abs=8)
    assert not refined.poses.shift_A.any() and (refined.thermal_A2 == 0.5).all()


def test_noise_free_images_determine_their_calibration() -> None:
    experiment = make_experiment(32, imaging=True, electrons=np.inf)
    refined = experiment.refine(6, imaging=True)
    assert experiment.defocus_error_A(refined) < 0.2
    assert experiment.brightness_error(refined) < 1e-4


def test_thermal_factors_images_and_poses_are_found_together() -> None:
    """Ten seeds: turns 0.14° to 0.19° (0.13° to 0.20° where poses alone are off), 0.02 Å across, defocus 1.1 to 1.9 Å,
    0.11 to 0.15 % of brightness, B within 1.8 standard errors."""
    experiment = make_experiment(33, true_B_A2=TRUE_B_A2, imaging=True, poses=True)
    refined = experiment.refine(7, thermal=True, imaging=True, poses=True)
    assert 0.95 < refined.summary["chi_square"] < 1.03
    turn_error = refined.poses.turn_deg - experiment.poses.turn_deg
    assert np.sqrt((turn_error**2).mean()) < 0.3
    assert np.abs(refined.poses.shift_A[:, :2] - experiment.poses.shift_A[:, :2]).max() < 0.05
    assert np.abs(refined.poses.defocus_A.mean(axis=1)).max() < 1e-9
    assert experiment.defocus_error_A(refined) < 3.0
    assert experiment.brightness_error(refined) < 0.005
    assert (np.abs(refined.thermal_A2 - B_A2) < 3 * refined.thermal_error_A2).all()


def test_the_height_of_a_tilt_equals_a_mean_offset_of_its_planes() -> None:
    experiment = make_experiment(34, imaging=True)
    model, poses = make_model(experiment.series), take_common(experiment.poses, np.ones(N_IMAGES, bool))
    assert np.abs(poses.defocus_A.mean(axis=1)).max() < 1e-12
    assert poses.shift_A[:, 2] == pytest.approx(-experiment.poses.defocus_A.mean(axis=1))
    assert np.allclose(model.images(experiment.sites, poses), model.images(experiment.sites, experiment.poses),
                       atol=1e-5)


def test_images_without_atoms_determine_only_their_brightness() -> None:
    experiment = make_experiment(35)
    empty = experiment.sites.select(np.zeros(64, bool))
    brightness = np.linspace(0.9, 1.1, 27).reshape(N_IMAGES)
    series = dataclasses.replace(experiment.series,
                                 images=np.ones((*N_IMAGES, *SHAPE[1:])) * brightness[:, :, None, None])
    model = make_model(series)
    step = calibrate_images(model, empty, experiment.poses, RefineSpec(kind="atoms", imaging=True))
    poses, change = step.poses, step.change
    extra = 0.25 / ELECTRONS
    assert change == 0 and not poses.defocus_A.any()
    assert np.allclose(poses.brightness, brightness + extra, rtol=1e-5)
    assert model.data.mean_electrons(poses) == pytest.approx(ELECTRONS * (1 + extra))


def test_the_contrast_of_all_images_is_found_and_no_atom_is_dropped_or_renamed_for_it() -> None:
    """With 70 % of the modulation, occupancies of 0.7 would make silicon oxygen and oxygen nothing."""
    experiment = make_experiment(36)
    images = experiment.series.images.astype(float)
    images = images.mean(axis=(2, 3), keepdims=True) * 0.3 + 0.7 * images
    faded = dataclasses.replace(experiment, series=dataclasses.replace(experiment.series, images=images))
    refined = faded.refine(36, imaging=True, contrast=True)
    assert refined.summary["contrast"] == pytest.approx(0.7, abs=0.02)
    assert np.median(refined.occupancy) == pytest.approx(1, abs=0.02)
    distance_A, nearest = cKDTree(refined.positions_A).query(experiment.sites.positions_A)
    assert distance_A.max() < 0.5
    np.testing.assert_array_equal(refined.numbers[nearest], np.array(ELEMENTS)[experiment.sites.kinds])


def test_traced_atoms_that_a_refinement_loses_are_kept_and_it_says_so() -> None:
    """Images of vacuum drop every site."""
    experiment = make_experiment(37)
    vacuum = dataclasses.replace(experiment.series, images=np.ones_like(experiment.series.images))
    traced = traced_from(experiment.sites.positions_A, np.array(ELEMENTS)[experiment.sites.kinds])
    refined = refine_atoms(vacuum, SHAPE, traced, ELEMENTS, RefineSpec(kind="atoms", n_rounds=2),
                           ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=37)
    assert "traced atoms are kept" in refined.summary["stopped"]
    assert sorted(map(tuple, refined.positions_A)) == sorted(map(tuple, traced.positions_A))


def test_information_of_no_sites_is_empty() -> None:
    experiment = make_experiment(38)
    empty = experiment.sites.select(np.zeros(64, bool))
    model = make_model(experiment.series)
    assert sample_information(model, empty, experiment.poses, 1, 0, tried=(0, 1)).shape == (0, 5, 5)


def test_a_refinement_is_judged_by_cost_and_by_the_well_traced_sites() -> None:
    places_A = 3.0 * np.arange(90.0).reshape(30, 3)
    assert why_kept(places_A, places_A + 0.1, 2.0, 1.0) == ""
    assert "worse" in why_kept(places_A, places_A, 1.0, 1.1)
    assert "4 of 30" in why_kept(places_A, places_A[4:], 2.0, 1.0)
    # A site that is found elsewhere is not lost.
    assert why_kept(places_A, np.where(np.arange(30)[:, None] < 4, places_A + 1.0, places_A), 2.0, 1.0) == ""
    traced = dataclasses.replace(traced_from(places_A, np.full(30, 14)), signal=np.where(np.arange(30) < 4, 0.4, 1.0))
    assert why_kept(places_A[well_traced(traced)], places_A[4:], 2.0, 1.0) == ""


def test_traced_sites_follow_the_motion_of_the_whole_sample_before_they_are_compared() -> None:
    """Images do not tell a shift of the sample from one of all images: 1.5 Å of it lost every site."""
    experiment = make_experiment(39)
    sites, shift_A = experiment.sites, np.array([1.5, 0.4, -0.9])
    rng = np.random.default_rng(39)
    turned = sites.positions_A @ turn_matrix(np.array([0.3, 2.0, -0.4])).T + shift_A
    refined_A = turned + rng.normal(0, 0.03, turned.shape)
    assert count_lost(sites.positions_A, refined_A) > 30
    assert count_lost(carry_along(sites.positions_A, sites.positions_A[5:], refined_A[5:]), refined_A) == 0


def test_tilts_that_differ_more_than_the_counts_explain_raise_the_errors() -> None:
    """Gradients of independent tilts with covariance c² JᵀJ/(4n T): the factor is c² for each element."""
    rng, n_tilts, electrons = np.random.default_rng(39), 40, 100.0
    root = rng.normal(size=(300, 4, 4)) + 3 * np.eye(4)
    information, kinds = root @ root.transpose(0, 2, 1), rng.integers(0, 2, 300)
    scale = np.array([1.5, 0.5])[kinds] / np.sqrt(4 * electrons * n_tilts)
    draws = scale[:, None] * np.einsum("nij,tnj->tni", root, rng.standard_normal((n_tilts, 300, 4)))
    # The gradient is information times the error: its covariance is that of the sum of all tilts.
    factors = tilt_factors(information, spread_of_tilts(draws), kinds, 2, electrons, n_tilts)
    np.testing.assert_allclose(factors[0], 2.25, rtol=0.1)
    np.testing.assert_array_equal(factors[1], 1)


@pytest.mark.parametrize("n_planes", [2, 3])
def test_planes_that_ask_for_different_places_raise_the_errors(n_planes: int) -> None:
    """Each plane displaces a site by 1.5 standard errors of its own: the variance of the fit is 1 + 2.25 / F."""
    rng, n_tilts, n = np.random.default_rng(41), 20, 2000
    root = rng.normal(size=(n, 4, 4)) + 3 * np.eye(4)
    information = root @ root.transpose(0, 2, 1)
    own = root / np.sqrt(n_tilts * n_planes)  # of one image
    noise = np.einsum("nij,ftnj->ftni", own, rng.standard_normal((n_planes, n_tilts, n, 4)))
    displaced_A = 1.5 * np.einsum("nij,fnj->fni", np.linalg.inv(root.transpose(0, 2, 1)),
                                  rng.standard_normal((n_planes, n, 4)))
    for wrong in (False, True):
        gradients = noise + wrong * np.einsum("nij,fnj->fni", information, displaced_A)[:, None] / (n_tilts * n_planes)
        error_A = np.einsum("nij,nj->ni", np.linalg.inv(information), gradients.sum(axis=(0, 1)))
        fitted = gradients - np.einsum("nij,nj->ni", information, error_A) / (n_tilts * n_planes)
        np.testing.assert_allclose(between_planes(information, fitted), 1 + wrong * 2.25 / n_planes, rtol=0.15)


def test_one_refinement_in_which_images_shake_states_larger_errors() -> None:
    """Each tilt saw the atoms at places of their own, 0.1 Å off along each axis."""
    experiment = make_experiment(40)
    model, rng = make_model(experiment.series), np.random.default_rng(40)
    images = np.empty_like(experiment.series.images)
    for i_tilt in range(len(TILT_DEG)):
        moved_A = experiment.sites.positions_A + rng.normal(0, 0.1, experiment.sites.positions_A.shape)
        shaken = dataclasses.replace(experiment.sites, positions_A=moved_A)
        images[i_tilt] = model.images(shaken, experiment.poses)[i_tilt]
    noisy = add_shot_noise(dataclasses.replace(experiment.series, images=images, electrons_per_pixel=np.inf), ELECTRONS,
                           rng)
    still, shaken_atoms = (dataclasses.replace(experiment, series=series).refine(40)
                           for series in (experiment.series, noisy))
    error_A = shaken_atoms.positions_A[:, None] - experiment.sites.positions_A
    nearest = np.linalg.norm(error_A, axis=2).argmin(axis=1)
    calibration = (error_A[np.arange(64), nearest] / shaken_atoms.position_error_A).std()
    assert still.summary["tilt_factor_position"] < 1.3 < 2 < shaken_atoms.summary["tilt_factor_position"]
    # Without the factor it is about 4.
    assert 0.7 < calibration < 1.6


def test_what_is_known_of_the_images_is_not_refined() -> None:
    """With the true poses, defoci, brightness and factors B, noise alone separates the images from the atoms."""
    experiment = make_experiment(5, true_B_A2=TRUE_B_A2, imaging=True, poses=True)
    refined = experiment.refine(5, Known(experiment.poses, B_A2), poses=True, imaging=True, thermal=True,
                                n_passes_last=8, n_information_last=1)
    assert refined.poses is experiment.poses
    np.testing.assert_allclose(refined.thermal_A2, B_A2, atol=1e-6)
    assert refined.summary["chi_square"] == pytest.approx(1, abs=0.03) and len(refined.thermal_error_A2) == 2


def test_held_atoms_keep_the_sample_in_place_while_poses_are_fitted() -> None:
    """Images determine no common shift of all atoms; the held half of them does."""
    experiment = make_experiment(6, poses=True)
    common_A = np.array([0.3, 0.2, -0.3])
    shift_A = np.array([experiment.poses.rotation(i) @ common_A for i in range(len(TILT_DEG))])
    poses = dataclasses.replace(experiment.poses, shift_A=experiment.poses.shift_A + shift_A)
    places_A, numbers = experiment.sites.positions_A - common_A, np.array(ELEMENTS)[experiment.sites.kinds]
    held = np.arange(len(places_A)) % 2 == 0
    refined = refine_atoms(
        experiment.series, SHAPE, traced_from(places_A[~held], numbers[~held]), ELEMENTS,
        RefineSpec(kind="atoms", n_rounds=1, poses=True, n_passes_last=10, n_information_last=1),
        ImageFormation(microscope=MicroscopeSpec(), n_layers_per_slice=4), seed=6,
        held=traced_from(places_A[held], numbers[held]))
    off_A = refined.positions_A[:, None] - places_A[~held]
    nearest = np.linalg.norm(off_A, axis=2).argmin(axis=1)
    assert np.abs(off_A[np.arange(len(refined)), nearest].mean(axis=0)).max() < 0.1
    assert np.abs((refined.poses.shift_A - poses.shift_A)[:, :2].mean(axis=0)).max() < 0.1
