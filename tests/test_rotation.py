"""Rotation and binning: exact adjoints, the convention of the tilt, and interpolation at the edge of the volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from aetlab.core import grid
from aetlab.methods import sparse_rotation
from aetlab.methods.rotations import ROTATIONS, make_rotation, rotate_and_bin
from aetlab.methods.rotations.linear import MATRIX
from aetlab.methods.simd_shear import SimdFourierRotation
from aetlab.methods.sparse_rotation import SparseRotation

SHAPE = (8, 10, 12)
KINDS = tuple(ROTATIONS)
ANGLES_DEG = (0.0, 3.0, 31.7, 45.0, 90.0, 117.3, 179.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_layers", [1, 3, 8])
def test_add_adjoint_is_the_adjoint_of_rotate_and_bin(kind: str, n_layers: int) -> None:
    """<A v, s> = <v, A* s> for every angle, on a shape of three different, even lengths."""
    rng = np.random.default_rng(1)
    rotation = make_rotation(kind, SHAPE, n_layers, np.array(ANGLES_DEG), dtype=np.float64)
    for i_tilt in range(len(ANGLES_DEG)):
        volume = rng.standard_normal(SHAPE)
        slices = rng.standard_normal((grid.n_slices(SHAPE[0], n_layers), *SHAPE[1:]))
        forward = np.empty_like(slices)
        rotation.rotate_and_bin(volume, i_tilt, forward)
        adjoint = np.zeros(SHAPE)
        rotation.add_adjoint(slices, i_tilt, 1.0, adjoint)
        np.testing.assert_allclose(np.vdot(forward, slices), np.vdot(volume, adjoint), rtol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_y", [5, 16, 43])
def test_a_volume_beyond_the_caches_is_rotated_alike(kind: str, dtype: type, n_y: int,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that prefetches adds the same entries, in whole vectors and in the remainder of a row."""
    volume = np.random.default_rng(3).standard_normal((14, 11, n_y)).astype(dtype)
    for tilt_deg in ANGLES_DEG:
        near = rotate_and_bin(volume, tilt_deg, 3, kind=kind)
        monkeypatch.setattr("aetlab.methods.sparse_rotation.CACHED_BYTES", 0)
        far = rotate_and_bin(volume, tilt_deg, 3, kind=kind)
        monkeypatch.undo()
        np.testing.assert_allclose(far, near, rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_adds_scaled_to_the_volume(kind: str) -> None:
    rng = np.random.default_rng(2)
    rotation = make_rotation(kind, SHAPE, 3, np.array([31.7]), dtype=np.float64)
    slices = rng.standard_normal((3, *SHAPE[1:]))
    start = rng.standard_normal(SHAPE)
    plain, scaled = np.zeros(SHAPE), start.copy()
    rotation.add_adjoint(slices, 0, 1.0, plain)
    rotation.add_adjoint(slices, 0, -2.5, scaled)
    np.testing.assert_allclose(scaled, start - 2.5 * plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tilt_deg", [-40.0, 25.0, 70.0, 130.0])
def test_a_volume_is_rotated_like_the_positions(kind: str, tilt_deg: float) -> None:
    """The centre of mass of a blob moves to R p, as an atom does."""
    shape, voxel_A = (21, 24, 18), 0.5
    position_A = np.array([2.0, 0.5, -1.2])
    z, x, y = np.meshgrid(*(grid.coordinates_A(n, voxel_A) for n in shape), indexing="ij")
    blob = np.exp(-((x - position_A[0]) ** 2 + (y - position_A[1]) ** 2 + (z - position_A[2]) ** 2) / (2 * 0.9**2))
    turned = rotate_and_bin(blob, tilt_deg, kind=kind)
    centre_A = np.array([(turned * axis).sum() for axis in (x, y, z)]) / turned.sum()
    np.testing.assert_allclose(centre_A, grid.rotation_matrix(tilt_deg) @ position_A, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_right_angles_are_exact(kind: str) -> None:
    """x' = z, z' = -x at 90°: a permutation of the voxels of a square plane."""
    volume = np.random.default_rng(3).standard_normal((9, 9, 4))
    expected = volume.transpose(1, 0, 2)[::-1]
    np.testing.assert_allclose(rotate_and_bin(volume, 90.0, kind=kind), expected, atol=1e-12)
    np.testing.assert_allclose(rotate_and_bin(volume, 0.0, kind=kind), volume, atol=1e-12)


@pytest.mark.parametrize("tilt_deg", [-40.0, 31.7, 117.3])
def test_linear_rotation_is_that_of_scipy_and_its_slices_sum_layers(tilt_deg: float) -> None:
    """Layers at R⁻¹ p' by linear interpolation in a volume with zeros around it; the last slice is thin."""
    volume = np.random.default_rng(4).standard_normal(SHAPE)
    z, x, y = np.indices(SHAPE).astype(float)
    mid_z, mid_x = (SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2
    cos, sin = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    at_x, at_z = (x - mid_x) * cos - (z - mid_z) * sin + mid_x, (x - mid_x) * sin + (z - mid_z) * cos + mid_z
    layers = ndimage.map_coordinates(volume, [at_z, at_x, y], order=1, mode="grid-constant")
    np.testing.assert_allclose(rotate_and_bin(volume, tilt_deg), layers, atol=1e-12)
    expected = np.stack([layers[0:3].sum(0), layers[3:6].sum(0), layers[6:8].sum(0)])
    np.testing.assert_allclose(rotate_and_bin(volume, tilt_deg, 3), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(40, 41, 3), (41, 40, 2), (40, 38, 2)])
@pytest.mark.parametrize("tilt_deg", [20.0, 70.0, 110.0, 160.0])
def test_fourier_turns_a_smooth_volume_exactly(shape: tuple[int, int, int], tilt_deg: float) -> None:
    """A Gaussian of 2 voxels holds next to nothing beyond the Nyquist frequency: shears shift it without error."""
    z, x, _ = np.meshgrid(*(grid.coordinates_A(n, 1.0) for n in shape), indexing="ij")

    def blob(position: np.ndarray) -> np.ndarray:
        return np.exp(-((x - position[0]) ** 2 + (z - position[2]) ** 2) / (2 * 2.0**2))

    start = np.array([5.0, 0.0, 3.0])
    turned = rotate_and_bin(blob(start), tilt_deg, kind="fourier")
    np.testing.assert_allclose(turned, blob(grid.rotation_matrix(tilt_deg) @ start), atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_weights_of_an_inner_point_sum_to_one(kind: str) -> None:
    """A constant volume stays constant where the turned point and its neighbours lie inside."""
    turned = rotate_and_bin(np.ones((20, 20, 1)), 33.0, kind=kind)[6:14, 6:14]
    np.testing.assert_allclose(turned, 1.0, rtol=1e-12)


def test_matrices_are_rebuilt_for_each_tilt_without_memory_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are the same with and without memory for all matrices."""
    built: list[float] = []
    build = sparse_rotation.build_columns

    def count(tilt_rad: float, *others: object) -> None:
        built.append(round(float(np.rad2deg(tilt_rad)), 6))
        build(tilt_rad, *others)

    monkeypatch.setattr(sparse_rotation, "build_columns", count)
    volume = np.random.default_rng(5).standard_normal(SHAPE)
    angles = np.array([10.0, 20.0])
    results = []
    for budget_bytes, expected in ((1e6, [10.0, 20.0]), (0, [10.0, 20.0, 10.0])):
        rotation = SparseRotation(MATRIX, SHAPE, 3, angles, dtype=np.float64, budget_bytes=budget_bytes)
        built.clear()
        results.append(np.empty((3, 3, *SHAPE[1:])))
        for i_visit, i_tilt in enumerate((0, 1, 0)):
            rotation.rotate_and_bin(volume, i_tilt, results[-1][i_visit])
        assert built == expected
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0][0], results[0][2])
    assert np.abs(results[0][0] - results[0][1]).max() > 0.1


@pytest.mark.parametrize(("kind", "support"), [("linear", 1.0), ("cubic", 2.0)])
def test_capacity_holds_every_lattice_point_of_a_footprint(kind: str, support: float) -> None:
    """The rotated lattice points in the open box of the interpolation are never more than the capacity."""
    axis = np.arange(-4, 5)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    most = 0
    for angle in np.linspace(0, np.pi / 2, 91):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for shift in np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 11), np.linspace(-0.5, 0.5, 11)), -1).reshape(-1, 2):
            most = max(most, int((np.abs(points @ turn.T + shift) < support).all(-1).sum()))
    matrix = ROTATIONS[kind].matrix
    assert matrix is not None and most <= matrix.capacity


@pytest.mark.parametrize("shape", [(24, 32, 48), (40, 24, 16), (16, 20, 37), (20, 16, 9)])
def test_fused_shears_agree_with_the_library_in_double_precision(shape: tuple[int, int, int]) -> None:
    """Both directions in each quarter of the turn, with a last group of rows in part and a thin last slice."""
    rng = np.random.default_rng(6)
    angles = np.array([0.0, 31.7, 46.0, 90.0, 117.3, 179.0])
    fused = make_rotation("fourier", shape, 7, angles)
    assert isinstance(fused, SimdFourierRotation)
    library = make_rotation("fourier", shape, 7, angles, dtype=np.float64)
    volume, metric = rng.standard_normal(shape), rng.uniform(0, 1, shape)
    slices = rng.standard_normal((grid.n_slices(shape[0], 7), *shape[1:]))
    for i_tilt in range(len(angles)):
        double, single = np.empty(slices.shape), np.empty(slices.shape, np.float32)
        library.rotate_and_bin(volume, i_tilt, double)
        fused.rotate_and_bin(volume.astype(np.float32), i_tilt, single)
        np.testing.assert_allclose(single, double, atol=3e-6 * np.abs(double).max())
        for by_voxel in (None, metric):
            double, single = volume.copy(), volume.astype(np.float32)
            library.add_adjoint(slices, i_tilt, -0.3, double, by_voxel)
            fused.add_adjoint(slices.astype(np.float32), i_tilt, -0.3, single,
                              None if by_voxel is None else by_voxel.astype(np.float32))
            np.testing.assert_allclose(single, double, atol=3e-6 * np.abs(double).max())
