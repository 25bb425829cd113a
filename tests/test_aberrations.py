"""Aberrations that a series does not state, from what the atoms leave in its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_refine import ELEMENTS, SHAPE, VOXEL_A, make_truth

from aetlab.core.doubts import doubts
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.refinement.model import AtomModel
from aetlab.spec import MicroscopeSpec
from aetlab.validation.aberrations import find_aberrations, phases_per_nm

TILT_DEG, DEFOCUS_A = np.arange(10.0, 180.0, 34.0), np.array([200.0, 450.0])
LENS = MicroscopeSpec(aperture_per_A=0.95, focal_spread_sigma_nm=2.0, B2_nm=30.0, B2_deg=70.0)


def predict(lens: MicroscopeSpec, series: TiltSeries) -> list[np.ndarray]:
    model = AtomModel(series, SHAPE, ELEMENTS, microscope=lens, n_layers_per_slice=8, parametrization="lobato",
                      debye_waller_A2={"default": 0.5})
    return list(np.sqrt(model.images(make_truth(), Poses.nominal(series.tilt_deg, 2))))


def record(lens: MicroscopeSpec) -> TiltSeries:
    blank = TiltSeries(np.ones((len(TILT_DEG), 2, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    return add_shot_noise(replace(blank, images=np.stack(predict(lens, blank)) ** 2), 2000, np.random.default_rng(0))


def test_astigmatism_that_the_series_does_not_state_is_found() -> None:
    found = find_aberrations(record(replace(LENS, A1_nm=5.0, A1_deg=35.0)), LENS, predict)
    assert found["A1"].nm == pytest.approx(5.0, abs=3 * found["A1"].error_nm) and found["A1"].error_nm < 0.2
    assert found["A1"].deg == pytest.approx(35, abs=1.5)
    # π λ A1 q² at 0.95/Å, the edge, for 50 Å and 300 keV.
    assert found["A1"].missing_rad == pytest.approx(np.pi * 0.01969 * 50 * 0.9, rel=0.1)
    assert found["B2"].nm == pytest.approx(30, abs=4 * found["B2"].error_nm) and found["B2"].missing_rad < 0.3


def test_nothing_is_missing_where_all_is_stated() -> None:
    found = find_aberrations(record(LENS), LENS, predict)
    assert max(one.missing_rad for one in found.values()) < 0.2
    assert not doubts({f"aberration_{name}_{key}": value for name, one in found.items()
                       for key, value in vars(one).items()})


def test_the_edge_is_where_the_envelope_of_the_focal_spread_ends() -> None:
    # exp(-½ (π λ q² σ)²) = e⁻² at q² = 2 / (π λ σ): 0.569/Å for σ = 10 nm, where the phase of 1 nm of A1 is 2/10.
    wide = replace(LENS, focal_spread_sigma_nm=10.0)
    assert phases_per_nm(record(LENS), wide)[0] == pytest.approx(0.2, rel=0.1)


def test_a_missing_aberration_is_a_doubt() -> None:
    line, = doubts({"aberration_A1_nm": 7.9, "aberration_A1_deg": 23.0, "aberration_A1_error_nm": 0.2,
                    "aberration_A1_missing_rad": 4.8, "aberration_A1_error_rad": 0.1, "aberration_B2_nm": 40.0,
                    "aberration_B2_missing_rad": 1.0, "aberration_B2_error_rad": 0.7, "aberration_A2_nm": 9.0,
                    "aberration_A2_missing_rad": 0.2, "aberration_A2_error_rad": 0.01})
    assert "A1_nm: 7.9" in line and "A1_deg: 23" in line
