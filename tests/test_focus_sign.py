"""The sign of the defocus from the skewness of the phase."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.core.physics import wavelength_A
from aetlab.series.prepare.focus_sign import find_focus_sign, with_focus_sign
from aetlab.spec import MicroscopeSpec

LENS = MicroscopeSpec(energy_keV=300.0)
NO_SHIFT = np.zeros((9, 2, 2))


def weak_phase_series(defocus_A: np.ndarray, n_electrons: float) -> TiltSeries:
    """Return images 1 + 2 sin(πλ Δf q²) φ of peaks of phase at random places, overfocus bright, with counting noise."""
    rng, n, pixel_A = np.random.default_rng(5), 64, 0.5
    x = (np.arange(n) - n / 2) * pixel_A
    q = np.fft.fftfreq(n, pixel_A)
    q2 = q[:, None] ** 2 + q[None, :] ** 2
    images = np.empty((9, len(defocus_A), n, n))
    for tilt in images:
        places = rng.uniform(-8, 8, (60, 2))
        phase = sum(0.05 * np.exp(-((x[:, None] - a) ** 2 + (x - b) ** 2) / 0.3) for a, b in places)
        for image, at_A in zip(tilt, defocus_A, strict=True):
            contrast = np.fft.ifft2(2 * np.sin(np.pi * wavelength_A(300.0) * at_A * q2) * np.fft.fft2(phase)).real
            image[:] = rng.poisson(n_electrons * (1 + contrast)) / n_electrons
    return TiltSeries(images.astype(np.float32), np.arange(-40.0, 41, 10), defocus_A, pixel_A, n_electrons)


@pytest.mark.parametrize("defocus_A", [[-200.0, -450.0], [300.0, 500.0], [-400.0], [-150.0, 250.0]])
def test_a_defocus_of_the_opposite_sign_is_found_and_mended(defocus_A: list[float]) -> None:
    series = weak_phase_series(np.array(defocus_A), 400.0)
    kept, step = with_focus_sign(series, LENS, "find", NO_SHIFT)
    assert kept is series and step.verdict == "ok" and step.numbers["sign"] == 1
    wrong = weak_phase_series(np.array(defocus_A), 400.0)
    wrong.defocus_A[:] *= -1
    mended, step = with_focus_sign(wrong, LENS, "find", NO_SHIFT)
    np.testing.assert_array_equal(mended.defocus_A, series.defocus_A)
    assert step.verdict == "look" and "changed their sign" in step.line and step.numbers["sign"] == -1
    kept, step = with_focus_sign(wrong, LENS, "given", NO_SHIFT)
    assert kept is wrong and step.verdict == "look" and "defocus_sign=given" in step.line


def test_images_without_signal_do_not_tell_the_sign() -> None:
    series = weak_phase_series(np.array([0.0]), 400.0)
    assert abs(find_focus_sign(series, LENS, NO_SHIFT).evidence) < 3
    kept, step = with_focus_sign(series, LENS, "find", NO_SHIFT)
    assert kept is series and step.verdict == "look" and "do not tell" in step.line
    assert with_focus_sign(series, None, "find", NO_SHIFT)[0] is series
