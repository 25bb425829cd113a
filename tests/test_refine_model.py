"""The potential of atoms at any position, and the gradient of the cost with respect to them."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core.grid import rotation_matrix
from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import build_potential
from aetlab.forward.multislice import Multislice
from aetlab.refinement import fisher
from aetlab.refinement.geometry import pose_gradient
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec

SHAPE, TILT_DEG, DEFOCUS_A, B_A2 = (20, 24, 32), np.array([0.0, 37.0]), np.array([100.0, 300.0]), {"default": 0.5}


def make_model(images: np.ndarray, dtype: type = np.float64, n_layers: int = 3,
               held: Sites | None = None) -> AtomModel:
    series = TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5)
    return AtomModel(series, SHAPE, (8, 14), microscope=MicroscopeSpec(), n_layers_per_slice=n_layers,
                     parametrization="lobato", debye_waller_A2=B_A2, dtype=dtype, held=held)


def make_sites(rng: np.random.Generator) -> Sites:
    return Sites(rng.uniform(-4, 4, (12, 3)), rng.uniform(0.5, 1.2, 12), rng.integers(0, 2, 12))


@pytest.fixture
def noisy() -> np.ndarray:
    return 1 + 0.1 * np.random.default_rng(1).standard_normal((2, 2, 24, 32))


@pytest.mark.parametrize(("dtype", "n_layers"), [(np.float32, 3), (np.float64, 1), (np.float64, 7)])
def test_slices_are_sums_of_the_layers_that_the_simulation_builds(dtype: type, n_layers: int) -> None:
    sites = make_sites(np.random.default_rng(2))
    sites = Sites(sites.positions_A, np.ones(12), sites.kinds)
    slices = make_model(np.ones((2, 2, 24, 32)), dtype, n_layers).slices(sites, Poses.nominal(TILT_DEG, 2), 1)
    atoms = Atoms(np.array([8, 14])[sites.kinds], sites.positions_A @ rotation_matrix(37.0).T, np.zeros(12, int))
    layers = build_potential(atoms, SHAPE, 0.5, debye_waller_A2=B_A2)
    expected = np.add.reduceat(layers, np.arange(0, SHAPE[0], n_layers), axis=0)
    # The rest is in the tails, which the two cut off at different radii.
    assert np.abs(slices - expected).max() < 2e-4 * expected.max()
    assert slices.sum() == pytest.approx(expected.sum(), rel=1e-3)


def test_coarse_slices_are_sums_of_fine_ones_and_leave_the_images_nearly_alone() -> None:
    model, poses = make_model(np.ones((2, 2, 24, 32)), n_layers=2), Poses.nominal(TILT_DEG, 2)
    sites, coarse = make_sites(np.random.default_rng(2)), model.with_layers(5).with_layers(6)
    thick, sums = coarse.slices(sites, poses, 1), np.add.reduceat(model.slices(sites, poses, 1), [0, 3, 6, 9], axis=0)
    assert np.abs(thick - sums).max() < 2e-4 * sums.max()  # atoms end with a slice
    images, approximate = model.images(sites, poses), coarse.images(sites, poses)
    assert 0 < np.abs(approximate - images).max() < 0.05 * np.abs(images - 1).max()
    np.testing.assert_array_equal(coarse.with_layers(2).images(sites, poses), images)


def test_the_gradient_is_that_of_the_cost(noisy: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    model, sites = make_model(noisy), make_sites(rng)
    poses = Poses.nominal(TILT_DEG, 2).moved(rng.normal(size=(2, 6)) * [0.5, 0.5, 0.5, 0.3, 0.3, 0.3])

    def cost(positions_A: np.ndarray, occupancy: np.ndarray, by: np.ndarray) -> float:
        moved = Sites(positions_A, occupancy, sites.kinds)
        return sum(tilt.cost for tilt in model.gradients(moved, poses.moved(by)))

    of_positions, of_occupancy, of_poses = np.zeros((12, 3)), np.zeros(12), np.zeros((2, 6))
    for tilt in model.gradients(sites, poses):
        of_positions += tilt.gradient[0, :, :3] @ poses.rotation(tilt.i_tilt)
        of_occupancy += tilt.gradient[0, :, 3]
        of_poses[tilt.i_tilt] = pose_gradient(tilt.placed_A, tilt.gradient[0, :, :3], poses.turn_deg[tilt.i_tilt],
                                              poses.shift_A[tilt.i_tilt])
    direction = [rng.normal(size=shape) for shape in ((12, 3), (12,), (2, 6))]
    direction[2][:, 5] = 0
    at = (sites.positions_A, sites.occupancy, np.zeros((2, 6)))
    for k, (slope, along) in enumerate(zip((of_positions, of_occupancy, of_poses), direction, strict=True)):
        step = 1e-5 / np.linalg.norm(along)
        ends = [cost(*(x + sign * step * along if i == k else x for i, x in enumerate(at))) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((slope * along).sum()), rel=1e-6)


def test_slices_without_atoms_are_skipped_and_change_nothing() -> None:
    """Atoms in the middle of a deep volume: their gradient is that of all slices in float64.

    One of them has no occupancy, and lies deeper than all others.
    """
    rng = np.random.default_rng(4)
    images = 1 + 0.1 * rng.standard_normal((2, 2, 24, 32)).astype(np.float32)
    single, double = (AtomModel(TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5), (90, 24, 32), (8, 14),
                                microscope=MicroscopeSpec(), n_layers_per_slice=4, parametrization="lobato",
                                debye_waller_A2=B_A2, dtype=dtype) for dtype in (np.float32, np.float64))
    sites, poses = make_sites(rng), Poses.nominal(TILT_DEG, 2)
    sites.positions_A[0, 2], sites.occupancy[0] = 8.0, 0.0
    seen: list[np.ndarray] = []
    exact = list(double.gradients(sites, poses))
    whole = list(single.gradients(sites, poses, on_slices=lambda _, gradient: seen.append(gradient.copy())))
    assert (np.abs(seen[0]).max(axis=(1, 2)) > 0).all()
    for found in (whole, list(single.gradients(sites, poses))):
        for part, expected in zip(found, exact, strict=True):
            assert part.cost == pytest.approx(expected.cost, rel=1e-5)
            size = np.abs(expected.gradient).max(axis=(0, 1))
            assert (np.abs(expected.gradient[:, 0, 3]) > 0).all()
            np.testing.assert_allclose(part.gradient / size, expected.gradient / size, atol=2e-4)


def test_held_atoms_are_in_the_images_and_have_no_gradient(noisy: np.ndarray) -> None:
    sites, free = make_sites(np.random.default_rng(6)), np.arange(12) < 7
    poses = Poses.nominal(TILT_DEG, 2).moved(np.full((2, 6), 0.3))
    whole, part = make_model(noisy), make_model(noisy, held=sites.select(~free))
    np.testing.assert_allclose(part.images(sites.select(free), poses), whole.images(sites, poses), rtol=1e-6)
    for one, other in zip(part.gradients(sites.select(free), poses), whole.gradients(sites, poses), strict=True):
        assert one.cost == pytest.approx(other.cost, rel=1e-12)
        np.testing.assert_allclose(one.gradient[0], other.gradient[0, free], rtol=1e-9)


def test_the_gradient_of_the_height_is_that_of_the_defocus_up_to_the_slicing() -> None:
    rng = np.random.default_rng(9)
    sites, poses = make_sites(rng), Poses.nominal(TILT_DEG, 2)
    images = make_model(np.ones((2, 2, 24, 32)), n_layers=1).images(sites, poses)
    model = make_model(images, n_layers=1)

    def lifted(by_A: float) -> Poses:
        return poses.moved(by_A * np.eye(6)[[5, 5]])

    slope = sum(pose_gradient(tilt.placed_A, tilt.gradient[0, :, :3], np.zeros(3), np.zeros(3))[5]
                for tilt in model.gradients(sites, lifted(5.0)))
    ends = [sum(tilt.cost for tilt in model.gradients(sites, lifted(5.0 + by))) for by in (0.01, -0.01)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 0.02, rel=0.02)


def test_sampled_noise_averages_to_the_information() -> None:
    """E[(Jᵀw)²] is the square of the derivative of the amplitudes, here by central differences."""
    rng = np.random.default_rng(4)
    sites = make_sites(rng)
    model, unturned = make_model(np.ones((2, 2, 24, 32)), np.float32), Poses.nominal(np.zeros(2), 2)
    multislice = Multislice(model._optics.optics, np.float64)
    samples = []
    for child in np.random.SeedSequence(5).spawn(300):
        samples.append([tilt.gradient[0, :1, :3] for tilt in model.gradients(sites, unturned, noise=child)])
    sampled = np.mean(np.square(samples), axis=(0, 1)) * 2
    for axis in range(3):
        moved = [Sites(sites.positions_A + sign * 1e-3 * np.eye(12)[:, :1] * np.eye(3)[axis], sites.occupancy,
                       sites.kinds) for sign in (1, -1)]
        amplitudes = [np.abs(np.stack([multislice.images(model.slices(s, unturned, i)).copy() for i in range(2)]))
                      for s in moved]
        derivative = (amplitudes[0] - amplitudes[1]) / 2e-3
        assert sampled[0, axis] == pytest.approx(float((derivative**2).sum()), rel=0.25)


@pytest.mark.parametrize("n_at_border", [0, 5])
def test_factors_of_the_variance_are_those_of_the_inverse(n_at_border: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the inverse of the whole JᵀJ, by differences of gradients in float64: also with atoms at the border.

    Of the latter little more than the tail is in the images, so that their own variance is large.
    """
    rng, tilts_deg = np.random.default_rng(6), np.arange(0.0, 180.0, 36.0)
    poses = Poses.nominal(tilts_deg, 2)
    series = TiltSeries(np.ones((5, 2, 24, 32)), tilts_deg, DEFOCUS_A, 0.5)
    model = AtomModel(series, SHAPE, (8, 14), microscope=MicroscopeSpec(), n_layers_per_slice=10,
                      parametrization="lobato", debye_waller_A2=B_A2, dtype=np.float64)
    axes = np.meshgrid([-2.4, 0.0, 2.4], [-4.5, -1.5, 1.5, 4.5], [-1.2, 1.2], indexing="ij")
    positions_A = np.stack(axes, -1).reshape(-1, 3) + rng.uniform(-0.2, 0.2, (24, 3))
    positions_A[:n_at_border, 1] = -8.3 - 0.1 * np.arange(n_at_border)  # the volume ends at y = -8 Å
    n = len(positions_A)
    sites = Sites(positions_A, np.ones(n), np.arange(n) % 2)
    model = model.with_images(model.images(sites, poses))
    turns = [poses.rotation(i) for i in range(5)]

    def gradient(flat: np.ndarray) -> np.ndarray:
        each = flat.reshape(n, 4)
        parts = model.gradients(Sites(each[:, :3], each[:, 3], sites.kinds), poses)
        return sum(np.column_stack([part.gradient[0, :, :3] @ turns[part.i_tilt], part.gradient[0, :, 3]])
                   for part in parts).ravel()

    here = np.column_stack([positions_A, np.ones(n)]).ravel()
    whole = np.stack([(gradient(here + step) - gradient(here - step)) / 2e-4 for step in 1e-4 * np.eye(4 * n)])
    blocks = np.stack([whole[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] for i in range(n)])
    inner = np.arange(n) >= n_at_border
    ratio = (np.diag(np.linalg.inv(whole)).reshape(n, 4)
             / np.diagonal(np.linalg.inv(blocks), axis1=1, axis2=2))[inner]
    # A factor is at least 1; a tenth of the median of χ² in its place makes all of them ten times as large.
    monkeypatch.setattr(fisher, "CHI_SQUARE_MEDIAN", fisher.CHI_SQUARE_MEDIAN / 10)
    found = np.median([fisher.variance_factors(model, sites, poses, blocks, seed) for seed in range(9)], axis=0) / 10
    assert found.mean() == pytest.approx(ratio.mean(), rel=0.25)
    assert ratio.mean() < 1.4


def test_images_that_do_not_fit_the_volume_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a volume"):
        AtomModel(TiltSeries(np.ones((2, 2, 32, 32)), TILT_DEG, DEFOCUS_A, 0.5), SHAPE, (14,),
                  microscope=MicroscopeSpec(), n_layers_per_slice=3, parametrization="lobato", debye_waller_A2=B_A2)
