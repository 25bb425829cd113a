"""Poisson counts: their mean, variance, reproducibility and normalisation."""

import math

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.forward import noise

PIXEL_A = 0.5


def flat_series(intensity: float) -> TiltSeries:
    images = np.full((1, 1, 100, 100), intensity, np.float32)
    return TiltSeries(images, np.zeros(1), np.zeros(1), PIXEL_A)


@pytest.mark.parametrize("dose_e_A2", [1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("intensity", [0.25, 1.0, 1.5])
def test_mean_and_variance_within_three_standard_errors(dose_e_A2: float, intensity: float) -> None:
    electrons = noise.effective_electrons_per_pixel(dose_e_A2, PIXEL_A)
    assert electrons == pytest.approx(dose_e_A2 * 0.25)
    noisy = noise.add_shot_noise(flat_series(intensity), electrons, np.random.default_rng(5))
    counts = noisy.images.ravel().astype(np.float64) * electrons
    mean = intensity * electrons
    assert abs(counts.mean() - mean) < 3 * math.sqrt(mean / counts.size)
    # The variance of a sample variance is (μ4 - σ⁴)/n, and μ4 = 3 λ² + λ for Poisson counts of mean λ.
    assert abs(counts.var(ddof=1) - mean) < 3 * math.sqrt((2 * mean**2 + mean) / counts.size)
    if mean < 1e4:
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert noisy.mean_electrons_per_pixel == electrons and noisy.images.dtype == np.float32


def test_infinite_dose_changes_nothing() -> None:
    series = flat_series(0.7)
    assert noise.add_shot_noise(series, math.inf, np.random.default_rng(0)) is series


def test_counts_are_independent_between_pixels_and_repeat_with_the_seed() -> None:
    first = noise.add_shot_noise(flat_series(1.0), 20.0, np.random.default_rng(3)).images[0, 0]
    again = noise.add_shot_noise(flat_series(1.0), 20.0, np.random.default_rng(3)).images[0, 0]
    other = noise.add_shot_noise(flat_series(1.0), 20.0, np.random.default_rng(4)).images[0, 0]
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    for shifted in (np.roll(first, 1, 0), np.roll(first, 1, 1), other):
        assert abs(np.corrcoef(first.ravel(), shifted.ravel())[0, 1]) < 3 / math.sqrt(first.size)


def test_dqe_lowers_the_effective_electrons_and_so_the_signal_to_noise() -> None:
    perfect = noise.add_shot_noise(flat_series(1.0), noise.effective_electrons_per_pixel(400.0, PIXEL_A),
                                   np.random.default_rng(1)).images
    half = noise.add_shot_noise(flat_series(1.0), noise.effective_electrons_per_pixel(400.0, PIXEL_A, dqe=0.5),
                                np.random.default_rng(2)).images
    assert half.var() / perfect.var() == pytest.approx(2.0, rel=0.06)


def test_negative_intensities_give_no_counts() -> None:
    noisy = noise.add_shot_noise(flat_series(-1e-3), 100.0, np.random.default_rng(0))
    assert np.all(noisy.images == 0)


@pytest.mark.parametrize("electrons", [0.0, -1.0, math.nan])
def test_a_dose_that_is_not_positive_is_refused(electrons: float) -> None:
    with pytest.raises(ValueError, match="must be greater than 0"):
        noise.add_shot_noise(flat_series(1.0), electrons, np.random.default_rng(0))
