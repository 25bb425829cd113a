"""The whole forward model: gradient, incremental step, convention of tilt and defocus, precision."""

from __future__ import annotations

import numpy as np
import pytest

from aetlab.core import physics
from aetlab.core.nouns import TiltSeries
from aetlab.forward.imaging import transfer_function
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import exit_wave, propagator
from aetlab.methods.rotations import rotate_and_bin
from aetlab.spec import MicroscopeSpec

SHAPE = (8, 10, 12)
TILT_DEG = np.array([0.0, 31.7, 117.3])
DEFOCUS_A = np.array([200.0, 450.0])
MICROSCOPE = MicroscopeSpec(Cs_mm=0.01, A1_nm=2.0, A1_deg=20.0)


def _series(rng: np.random.Generator) -> TiltSeries:
    images = rng.uniform(0.5, 1.5, (len(TILT_DEG), len(DEFOCUS_A), *SHAPE[1:]))
    return TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5)


def _model(series: TiltSeries, rotation: str = "linear", dtype: type = np.float64, blur_A: float = 0.0) -> ForwardModel:
    return ForwardModel(series, SHAPE, microscope=MICROSCOPE, n_layers_per_slice=3, rotation=rotation, dtype=dtype,
                        blur_A=blur_A)


@pytest.mark.parametrize(("rotation", "blur_A"),
                         [("linear", 0.0), ("cubic", 0.0), ("fourier", 0.0), ("linear", 0.35), ("fourier", 0.5)])
def test_gradient_against_central_differences(rotation: str, blur_A: float) -> None:
    rng = np.random.default_rng(1)
    model = _model(_series(rng), rotation, blur_A=blur_A)
    volume = rng.uniform(0, 60, SHAPE)
    for i_tilt in range(model.n_tilts):
        cost, gradient = model.cost_and_gradient(volume, i_tilt)
        assert cost == model.cost(volume, i_tilt)
        for _ in range(3):
            direction = rng.standard_normal(SHAPE)
            h = 1e-4
            slope = (model.cost(volume + h * direction, i_tilt) - model.cost(volume - h * direction, i_tilt)) / (2 * h)
            np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6)


@pytest.mark.parametrize("rotation", ["linear", "fourier"])
def test_descend_is_a_step_along_the_gradient(rotation: str) -> None:
    rng = np.random.default_rng(2)
    model = _model(_series(rng), rotation)
    volume, metric = rng.uniform(0, 60, SHAPE), rng.uniform(0.1, 10, SHAPE)
    cost, gradient = model.cost_and_gradient(volume, 1)
    stepped, scaled = volume.copy(), volume.copy()
    assert model.descend(stepped, 1, 3.0) == cost
    np.testing.assert_allclose(stepped, volume - 3.0 * gradient, rtol=1e-12)
    assert model.descend(scaled, 1, 3.0, metric) == cost
    np.testing.assert_allclose(scaled, volume - 3.0 * metric * gradient, rtol=1e-12)


def test_images_of_the_true_volume_have_no_cost() -> None:
    """Compute the images step by step as docs/conventions.md says: rotation, then defocus from the centre."""
    rng = np.random.default_rng(3)
    volume = rng.uniform(0, 60, SHAPE)
    wavelength_A = physics.wavelength_A(MICROSCOPE.energy_keV)
    optics = dict(phase_per_V=physics.interaction_parameter(MICROSCOPE.energy_keV) * 0.5, gap_A=1.0, pixel_A=0.5,
                  wavelength_A=wavelength_A)
    images = np.empty((len(TILT_DEG), len(DEFOCUS_A), *SHAPE[1:]))
    for i, tilt_deg in enumerate(TILT_DEG):
        wave = np.fft.fft2(exit_wave(rotate_and_bin(volume, tilt_deg, 2), **optics))
        # Four slices of two layers: the last one's middle lies 1.5 Å behind the centre.
        at_centre = wave * propagator(SHAPE[1:], 0.5, wavelength_A, -1.5)
        for j, defocus_A in enumerate(DEFOCUS_A):
            transfer = transfer_function(SHAPE[1:], 0.5, MICROSCOPE, float(defocus_A))
            images[i, j] = np.abs(np.fft.ifft2(at_centre * transfer)) ** 2
    model = ForwardModel(TiltSeries(images, TILT_DEG, DEFOCUS_A, 0.5), SHAPE, microscope=MICROSCOPE,
                         n_layers_per_slice=2, dtype=np.float64)
    for i_tilt in range(model.n_tilts):
        assert model.cost(volume, i_tilt) < 1e-20
        assert model.cost(0.9 * volume, i_tilt) > 1e-6


def test_float32_follows_float64() -> None:
    rng = np.random.default_rng(4)
    series = _series(rng)
    double, single = _model(series), _model(series, dtype=np.float32)
    volume = rng.uniform(0, 60, SHAPE)
    cost_double, gradient_double = double.cost_and_gradient(volume, 1)
    cost_single, gradient_single = single.cost_and_gradient(volume.astype(np.float32), 1)
    assert gradient_single.dtype == np.float32
    assert cost_single == pytest.approx(cost_double, rel=1e-5)
    np.testing.assert_allclose(gradient_single, gradient_double, atol=1e-4 * np.abs(gradient_double).max())


def test_images_that_do_not_fit_the_volume_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ForwardModel(_series(np.random.default_rng(5)), (8, 12, 12), microscope=MICROSCOPE, n_layers_per_slice=3)
