"""Aberrations that a series does not state, from what the atoms leave in its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_refine import ELEMENTS, SHAPE, VOXEL_A, make_truth

from aetlab.core.doubts import doubts
from aetlab.core.nouns import TiltSeries, TracedAtoms
from aetlab.core.poses import Poses
from aetlab.forward import add_shot_noise
from aetlab.refinement import ImageFormation, describe_found, found_lens, most_passes, refine_atoms
from aetlab.refinement.aberrations import FoundAberration, find_aberrations, phases_per_nm
from aetlab.refinement.model import AtomModel
from aetlab.refinement.predicted import lacking_aberrations
from aetlab.spec import MicroscopeSpec, RefineSpec

TILT_DEG, DEFOCUS_A = np.arange(10.0, 180.0, 34.0), np.array([200.0, 450.0])
LENS = MicroscopeSpec(aperture_per_A=0.95, focal_spread_sigma_nm=2.0, B2_nm=30.0, B2_deg=70.0)


def make_model(lens: MicroscopeSpec, series: TiltSeries) -> AtomModel:
    return AtomModel(series, SHAPE, ELEMENTS, microscope=lens, n_layers_per_slice=8, parametrization="lobato",
                     debye_waller_A2={"default": 0.5})


def record(lens: MicroscopeSpec) -> TiltSeries:
    blank = TiltSeries(np.ones((len(TILT_DEG), 2, *SHAPE[1:]), np.float32), TILT_DEG, DEFOCUS_A, VOXEL_A)
    images = make_model(lens, blank).images(make_truth(), Poses.nominal(TILT_DEG, 2))
    return add_shot_noise(replace(blank, images=images), 2000, np.random.default_rng(0))


def find(series: TiltSeries) -> dict[str, FoundAberration]:
    return find_aberrations(make_model(LENS, series), make_truth(), Poses.nominal(TILT_DEG, 2))


def test_astigmatism_that_the_series_does_not_state_is_found() -> None:
    found = find(record(replace(LENS, A1_nm=5.0, A1_deg=35.0)))
    assert found["A1"].nm == pytest.approx(5.0, abs=3 * found["A1"].error_nm) and found["A1"].error_nm < 0.2
    assert found["A1"].deg == pytest.approx(35, abs=1.5)
    # π λ A1 q² at 0.95/Å, the edge, for 50 Å and 300 keV.
    assert found["A1"].missing_rad == pytest.approx(np.pi * 0.01969 * 50 * 0.9, rel=0.1)
    assert found["B2"].nm == pytest.approx(30, abs=4 * found["B2"].error_nm) and found["B2"].missing_rad < 0.3


def test_nothing_is_missing_where_all_is_stated() -> None:
    found = find(record(LENS))
    assert max(one.missing_rad for one in found.values()) < 0.2
    assert not doubts({f"aberration_{name}_{key}": value for name, one in found.items()
                       for key, value in vars(one).items()})


def test_the_edge_is_where_the_envelope_of_the_focal_spread_ends() -> None:
    # exp(-½ (π λ q² σ)²) = e⁻² at q² = 2 / (π λ σ): 0.569/Å for σ = 10 nm, where the phase of 1 nm of A1 is 2/10.
    wide = replace(LENS, focal_spread_sigma_nm=10.0)
    assert phases_per_nm(make_model(wide, record(LENS)))[0] == pytest.approx(0.2, rel=0.1)


def test_a_missing_aberration_is_a_doubt() -> None:
    line, = doubts({"aberration_A1_nm": 7.9, "aberration_A1_deg": 23.0, "aberration_A1_error_nm": 0.2,
                    "aberration_A1_missing_rad": 4.8, "aberration_A1_error_rad": 0.1, "aberration_B2_nm": 40.0,
                    "aberration_B2_missing_rad": 1.0, "aberration_B2_error_rad": 0.7, "aberration_A2_nm": 9.0,
                    "aberration_A2_missing_rad": 0.2, "aberration_A2_error_rad": 0.01})
    assert "A1_nm: 7.9" in line and "A1_deg: 23" in line


def test_a_refinement_takes_an_aberration_that_its_images_show() -> None:
    """48 Å of astigmatism, 2.6 rad at the edge, move the atoms; fitted with them, they lie where they do without."""
    truth, series = make_truth(), record(replace(LENS, A1_nm=4.8, A1_deg=35.0))
    blank = np.full(64, np.nan)
    start_A = truth.positions_A + np.random.default_rng(1).normal(0, 0.03, (64, 3))
    traced = TracedAtoms(start_A, np.ones(64), blank, np.ones(64), np.array(ELEMENTS)[truth.kinds],
                         np.full((64, 3), 0.1), blank, blank, np.ones(64), np.zeros(64, np.uint8), blank,
                         np.zeros((64, 2)), np.zeros(64))
    error_A, found = {}, {}
    for aberrations in ("stated", "fitted"):
        spec = RefineSpec(kind="atoms", n_rounds=1, first_share=1.0, aberrations=aberrations)
        found[aberrations] = refine_atoms(series, SHAPE, traced, ELEMENTS, spec,
                                          ImageFormation(microscope=LENS, n_layers_per_slice=8), seed=0)
        off_A = found[aberrations].positions_A[:, None] - truth.positions_A[None]
        error_A[aberrations] = np.sqrt((np.linalg.norm(off_A, axis=2).min(axis=1) ** 2).mean())
        assert found[aberrations].summary["passes"] <= most_passes(spec, len(TILT_DEG))
    sigma_A = np.sqrt((found["fitted"].position_error_A ** 2).sum(axis=1).mean())
    assert error_A["fitted"] == pytest.approx(sigma_A, rel=0.25) and error_A["stated"] > 1.5 * error_A["fitted"]
    summary = found["fitted"].summary
    assert summary["lens_A1_nm"] == pytest.approx(4.8, abs=4 * summary["lens_A1_error_nm"])
    assert summary["lens_A1_deg"] == pytest.approx(35, abs=1) and "lens_A2_nm" not in summary
    assert not any(name.startswith("lens") for name in found["stated"].summary)
    assert found_lens(LENS, summary) == replace(LENS, A1_nm=summary["lens_A1_nm"], A1_deg=summary["lens_A1_deg"])
    line, = describe_found(found["fitted"], series, LENS)
    assert line.startswith("two-fold astigmatism of 4.") and "the series states 0 nm" in line
    magnified = {"magnification_spread_percent": 0.53, "magnification_error_percent": 0.0074}
    assert "differ in magnification by 0.53 ± 0.007 %" in describe_found(
        replace(found["fitted"], summary=summary | magnified), series, LENS)[1]
    lacking = lacking_aberrations(series, SHAPE, found["fitted"], ELEMENTS, spec, microscope=LENS,
                                  n_layers_per_slice=8)
    assert lacking["A1"].missing_rad < 0.1
