"""The support of the sample holds all atoms and leaves out what images show to be vacuum; without evidence, nothing.

Rotation, proximal operator and fit leave positions outside a support at 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from aetlab import flow
from aetlab.core.grid import coordinates_A
from aetlab.core.tilt_series import TiltSeries
from aetlab.forward import support
from aetlab.forward.support import expect_support, find_support
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import make_rotation
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.choices import settings

SHAPE = (8, 10, 12)
TILTS_DEG = np.arange(0.0, 180.0, 6.0)
#: Centre (x, z) and radius in Å of a cylinder along y in a volume of 96 x 96 Å.
CENTRE_A, RADIUS_A = np.array([9.0, -6.0]), 14.0


def _series(contrast: float, electrons: float, *, tilts_deg: np.ndarray = TILTS_DEG,
            rows: tuple[int | None, int | None] = (None, None), seed: int = 1) -> TiltSeries:
    """Return images (2 defoci) of the cylinder: speckle of this ``contrast`` in its shadow, vacuum and noise beside."""
    rng = np.random.default_rng(seed)
    x_A = coordinates_A(96, 1.0)
    images = np.ones((len(tilts_deg), 2, 96, 40))
    for i_tilt, tilt_rad in enumerate(np.deg2rad(tilts_deg)):
        middle_A = CENTRE_A[0] * np.cos(tilt_rad) + CENTRE_A[1] * np.sin(tilt_rad)
        shadow = np.abs(x_A - middle_A) < RADIUS_A
        seen = images[i_tilt][:, shadow, slice(*rows)]
        images[i_tilt][:, shadow, slice(*rows)] += contrast * rng.standard_normal(seen.shape)
    if np.isfinite(electrons):
        images = rng.poisson(images.clip(min=0) * electrons) / electrons
    return TiltSeries(images.astype(np.float32), tilts_deg, np.array([-300.0, -500.0]), 1.0, electrons)


def _distance_A() -> np.ndarray:
    """Return the distance of each position (z, x) from the axis of the cylinder."""
    axis_A = coordinates_A(96, 1.0)
    return np.hypot(axis_A[None, :] - CENTRE_A[0], axis_A[:, None] - CENTRE_A[1])


@pytest.mark.parametrize("electrons", [300.0, float("inf")])
def test_the_support_is_foretold_from_the_atoms(electrons: float) -> None:
    """Atoms on a grid of 2 Å fill the cylinder; two images of 3 electrons a pixel are too few to exclude anything."""
    grid_A = np.stack(np.meshgrid(np.arange(-46.0, 47, 2), np.arange(-18.0, 19, 2), np.arange(-46.0, 47, 2)), -1)
    atoms_A = grid_A[np.hypot(grid_A[..., 0] - CENTRE_A[0], grid_A[..., 2] - CENTRE_A[1]) < RADIUS_A]
    expected = expect_support(atoms_A, (96, 96, 40), 1.0, TILTS_DEG, 2, electrons, 0.0)
    found = find_support(_series(0.3, electrons), 96, margin_A=0.0)
    assert expected[_distance_A() < RADIUS_A].all()
    assert expected.mean() == pytest.approx(found.mean(), rel=0.2)
    assert expect_support(atoms_A, (96, 96, 40), 1.0, TILTS_DEG, 2, 3.0, 0.0).all()


@pytest.mark.parametrize("electrons", [30.0, 1000.0, float("inf")])
def test_all_of_a_sample_off_the_axis_and_little_else_is_kept(electrons: float) -> None:
    found = find_support(_series(0.3, electrons), 96, margin_A=0.0)
    assert found.shape == (96, 96)
    assert found[_distance_A() < RADIUS_A].all()
    assert not found[_distance_A() > RADIUS_A + 3 * support.BLOCK].any()


def test_a_margin_widens_the_support() -> None:
    """The area of a disc grows with the square of its radius; its radius by the margin."""
    series = _series(0.3, 1000.0)
    radii_A = [np.sqrt(find_support(series, 96, margin_A).sum() / np.pi) for margin_A in (0.0, 8.0, 16.0)]
    np.testing.assert_allclose(np.diff(radii_A), 8.0, atol=1.5)


def test_what_noise_hides_is_not_left_out() -> None:
    """A tenth of the deviations of the sample cannot be excluded with two electrons a pixel: all positions stay."""
    assert find_support(_series(0.3, 2.0), 96, margin_A=0.0).all()


def test_a_short_part_of_the_sample_is_kept() -> None:
    """Where the sample is seen along a tenth of y only, the rest of y being vacuum, its positions stay."""
    found = find_support(_series(0.3, 200.0, rows=(16, 20)), 96, margin_A=0.0)
    assert found[_distance_A() < RADIUS_A].all()
    assert found.mean() < 0.5


def test_missing_images_and_bad_pixels_do_not_count() -> None:
    series = _series(0.3, 200.0)
    weight = np.ones((len(TILTS_DEG), 2))
    weight[3], weight[10, 1] = 0, 0
    images = series.images.copy()
    images[3], images[10, 1], images[:, :, :5] = 40.0, np.nan, 7.0
    pixel_weight = np.ones(images.shape, np.float32)
    pixel_weight[:, :, :5] = 0
    marked = replace(series, images=images, weight=weight, pixel_weight=pixel_weight)
    found = find_support(marked, 96, margin_A=0.0)
    assert found[_distance_A() < RADIUS_A].all()
    assert found.mean() < 0.5


def test_few_tilts_and_empty_images_leave_out_nothing() -> None:
    assert find_support(_series(0.3, 200.0, tilts_deg=np.array([0.0, 90.0])), 96, margin_A=0.0).all()
    assert find_support(_series(0.0, 200.0), 96, margin_A=0.0).all()


@pytest.fixture(scope="module")
def thin() -> tuple[RunSpec, TiltSeries]:
    """Return a needle with a radius of 9 Å in a volume of 80 x 80 Å across, and its images."""
    spec = settings(scale="small", dose=1e6, tilts=20, reg="tv", overrides={
        "scale.shape_zxy": [160, 160, 48], "scale.core_radius_A": 6, "scale.shell_thickness_A": 3, "scale.length_A": 20,
        "scale.apex_gap_A": 2, "engine.n_iterations": 4, "engine.support": "images"})
    return spec, flow.simulate(spec, flow.sample(spec))


def test_atoms_of_a_simulated_needle_lie_in_its_support(thin: tuple[RunSpec, TiltSeries]) -> None:
    spec, series = thin
    found = find_support(series, 160, margin_A=0.0)
    atoms = flow.sample(spec)
    at = np.round(atoms.positions_A / spec.scale.voxel_A + 159 / 2).astype(int)
    assert found[at[:, 2], at[:, 0]].all()
    assert found.mean() < 0.6


@pytest.mark.parametrize("reg", sorted(REGULARISERS))
def test_a_fit_leaves_the_rest_at_zero(reg: str, thin: tuple[RunSpec, TiltSeries]) -> None:
    """With a support the volume is 0 outside for every regulariser, and inside at least as near to the truth."""
    spec, series = thin
    said: list[str] = []

    class Listener:
        def say(self, text: str) -> None:
            said.append(text)

        def step(self, *args: object) -> None: ...

    spec = replace(spec, reg=settings(reg=reg).reg)
    if reg == "pos":
        spec = replace(spec, reg=replace(spec.reg, iterations_factor=0))
    found = find_support(series, 160, margin_A=2.0)
    some = flow.reconstruct(spec, series, progress=Listener())  # type: ignore[arg-type]
    assert any(f"engine.support=images: {100 * found.mean():.1f} % of positions" in text for text in said)
    every = flow.reconstruct(replace(spec, engine=replace(spec.engine, support="all")), series)
    blurred = some.volume.potential_V
    if reg == "atoms":  # V = g ∗ c is 0 beyond the reach of g
        found = find_support(series, 160, margin_A=8.0)
    np.testing.assert_allclose(blurred[~found], 0.0, atol=1e-3 * blurred.max())
    truth = flow.true_potential(spec, flow.sample(spec))[found]
    error, before = (float(np.linalg.norm(volume[found] - truth)) for volume in (blurred, every.volume.potential_V))
    assert error < 1.01 * before < np.linalg.norm(truth)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_rotation_of_a_support_is_that_of_the_masked_volume(kind: str) -> None:
    """Forward it reads the support alone, and its adjoint writes there alone."""
    rng = np.random.default_rng(5)
    kept = rng.random(SHAPE[:2]) < 0.6
    angles = np.array([0.0, 31.7, 117.3])
    some, every = (make_rotation(kind, SHAPE, 3, angles, dtype=np.float64, support=s) for s in (kept, None))
    for i_tilt in range(len(angles)):
        volume, slices = rng.standard_normal(SHAPE), rng.standard_normal((3, *SHAPE[1:]))
        forward, expected = np.empty_like(slices), np.empty_like(slices)
        some.rotate_and_bin(volume, i_tilt, forward)
        every.rotate_and_bin(volume * kept[..., None], i_tilt, expected)
        np.testing.assert_allclose(forward, expected, atol=1e-12)
        adjoint = np.zeros(SHAPE)
        some.add_adjoint(slices, i_tilt, 1.0, adjoint)
        assert (adjoint[~kept] == 0).all()
        np.testing.assert_allclose(np.vdot(forward, slices), np.vdot(volume, adjoint), rtol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_span_holds_all_slices_that_the_support_reaches(n_layers: int) -> None:
    kept = np.zeros((20, 20), bool)
    kept[8:11, 6:15] = True
    angles = np.array([0.0, 25.0, 90.0])
    rotation = make_rotation("linear", (20, 20, 4), n_layers, angles, support=kept)
    for i_tilt in range(len(angles)):
        slices = np.empty((-(-20 // n_layers), 20, 4), np.float32)
        rotation.rotate_and_bin(np.ones((20, 20, 4), np.float32) * kept[..., None], i_tilt, slices)
        reached = np.flatnonzero(slices.any(axis=(1, 2)))
        assert rotation.span(i_tilt) == (reached[0], reached[-1] + 1)
    assert make_rotation("linear", (20, 20, 4), n_layers, angles).span(0) is None


def test_the_fourier_rotation_has_no_support() -> None:
    with pytest.raises(ValueError, match="turns all positions"):
        make_rotation("fourier", SHAPE, 1, np.array([10.0]), support=np.ones(SHAPE[:2], bool))


def test_total_variation_in_a_support_against_quasi_newton() -> None:
    """u is 0 outside, and only differences that start within the support count."""
    shape, threshold = (4, 5, 6), 0.4
    rng = np.random.default_rng(2)
    kept = rng.random(shape[:2]) < 0.6
    within = np.broadcast_to(kept[..., None], shape)
    volume = np.where(within, rng.normal(0.7, 1.0, shape), 0.0)

    def smoothed(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u = flat.reshape(shape)
        differences = [np.where(within, np.roll(u, -1, axis) - u, 0.0) for axis in range(3)]
        length = np.sqrt(sum(d**2 for d in differences) + 1e-10)
        gradient = u - volume
        for axis, d in enumerate(differences):
            gradient = gradient + threshold * (np.roll(d / length, 1, axis) - d / length)
        return 0.5 * float(((u - volume) ** 2).sum()) + threshold * float(length.sum()), gradient.ravel()

    bounds = [(0.0, None if free else 0.0) for free in within.ravel()]
    brute = minimize(smoothed, np.maximum(volume, 0).ravel(), jac=True, bounds=bounds, method="L-BFGS-B",
                     options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-10}).x.reshape(shape)
    row = REGULARISERS["tv"]
    prox = row.make(row.settings(inner_iterations=3000), threshold, Problem(shape, 1.0, 8, 1.0, kept)).prox
    np.testing.assert_allclose(prox(volume.copy(), 1.0), brute, atol=2e-3)


def test_a_rotation_without_a_matrix_is_refused() -> None:
    with pytest.raises(SpecError, match=r"engine\.support='images' cannot be used: engine\.rotation=fourier turns all"):
        settings(overrides={"engine.support": "images", "engine.rotation": "fourier"})
