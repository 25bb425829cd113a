"""Electrons per pixel of a series, by the variance of the counts in vacuum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft

from aetlab.series.prepare.bad_pixels import no_bad_pixels
from aetlab.series.prepare.electrons import find_electrons
from tests.test_series_prepare import SHAPE, X, Y, poisson


@pytest.mark.parametrize("known", [False, True])
def test_electrons_per_pixel_come_from_variance_also_through_an_mtf(known: bool) -> None:
    rng = np.random.default_rng(7)
    shape, n, gain = (40, 1, *SHAPE), 50.0, 30.0
    counts = poisson(rng, np.ones(shape), n, gain)
    q = np.hypot(scipy.fft.fftfreq(SHAPE[0])[:, None], scipy.fft.fftfreq(SHAPE[1]))
    blurred = scipy.fft.ifft2(scipy.fft.fft2(counts) * np.exp(-((q / 0.4) ** 2))).real
    curve = np.linspace(0, 0.8, 60)
    table = (curve, np.exp(-((curve / 0.4) ** 2))) if known else None
    for images, mtf, limit in ((counts, table, 0.02), (blurred, table, 0.05)):
        every = np.ones((40, 1))
        found = find_electrons(images / (n * gain), np.ones(shape, bool), no_bad_pixels(SHAPE), n * gain * every,
                               every > 0, mtf=mtf, dqe=1.0, pattern_variance=np.zeros(SHAPE),
                               dose_e_A2=200 * every, pixel_A=0.5, source="find", counts_per_electron=60.0)
        assert found.by_variance == pytest.approx(n, rel=limit)
        assert found.by_table == pytest.approx(50) and found.by_gain == pytest.approx(25)
        assert found.verdict == "look" and "the gain says -" in found.line


def test_noise_from_which_an_illumination_was_fitted_counts_as_white() -> None:
    """A fit of 60 cosines takes 60 of 4 608 degrees of freedom: neighbours then correlate by about -0.01."""
    rng, n = np.random.default_rng(24), 250.0
    waves = [[np.cos(np.pi * k * (np.arange(size) + 0.5) / size) for k in range(9)] for size in SHAPE]
    fields = np.array([np.outer(waves[0][a], waves[1][b]).ravel() for a in range(9) for b in range(9) if a + b < 10])
    basis = np.linalg.qr(fields.T)[0]
    noise = rng.poisson(n, (40, SHAPE[0] * SHAPE[1])) / n - 1
    images = (1 + noise - (noise @ basis) @ basis.T).reshape(40, 1, *SHAPE)
    found = find_electrons(images, np.ones(images.shape, bool), no_bad_pixels(SHAPE), np.full((40, 1), n),
                           np.ones((40, 1), bool), pattern_variance=np.zeros(SHAPE), dose_e_A2=None, pixel_A=0.4,
                           dqe=1.0, counts_per_electron=None, mtf=None, source="variance")
    assert found.correlation < -0.005 and found.by_variance == pytest.approx(n, rel=0.02)


@pytest.mark.parametrize(("strength", "source"), [(0.15, "variance"), (3.0, "table")])
def test_fringes_in_the_vacuum_do_not_count_as_noise(strength: float, source: str) -> None:
    """Fringes of ``strength`` times the noise, at 0.32 to 0.5 of the pixel's frequency, and a fitted illumination."""
    rng, n, shape = np.random.default_rng(31), 400.0, (40, 1, *SHAPE)
    q = np.hypot(scipy.fft.fftfreq(SHAPE[0])[:, None], scipy.fft.fftfreq(SHAPE[1]))
    band = (q > 0.32) & (q < 0.5)
    fringes = scipy.fft.ifft2(scipy.fft.fft2(rng.normal(size=shape)) * band * np.sqrt(strength / n / band.mean())).real
    images = rng.poisson(n * (1 + fringes).clip(0)) / n
    flat = images.reshape(40, -1)
    powers = [(X / 36) ** a * (Y / 32) ** b for a in range(5) for b in range(5 - a)]
    slow = np.linalg.qr(np.stack(powers, axis=-1).reshape(-1, 15))[0]
    images = (flat - (flat - 1) @ slow @ slow.T).reshape(shape)
    found = find_electrons(images, np.ones(shape, bool), no_bad_pixels(SHAPE), np.full((40, 1), n),
                           np.ones((40, 1), bool), pattern_variance=np.zeros(SHAPE),
                           dose_e_A2=np.full((40, 1), 1.1 * n), pixel_A=1.0, dqe=1.0, counts_per_electron=None,
                           mtf=None, source="find")
    assert found.correlation < -0.01 and found.source == source
    # Fringes of 3 times the noise reach into the ring between: the error says so.
    assert found.by_variance == pytest.approx(n, rel=0.03 if source == "variance" else 0.2)
    assert 0.02 < found.variance_error < 0.1 if source == "variance" else found.variance_error > 0.2
