"""The alignment on a GPU against that on the CPU, by kernels compiled for the processor."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from gpu_equations import NOMINAL, OFF, check_equations, make_both
from host_device import HostDevice, host_library

from aetlab.core.nouns import TiltSeries
from aetlab.forward.alignment import Search, TiltAligner
from aetlab.forward.model import ForwardModel
from aetlab.forward.posed_images import PosedOptics, predict_amplitudes
from aetlab.forward.resampling import rotate_images
from aetlab.forward.tilt_equations import AddedColumns, PosedTilt
from aetlab.gpu import GpuModel, GpuTiltEquations, equations_bytes
from aetlab.gpu.footprint import exit_waves_bytes
from aetlab.spec import MicroscopeSpec

MICROSCOPE = MicroscopeSpec()
BLURRED = MicroscopeSpec(mtf_half=0.6)
TILT_DEG = np.array([-50.0, 0.0, 40.0])
DEFOCUS_A = np.array([200.0, 450.0, 300.0])
LAYERS = 4


@pytest.fixture(scope="module")
def device() -> HostDevice:
    return HostDevice(host_library())


def make_volume(shape: tuple[int, int, int]) -> np.ndarray:
    """Return Gaussian atoms in the middle of ``shape``."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"), axis=-1)
    volume = np.zeros(shape)
    for centre in rng.uniform(-0.3, 0.3, (20, 3)) * shape:
        volume += 60 * np.exp(-((grid - centre) ** 2).sum(axis=-1) / 2)
    return volume.astype(np.float32)


def make_series(shape: tuple[int, int, int], microscope: MicroscopeSpec = MICROSCOPE) -> TiltSeries:
    """Return noise-free images of :func:`make_volume`."""
    empty = TiltSeries(np.ones((3, 3, *shape[1:]), np.float32), TILT_DEG, DEFOCUS_A, 0.5)
    amplitudes = predict_amplitudes(empty, make_volume(shape), None, microscope=microscope, n_layers_per_slice=LAYERS,
                                    rotation="cubic")
    return dataclasses.replace(empty, images=np.stack(list(amplitudes)) ** 2)


def with_bad_pixels(series: TiltSeries) -> TiltSeries:
    """Return ``series`` with counts, images of different weights and defoci, one missing, and bad pixels."""
    rng = np.random.default_rng(2)
    by_pixel = rng.uniform(0.5, 1.0, series.images.shape).astype(np.float32)
    by_pixel[1, 0, 4:7, 3:5] = 0
    images, weight = rng.poisson(900 * np.maximum(series.images, 0)) / 900, np.ones((3, 3))
    images[0, 1], weight[0, 1], weight[2, 0] = np.nan, 0, 0.7
    return dataclasses.replace(series, images=images.astype(np.float32), weight=weight, pixel_weight=by_pixel,
                               electrons_per_pixel=900.0, defocus_A=series.defocus_A + np.arange(3.0)[:, None])


@pytest.mark.parametrize(("shape", "microscope", "irregular"), [
    ((12, 16, 20), BLURRED, True), ((9, 13, 11), BLURRED, False), ((9, 13, 11), MICROSCOPE, True)],
    ids=["fused, blurred, irregular", "library, blurred", "library, irregular"])
def test_equations_searches_and_places_agree_with_the_cpu(device: HostDevice, shape: tuple[int, int, int],
                                                          microscope: MicroscopeSpec, irregular: bool) -> None:
    """Planes of the fused kernels and of the FFT library, with an odd number of images; nothing is written outside."""
    series = make_series(shape, microscope)
    series = with_bad_pixels(series) if irregular else series
    own = np.array([[0.1, -0.2, 3.0, 0.02], [-0.1, 0.1, -3.0, -0.02], [0, 0.1, 1.0, 0.01]])
    factors = np.array([0.4, 1.0, 0.8]) if irregular else None
    tilts = [PosedTilt(1, NOMINAL, None, factors), PosedTilt(2, OFF, own, factors)]
    check_equations(series, shape, device, 0.8 * make_volume(shape), microscope=microscope, n_layers=LAYERS,
                    tilts=tilts)
    device.check_guards()


def test_images_of_weight_0_and_rows_of_weights_agree_with_the_cpu(device: HostDevice) -> None:
    """Without weights of pixels, those of images are weights of rows."""
    shape = (12, 16, 20)
    series = dataclasses.replace(make_series(shape), weight=np.array([[1.0, 1, 1], [0.5, 1, 0], [1, 1, 1]]))
    check_equations(series, shape, device, 0.8 * make_volume(shape), microscope=MICROSCOPE, n_layers=LAYERS,
                    tilts=[PosedTilt(1, OFF)])


@pytest.mark.parametrize("angle_deg", [0.0, 0.7, -30.0, 60.0, -100.0])
def test_a_wave_is_turned_as_on_the_cpu(device: HostDevice, angle_deg: float) -> None:
    shape = (8, 16, 16)
    _, gpu = make_both(make_series(shape), shape, device, microscope=MICROSCOPE, n_layers=LAYERS)
    wave = np.random.default_rng(3).standard_normal((2, 16, 16, 2)).view(complex)[..., 0]
    turned = device.upload(wave.astype(np.complex64))
    gpu._turn(turned, angle_deg)
    real, imaginary = (rotate_images(part, angle_deg) for part in (wave.real, wave.imag))
    np.testing.assert_allclose(turned, real + 1j * imaginary, atol=2e-6)


def test_single_images_and_magnifications_are_aligned_as_on_the_cpu(device: HostDevice) -> None:
    """With weights by misfits; the measured images are sent again when their magnification changes."""
    shape, options = (12, 16, 20), {"microscope": MICROSCOPE, "n_layers_per_slice": LAYERS}
    series, volume, states = with_bad_pixels(make_series(shape)), 0.9 * make_volume(shape), []
    images = series.images.copy()
    images[1, 2] = np.roll(images[1, 2], 5, axis=0)[:, ::-1]
    series = dataclasses.replace(series, images=images)
    for on_gpu in (False, True):
        model = GpuModel(series, shape, device=device, **options) if on_gpu else ForwardModel(series, shape, **options)
        make = functools.partial(GpuTiltEquations, model=model) if on_gpu else None
        aligner = TiltAligner(model, series, shape, robust=True, images=True, magnification=True, make_equations=make,
                              **options)
        potential_V = device.upload(volume) if on_gpu else volume
        for first in (True, False, False):
            aligner.align(potential_V, Search(1.0, np.linspace(-20, 20, 3)), smoothing_A=0.5, angles=False, first=first)
        aligner.weigh(potential_V)
        states.append({**aligner.state, "cost": np.array([model.cost(potential_V, i) for i in range(3)])})
    expected, found = states
    assert np.abs(expected["magnification"] - 1).max() > 1e-4 and np.abs(expected["of_images"][..., :2]).max() > 0.05
    assert expected["image_factors"].min() < 0.99
    for name, allowed in (("tilts", [1e-9, 5e-3, 1e-3, 1e-3, 0.1, 1e-4]), ("of_images", [1e-3, 1e-3, 0.1, 1e-4]),
                          ("magnification", 1e-5), ("image_factors", 1e-3), ("cost", 1e-3 * expected["cost"])):
        assert (np.abs(found[name] - expected[name]) <= allowed).all(), name


def test_sums_do_not_depend_on_the_threads_of_a_block(device: HostDevice) -> None:
    shape, found = (12, 16, 20), []
    series = with_bad_pixels(make_series(shape))
    for of in (device, HostDevice(host_library(), n_waiting=16)):
        _, gpu = make_both(series, shape, of, microscope=MICROSCOPE, n_layers=LAYERS)
        found.append(gpu.compare(of.upload(make_volume(shape)), PosedTilt(0, OFF), 0.5).products)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9 * np.abs(found[1]).max())


@pytest.mark.parametrize(("shape", "microscope"), [((11, 16, 20), MICROSCOPE), ((9, 13, 11), BLURRED)],
                         ids=["ideal", "blurred"])
def test_the_estimate_of_memory_is_that_of_the_allocated_arrays(shape: tuple[int, int, int],
                                                                microscope: MicroscopeSpec) -> None:
    device, series = HostDevice(host_library()), make_series(shape)
    options = {"microscope": microscope, "n_layers_per_slice": LAYERS}
    model = GpuModel(series, shape, device=device, **options)
    volume, before = device.zeros(shape, np.float32), device.n_bytes
    equations = GpuTiltEquations(PosedOptics(series, shape, **options), series, AddedColumns(), model=model)
    held = device.n_bytes - before
    tilt = PosedTilt(0, OFF)
    equations.compare(volume, tilt, 0.5)
    equations.search(volume, tilt, 0.5, np.zeros(3), 2)
    assert device.n_bytes - before - held == 3 * (3 * 32 + 24)  # poses that are tried, and what is found
    needed = (exit_waves_bytes(shape, LAYERS) + equations_bytes(shape, 3, 3, mtf=microscope is BLURRED))
    # The FFT library holds nothing here; twiddles, orders of frequencies, ramps and sums are small.
    fft_room = 2 * (1 + 6 * 3) * 8 * shape[1] * shape[2]
    assert needed - fft_room <= held <= needed - fft_room + 5000
