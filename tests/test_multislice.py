"""Multislice propagation: the propagator's law, energy, one thin slice, and the gradient with respect to the slices."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab import physics
from aetlab.forward.multislice import Multislice, exit_wave, propagator

WAVELENGTH_A = physics.wavelength_A(300.0)
PIXEL_A = 0.5
SHAPE_XY = (10, 12)


def _transfer(rng: np.random.Generator, n_defoci: int = 2) -> np.ndarray:
    return np.stack([propagator(SHAPE_XY, PIXEL_A, WAVELENGTH_A, d) * rng.uniform(0.5, 1, SHAPE_XY)
                     for d in (150.0, 400.0)[:n_defoci]])


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
    engine = Multislice(transfer, np.full(2, 5.0), pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A, phase_per_V=3e-3,
                        dtype=np.float64)
    wave = exit_wave(slices, phase_per_V=3e-3, gap_A=5.0, pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A)
    np.testing.assert_allclose(engine.images(slices), np.fft.ifft2(transfer * np.fft.fft2(wave)), rtol=1e-10)


def test_gaps_of_different_length_are_each_used() -> None:
    """Two slices with a vacuum slice between them are two slices with the longer gap."""
    rng = np.random.default_rng(5)
    transfer = _transfer(rng)
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    slices[1] = 0
    optics = dict(pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A, phase_per_V=3e-3, dtype=np.float64)
    three = Multislice(transfer, np.array([5.0, 4.0]), **optics).images(slices).copy()
    two = Multislice(transfer, np.array([9.0]), **optics).images(slices[::2])
    np.testing.assert_allclose(three, two, rtol=1e-10)


def test_gradient_against_central_differences() -> None:
    rng = np.random.default_rng(6)
    amplitude = rng.uniform(0.7, 1.3, (2, *SHAPE_XY))
    slices = rng.uniform(0, 300, (3, *SHAPE_XY))
    engine = Multislice(_transfer(rng), np.array([5.0, 4.0]), pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A,
                        phase_per_V=3e-3, dtype=np.float64)
    gradient = slices.copy()
    cost = engine.cost_and_gradient(gradient, amplitude)
    assert cost == engine.cost(slices, amplitude)
    for index in [(0, 0, 0), (0, 3, 7), (1, 9, 2), (2, 5, 11), (2, 0, 4)]:
        shifted = [slices.copy(), slices.copy()]
        shifted[0][index] += 1e-3
        shifted[1][index] -= 1e-3
        slope = (engine.cost(shifted[0], amplitude) - engine.cost(shifted[1], amplitude)) / 2e-3
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-12)


def test_dark_pixels_have_a_finite_gradient() -> None:
    """A wave of exactly 0 has no phase to descend along; it must not poison the volume."""
    slices = np.zeros((2, *SHAPE_XY))
    engine = Multislice(np.zeros((1, *SHAPE_XY), complex), np.array([5.0]), pixel_A=PIXEL_A, wavelength_A=WAVELENGTH_A,
                        phase_per_V=3e-3, dtype=np.float64)
    cost = engine.cost_and_gradient(slices, np.ones((1, *SHAPE_XY)))
    assert cost == pytest.approx(0.5 * SHAPE_XY[0] * SHAPE_XY[1])
    np.testing.assert_array_equal(slices, 0)
