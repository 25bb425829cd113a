"""Multislice propagation: the propagator's law, energy, one thin slice, and the gradient with respect to the slices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson

from aetlab.core import physics, simd_fft
from aetlab.forward import simd_multislice
from aetlab.forward.multislice import Multislice, exit_wave, make_multislice, make_optics, propagator
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.likelihoods.poisson import DARK

WAVELENGTH_A = physics.wavelength_A(300.0)
PIXEL_A = 0.5
SHAPE_XY = (10, 12)
OPTICS = dict(pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A, phase_per_V=3e-3)


def _transfer(rng: np.random.Generator, n_defoci: int = 2) -> np.ndarray:
    return np.stack([propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, d) * rng.uniform(0.5, 1, SHAPE_XY)
                     for d in (150.0, 400.0)[:n_defoci]])


def _engine(transfer: np.ndarray, gaps_A: np.ndarray) -> Multislice:
    return Multislice(make_optics(transfer, gaps_A, **OPTICS), np.float64)


def test_propagator_of_a_plane_wave_is_its_phase_along_the_beam() -> None:
    """A plane wave exp(2πi k·r) gains exp(2πi d (k_z - 1/λ)), on a shape that tells x from y."""
    i_x, i_y, distance_A = 3, 2, 40.0
    q = np.array([i_x / (SHAPE_XY[0] * PIXEL_A), i_y / (SHAPE_XY[1] * PIXEL_A)])
    k_z = np.sqrt(1 / WAVELENGTH_A**2 - q @ q)
    factor = propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, distance_A)[i_x, i_y]
    np.testing.assert_allclose(factor, np.exp(2j * np.pi * distance_A * (k_z - 1 / WAVELENGTH_A)), rtol=1e-10)


def test_propagators_add_up_and_reverse() -> None:
    there = propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, 30.0)
    further = propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, 12.0)
    np.testing.assert_allclose(there * further, propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, 42.0), rtol=1e-10)
    np.testing.assert_allclose(there.conj(), propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, -30.0), rtol=1e-10)


def test_band_limit_cuts_beyond_its_circle_only() -> None:
    full = propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, 30.0)
    cut = propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, 30.0, band_limit=2 / 3)
    q = np.hypot(np.fft.fftfreq(SHAPE_XY[0], PIXEL_A)[:, None], np.fft.fftfreq(SHAPE_XY[1], PIXEL_A))
    np.testing.assert_array_equal(cut, np.where(q <= 2 / 3, full, 0))


def test_exit_wave_keeps_the_energy() -> None:
    slices = np.random.default_rng(1).uniform(0, 300, (7, *SHAPE_XY))
    wave = exit_wave(slices, phase_per_V=3e-3, gap_A=5.0, pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A)
    np.testing.assert_allclose(np.mean(np.abs(wave) ** 2), 1.0, rtol=1e-12)
    assert np.abs(np.abs(wave) - 1).max() > 0.01


def test_exit_wave_of_one_slice_is_its_transmission_function() -> None:
    slice_V = np.random.default_rng(2).uniform(0, 300, (1, *SHAPE_XY))
    wave = exit_wave(slice_V, phase_per_V=3e-3, gap_A=5.0, pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A)
    np.testing.assert_allclose(wave, np.exp(3e-3j * slice_V[0]), rtol=1e-12)


@pytest.mark.parametrize("band_limit", [1.0, 2 / 3])
def test_exit_wave_in_portions_is_that_of_all_slices(band_limit: float) -> None:
    slices = np.random.default_rng(3).uniform(0, 300, (7, *SHAPE_XY))
    optics = dict(phase_per_V=3e-3, gap_A=5.0, pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A, band_limit=band_limit)
    whole = exit_wave(slices, **optics)
    wave = exit_wave(slices[:3], **optics)
    wave = exit_wave(slices[3:4], wave=wave, **optics)
    wave = exit_wave(slices[4:], wave=wave, **optics)
    np.testing.assert_allclose(wave, whole, rtol=1e-12)


def test_images_follow_from_the_exit_wave() -> None:
    rng = np.random.default_rng(4)
    transfer = _transfer(rng)
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    engine = _engine(transfer, np.full(2, 5.0))
    wave = exit_wave(slices, phase_per_V=3e-3, gap_A=5.0, pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A)
    np.testing.assert_allclose(engine.images(slices), np.fft.ifft2(transfer * np.fft.fft2(wave)), rtol=1e-10)


def test_gaps_of_different_length_are_each_used() -> None:
    """Two slices with a vacuum slice between them are two slices with the longer gap."""
    rng = np.random.default_rng(5)
    transfer = _transfer(rng)
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    slices[1] = 0
    three = _engine(transfer, np.array([5.0, 4.0])).images(slices).copy()
    two = _engine(transfer, np.array([9.0])).images(slices[::2])
    np.testing.assert_allclose(three, two, rtol=1e-10)


@pytest.mark.parametrize("span", [(0, 5), (1, 5), (0, 3), (2, 3), (1, 4)])
@pytest.mark.parametrize("shape_xy", [(48, 32), (20, 36)])
def test_vacuum_slices_may_be_skipped(span: tuple[int, int], shape_xy: tuple[int, int]) -> None:
    """The fused kernels skip slices outside a span; cost and gradient within it are those of all slices in float64."""
    rng = np.random.default_rng(8)
    transfer = np.exp(1j * rng.uniform(0, 6, (2, *shape_xy)))
    optics = make_optics(transfer, np.array([5.0, 5.0, 4.0, 3.0]), **OPTICS)
    slices = np.zeros((5, *shape_xy))
    slices[slice(*span)] = rng.uniform(0, 300, (span[1] - span[0], *shape_xy))
    amplitude = rng.uniform(0.7, 1.3, (2, *shape_xy))
    gradient, single = slices.copy(), slices.astype(np.float32)
    cost = Multislice(optics, np.float64).cost_and_gradient(gradient, amplitude, span=span)
    fused = make_multislice(optics)
    assert isinstance(fused, simd_multislice.SimdMultislice)
    assert fused.cost(single, amplitude.astype(np.float32), span=span) == pytest.approx(cost, rel=1e-5)
    assert fused.cost_and_gradient(single, amplitude.astype(np.float32), span=span) == pytest.approx(cost, rel=1e-5)
    within = slice(*span)
    np.testing.assert_allclose(single[within], gradient[within], atol=1e-4 * np.abs(gradient).max())
    outside = np.delete(single, np.arange(*span), axis=0)
    assert not outside.any()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradient_against_central_differences(likelihood: str) -> None:
    rng = np.random.default_rng(6)
    amplitude = rng.uniform(0.7, 1.3, (2, *SHAPE_XY))
    amplitude[:, ::3] = 0
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    engine = make_multislice(make_optics(_transfer(rng), np.array([5.0, 4.0]), **OPTICS), np.float64, likelihood)
    gradient = slices.copy()
    cost = engine.cost_and_gradient(gradient, amplitude)
    assert cost == engine.cost(slices, amplitude)
    for index in [(0, 0, 0), (0, 3, 7), (1, 9, 2), (2, 5, 11), (2, 0, 4)]:
        shifted = [slices.copy(), slices.copy()]
        shifted[0][index] += 1e-3
        shifted[1][index] -= 1e-3
        slope = (engine.cost(shifted[0], amplitude) - engine.cost(shifted[1], amplitude)) / 2e-3
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-12)


def test_poisson_cost_is_the_likelihood_of_the_counts_per_electron() -> None:
    """A quarter of the negative log-likelihood less its least, and close to the amplitude's cost where both agree."""
    rng = np.random.default_rng(9)
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    optics = make_optics(_transfer(rng), np.array([5.0, 4.0]), **OPTICS)
    by_amplitude, by_counts = (make_multislice(optics, np.float64, kind) for kind in ("amplitude", "poisson"))
    waves = Multislice(optics, np.float64).images(slices).copy()
    counts = rng.poisson(40 * np.abs(waves) ** 2)
    expected = 40 * (np.abs(waves) ** 2 + DARK)
    surprise = (poisson.logpmf(counts, np.maximum(counts, 1e-300)) - poisson.logpmf(counts, expected)).sum()
    assert by_counts.cost(slices, np.sqrt(counts / 40)) == pytest.approx(surprise / (4 * 40), rel=1e-9)
    near = np.abs(waves) * (1 + 0.05 * rng.standard_normal(waves.shape))
    np.testing.assert_allclose(by_counts.cost(slices, near), by_amplitude.cost(slices, near), rtol=0.05)
    with pytest.raises(ValueError, match="choose one of amplitude, .*poisson"):
        make_multislice(optics, np.float64, "made_up")


@pytest.mark.parametrize("shape_xy", [SHAPE_XY, (16, 32)])
def test_dark_pixels_have_a_finite_gradient(shape_xy: tuple[int, int]) -> None:
    """A wave of exactly 0 has no phase to descend along; its gradient is 0, not NaN (both kinds of kernels)."""
    slices = np.zeros((2, *shape_xy), np.float32)
    engine = make_multislice(make_optics(np.zeros((1, *shape_xy), complex), np.array([5.0]), **OPTICS))
    cost = engine.cost_and_gradient(slices, np.ones((1, *shape_xy), np.float32))
    assert cost == pytest.approx(0.5 * shape_xy[0] * shape_xy[1])
    np.testing.assert_array_equal(slices, 0)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 16, 48, 60, 64, 96, 225, 480])
def test_lane_transforms_agree_with_numpy(n: int) -> None:
    """Each radix, and their products: the spectrum in its scrambled order, and back to n times the input."""
    rng = np.random.default_rng(7)
    values = (rng.standard_normal((n, 16)) + 1j * rng.standard_normal((n, 16))).astype(np.complex64)
    buffer = np.concatenate([values.real.ravel(), values.imag.ravel()])
    plan = simd_fft.make_plan(n)

    def content() -> np.ndarray:
        return (buffer[: n * 16] + 1j * buffer[n * 16:]).reshape(n, 16)

    simd_fft.forward(buffer, 0, n * 16, n, plan)
    spectrum = np.fft.fft(values.astype(complex), axis=0)
    np.testing.assert_allclose(content(), spectrum[simd_fft.scrambled_order(n)], atol=1e-6 * np.abs(spectrum).max())
    simd_fft.inverse(buffer, 0, n * 16, n, plan)
    np.testing.assert_allclose(content() / n, values, atol=2e-6)


def test_lengths_with_other_primes_are_left_to_the_library() -> None:
    assert simd_multislice.fits((96, 480))
    assert simd_multislice.fits((90, 125))
    assert not simd_multislice.fits((96, 112))
    assert not simd_multislice.fits((96, 15))
    with pytest.raises(ValueError, match="2, 3 and 5"):
        simd_fft.make_plan(14)


@pytest.mark.parametrize("shape_xy", [(32, 48), (27, 32), (48, 20), (25, 18)])
@pytest.mark.parametrize("n_slices", [1, 2, 4])
def test_fused_kernels_agree_with_the_library_in_double_precision(n_slices: int, shape_xy: tuple[int, int]) -> None:
    """Cost and gradient, with angles beyond a full turn and unequal gaps; sides need not fill whole vectors."""
    rng = np.random.default_rng(8)
    transfer = np.stack([propagator(shape_xy, PIXEL_A, WAVELENGTH_A, d) * rng.uniform(0.5, 1, shape_xy)
                         for d in (150.0, 400.0)])
    amplitude = rng.uniform(0.7, 1.3, (2, *shape_xy))
    slices = rng.uniform(-3000, 3000, (n_slices, *shape_xy))
    optics = make_optics(transfer, np.array([5.0, 5.0, 4.0])[: n_slices - 1], **OPTICS)
    fused = make_multislice(optics)
    assert isinstance(fused, simd_multislice.SimdMultislice)
    double, single = slices.copy(), slices.astype(np.float32)
    cost = Multislice(optics, np.float64).cost_and_gradient(double, amplitude)
    assert fused.cost(single, amplitude.astype(np.float32)) == pytest.approx(cost, rel=1e-5)
    for _ in range(2):  # one call does not influence the next
        single[...] = slices
        assert fused.cost_and_gradient(single, amplitude.astype(np.float32)) == pytest.approx(cost, rel=1e-5)
        np.testing.assert_allclose(single, double, atol=2e-5 * np.abs(double).max())
