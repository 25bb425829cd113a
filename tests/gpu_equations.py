"""Equations of the tilts of an alignment on a GPU against those on the CPU, within the rounding of single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aetlab.core.nouns import TiltSeries
from aetlab.forward.model import ForwardModel
from aetlab.forward.posed_images import PosedOptics
from aetlab.forward.tilt_equations import ANGLE_STEP_DEG, AddedColumns, CpuTiltEquations, PosedTilt
from aetlab.gpu import GpuModel, GpuTiltEquations

#: Error of an amplitude near 1: what sixteen roundings of single precision, of slices and FFTs, add to at most.
AMPLITUDE_ERROR = 16 * 2.0**-24
ADDED = AddedColumns(contrast=True, magnification=True)
NOMINAL = np.array([0.0, 0, 0, 0, 0, 1])
#: A row of unknowns off the nominal one, of the size that an alignment corrects.
OFF = np.array([0.4, -0.3, 0.3, -0.2, 12.0, 1.02])


def make_both(series: TiltSeries, shape: tuple[int, int, int], device: Any, *, microscope: Any,
              n_layers: int) -> tuple[CpuTiltEquations, GpuTiltEquations]:
    options = {"microscope": microscope, "n_layers_per_slice": n_layers}
    optics = PosedOptics(series, shape, **options)
    return (CpuTiltEquations(optics, series, ADDED, ForwardModel(series, shape, **options)),
            GpuTiltEquations(optics, series, ADDED, model=GpuModel(series, shape, device=device, **options)))


def column_errors(series: TiltSeries, lift_per_A: float) -> np.ndarray:
    """Return the norms (9,) of the errors of all columns that :data:`AMPLITUDE_ERROR` explains, without smoothing.

    A derivative multiplies frequencies by as much as that by which it multiplies the highest one. By the tilt angle it
    is the difference of two amplitudes. A norm in Fourier space is √n times that of the n pixels of the images.
    """
    n_x, n_y = series.images.shape[2:]
    slope = 2 * np.pi * np.sqrt(0.5) / series.pixel_A
    corner_A = 0.5 * np.hypot(n_x, n_y) * series.pixel_A
    grows = np.array([2 / ANGLE_STEP_DEG, slope * np.deg2rad(corner_A), slope, slope, lift_per_A, 0.5, 2,
                      slope * corner_A, 1])
    weight = 1.0 if series.pixel_weight is None else float(np.sqrt(series.pixel_weight.max()))
    return AMPLITUDE_ERROR * weight * grows * n_x * n_y * np.sqrt(series.n_defoci)


def check_equations(series: TiltSeries, shape: tuple[int, int, int], device: Any, volume: np.ndarray, *,
                    microscope: Any, n_layers: int, tilts: list[PosedTilt], smoothing_A: float = 0.3) -> None:
    """Assert that both agree at ``tilts``: equations of tilts and images, misfits, and searches."""
    cpu, gpu = make_both(series, shape, device, microscope=microscope, n_layers=n_layers)
    potential_V = gpu.take(device.upload(volume))
    errors = column_errors(series, float(np.abs(cpu._optics.lift).max()))
    for tilt in tilts:
        expected, found = (each.compare(v, tilt, smoothing_A) for each, v in ((cpu, volume), (gpu, potential_V)))
        again = gpu.compare(potential_V, tilt, smoothing_A)
        for name in ("normal", "slope", "misfit"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        norms = np.sqrt(np.diagonal(found.products, axis1=1, axis2=2))
        within = [allowed(norms.sum(axis=0), errors), *(allowed(each, errors) for each in norms)]
        assert (np.abs(found.normal - expected.normal) <= within[0][:7, :7]).all()
        assert (np.abs(found.slope - expected.slope) <= within[0][:7, 8]).all()
        np.testing.assert_allclose(found.misfit, expected.misfit, rtol=2e-4)
        np.testing.assert_allclose(gpu.misfits(potential_V, tilt), cpu.misfits(volume, tilt), rtol=2e-4)
        step, along = 1e-3 * np.arange(1.0, 8), np.array([0.3, -0.2, 5, 0.01, 0.02])
        combined = np.abs(step) @ errors[:7] + errors[8]
        for one, other, limit, norm in zip(expected.of_images(step), found.of_images(step), within[1:], norms,
                                           strict=True):
            assert (np.abs(other.normal - one.normal) <= limit[2:7, 2:7]).all()
            of_left = np.abs(step) @ norm[:7] + norm[8]
            assert (np.abs(other.slope - one.slope) <= errors[2:7] * of_left + norm[2:7] * combined).all()
            assert (np.abs(other.radial_slope - one.radial_slope) <= limit[2:7, 7]).all()
            np.testing.assert_allclose(other.of_magnification(along, along), one.of_magnification(along, along),
                                       rtol=1e-3)
        cpu.place(tilt)
        gpu.place(tilt)
        costs = [of._model.cost(v, tilt.i_tilt) for of, v in ((cpu, volume), (gpu, potential_V))]
        assert costs[1] == pytest.approx(costs[0], rel=1e-3)
        plain = PosedTilt(tilt.i_tilt, tilt.row, None, tilt.factors)
        defocus_A, reach = np.array([-40.0, 0, 60]), 4
        fits = [each.search(v, plain, smoothing_A, defocus_A, reach) for each, v in ((cpu, volume), (gpu, potential_V))]
        error = errors[8] / np.sqrt(series.images[0, 0].size)
        for one, other in zip(*fits, strict=True):
            np.testing.assert_array_equal(other.shift_px, one.shift_px)
            for name in ("power", "correlation"):
                assert abs(getattr(other, name) - getattr(one, name)) <= error * np.sqrt(2 * one.power)


def allowed(norms: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the error of the products (9, 9) of columns with these ``norms`` (9,) and ``errors`` (9,)."""
    of_products: np.ndarray = np.outer(errors, norms) + np.outer(norms, errors) + np.outer(errors, errors)
    return of_products
