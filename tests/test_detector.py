"""Blur by the detector in the forward models: its table, its adjoint, and gradients against central differences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import build_potential, simd_multislice
from aetlab.forward.detector import Detector, interpolate_mtf, mtf_of, with_contrast
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import Multislice, make_multislice, make_optics, propagator
from aetlab.forward.posed_images import PosedOptics
from aetlab.forward.tilt_equations import AddedColumns, CpuTiltEquations, PosedTilt
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.refinement.model import AtomModel, Sites
from aetlab.spec import MicroscopeSpec, SpecError
from aetlab.spec.derived import blurs_images

SHAPE_XY, PIXEL_A = (10, 12), 0.5
TABLE = MicroscopeSpec(mtf_cycles_per_pixel=(0, 0.25, 0.5), mtf_values=(1, 0.7, 0.3))


def _optics(shape_xy: tuple[int, int], mtf: np.ndarray | None, n_defoci: int = 3):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    transfer = np.stack([propagator(shape_xy, PIXEL_A, 0.02, d) * rng.uniform(0.5, 1, shape_xy)
                         for d in (150.0, 400.0, 700.0)[:n_defoci]])
    return make_optics(transfer, np.array([5.0, 4.0]), pixel_A=PIXEL_A, wavelength_A=0.02, phase_per_V=3e-3, mtf=mtf)


def test_the_table_is_met_at_its_entries_is_flat_at_zero_and_falls_on_beyond_its_end() -> None:
    u, mtf = np.array([0, 0.1, 0.3, 0.5]), np.array([1, 0.9, 0.5, 0.25])
    np.testing.assert_allclose(interpolate_mtf(u, mtf, u), mtf, rtol=1e-12)
    assert interpolate_mtf(u, mtf, np.array(0.01)) == pytest.approx(1, abs=2e-3)
    fine = interpolate_mtf(u, mtf, np.linspace(0, 0.9, 200))
    assert (np.diff(fine) < 0).all() and (fine > 0).all()
    assert interpolate_mtf(u, mtf, np.array(0.7)) == pytest.approx(0.125)  # halves over 0.2, as from 0.3 to 0.5


def test_a_dense_table_is_the_formula_that_it_samples() -> None:
    """The Gaussian formula and its table agree on an FFT grid whose sides differ."""
    u = np.linspace(0, 0.75, 31)
    table = MicroscopeSpec(mtf_cycles_per_pixel=tuple(u), mtf_values=tuple(0.4 ** (2 * u) ** 2))
    by_table, by_formula = (mtf_of(each, (12, 20), 0.37) for each in (table, MicroscopeSpec(mtf_half=0.4)))
    np.testing.assert_allclose(by_table, by_formula, atol=1e-3)
    assert mtf_of(MicroscopeSpec(), (12, 20), 0.37) is None


@pytest.mark.parametrize("values", [{"mtf_values": (1.0, 0.5)},
                                    {"mtf_cycles_per_pixel": (0, 0.4), "mtf_values": (1, 0.5)},
                                    {"mtf_cycles_per_pixel": (0, 0.5), "mtf_values": (1, 0)},
                                    {"mtf_cycles_per_pixel": (0, 0.5), "mtf_values": (1, 0.5), "mtf_half": 0.5}])
def test_a_table_that_is_none_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="microscope.mtf_"):
        MicroscopeSpec(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_images", [1, 2, 3])
def test_the_blur_is_a_product_in_fourier_space_and_its_own_adjoint(n_images: int) -> None:
    rng = np.random.default_rng(2)
    mtf = mtf_of(TABLE, SHAPE_XY, PIXEL_A)
    assert mtf is not None
    detector = Detector(mtf, n_images, np.float64)
    a, b = rng.standard_normal((2, n_images, *SHAPE_XY))
    blurred = detector.blur(a.copy())
    np.testing.assert_allclose(blurred, np.fft.ifft2(np.fft.fft2(a) * mtf).real, atol=1e-12)
    assert float((blurred * b).sum()) == pytest.approx(float((a * detector.blur(b.copy())).sum()), rel=1e-12)


def test_contrast_scales_all_frequencies_but_zero() -> None:
    images = 1 + 0.1 * np.random.default_rng(3).standard_normal((2, *SHAPE_XY))
    mean = images.mean(axis=(1, 2), keepdims=True)
    mtf = with_contrast(None, 0.8, SHAPE_XY)
    assert mtf is not None and with_contrast(None, 1.0, SHAPE_XY) is None
    np.testing.assert_allclose(Detector(mtf, 2, np.float64).blur(images.copy()), mean + 0.8 * (images - mean))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradient_against_central_differences(likelihood: str, weighted: bool) -> None:
    rng = np.random.default_rng(4)
    amplitude = rng.uniform(0.7, 1.3, (3, *SHAPE_XY))
    amplitude[:, ::3] = 0
    weight = rng.uniform(0, 2, amplitude.shape) if weighted else None
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    engine = make_multislice(_optics(SHAPE_XY, mtf_of(TABLE, SHAPE_XY, PIXEL_A)), np.float64, likelihood)
    gradient = slices.copy()
    cost = engine.cost_and_gradient(gradient, amplitude, weight)
    assert cost == engine.cost(slices, amplitude, weight)
    for index in [(0, 0, 0), (0, 3, 7), (1, 9, 2), (2, 5, 11), (2, 0, 4)]:
        ends = []
        for sign in (1, -1):
            moved = slices.copy()
            moved[index] += sign * 1e-3
            ends.append(engine.cost(moved, amplitude, weight))
        assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-6, abs=1e-12)


def test_the_cost_is_that_of_the_blurred_intensity() -> None:
    rng = np.random.default_rng(5)
    mtf = mtf_of(TABLE, SHAPE_XY, PIXEL_A)
    slices, amplitude = rng.uniform(0, 300, (3, *SHAPE_XY)), rng.uniform(0.7, 1.3, (3, *SHAPE_XY))
    waves = Multislice(_optics(SHAPE_XY, None), np.float64).images(slices)
    seen = np.fft.ifft2(np.fft.fft2(np.abs(waves) ** 2) * mtf).real
    cost = make_multislice(_optics(SHAPE_XY, mtf), np.float64).cost(slices, amplitude)
    assert cost == pytest.approx(0.5 * ((np.sqrt(seen) - amplitude) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("shape_xy", [(32, 48), (27, 20)])
def test_fused_kernels_agree_with_the_library_and_without_an_mtf_no_bit_changes(shape_xy: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    mtf = mtf_of(TABLE, shape_xy, PIXEL_A)
    amplitude, weight = rng.uniform(0.7, 1.3, (3, *shape_xy)), rng.uniform(0, 2, (3, *shape_xy))
    slices = rng.uniform(-300, 300, (3, *shape_xy))
    fused, double = make_multislice(_optics(shape_xy, mtf)), slices.copy()
    assert isinstance(fused, simd_multislice.SimdMultislice)
    cost = Multislice(_optics(shape_xy, mtf), np.float64).cost_and_gradient(double, amplitude, weight)
    arrays = [each.astype(np.float32) for each in (amplitude, weight)]
    found = []
    for _ in range(2):
        single = slices.astype(np.float32)
        found.append((fused.cost_and_gradient(single, *arrays), single))
        assert found[-1][0] == pytest.approx(cost, rel=1e-5)
        np.testing.assert_allclose(single, double, atol=2e-5 * np.abs(double).max())
    # One call does not influence the next: a thread's earlier tilts change no bit.
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    fused.use_mtf(None)
    plain = make_multislice(_optics(shape_xy, None))
    results = [slices.astype(np.float32), slices.astype(np.float32)]
    assert fused.cost_and_gradient(results[0], *arrays) == plain.cost_and_gradient(results[1], *arrays)
    np.testing.assert_array_equal(*results)


SHAPE, TILT_DEG, DEFOCUS_A = (20, 24, 32), np.array([0.0, 37.0]), np.array([100.0, 300.0])


def _series(images: np.ndarray) -> TiltSeries:
    return TiltSeries(images, TILT_DEG, DEFOCUS_A, PIXEL_A)


def test_the_model_of_a_volume_has_the_detector_of_its_microscope() -> None:
    """Images of the model's own potential, blurred, cost nothing; sharp ones do."""
    atoms = Atoms(np.full(6, 14), np.random.default_rng(7).uniform(-3, 3, (6, 3)), np.zeros(6, int))
    volume = build_potential(atoms, SHAPE, PIXEL_A, debye_waller_A2={"default": 0.5}).astype(float)
    options = {"microscope": TABLE, "n_layers_per_slice": 4, "dtype": np.float64}
    sharp = AtomModel(_series(np.ones((2, 2, *SHAPE[1:]))), SHAPE, (14,), microscope=MicroscopeSpec(),
                      n_layers_per_slice=4, parametrization="lobato", debye_waller_A2={"default": 0.5},
                      dtype=np.float64)
    blank = ForwardModel(_series(np.ones((2, 2, *SHAPE[1:]))), SHAPE, **options)
    slices = np.empty(sharp.slices_shape)
    blank._rotation.rotate_and_bin(volume, 0, slices)
    intensity = np.abs(Multislice(sharp._optics.optics, np.float64).images(slices)) ** 2
    blurred = np.fft.ifft2(np.fft.fft2(intensity) * mtf_of(TABLE, SHAPE[1:], PIXEL_A)).real
    costs = [ForwardModel(_series(np.stack([images, images])), SHAPE, **options).cost(volume, 0)
             for images in (blurred, intensity)]
    assert costs[0] < 1e-20 < 1e-3 < costs[1]


def test_the_gradient_of_atoms_is_that_of_the_cost() -> None:
    rng = np.random.default_rng(8)
    sites = Sites(rng.uniform(-4, 4, (12, 3)), rng.uniform(0.5, 1.2, 12), rng.integers(0, 2, 12))
    images = 1 + 0.1 * rng.standard_normal((2, 2, *SHAPE[1:]))
    model = AtomModel(_series(images), SHAPE, (8, 14), microscope=TABLE, n_layers_per_slice=3, parametrization="lobato",
                      debye_waller_A2={"default": 0.5}, dtype=np.float64).with_contrast(0.8)
    poses = Poses.nominal(TILT_DEG, 2)
    slope = sum(tilt.gradient[0, :, :3] @ poses.rotation(tilt.i_tilt) for tilt in model.gradients(sites, poses))
    along = rng.normal(size=(12, 3))
    step = 1e-5 / np.linalg.norm(along)
    ends = [sum(tilt.cost for tilt in model.gradients(
        dataclasses.replace(sites, positions_A=sites.positions_A + sign * step * along), poses)) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((slope * along).sum()), rel=1e-6)
    made = model.images(sites, poses)
    perfect = sum(tilt.cost for tilt in model.with_images(made).gradients(sites, poses))
    assert perfect < 1e-8 * sum(tilt.cost for tilt in model.gradients(sites, poses))


@pytest.mark.parametrize("column", range(6))
def test_derivatives_of_the_alignment_against_central_differences(column: int) -> None:
    atoms = Atoms(np.full(20, 14), np.random.default_rng(9).uniform(-3, 3, (20, 3)), np.zeros(20, int))
    volume = build_potential(atoms, SHAPE, PIXEL_A, debye_waller_A2={"default": 0.5})
    series = _series(np.ones((2, 2, *SHAPE[1:])))
    optics = PosedOptics(series, SHAPE, microscope=TABLE, n_layers_per_slice=4)
    model = ForwardModel(series, SHAPE, microscope=TABLE, n_layers_per_slice=4)
    equations = CpuTiltEquations(optics, series, AddedColumns(), model)
    row = np.array([0.5, -0.3, 0.4, -0.3, 15.0, 1.05])
    h = np.array([0.05, 0.05, 0.02, 0.02, 1.0, 0.02])[column] * np.eye(6)[column]
    amplitude, derivatives = equations.derivatives(volume, PosedTilt(1, row))
    np.testing.assert_array_equal(amplitude, equations.amplitudes(volume, PosedTilt(1, row)))
    ahead, behind = (equations.amplitudes(volume, PosedTilt(1, row + sign * h)) for sign in (1, -1))
    difference = (ahead - behind) / (2 * h[column])
    allowed = 0.05 if column < 2 else 0.002
    assert np.linalg.norm(derivatives[column] - difference) < allowed * np.linalg.norm(difference)


def test_a_movement_during_an_exposure_blurs_the_image_by_a_gaussian() -> None:
    """Compare with the convolution of the image, with and without a detector's blur of its own."""
    shape, pixel_A, moved_A = (48, 60), 0.4, 0.5
    image = np.random.default_rng(3).random(shape)
    expected = gaussian_filter(image, moved_A / pixel_A, mode="wrap", truncate=8)
    still = MicroscopeSpec(mtf_half=0.6)
    for microscope, seen in ((MicroscopeSpec(), image), (still, blurred(image, still, pixel_A))):
        moving = dataclasses.replace(microscope, blur_sigma_A=moved_A)
        assert blurs_images(moving)
        np.testing.assert_allclose(blurred(image, moving, pixel_A),
                                   gaussian_filter(seen, moved_A / pixel_A, mode="wrap", truncate=8), atol=1e-3)
    assert not blurs_images(MicroscopeSpec()) and np.ptp(expected) < 0.5 * np.ptp(image)


def blurred(image: np.ndarray, microscope: MicroscopeSpec, pixel_A: float) -> np.ndarray:
    """Return ``image`` as the detector records it."""
    mtf = mtf_of(microscope, image.shape, pixel_A)
    assert mtf is not None
    return np.asarray(np.fft.ifft2(mtf * np.fft.fft2(image)).real)
