"""Transfer function, aperture, aberrations, envelopes, detector blur and binning: laws over physical ranges."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aetlab.core import physics
from aetlab.forward import imaging
from aetlab.spec import MicroscopeSpec

SHAPE = (10, 12)
ENERGIES = st.floats(60, 300)
DEFOCI = st.floats(-2000, 2000)
COEFFICIENTS = {"Cs_mm": 2.0, "C5_mm": 20.0, "A1_nm": 50.0, "B2_nm": 500.0, "A2_nm": 500.0, "S3_um": 20.0,
                "A3_um": 20.0, "B4_um": 100.0, "D4_um": 100.0, "A4_um": 100.0, "S5_mm": 10.0, "R5_mm": 10.0,
                "A5_mm": 10.0}
AZIMUTHS = ("A1", "B2", "A2", "S3", "A3", "B4", "D4", "A4", "S5", "R5", "A5")


#: Factor and power of θ of each term of W at the azimuth 0, in Å for a coefficient in the unit of its name.
TERMS = {"Cs_mm": (1e7 / 4, 4), "C5_mm": (1e7 / 6, 6), "A1_nm": (10 / 2, 2), "B2_nm": (10, 3), "A2_nm": (10 / 3, 3),
         "S3_um": (1e4, 4), "A3_um": (1e4 / 4, 4), "B4_um": (1e4, 5), "D4_um": (1e4, 5), "A4_um": (1e4 / 5, 5),
         "S5_mm": (1e7, 6), "R5_mm": (1e7, 6), "A5_mm": (1e7 / 6, 6)}


def squared_frequencies(shape_xy: tuple[int, int], pixel_A: float) -> np.ndarray:
    return np.add.outer(np.fft.fftfreq(shape_xy[0], pixel_A) ** 2, np.fft.fftfreq(shape_xy[1], pixel_A) ** 2)


def open_microscope(**changes: float) -> MicroscopeSpec:
    return MicroscopeSpec(aperture_per_A=100.0, **changes)


@st.composite
def microscopes(draw: st.DrawFn) -> MicroscopeSpec:
    values = {name: draw(st.floats(-limit, limit)) for name, limit in COEFFICIENTS.items()}
    azimuths = {f"{name}_deg": draw(st.floats(-180, 180)) for name in AZIMUTHS}
    return MicroscopeSpec(energy_keV=draw(ENERGIES), aperture_per_A=draw(st.floats(0.2, 2)),
                          aperture_edge_per_A=draw(st.sampled_from([0.0, 0.1])),
                          focal_spread_sigma_nm=draw(st.floats(0, 5)),
                          convergence_sigma_mrad=draw(st.floats(0, 0.5)), **values, **azimuths)


@given(ENERGIES, DEFOCI)
def test_defocus_alone_conserves_the_wave(energy_keV: float, defocus_A: float) -> None:
    wave = np.random.default_rng(1).normal(size=(*SHAPE, 2)) @ [1, 1j]
    microscope = open_microscope(energy_keV=energy_keV)
    there = imaging.transfer_function(SHAPE, 0.5, microscope, defocus_A)
    back = imaging.transfer_function(SHAPE, 0.5, microscope, -defocus_A)
    image = np.fft.ifft2(np.fft.fft2(wave) * there)
    assert np.sum(np.abs(image) ** 2) == pytest.approx(np.sum(np.abs(wave) ** 2), rel=1e-12)
    np.testing.assert_allclose(np.fft.ifft2(np.fft.fft2(image) * back), wave, atol=1e-12)


@settings(max_examples=50)
@given(microscopes(), DEFOCI, st.sampled_from([2 / 3, 1.0]))
def test_vacuum_passes_and_nothing_is_amplified(microscope: MicroscopeSpec, defocus_A: float, limit: float) -> None:
    transfer = imaging.transfer_function(SHAPE, 0.4, microscope, defocus_A, band_limit=limit)
    assert transfer.dtype == np.complex128 and transfer.shape == SHAPE
    assert transfer[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert np.abs(transfer).max() <= 1 + 1e-12


@given(DEFOCI, st.floats(-2, 2), st.floats(0, 5), st.floats(0, 0.5))
def test_round_aberrations_are_even_in_q(defocus_A: float, Cs_mm: float, spread: float, convergence: float) -> None:
    microscope = MicroscopeSpec(Cs_mm=Cs_mm, C5_mm=1.0, focal_spread_sigma_nm=spread,
                                convergence_sigma_mrad=convergence)
    transfer = imaging.transfer_function((9, 13), 0.5, microscope, defocus_A)
    np.testing.assert_allclose(transfer[1:], transfer[:0:-1], atol=1e-12)
    np.testing.assert_allclose(transfer[:, 1:], transfer[:, :0:-1], atol=1e-12)


@pytest.mark.parametrize(("name", "symmetry"), [("A1", 2), ("B2", 1), ("A2", 3), ("S3", 2), ("A3", 4), ("B4", 1),
                                                ("D4", 3), ("A4", 5), ("S5", 2), ("R5", 4), ("A5", 6)])
def test_an_azimuth_of_one_period_changes_nothing(name: str, symmetry: int) -> None:
    key = next(key for key in COEFFICIENTS if key.startswith(name))
    microscope = open_microscope(energy_keV=200.0, **{key: COEFFICIENTS[key], f"{name}_deg": 25.0})
    reference = imaging.transfer_function(SHAPE, 0.5, microscope, 0.0)
    same = dataclasses.replace(microscope, **{f"{name}_deg": 25.0 + 360 / symmetry})
    opposite = dataclasses.replace(microscope, **{f"{name}_deg": 25.0 + 180 / symmetry, key: -COEFFICIENTS[key]})
    other = dataclasses.replace(microscope, **{f"{name}_deg": 25.0 + 90 / symmetry})
    np.testing.assert_allclose(imaging.transfer_function(SHAPE, 0.5, same, 0.0), reference, atol=1e-9)
    np.testing.assert_allclose(imaging.transfer_function(SHAPE, 0.5, opposite, 0.0), reference, atol=1e-9)
    assert np.abs(imaging.transfer_function(SHAPE, 0.5, other, 0.0) - reference).max() > 1e-2


def test_defocus_is_the_paraxial_parabola_at_small_angles() -> None:
    transfer = imaging.transfer_function((64, 48), 2.0, open_microscope(), 100.0)
    q2 = squared_frequencies((64, 48), 2.0)
    np.testing.assert_allclose(transfer, np.exp(-1j * np.pi * 0.0196875 * 100.0 * q2), atol=1e-4)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_each_aberration_has_its_factor_and_power(name: str) -> None:
    """A coefficient that makes exp(-2πi W/λ) a phase of -½ rad at the azimuth 0 along +x, where every cosine is 1."""
    wavelength_A, (factor, power) = 0.01968749, TERMS[name]
    angle = wavelength_A / 5  # of the frequency 1/(10 · 0.5 Å)
    coefficient = 0.5 * wavelength_A / (2 * np.pi * factor * angle**power)
    transfer = imaging.transfer_function(SHAPE, 0.5, open_microscope(energy_keV=300.0, **{name: coefficient}), 0.0)
    assert np.angle(transfer[1, 0]) == pytest.approx(-0.5, rel=1e-5)


def test_focal_spread_averages_the_wave_over_defocus() -> None:
    spread_A, defocus_A = 30.0, 250.0
    offsets, weights = np.polynomial.hermite_e.hermegauss(15)
    waves = [imaging.transfer_function(SHAPE, 0.8, open_microscope(Cs_mm=1.0), defocus_A + spread_A * offset)
             for offset in offsets]
    expected = np.tensordot(weights / weights.sum(), waves, axes=1)
    microscope = open_microscope(Cs_mm=1.0, focal_spread_sigma_nm=spread_A / 10)
    np.testing.assert_allclose(imaging.transfer_function(SHAPE, 0.8, microscope, defocus_A), expected, atol=1e-7)


def test_convergence_damps_by_the_slope_of_the_phase() -> None:
    """The slope by central differences: a shift of the frequency grid is a change of its sampling about one axis."""
    settings_ = {"energy_keV": 200.0, "Cs_mm": 1.0, "A1_nm": 40.0, "A1_deg": 15.0, "B2_nm": 300.0, "B2_deg": 70.0,
                 "A2_nm": 200.0, "A2_deg": -40.0, "S3_um": 5.0, "D4_um": 40.0, "A4_um": 40.0, "R5_mm": 5.0,
                 "S5_mm": 5.0, "A5_mm": 5.0, "A3_um": 10.0, "B4_um": 20.0, "C5_mm": 10.0}
    sharp = open_microscope(**settings_)
    n, pixel_A, step = 4001, 1.0, 1e-3
    sigma_mrad = 0.2
    blurred = open_microscope(**settings_, convergence_sigma_mrad=sigma_mrad)
    damping = -2 * np.log(np.abs(imaging.transfer_function((n, 5), pixel_A, blurred, -400.0)))
    spread_per_A = 1e-3 * sigma_mrad / physics.wavelength_A(200.0)
    transfer = imaging.transfer_function((n, 5), pixel_A, sharp, -400.0)
    along_x = np.angle(transfer[2:1200] / transfer[:1198]) * n * pixel_A / 2
    # Along y the grid is coarse, so the slope comes from slightly changed samplings of the same five columns.
    wide = imaging.transfer_function((n, 5), pixel_A * (1 + step), sharp, -400.0)
    narrow = imaging.transfer_function((n, 5), pixel_A * (1 - step), sharp, -400.0)
    radial = np.angle(narrow / wide)[1:1199] / (2 * step)
    q_x = np.fft.fftfreq(n, pixel_A)[1:1199, None]
    q_y = np.fft.fftfreq(5, pixel_A)[None, :]
    along_y = np.divide(radial - q_x * along_x, q_y, out=np.zeros_like(radial), where=q_y != 0)
    expected = spread_per_A**2 * (along_x**2 + along_y**2)
    inside = slice(1, 3)
    np.testing.assert_allclose(damping[1:1199, inside], expected[:, inside], rtol=5e-3, atol=2e-3)


def test_hard_aperture_keeps_its_edge_and_smooth_one_falls_about_it() -> None:
    hard = imaging.pupil((8, 10), 0.5, MicroscopeSpec(aperture_per_A=1.0))
    assert hard[4, 0] == 1 and hard[4, 1] == 0 and set(np.unique(hard)) == {0.0, 1.0}
    smooth = imaging.pupil((400, 6), 0.5, MicroscopeSpec(aperture_per_A=0.5, aperture_edge_per_A=0.1))[:200, 0]
    q = np.fft.fftfreq(400, 0.5)[:200]
    assert smooth[np.isclose(q, 0.5)] == pytest.approx(0.5)
    assert np.all(smooth[q <= 0.45] == 1) and np.all(smooth[q >= 0.55] == 0) and np.all(np.diff(smooth) <= 0)


def test_band_limit_cuts_a_circle_at_its_share_of_nyquist() -> None:
    q = np.sqrt(squared_frequencies((24, 30), 0.5))
    limited = imaging.transfer_function((24, 30), 0.5, open_microscope(), 100.0, band_limit=2 / 3)
    free = imaging.transfer_function((24, 30), 0.5, open_microscope(), 100.0)
    np.testing.assert_array_equal(np.abs(limited) > 0, q <= 2 / 3 + 1e-9)
    assert np.abs(free).min() == pytest.approx(1)


@given(st.floats(0.05, 1.0), st.integers(0, 1000))
def test_detector_blur_keeps_the_mean_and_halves_at_half_the_sampling_frequency(mtf_half: float, seed: int) -> None:
    images = np.random.default_rng(seed).uniform(0.5, 1.5, (2, 3, *SHAPE))
    mtf = imaging.detector_mtf(SHAPE, 0.5, mtf_half)
    assert mtf[0, 0] == 1 and mtf[SHAPE[0] // 2, 0] == pytest.approx(mtf_half)
    assert mtf[0, SHAPE[1] // 2] == pytest.approx(mtf_half)
    assert mtf[SHAPE[0] // 2, SHAPE[1] // 2] == pytest.approx(mtf_half**2)
    blurred = imaging.blur_by_detector(images, mtf)
    np.testing.assert_allclose(blurred.mean(axis=(-2, -1)), images.mean(axis=(-2, -1)), rtol=1e-12)
    np.testing.assert_allclose(blurred, np.fft.ifft2(np.fft.fft2(images) * mtf).real, atol=1e-12)


def test_detector_blur_is_the_gaussian_of_its_docstring() -> None:
    shape, mtf_half = (64, 64), 1e-6
    point = np.zeros(shape)
    point[32, 32] = 1.0
    spread = imaging.blur_by_detector(point, imaging.detector_mtf(shape, 0.3, mtf_half))
    variance = np.sum(spread * (np.arange(64)[:, None] - 32) ** 2)
    assert np.sqrt(variance) == pytest.approx(np.sqrt(2 * np.log(1 / mtf_half)) / np.pi, rel=1e-6)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_binning_keeps_vacuum_mean_and_centre(factor: int, seed: int) -> None:
    fine = np.random.default_rng(seed).uniform(0, 2, (2, 3 * factor, 5 * factor))
    coarse = imaging.bin_pixels(fine, factor)
    assert coarse.shape == (2, 3, 5)
    np.testing.assert_allclose(coarse.mean(axis=(1, 2)), fine.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_array_equal(imaging.bin_pixels(np.ones((6 * factor, 4 * factor)), factor), 1)
    ramp = np.broadcast_to(np.arange(6 * factor)[:, None] - (6 * factor - 1) / 2, (6 * factor, 4 * factor))
    np.testing.assert_allclose(imaging.bin_pixels(ramp, factor)[:, 0], (np.arange(6) - 2.5) * factor, atol=1e-12)


def test_binning_refuses_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="cannot be binned"):
        imaging.bin_pixels(np.ones((7, 8)), 2)
