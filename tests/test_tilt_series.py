"""Measured tilt series: missing images, bad pixels, a defocus and electrons for every image, tilts in any order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import Multislice, make_multislice
from aetlab.forward.series_optics import SeriesOptics, series_optics
from aetlab.forward.simd_multislice import SimdMultislice
from aetlab.reconstruction.iterations import LEFT_OUT, split_counts
from aetlab.reconstruction.weight import hold_out
from aetlab.refinement.bound import compute_bound
from aetlab.refinement.fisher import sample_information, standard_errors
from aetlab.refinement.image_parameters import calibrate_images, take_common
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec, RefineSpec

SHAPE, VOXEL_A, N_LAYERS = (8, 10, 12), 0.5, 3
#: Neither in order nor evenly spaced.
TILT_DEG = np.array([31.7, -12.0, 117.3, 0.0])
DEFOCUS_A = np.array([[200.0, 450.0, 1000.0], [190.0, 430.0, 1000.0], [200.0, 450.0, 1000.0], [220.0, 460.0, 950.0]])
MICROSCOPE = MicroscopeSpec(Cs_mm=0.01)
DTYPES = [np.float32, np.float64]


def make_series(shape: tuple[int, int, int] = SHAPE, seed: int = 1, **values: Any) -> TiltSeries:
    images = np.random.default_rng(seed).uniform(0.5, 1.5, (*DEFOCUS_A.shape, *shape[1:])).astype(np.float32)
    return TiltSeries(**{"images": images, "tilt_deg": TILT_DEG, "defocus_A": DEFOCUS_A, "pixel_A": VOXEL_A} | values)


def make_model(series: TiltSeries, dtype: type = np.float64, shape: tuple[int, int, int] = SHAPE,
               likelihood: str = "amplitude") -> ForwardModel:
    return ForwardModel(series, shape, microscope=MICROSCOPE, n_layers_per_slice=N_LAYERS, dtype=dtype,
                        likelihood=likelihood)


def make_volume(shape: tuple[int, int, int] = SHAPE, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(2).uniform(0, 60, shape).astype(dtype)


def random_weights(shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Return weights of images and pixels, some of them 0."""
    rng = np.random.default_rng(3)
    weight, by_pixel = rng.uniform(0.2, 2, DEFOCUS_A.shape), rng.uniform(0, 2, (*DEFOCUS_A.shape, *shape[1:]))
    weight[1, 2] = 0
    by_pixel[by_pixel < 0.2] = 0
    return {"weight": weight, "pixel_weight": by_pixel.astype(np.float32)}


@pytest.mark.parametrize(("values", "message"), [
    ({"images": np.ones((4, 10, 12))}, r"images: float64 of shape \(4, 10, 12\), wanted numbers"),
    ({"tilt_deg": np.zeros(3)}, r"tilt_deg: shape \(3,\), wanted \(4,\)"),
    ({"tilt_deg": np.full(4, np.nan)}, "tilt_deg: NaN or infinity"),
    ({"defocus_A": np.zeros(2)}, r"defocus_A: shape \(2,\), wanted \(4, 3\) or \(3,\)"),
    ({"pixel_A": 0.0}, "pixel_A: 0.0, wanted a number greater than 0"),
    ({"electrons_per_pixel": np.ones(3)}, r"electrons_per_pixel: shape \(3,\), wanted \(4, 3\) or one number"),
    ({"electrons_per_pixel": -1.0}, "electrons_per_pixel: -1.0 in an image of weight greater than 0"),
    ({"electrons_per_pixel": np.where(TILT_DEG[:, None] > 0, 5.0, np.inf) * np.ones(3)},
     "electrons_per_pixel: infinite in 6 of 12 images, wanted all or none"),
    ({"weight": np.ones((3, 4))}, r"weight: shape \(3, 4\), wanted \(4, 3\)"),
    ({"weight": np.zeros((4, 3))}, "weight: 0.0 to 0.0, wanted none below and some above 0"),
    ({"weight": np.full((4, 3), -1.0)}, "weight: -1.0 to -1.0"),
    ({"weight": np.full((4, 3), np.inf)}, "weight: NaN or infinity"),
    ({"pixel_weight": np.ones((4, 3, 10, 11))}, r"pixel_weight: shape \(4, 3, 10, 11\), wanted \(4, 3, 10, 12\)"),
    ({"pixel_weight": np.full((4, 3, 10, 12), -1.0)}, "pixel_weight: -1.0 to -1.0 at tilt 0, image 0"),
    ({"images": np.full((4, 3, 10, 12), np.nan)}, "images: NaN or infinity at tilt 0, image 0"),
])
def test_invalid_series_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        make_series(**values)
    assert "\n" not in str(refusal.value)


def test_omitted_arrays_get_their_defaults() -> None:
    series = make_series(defocus_A=[100.0, 200.0, 300.0], electrons_per_pixel=7.3)
    assert series.defocus_A.shape == series.weight.shape == series.electrons_per_pixel.shape == (4, 3)
    assert (series.n_tilts, series.n_defoci, series.is_regular) == (4, 3, True)
    assert series.mean_electrons_per_pixel == 7.3 and series.weights_of(0) is None
    assert (series.image_weights == 1).all() and series.greatest_tilt_weight == 3
    assert make_series().mean_electrons_per_pixel == float("inf")
    assert make_series(images=np.ones((4, 3, 10, 12), np.uint16)).images.dtype == np.float32


def test_an_image_with_more_electrons_counts_more() -> None:
    electrons = np.array([[10.0, 20.0, 30.0]] * 4)
    weight = np.ones((4, 3))
    weight[0] = [1, 0, 2]
    series = make_series(electrons_per_pixel=electrons, weight=weight)
    mean = (4 * 10 + 3 * 20 + 4 * 30) / 11
    assert series.mean_electrons_per_pixel == pytest.approx(mean)
    np.testing.assert_allclose(series.image_weights[0], [10 / mean, 0, 60 / mean])
    assert not series.is_regular and series.greatest_tilt_weight == pytest.approx(70 / mean)
    np.testing.assert_allclose(series.amplitudes(3, centred=True)[1], np.sqrt(series.images[3, 1] + 0.25 / 20),
                               rtol=1e-6)
    # The electrons of a missing image do not matter.
    electrons[0, 1] = np.inf
    strange = make_series(electrons_per_pixel=electrons, weight=weight)
    np.testing.assert_array_equal(strange.image_weights, series.image_weights)


def test_a_selection_keeps_what_belongs_to_its_tilts() -> None:
    series = make_series(**random_weights())
    some = series.select(np.array([2, 0]))
    np.testing.assert_array_equal(some.tilt_deg, TILT_DEG[[2, 0]])
    np.testing.assert_array_equal(some.defocus_A, DEFOCUS_A[[2, 0]])
    np.testing.assert_array_equal(some.weights_of(1), series.weights_of(0))
    assert series.select(np.array([1])).pixel_weight.shape == (1, 3, 10, 12)


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_gradient_with_weights_against_central_differences(likelihood: str) -> None:
    rng = np.random.default_rng(4)
    model, volume, h = make_model(make_series(**random_weights()), likelihood=likelihood), make_volume(), 1e-4
    for i_tilt in range(model.n_tilts):
        cost, gradient = model.cost_and_gradient(volume, i_tilt)
        assert cost == model.cost(volume, i_tilt)
        direction = rng.standard_normal(SHAPE)
        slope = (model.cost(volume + h * direction, i_tilt) - model.cost(volume - h * direction, i_tilt)) / (2 * h)
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6)


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_the_cost_is_its_definition(likelihood: str) -> None:
    rng = np.random.default_rng(5)
    optics = series_optics(make_series(), SHAPE, MICROSCOPE, N_LAYERS)
    slices, amplitude, weight = (rng.uniform(*limits, (3, 10, 12)) for limits in ((0, 60), (0.5, 1.5), (0, 1)))
    engine = Multislice(optics, np.float64, likelihood)
    modulus = np.abs(engine.images(slices))
    each = 0.5 * (modulus - amplitude) ** 2
    if likelihood == "poisson":
        model = modulus**2 + 1e-3
        each = 0.25 * (model - amplitude**2 + amplitude**2 * np.log(amplitude**2 / model))
    assert engine.cost(slices, amplitude, weight) == pytest.approx((weight * each).sum(), rel=1e-12)
    assert engine.cost(slices, amplitude) == pytest.approx(each.sum(), rel=1e-12)


@pytest.mark.parametrize("shape_xy", [(20, 24), (32, 48)])
def test_fused_kernels_with_weights_agree_with_the_library(shape_xy: tuple[int, int]) -> None:
    """Sides are and are not whole vectors; weights of 1 equal no weights."""
    rng = np.random.default_rng(6)
    shape = (8, *shape_xy)
    optics = series_optics(make_series(shape), shape, MICROSCOPE, N_LAYERS)
    fused, library = make_multislice(optics), Multislice(optics, np.float64)
    assert isinstance(fused, SimdMultislice)
    slices = rng.uniform(0, 60, (3, *shape_xy))
    amplitude, weight = (rng.uniform(low, 1.5, (3, *shape_xy)).astype(np.float32) for low in (0.5, -0.5))
    weight = np.maximum(weight, 0)
    single, double = slices.astype(np.float32), slices.copy()
    assert fused.cost(single, amplitude, weight) == pytest.approx(library.cost(slices, amplitude.astype(float),
                                                                               weight.astype(float)), rel=1e-5)
    costs = [engine.cost_and_gradient(values, amplitude.astype(values.dtype), weight.astype(values.dtype))
             for engine, values in ((fused, single), (library, double))]
    assert costs[0] == pytest.approx(costs[1], rel=1e-5)
    np.testing.assert_allclose(single, double, atol=1e-5 * np.abs(double).max())
    plain, ones = slices.astype(np.float32), slices.astype(np.float32)
    assert fused.cost_and_gradient(plain, amplitude) == pytest.approx(
        fused.cost_and_gradient(ones, amplitude, np.ones_like(weight)), rel=1e-6)
    np.testing.assert_allclose(plain, ones, atol=1e-6 * np.abs(plain).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [np.nan, 0.0, 1e9])
def test_a_missing_image_equals_one_that_was_not_taken(dtype: type, held: float) -> None:
    """Costs and gradients are those of a series of two defoci; a tilt without images has none."""
    shape = (8, 20, 24)
    whole = make_series(shape)
    images, weight = whole.images.copy(), np.ones((4, 3))
    images[:, 2], weight[:, 2], weight[3] = held, 0, 0
    missing = make_model(make_series(shape, images=images, weight=weight), dtype, shape)
    two = make_model(TiltSeries(whole.images[:, :2], TILT_DEG, DEFOCUS_A[:, :2], VOXEL_A), dtype, shape)
    assert missing.lipschitz == two.lipschitz
    volume = make_volume(shape, dtype)
    for i_tilt in range(3):
        cost, gradient = missing.cost_and_gradient(volume, i_tilt)
        expected_cost, expected = two.cost_and_gradient(volume, i_tilt)
        assert cost == pytest.approx(expected_cost, rel=1e-14 if dtype is np.float64 else 1e-6)
        np.testing.assert_allclose(gradient, expected,
                                   atol=(1e-14 if dtype is np.float64 else 1e-6) * np.abs(expected).max())
    cost, gradient = missing.cost_and_gradient(volume, 3)
    assert cost == 0 and not gradient.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_value_of_a_bad_pixel_does_not_matter(dtype: type) -> None:
    by_pixel = np.ones((*DEFOCUS_A.shape, *SHAPE[1:]), np.float32)
    by_pixel[0, 1, 4, 7] = 0
    results = []
    for value in (1.0, 1e6, np.nan):
        images = make_series().images.copy()
        images[0, 1, 4, 7] = value
        results.append(make_model(make_series(images=images, pixel_weight=by_pixel), dtype)
                       .cost_and_gradient(make_volume(dtype=dtype), 0))
    for cost, gradient in results[1:]:
        assert cost == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_tilt_has_its_own_defoci(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tilts equal series of one tilt, in any order, also if only one set of transfer functions is kept."""
    shape = (8, 20, 24)
    series, volume = make_series(shape), make_volume(shape, dtype)
    expected = [make_model(series.select(np.array([i])), dtype, shape).cost_and_gradient(volume, 0) for i in range(4)]
    for kept in (512e6, 1.0):
        monkeypatch.setattr("aetlab.forward.series_optics.KEPT_BYTES", kept)
        model = make_model(series, dtype, shape)
        for i_tilt in (3, 0, 2, 1, 3, 0):
            cost, gradient = model.cost_and_gradient(volume, i_tilt)
            assert cost == expected[i_tilt][0]
            np.testing.assert_array_equal(gradient, expected[i_tilt][1])


def test_tilts_of_the_same_defoci_share_their_transfer_functions() -> None:
    optics = SeriesOptics(make_series(), SHAPE, MICROSCOPE, N_LAYERS)
    assert optics.n_sets == 3 and optics.set_of.tolist() == [0, 1, 0, 2]
    assert optics.transfer(2) is optics.optics.transfer
    packed = [optics.packed(i, lambda values: values.astype(np.complex64)) for i in (0, 2, 3, 3)]
    assert packed[0] is packed[1] and packed[2] is packed[3] and packed[0] is not packed[2]
    assert SeriesOptics(make_series(defocus_A=DEFOCUS_A[0]), SHAPE, MICROSCOPE, N_LAYERS).n_sets == 1


def test_the_order_of_the_tilts_changes_no_cost() -> None:
    series, volume = make_series(**random_weights()), make_volume()
    order = np.array([2, 3, 0, 1])
    sorted_, model = make_model(series.select(order)), make_model(series)
    assert [sorted_.cost(volume, i) for i in range(4)] == [model.cost(volume, i) for i in order]


def test_noise_follows_the_electrons_of_each_image() -> None:
    flat = TiltSeries(np.ones((2, 2, 100, 100), np.float32), [0.0, 50.0], [1.0, 2.0], 0.5,
                      weight=[[1.0, 1.0], [1.0, 0.0]])
    electrons = np.array([[20.0, 80.0], [320.0, np.inf]])
    noisy = add_shot_noise(flat, electrons, np.random.default_rng(7))
    np.testing.assert_array_equal(noisy.electrons_per_pixel.ravel()[:3], [20, 80, 320])
    # 10 000 pixels: the variance is known to 1.4 %.
    np.testing.assert_allclose(noisy.images.var(axis=(2, 3)).ravel()[:3], 1 / electrons.ravel()[:3], rtol=0.06)
    assert not noisy.images[1, 1].any()


def test_counts_are_left_out_by_the_electrons_of_each_image() -> None:
    electrons = np.array([40.0, 400.0])[:, None, None]
    images = np.random.default_rng(8).poisson(np.ones((2, 100, 100)) * electrons) / electrons
    kept, left_out = split_counts(images.astype(np.float32), electrons, LEFT_OUT, np.random.default_rng(9))
    np.testing.assert_allclose(kept.mean(axis=(1, 2)), 1, atol=0.01)
    np.testing.assert_allclose(left_out.var(axis=(1, 2)), 1 / (0.2 * electrons.ravel()), rtol=0.06)
    np.testing.assert_allclose(kept.var(axis=(1, 2)), 1 / (0.8 * electrons.ravel()), rtol=0.06)


def test_tilts_are_held_out_between_the_extreme_angles_and_only_where_there_are_images() -> None:
    tilt_deg = np.array([10.0, -60.0, 60.0, 20.0, -30.0, 0.0])
    weight = np.ones((6, 1))
    weight[5] = 0
    series = TiltSeries(np.ones((6, 1, 2, 2), np.float32), tilt_deg, [100.0], 0.5, weight=weight)
    held_ever: set[int] = set()
    for seed in range(40):
        fitted, held = hold_out(series, 0.4, np.random.default_rng(seed))
        assert sorted([*fitted, *held]) == [0, 1, 2, 3, 4] and len(held) == 2
        held_ever |= set(held.tolist())
    assert held_ever == {0, 3, 4}


# Refinement of atoms.

ATOM_SHAPE = (20, 24, 34)


def make_atoms(series: TiltSeries, **options: Any) -> AtomModel:
    return AtomModel(series, ATOM_SHAPE, (8, 14), microscope=MICROSCOPE, n_layers_per_slice=4,
                     parametrization="lobato", debye_waller_A2={"default": 0.5}, **options)


@pytest.fixture(scope="module")
def sites() -> Sites:
    rng = np.random.default_rng(10)
    return Sites(rng.uniform(-3, 3, (12, 3)), rng.uniform(0.5, 1.2, 12), rng.integers(0, 2, 12))


def test_gradient_of_atoms_with_weights_against_central_differences(sites: Sites) -> None:
    poses = Poses.nominal(TILT_DEG, 3)
    model = make_atoms(make_series(ATOM_SHAPE, electrons_per_pixel=20.0, **random_weights(ATOM_SHAPE)),
                       dtype=np.float64)
    direction = np.random.default_rng(11).standard_normal((12, 3))

    def cost(h: float) -> np.ndarray:
        moved = dataclasses.replace(sites, positions_A=sites.positions_A + h * direction)
        return np.array([tilt.cost for tilt in model.gradients(moved, poses)])

    slopes = (cost(1e-5) - cost(-1e-5)) / 2e-5
    for tilt, slope in zip(model.gradients(sites, poses), slopes, strict=True):
        by_position = tilt.gradient[0, :, :3] @ poses.rotation(tilt.i_tilt)
        assert (by_position * direction).sum() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tilts_of_atoms_equal_series_of_one_tilt(sites: Sites, dtype: type) -> None:
    series = make_series(ATOM_SHAPE, **random_weights(ATOM_SHAPE))
    whole = list(make_atoms(series, dtype=dtype).gradients(sites, Poses.nominal(TILT_DEG, 3)))
    for i_tilt in range(4):
        alone = make_atoms(series.select(np.array([i_tilt])), dtype=dtype)
        (tilt,) = alone.gradients(sites, Poses.nominal(TILT_DEG[[i_tilt]], 3))
        assert tilt.cost == whole[i_tilt].cost
        np.testing.assert_array_equal(tilt.gradient, whole[i_tilt].gradient)


def test_information_follows_the_electrons_of_the_images(sites: Sites) -> None:
    """n JᵀJ is additive: images of 30 electrons hold three times the information of those of 10, missing ones none."""
    poses = Poses.nominal(TILT_DEG, 3)
    vacuum = make_series(ATOM_SHAPE, images=np.ones((4, 3, *ATOM_SHAPE[1:]), np.float32))

    def information(**values: Any) -> np.ndarray:
        model = make_atoms(dataclasses.replace(vacuum, **values))
        model = model.with_images(model.images(sites, poses))
        return model.data.electrons_per_pixel * sample_information(model, sites, poses, 40, 12)

    few, many = np.zeros((4, 3)), np.zeros((4, 3))
    few[:, :2], many[:, 2] = 1, 1
    apart = 10 * information(electrons_per_pixel=1.0, weight=few) + 30 * information(electrons_per_pixel=1.0,
                                                                                     weight=many)
    both = information(electrons_per_pixel=np.array([[10.0, 10.0, 30.0]] * 4))
    # 160 samples of rank one: 8 % of each diagonal element, less in their sum.
    traces = [np.diagonal(each, axis1=1, axis2=2).sum(axis=0) for each in (both, apart)]
    np.testing.assert_allclose(*traces, rtol=0.12)


def test_standard_errors_fall_with_the_root_of_the_electrons(sites: Sites) -> None:
    poses = Poses.nominal(TILT_DEG, 3)
    weight = np.ones((4, 3))
    weight[2, 1] = 0
    relative = np.array([[1.0, 2.0, 0.5]] * 4)
    errors = []
    for electrons in (50.0, 450.0):
        series = make_series(ATOM_SHAPE, images=np.ones((4, 3, *ATOM_SHAPE[1:]), np.float32),
                             electrons_per_pixel=electrons * relative, weight=weight)
        model = make_atoms(series)
        model = model.with_images(model.images(sites, poses))
        errors.append(standard_errors(sample_information(model, sites, poses, 3, 13), model.data.electrons_per_pixel))
        assert model.data.electrons_per_pixel == pytest.approx(electrons * (4 * 3.5 - 2) / 11)
        assert model.data.n_values == pytest.approx(11 * 24 * 34, rel=1e-6)
    np.testing.assert_allclose(errors[0], 3 * errors[1], rtol=1e-6)


def test_images_are_calibrated_beside_missing_ones(sites: Sites) -> None:
    offset_A = np.random.default_rng(14).normal(0, 4, (4, 3))
    brightness = 1 + np.random.default_rng(15).normal(0, 0.02, (4, 3))
    vacuum = make_series(ATOM_SHAPE, images=np.ones((4, 3, *ATOM_SHAPE[1:]), np.float32))
    poses = Poses.nominal(TILT_DEG, 3)
    images = make_atoms(vacuum).images(sites, dataclasses.replace(poses, defocus_A=offset_A, brightness=brightness))
    weight, by_pixel = np.ones((4, 3)), np.ones(images.shape, np.float32)
    weight[0, 1] = weight[2] = 0
    images[weight == 0] = np.nan
    by_pixel[1, 1, 5:8, 5:8], images[1, 1, 5:8, 5:8] = 0, 50.0
    model = make_atoms(make_series(ATOM_SHAPE, images=images, weight=weight, pixel_weight=by_pixel))
    for _ in range(3):
        step = calibrate_images(model, sites, poses, RefineSpec(kind="atoms", imaging=True))
        poses = step.poses
    assert np.isfinite(step.change)
    there = weight > 0
    np.testing.assert_allclose(poses.brightness[there], brightness[there], rtol=2e-4)
    np.testing.assert_allclose(poses.defocus_A[there], offset_A[there], atol=0.3)
    assert (poses.brightness[~there] == 1).all() and not poses.defocus_A[~there].any()
    moved = take_common(poses, model.data.present)
    assert not moved.defocus_A[~there].any() and moved.shift_A[2, 2] == 0
    assert moved.shift_A[0, 2] == pytest.approx(-poses.defocus_A[0, [0, 2]].mean())


def test_the_bound_depends_on_the_defoci_of_each_tilt(sites: Sites) -> None:
    atoms = Atoms(np.array([8, 14])[sites.kinds], sites.positions_A, np.zeros(12, int))
    bounds = [compute_bound(atoms, ATOM_SHAPE, VOXEL_A, TILT_DEG, defocus_A, microscope=MICROSCOPE,
                            n_layers_per_slice=4, parametrization="lobato", debye_waller_A2={"default": 0.5},
                            n_passes=2, seed=1, joint=False)
              for defocus_A in (DEFOCUS_A[0], np.tile(DEFOCUS_A[0], (4, 1)), DEFOCUS_A)]
    np.testing.assert_array_equal(bounds[0].sigma_A, bounds[1].sigma_A)
    assert not np.array_equal(bounds[0].sigma_A, bounds[2].sigma_A)
