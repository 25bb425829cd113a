"""Poses of the tilts: rotation vectors, the sign of the height, and that simulation, alignment and refinement agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab.core.grid import in_plane_rotation, rotation_matrix
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses, cross_matrix, rotation_vector, turn_matrix
from aetlab.forward import ForwardModel, simulate_tilt_series
from aetlab.forward.alignment import Search, TiltAligner
from aetlab.forward.potential import build_potential
from aetlab.refinement.fisher import sample_pose_information
from aetlab.refinement.fit import fit_poses
from aetlab.refinement.model import AtomModel, Sites
from aetlab.refinement.start import align_tilts
from aetlab.spec import MicroscopeSpec, SimulateSpec

SHAPE, VOXEL_A, LAYERS = (48, 40, 44), 0.5, 2
TILT_DEG, DEFOCUS_A = np.array([-40.0, 12.0, 37.0]), np.array([100.0, 160.0])
#: Wide enough that voxels of 0.5 Å resolve the atoms.
B_A2 = {"default": 5.0}
#: Tilt and axis (degrees), shift along x and y and defocus (Å), and brightness of three tilts.
TABLE = np.array([[0.5, -0.4, 0.8, -0.6, 18.0, 1.03], [-0.5, 0.6, -0.7, 0.9, -15.0, 0.97],
                  [0.4, 0.5, 0.6, 0.7, 12.0, 1.02]])
small = st.floats(-3, 3)


def make_atoms() -> Atoms:
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[np.arange(-4.2, 4.3, 2.1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions_A = grid + rng.uniform(-0.4, 0.4, grid.shape)
    return Atoms(np.where(rng.random(len(grid)) < 0.5, 14, 8), positions_A, np.zeros(len(grid), int))


def simulate(atoms: Atoms, defocus_A: np.ndarray = DEFOCUS_A, poses: Poses | None = None) -> TiltSeries:
    return simulate_tilt_series(atoms, SHAPE, VOXEL_A, TILT_DEG, defocus_A, microscope=MicroscopeSpec(),
                                simulate=SimulateSpec(n_layers=LAYERS), debye_waller_A2=B_A2,
                                rng=np.random.default_rng(0), poses=poses)


def make_model(series: TiltSeries, n_layers: int = LAYERS) -> AtomModel:
    return AtomModel(series, SHAPE, (8, 14), microscope=MicroscopeSpec(), n_layers_per_slice=n_layers,
                     parametrization="lobato", debye_waller_A2=B_A2)


def sites_of(atoms: Atoms) -> Sites:
    return Sites(atoms.positions_A, np.ones(len(atoms)), np.searchsorted((8, 14), atoms.numbers))


@given(axis=st.tuples(*[st.floats(-1, 1)] * 3), angle_deg=st.floats(-175, 175))
def test_a_rotation_vector_comes_back_from_its_matrix(axis: tuple[float, ...], angle_deg: float) -> None:
    length = np.linalg.norm(axis)
    turn_deg = angle_deg * np.array(axis) / length if length > 1e-3 else np.zeros(3)
    matrix = turn_matrix(turn_deg)
    assert np.abs(matrix @ matrix.T - np.eye(3)).max() < 1e-13 and np.linalg.det(matrix) == pytest.approx(1)
    assert np.abs(rotation_vector(matrix) - turn_deg).max() < 1e-10
    # The axis stays, and vectors perpendicular to it are rotated right-handed by the angle.
    assert np.abs(matrix @ turn_deg - turn_deg).max() < 1e-10
    across = cross_matrix(turn_deg) @ [0.3, 0.5, 0.7]
    assert across @ matrix @ across == pytest.approx(np.cos(np.deg2rad(angle_deg)) * across @ across, abs=1e-9)


def test_small_rotation_vectors_are_linear() -> None:
    for size in (1e-12, 1e-8, 1e-5, 1e-3):
        turn_deg = size * np.array([1.0, -2.0, 3.0])
        assert np.allclose(rotation_vector(turn_matrix(turn_deg)), turn_deg, rtol=1e-6, atol=1e-14)


@given(tilt=small, axis=small, nominal=st.floats(-90, 90))
def test_two_angles_are_one_rotation_vector(tilt: float, axis: float, nominal: float) -> None:
    """R_z(φ) R_y(nominal + δ), written out, and back to the angles."""
    poses = Poses.from_table(np.array([nominal]), 2, np.array([[tilt, axis, 0.3, -0.4, 5.0, 1.1]]))
    (c, s), (u, v) = ((np.cos(a), np.sin(a)) for a in np.deg2rad([nominal + tilt, axis]))
    expected = np.array([[u * c, -v, u * s], [v * c, u, v * s], [-s, 0, c]])
    assert np.abs(poses.rotation(0) - expected).max() < 1e-14
    assert np.abs(poses.angles_deg - [tilt, axis]).max() < 1e-12
    position_A = np.array([[1.0, 2.0, -3.0]])
    assert np.allclose(poses.place(position_A, 0), position_A @ expected.T + [0.3, -0.4, 0], atol=1e-13)
    assert np.allclose(poses.turn_deg[0, 1:], [tilt, axis], atol=np.deg2rad(abs(tilt * axis)) + 1e-12)
    assert (poses.shift_A[0] == [0.3, -0.4, -5.0]).all() and (poses.defocus_change_A == 5.0).all()
    assert (poses.brightness == 1.1).all() and poses.brightness.shape == poses.defocus_A.shape == (1, 2)


def test_nominal_poses_are_the_nominal_rotation_bit_for_bit() -> None:
    poses = Poses.nominal(TILT_DEG, 2)
    for i, angle_deg in enumerate(TILT_DEG):
        assert (poses.rotation(i) == rotation_matrix(angle_deg)).all()
    in_table = Poses.from_table(TILT_DEG, 2, np.tile([0.0, 0, 0, 0, 0, 1], (3, 1)))
    assert all((getattr(in_table, name) == getattr(poses, name)).all() for name in dataclasses.asdict(poses))


@pytest.mark.parametrize("height_A", [4.0, -4.0])
def test_raising_the_sample_equals_moving_all_focal_planes_back(height_A: float) -> None:
    """Atoms are moved along the beam by whole slices; images are those of planes moved by as much the other way.

    Tails of atoms that the volume cuts leave 3e-4; the standard deviation of the images is 0.05.
    """
    atoms = make_atoms()
    up = np.array([0.0, 0.0, height_A])
    raised = np.stack([
        simulate(dataclasses.replace(atoms, positions_A=atoms.positions_A + up @ rotation_matrix(tilt))).images[i]
        for i, tilt in enumerate(TILT_DEG)])
    back, forth = (simulate(atoms, DEFOCUS_A + change_A).images for change_A in (-height_A, height_A))
    assert np.abs(raised - back).max() < 5e-4
    assert np.abs(raised - forth).max() > 0.03
    nominal = Poses.nominal(TILT_DEG, 2)
    poses = dataclasses.replace(nominal, shift_A=np.tile(up, (3, 1)))
    per_image = dataclasses.replace(nominal, defocus_A=np.full((3, 2), -height_A))
    model = make_model(simulate(atoms), n_layers=1)
    by_atoms = model.images(sites_of(atoms), nominal)
    for by in (poses, per_image):
        assert np.abs(simulate(atoms, poses=by).images - raised).max() < 5e-4
        moved = [dataclasses.replace(sites_of(atoms), positions_A=atoms.positions_A + up @ rotation_matrix(tilt))
                 for tilt in TILT_DEG]
        seen = np.stack([model.images(sites, nominal)[i] for i, sites in enumerate(moved)])
        assert np.abs(model.images(sites_of(atoms), by) - seen).max() < 5e-4
    assert np.abs(by_atoms - seen).max() > 0.01


def test_brightness_multiplies_images() -> None:
    atoms, nominal = make_atoms(), Poses.nominal(TILT_DEG, 2)
    brightness = np.linspace(0.9, 1.1, 6).reshape(3, 2)
    poses = dataclasses.replace(nominal, brightness=brightness)
    plain = simulate(atoms)
    expected = plain.images * brightness[:, :, None, None]
    assert np.abs(simulate(atoms, poses=poses).images - expected).max() < 1e-6
    model = make_model(plain)
    bright = model.images(sites_of(atoms), poses)
    assert np.abs(bright - model.images(sites_of(atoms), nominal) * brightness[:, :, None, None]).max() < 1e-6
    # With the same brightness in the model the cost is that without.
    weak = dataclasses.replace(sites_of(atoms), occupancy=np.full(len(atoms), 0.9))
    costs = [sum(tilt.cost for tilt in model.with_images(images).gradients(weak, by))
             for images, by in ((expected, poses), (plain.images, nominal))]
    assert costs[0] == pytest.approx(costs[1], rel=1e-5)


def test_the_axis_turns_from_x_towards_y() -> None:
    poses = Poses.from_table(np.zeros(1), 1, np.array([[0.0, 2.0, 0, 0, 0, 1]]))
    assert poses.turn_deg[0] == pytest.approx([0, 0, 2.0])
    placed = poses.place(np.array([[1.0, 0, 0]]), 0)[0]
    assert placed[1] > 0 and placed[:2] == pytest.approx(in_plane_rotation(2.0) @ [1.0, 0.0])


def test_alignment_and_refinement_find_the_true_poses_with_their_signs() -> None:
    """One misaligned series; the aligner has the true potential, the refinement the true atoms."""
    atoms, true = make_atoms(), Poses.from_table(TILT_DEG, 2, TABLE)
    series = simulate(atoms, poses=true)
    forward = ForwardModel(series, SHAPE, microscope=MicroscopeSpec(), n_layers_per_slice=LAYERS)
    aligner = TiltAligner(forward, series, SHAPE, microscope=MicroscopeSpec(), n_layers_per_slice=LAYERS)
    potential_V = build_potential(atoms, SHAPE, VOXEL_A, debye_waller_A2=B_A2)
    search = Search(4.0, np.linspace(-40, 40, 9))
    aligner.align(potential_V, search, smoothing_A=1.0, angles=False, first=True)
    for smoothing_A in (1.0, 0.5, 0.5, 0.25, 0.25, 0.25):
        aligner.align(potential_V, search, smoothing_A=smoothing_A)

    model, sites = make_model(series), sites_of(atoms)
    bright = dataclasses.replace(Poses.nominal(TILT_DEG, 2), brightness=true.brightness)
    start = align_tilts(model, sites, bright, heights_A=np.linspace(-40, 40, 9), reach_A=4.0)
    information = sample_pose_information(model, sites, start, 4, 0)
    refined, _ = fit_poses(model, sites, start, information, n_passes=40, tolerance=0.02)
    for found in (aligner.poses, refined):
        assert np.abs(found.turn_deg - true.turn_deg).max() < 0.15
        assert np.abs(found.shift_A[:, :2] - true.shift_A[:, :2]).max() < 0.02
        assert np.abs(found.defocus_change_A - true.defocus_change_A).max() < 1.0
        assert np.abs(found.shift_A[:, 2] - true.shift_A[:, 2]).max() < 1.0
        assert np.abs(found.brightness - true.brightness).max() < 0.002
