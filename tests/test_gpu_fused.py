"""Fused multislice kernels of the GPU engine, compiled for the processor, against float64 on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpu_slices import CostOfSlices
from host_device import HostDevice, host_library

from aetlab import gpu
from aetlab.core.nouns import TiltSeries
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.gpu import fused, kernels
from aetlab.gpu.multislice import GpuWaves
from aetlab.refinement import tables
from aetlab.spec import MicroscopeSpec

#: Every radix alone and with others, first and last, and sides that are no multiples of a block's columns.
PLANES = ((16, 18), (25, 20), (27, 45), (48, 30), (32, 50), (64, 16), (40, 72))
DEFOCUS_A = np.array([200.0, 450.0])


@pytest.fixture
def device() -> Iterator[HostDevice]:
    device = HostDevice(host_library())
    yield device
    device.check_guards()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def case(shape_xy: tuple[int, int], n_layers: int = 2) -> tuple[object, np.ndarray, np.ndarray, np.ndarray]:
    """Return optics of 5 layers, random slices, amplitudes and weights."""
    rng = np.random.default_rng(shape_xy[0])
    amplitude, weight = (rng.uniform(0.7, 1.3, (2, *shape_xy)).astype(np.float32) for _ in range(2))
    series = TiltSeries(amplitude[None], np.zeros(1), DEFOCUS_A, 0.5)
    optics = series_optics(series, (5, *shape_xy), MicroscopeSpec(Cs_mm=0.01, A1_nm=2.0, A1_deg=20.0), n_layers)
    slices = rng.uniform(0, 300, (-(-5 // n_layers), *shape_xy))
    return optics, slices, amplitude, weight


@pytest.mark.parametrize("shape_xy", PLANES, ids=str)
def test_cost_and_gradient_agree_with_float64(device: HostDevice, shape_xy: tuple[int, int]) -> None:
    optics, slices, amplitude, weight = case(shape_xy)
    assert fused.fits(shape_xy)
    cost, reference = CostOfSlices(device, optics), Multislice(optics, np.float64)
    for by in (None, weight):
        found, expected = slices.astype(np.float32), slices.copy()
        both = [of.cost_and_gradient(s, amplitude, by) for of, s in ((cost, found), (reference, expected))]
        assert both[0] == pytest.approx(both[1], rel=2e-6)
        assert relative_error(found, expected) < 5e-6


@pytest.mark.parametrize("n_layers", [1, 5])
def test_one_slice_and_many_agree_with_float64(device: HostDevice, n_layers: int) -> None:
    optics, slices, amplitude, _ = case((16, 20), n_layers)
    found, expected = slices.astype(np.float32), slices.copy()
    both = [of.cost_and_gradient(s, amplitude)
            for of, s in ((CostOfSlices(device, optics), found), (Multislice(optics, np.float64), expected))]
    assert both[0] == pytest.approx(both[1], rel=2e-6)
    assert relative_error(found, expected) < 5e-6


def test_results_do_not_depend_on_the_threads_of_a_block() -> None:
    """A missing wait between threads would change them; only the order of the sum of the cost differs."""
    optics, slices, amplitude, _ = case((25, 18))
    found = []
    for n_waiting in (1, 2, 16):
        gradient = slices.astype(np.float32)
        cost = CostOfSlices(HostDevice(host_library(), n_waiting), optics)
        found.append((cost.cost_and_gradient(gradient, amplitude), gradient))
    for cost, gradient in found[1:]:
        assert cost == pytest.approx(found[0][0], rel=1e-14)
        np.testing.assert_array_equal(gradient, found[0][1])


def test_images_that_are_shown_and_hidden_are_the_same(device: HostDevice) -> None:
    """The intensities are those of the multislice in float64, and an FFT along x and its inverse multiply by n_x."""
    optics, slices, _, _ = case((27, 20))
    waves, now = GpuWaves(optics, device), device.zeros((2,), np.int32)
    images = waves.intensities(device.upload(slices.astype(np.float32)), now)
    assert relative_error(images, np.abs(Multislice(optics, np.float64).images(slices)) ** 2) < 2e-6
    shown = waves._steps.images.copy()
    waves._steps.hide_images()
    waves._steps.show_images()
    assert relative_error(waves._steps.images.real, 27 * shown.real.astype(float)) < 1e-6


@pytest.mark.parametrize(("shape_xy", "fits"), [
    ((16, 1440), True), ((480, 480), True), ((15, 16), False), ((16, 1458), False), ((16, 22), False),
    ((1536, 16), False)])
def test_only_planes_that_the_kernels_hold_are_fused(shape_xy: tuple[int, int], fits: bool) -> None:
    assert fused.fits(shape_xy) == fits


def test_python_and_cuda_agree_on_the_size_of_a_block() -> None:
    text = "".join((Path(gpu.__file__).parent / name).read_text(encoding="utf-8") for name in ("fft.cuh", "atoms.cu"))
    defined = dict(re.findall(r"#define (LONGEST|COLUMNS|TILE_X|TILE_Y|MOST_CELLS|STEPS) +(\d+)", text))
    assert {name: int(value) for name, value in defined.items()} == {
        "LONGEST": kernels.LONGEST, "COLUMNS": kernels.COLUMNS, "TILE_X": kernels.TILE_X, "TILE_Y": kernels.TILE_Y,
        "MOST_CELLS": kernels.MOST_CELLS, "STEPS": tables.STEPS}
    # Static shared memory of a block is at most 48 KB, of which sm_90 takes 1 KB for itself.
    assert kernels.LONGEST * kernels.COLUMNS * 8 + 256 * 8 <= 48 * 1024 - 1024
