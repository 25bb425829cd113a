"""Misaligned tilts: their simulation and their alignment."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab.core.grid import coordinates_A, in_plane_rotation, rotation_matrix
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.outlying import name_weakened
from aetlab.core.poses import Poses
from aetlab.forward import ForwardModel, draw_poses, simulate_tilt_series
from aetlab.forward.alignment import Search, TiltAligner, find_astray
from aetlab.forward.posed_images import PosedOptics, predict_amplitudes
from aetlab.forward.potential import build_potential
from aetlab.forward.resampling import magnify_images, rotate_images
from aetlab.forward.tilt_equations import AddedColumns, CpuTiltEquations, PosedTilt
from aetlab.scoring import pose_errors, register_atoms
from aetlab.spec import MicroscopeSpec, SimulateSpec

SHAPE = (36, 40, 48)
VOXEL_A = 0.5
LAYERS = 2
TILT_DEG = np.array([0.0, 37.0])
DEFOCUS_A = np.array([100.0, 160.0])
MICROSCOPE = MicroscopeSpec()
#: Wide enough that voxels of 0.5 Å resolve the atoms.
B_A2 = {"default": 5.0}
#: One offset of each kind, of the size that simulate=misaligned draws.
OFFSET = np.array([0.5, -0.4, 0.8, -0.6, 18.0, 1.03])
UNKNOWNS = ("tilt", "axis", "shift along x", "shift along y", "defocus", "brightness")
NONE = np.array([0.0, 0, 0, 0, 0, 1])
SEARCH = Search(4.0, np.linspace(-40, 40, 9))


def _atoms() -> Atoms:
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[np.arange(-4.2, 4.3, 2.1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions_A = grid + rng.uniform(-0.4, 0.4, grid.shape)
    elements = np.where(rng.random(len(grid)) < 0.5, 14, 8)
    return Atoms(elements, positions_A, np.zeros(len(grid), int))


def _poses(table: np.ndarray) -> Poses:
    return Poses.from_table(TILT_DEG, len(DEFOCUS_A), table)


def _series(poses: Poses | None) -> TiltSeries:
    return simulate_tilt_series(_atoms(), SHAPE, VOXEL_A, TILT_DEG, DEFOCUS_A, microscope=MICROSCOPE,
                                simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2,
                                rng=np.random.default_rng(0), poses=poses)


def _aligner(series: TiltSeries) -> tuple[ForwardModel, TiltAligner]:
    model = ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
    return model, TiltAligner(model, series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)


def _equations(series: TiltSeries) -> CpuTiltEquations:
    optics = PosedOptics(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
    return CpuTiltEquations(optics, series, AddedColumns(), _aligner(series)[0])


@pytest.fixture(scope="module")
def potential_V() -> np.ndarray:
    return build_potential(_atoms(), SHAPE, VOXEL_A, debye_waller_A2=B_A2)


@pytest.mark.parametrize("column", range(6), ids=UNKNOWNS)
def test_derivatives_against_central_differences(column: int, potential_V: np.ndarray) -> None:
    equations = _equations(_series(None))
    h = np.array([0.05, 0.05, 0.02, 0.02, 1.0, 0.02])[column] * np.eye(6)[column]
    for i_tilt in range(len(TILT_DEG)):
        amplitude, derivatives = equations.derivatives(potential_V, PosedTilt(i_tilt, OFFSET))
        np.testing.assert_array_equal(amplitude, equations.amplitudes(potential_V, PosedTilt(i_tilt, OFFSET)))
        difference = (equations.amplitudes(potential_V, PosedTilt(i_tilt, OFFSET + h))
                      - equations.amplitudes(potential_V, PosedTilt(i_tilt, OFFSET - h))) / (2 * h[column])
        # By the tilt angle it is a forward difference; by the axis it neglects the border of the rotated image.
        allowed = 0.05 if column < 2 else 0.002
        assert np.linalg.norm(derivatives[column] - difference) < allowed * np.linalg.norm(difference)


@pytest.mark.parametrize("column", range(6), ids=UNKNOWNS)
def test_aligner_and_simulation_move_a_tilt_alike(column: int, potential_V: np.ndarray) -> None:
    """Images of moved atoms agree with the volume moved alike, and not with the volume moved the other way."""
    row = np.where(np.arange(6) == column, [2.0, -2.0, *OFFSET[2:]], NONE)
    series = _series(_poses(np.tile(row, (len(TILT_DEG), 1))))
    equations = _equations(series)
    for i_tilt in range(len(TILT_DEG)):
        residual = [np.linalg.norm(equations.amplitudes(potential_V, PosedTilt(i_tilt, tried))
                                   - np.sqrt(series.images[i_tilt])) for tried in (row, NONE, 2 * NONE - row)]
        assert residual[0] < 0.4 * residual[1] and residual[0] < 0.2 * residual[2]


def test_the_model_uses_the_poses_of_the_aligner(potential_V: np.ndarray) -> None:
    """At their true poses the tilts agree with the true volume."""
    table = np.stack([OFFSET, 2 * NONE - OFFSET])
    model, aligner = _aligner(_series(_poses(table)))
    nominal = [model.cost(potential_V, i) for i in range(len(TILT_DEG))]
    aligner.restore(table)
    np.testing.assert_array_equal(aligner.table, table)
    for i_tilt in range(len(TILT_DEG)):
        assert model.cost(potential_V, i_tilt) < 0.02 * nominal[i_tilt]


def test_nominal_poses_change_no_bit(potential_V: np.ndarray) -> None:
    model, aligner = _aligner(_series(None))
    before = [model.cost_and_gradient(potential_V, i) for i in range(len(TILT_DEG))]
    aligner.restore(np.tile(NONE, (len(TILT_DEG), 1)))
    for i_tilt, (cost, gradient) in enumerate(before):
        again = model.cost_and_gradient(potential_V, i_tilt)
        assert again[0] == cost
        np.testing.assert_array_equal(again[1], gradient)


def test_steps_find_the_offsets_in_the_true_volume(potential_V: np.ndarray) -> None:
    table = np.stack([OFFSET, 2 * NONE - OFFSET])
    _, aligner = _aligner(_series(_poses(table)))
    aligner.align(potential_V, SEARCH, smoothing_A=1.0, angles=False, first=True)
    assert (aligner.table[:, 0] == 0).all()
    for smoothing_A in (1.0, 0.5, 0.5, 0.25, 0.25):
        aligner.align(potential_V, SEARCH, smoothing_A=smoothing_A)
    # A rotation by 0.12° moves an atom 4 Å from the axis by 0.008 Å.
    left = np.abs(aligner.table - table).max(axis=0)
    assert (left < [0.12, 0.01, 0.005, 0.005, 0.5, 0.001]).all(), left


def test_the_defocus_does_not_make_up_for_the_contrast_of_an_unfinished_volume(potential_V: np.ndarray) -> None:
    """A volume of 0.6 of the true potential at the true poses."""
    found_A = {}
    for contrast in (False, True):
        series = _series(None)
        aligner = TiltAligner(ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS), series,
                              SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS, contrast=contrast)
        for k, smoothing_A in enumerate((1.0, 1.0, 1.0, 0.5)):
            aligner.align(np.float32(0.6) * potential_V, Search(1.0, np.linspace(-60, 60, 13)),
                          smoothing_A=smoothing_A, angles=False, first=k == 0)
        found_A[contrast] = np.abs(aligner.table[:, 4]).max()
    assert found_A[True] < 10 < 30 < found_A[False], found_A


def test_steps_find_the_offsets_with_missing_images_and_bad_pixels(potential_V: np.ndarray) -> None:
    """Each tilt has its own defoci; one has an image of weight 0, the other bad pixels."""
    table = np.stack([OFFSET, 2 * NONE - OFFSET])
    defocus_A = np.array([[100.0, 160.0, 130.0], [110.0, 150.0, 120.0]])
    series = simulate_tilt_series(_atoms(), SHAPE, VOXEL_A, TILT_DEG, defocus_A, microscope=MICROSCOPE,
                                  simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2,
                                  rng=np.random.default_rng(0), poses=Poses.from_table(TILT_DEG, 3, table))
    images, weight = series.images.copy(), np.ones((2, 3))
    by_pixel = np.ones(images.shape, np.float32)
    images[0, 1], weight[0, 1] = np.nan, 0
    images[1, 0, 20:23, 10:14], by_pixel[1, 0, 20:23, 10:14] = 30.0, 0
    images[1, 2, 5, 30], by_pixel[1, 2, 5, 30] = 500.0, 0
    model, aligner = _aligner(dataclasses.replace(series, images=images, weight=weight, pixel_weight=by_pixel))
    nominal = [model.cost(potential_V, i) for i in range(2)]
    aligner.align(potential_V, SEARCH, smoothing_A=1.0, angles=False, first=True)
    for smoothing_A in (1.0, 0.5, 0.5, 0.25, 0.25):
        aligner.align(potential_V, SEARCH, smoothing_A=smoothing_A)
    left = np.abs(aligner.table - table).max(axis=0)
    assert (left < [0.12, 0.02, 0.005, 0.005, 0.6, 0.001]).all(), left
    # Rotating the images does not bring bad pixels back.
    assert all(model.cost(potential_V, i) < 0.03 * nominal[i] for i in range(2))


def test_single_images_and_planes_differ_from_their_tilt(potential_V: np.ndarray) -> None:
    """Each image is simulated with a shift, defocus and brightness of its own, and the second plane is 0.6 % larger."""
    tilt_deg, rng = np.linspace(-60, 60, 5), np.random.default_rng(5)
    true = np.tile(NONE, (2, 5, 1))
    true[..., 2:] += rng.uniform(-1, 1, (2, 5, 4)) * [0.3, 0.3, 10.0, 0.03]
    planes = [simulate_tilt_series(_atoms(), SHAPE, VOXEL_A, tilt_deg, DEFOCUS_A, microscope=MICROSCOPE,
                                   simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2, rng=rng,
                                   poses=Poses.from_table(tilt_deg, 2, table)) for table in true]
    sizes = np.array([0.997, 1.003])
    images = np.stack([magnify_images(planes[j].images[:, j], sizes[j]) for j in range(2)], axis=1)
    off_A = {}
    for images_differ in (False, True):
        series = dataclasses.replace(planes[0], images=images)
        model = ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
        aligner = TiltAligner(model, series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS,
                              images=images_differ, magnification=images_differ)
        nominal = [model.cost(potential_V, i) for i in range(5)]
        for k, smoothing_A in enumerate((0.5, 0.5, 0.5, 0.25, 0.25, 0.25)):
            aligner.align(potential_V, SEARCH, smoothing_A=smoothing_A, angles=False, first=k == 0)
        poses = aligner.poses
        found_A = poses.shift_A[:, None, :2] + poses.image_shift_A
        off_A[images_differ] = np.abs(found_A - np.moveaxis(true[..., 2:4], 0, 1)).max()
    assert off_A[True] < 0.01 < 0.15 < off_A[False], off_A
    np.testing.assert_allclose(poses.magnification, sizes, atol=2e-4)
    np.testing.assert_allclose(poses.defocus_change_A, true[..., 4].T, atol=0.7)
    np.testing.assert_allclose(poses.brightness, true[..., 5].T, atol=1e-3)
    assert np.abs(poses.image_shift_A.mean(axis=1)).max() < 1e-12
    assert all(model.cost(potential_V, i) < 0.05 * nominal[i] for i in range(5))
    predicted = np.stack(list(predict_amplitudes(series, potential_V, poses, microscope=MICROSCOPE,
                                                 n_layers_per_slice=LAYERS, rotation="cubic")))
    assert np.linalg.norm(predicted - np.sqrt(images)) < 0.2 * np.linalg.norm(np.sqrt(images) - 1)
    # The state is all that the poses depend on.
    again = TiltAligner(ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS), series, SHAPE,
                        microscope=MICROSCOPE, n_layers_per_slice=LAYERS, images=True, magnification=True)
    again.restore(**aligner.state)
    for name in ("shift_A", "image_shift_A", "defocus_A", "brightness", "magnification"):
        np.testing.assert_array_equal(getattr(again.poses, name), getattr(poses, name))


def test_a_tilt_without_images_keeps_its_nominal_pose(potential_V: np.ndarray) -> None:
    series = _series(_poses(np.stack([OFFSET, OFFSET])))
    _, aligner = _aligner(dataclasses.replace(series, weight=np.array([[1.0, 1.0], [0.0, 0.0]])))
    aligner.align(potential_V, SEARCH, smoothing_A=1.0, first=True)
    np.testing.assert_array_equal(aligner.table[1], NONE)
    assert np.abs(aligner.table[0, 2:4] - OFFSET[2:4]).max() < 0.3


def test_bad_images_lose_their_weight_and_no_sound_one(potential_V: np.ndarray) -> None:
    """Of 14 images one is displaced, one doubled, and one of another tilt."""
    tilt_deg, true = np.linspace(-60, 60, 7), np.tile(NONE, (7, 1))
    rng = np.random.default_rng(3)
    true[:, 2:5] += rng.uniform(-1, 1, (7, 3)) * [0.5, 0.5, 10.0]
    series = simulate_tilt_series(_atoms(), SHAPE, VOXEL_A, tilt_deg, DEFOCUS_A, microscope=MICROSCOPE,
                                  simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2, rng=rng,
                                  poses=Poses.from_table(tilt_deg, len(DEFOCUS_A), true))
    images = series.images.copy()
    images[1, 0] = np.roll(images[1, 0], (3, -2), (0, 1))
    images[3, 1] = (images[3, 1] + np.roll(images[3, 1], (4, 2), (0, 1))) / 2
    images[5, 1] = images[2, 1]
    images = rng.poisson(400 * np.maximum(images, 0)) / 400
    series = dataclasses.replace(series, images=images.astype(np.float32), electrons_per_pixel=400.0,
                                 pixel_weight=np.ones(images.shape, np.float32))
    off_A = {}
    for robust in (False, True):
        model = ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
        aligner = TiltAligner(model, series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS, robust=robust)
        for k, smoothing_A in enumerate((1.0, 1.0, 0.5, 0.5, 0.25, 0.25)):
            aligner.align(potential_V, SEARCH, smoothing_A=smoothing_A, angles=False, first=k == 0)
        off_A[robust] = np.abs(aligner.table - true)[[1, 3, 5], 2:4].max()
        assert robust or (aligner.factors == 1).all()
    bad = np.zeros((7, 2), bool)
    bad[[1, 3, 5], [0, 1, 1]] = True
    assert (aligner.factors[bad] < 0.5).all() and (aligner.factors[~bad] == 1).all()
    assert off_A[True] < 0.05 and off_A[True] < 0.5 * off_A[False], off_A
    # The model has the weights of the aligner.
    whole = ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
    unweighted = TiltAligner(whole, series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS)
    unweighted.restore(aligner.table)
    assert model.cost(potential_V, 1) < 0.5 * whole.cost(potential_V, 1)
    assert model.cost(potential_V, 0) == whole.cost(potential_V, 0)
    assert "(weight 0." in name_weakened(series, aligner.factors)
    # At poses that stay, the images are weighed alike.
    unweighted = TiltAligner(whole, series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=LAYERS, robust=True)
    unweighted.restore(aligner.table)
    unweighted.weigh(potential_V)
    np.testing.assert_allclose(unweighted.factors, aligner.factors, rtol=0.1)


def test_a_tilt_with_an_outlying_pose_is_aligned_from_the_start(potential_V: np.ndarray) -> None:
    """One of six tilts begins with an axis 6° and a defocus 120 Å off."""
    tilt_deg, true = np.linspace(-50, 50, 6), np.tile(NONE, (6, 1))
    true[:, 2:5] += np.random.default_rng(2).uniform(-1, 1, (6, 3)) * [0.5, 0.5, 10.0]
    series = simulate_tilt_series(_atoms(), SHAPE, VOXEL_A, tilt_deg, DEFOCUS_A, microscope=MICROSCOPE,
                                  simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2,
                                  rng=np.random.default_rng(0),
                                  poses=Poses.from_table(tilt_deg, len(DEFOCUS_A), true))
    _, aligner = _aligner(series)
    wrong = true.copy()
    wrong[3, [1, 4]] += [6.0, 120.0]
    np.testing.assert_array_equal(find_astray(wrong), np.arange(6) == 3)
    assert not find_astray(true).any()
    aligner.restore(wrong)
    for smoothing_A in (1.0, 0.5, 0.25):
        aligner.align(potential_V, SEARCH, smoothing_A=smoothing_A)
    left = np.abs(aligner.table - true).max(axis=0)
    assert (left < [0.2, 0.05, 0.01, 0.01, 1.0, 0.002]).all(), left


@given(angle_deg=st.floats(-2, 2), x_A=st.floats(-4, 4), y_A=st.floats(-4, 4))
def test_an_image_is_rotated_about_its_centre(angle_deg: float, x_A: float, y_A: float) -> None:
    x, y = coordinates_A(40, VOXEL_A)[:, None], coordinates_A(48, VOXEL_A)[None, :]

    def spot(at_A: np.ndarray) -> np.ndarray:
        return np.exp(-((x - at_A[0]) ** 2 + (y - at_A[1]) ** 2) / 2)

    at_A = np.array([x_A, y_A])
    turned = rotate_images(spot(at_A), angle_deg)
    np.testing.assert_allclose(turned, spot(in_plane_rotation(angle_deg) @ at_A), atol=2e-3)
    np.testing.assert_allclose(rotate_images(turned, -angle_deg), spot(at_A), atol=2e-3)


def test_rotating_an_image_keeps_its_precision_and_the_variance_of_noise() -> None:
    noise = np.random.default_rng(3).standard_normal((2, 40, 48)).astype(np.float32)
    turned = rotate_images(noise, 0.7)
    assert turned.dtype == np.float32 and turned.std() == pytest.approx(noise.std(), rel=0.02)
    np.testing.assert_array_equal(rotate_images(noise, 0.0), noise)


@given(turn=st.tuples(*[st.floats(-0.03, 0.03)] * 3), shift=st.tuples(*[st.floats(-0.4, 0.4)] * 3))
def test_registration_of_atoms_tolerates_outliers(turn: tuple[float, ...], shift: tuple[float, ...]) -> None:
    fixed_A = _atoms().positions_A
    (a, b, c), shift_A = np.array(turn), np.array(shift)
    rotation = np.linalg.qr(np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]]))[0]
    rotation *= np.sign(np.diag(rotation))
    moving_A = (fixed_A - shift_A) @ rotation
    strange_A = np.random.default_rng(0).uniform(-5, 5, (6, 3)) + [0, 0, 20]
    found, found_A = register_atoms(np.concatenate([moving_A, strange_A]), fixed_A[:-5], 1.2)
    np.testing.assert_allclose(moving_A @ found.T + found_A, fixed_A, atol=1e-9)


def test_too_few_atoms_are_not_moved() -> None:
    few_A = np.arange(27.0).reshape(9, 3)
    for moving_A, fixed_A in ((few_A, few_A + 0.1), (few_A, np.empty((0, 3))), (np.empty((0, 3)), few_A)):
        rotation, shift_A = register_atoms(moving_A, fixed_A, 1.2)
        np.testing.assert_array_equal(rotation, np.eye(3))
        np.testing.assert_array_equal(shift_A, 0)


def test_a_motion_of_the_whole_sample_is_no_pose_error() -> None:
    """A small rotation and a shift of the sample before all tilts, expressed as poses of the tilts."""
    tilt_deg = np.linspace(-80, 80, 9)
    turn_deg, moved_A = np.array([0, 0.02, 0.01]), np.array([0.3, -0.2, 0.5])
    table = np.tile(NONE, (len(tilt_deg), 1))
    for row, angle_deg in zip(table, tilt_deg, strict=True):
        turn, shift_A = rotation_matrix(angle_deg) @ turn_deg, rotation_matrix(angle_deg) @ moved_A
        # A layer nearer to the source is less underfocused by what it moves along the beam.
        row += [turn[1], turn[2], *shift_A[:2], -shift_A[2], 0]
    moved, none = Poses.from_table(tilt_deg, 3, table), Poses.nominal(tilt_deg, 3)
    assert max(pose_errors(moved, none).values()) < 1e-12


def test_pose_errors_are_the_root_mean_squares_of_random_errors() -> None:
    """4000 tilts: the root mean squares of 0.4°, 0.7°, 1 Å, 20 Å and 0.02 have relative errors of 0.011."""
    tilt_deg, rng = np.linspace(-80, 80, 4000), np.random.default_rng(1)
    table = NONE + rng.standard_normal((4000, 6)) * [0.4, 0.7, 1, 1, 20, 0.02]
    errors = pose_errors(Poses.from_table(tilt_deg, 3, table), Poses.nominal(tilt_deg, 3))
    expected = {"tilt_error_deg_rms": 0.4, "axis_error_deg_rms": 0.7, "shift_error_A_rms": 1,
                "defocus_error_nm_rms": 2, "brightness_error_rms": 0.02}
    assert errors == {name: pytest.approx(value, rel=0.04) for name, value in expected.items()}


def test_drawn_pose_errors_have_the_standard_deviations_of_the_settings() -> None:
    assert draw_poses(SimulateSpec(), np.zeros(5), 2, np.random.default_rng(0)) is None
    spec = SimulateSpec(tilt_error_deg=0.5, shift_error_A=1, defocus_error_nm=2)
    poses = draw_poses(spec, np.zeros(4000), 2, np.random.default_rng(0))
    assert poses is not None and not poses.defocus_A.any()
    table = np.column_stack([poses.angles_deg, poses.shift_A[:, :2], -poses.shift_A[:, 2], poses.brightness[:, 0]])
    np.testing.assert_allclose(table.std(axis=0), [0.5, 0, 1, 1, 20, 0], rtol=0.05)
    assert (np.abs(table.mean(axis=0) - NONE) <= 4 * np.array([0.5, 0, 1, 1, 20, 0]) / math.sqrt(4000)).all()
