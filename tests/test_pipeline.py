"""The flow of a run: settings of instrument and simulation reach the data, and the views are what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from aetlab import pipeline
from aetlab.data import Atoms
from aetlab.results.content import VIEWS_DEG, kept_tilts
from aetlab.sample import build_sample
from aetlab.seeds import generator
from aetlab.spec import MicroscopeSpec, RunSpec

#: Of each setting a value that is not the default's; azimuths act on what is named beside them.
MICROSCOPE = {"energy_keV": 80.0, "aperture_per_A": 0.7, "aperture_edge_per_A": 0.4, "Cs_mm": 0.5, "C5_mm": 20.0,
              "A1_nm": 5.0, "A1_deg": 30.0, "B2_nm": 200.0, "B2_deg": 30.0, "A2_nm": 200.0, "A2_deg": 30.0,
              "S3_um": 10.0, "S3_deg": 30.0, "A3_um": 20.0, "A3_deg": 30.0, "D4_um": 400.0, "D4_deg": 30.0,
              "B4_um": 400.0, "B4_deg": 30.0, "A4_um": 400.0, "A4_deg": 20.0, "S5_mm": 30.0, "S5_deg": 30.0,
              "R5_mm": 30.0, "R5_deg": 30.0, "A5_mm": 30.0, "A5_deg": 20.0, "focal_spread_sigma_nm": 4.0,
              "convergence_sigma_mrad": 0.3, "mtf_half": 0.4}
SIMULATE = {"kind": "voxels", "parametrization": "kirkland", "n_layers": 8, "oversample": 2, "n_frozen_phonons": 2,
            "band_limit": 2 / 3}


@pytest.fixture(scope="module")
def atoms(smoke_spec: RunSpec) -> Atoms:
    return build_sample(smoke_spec.sample, smoke_spec.scale, generator(0, "sample"))


def ideal_views(spec: RunSpec, atoms: Atoms) -> np.ndarray:
    return pipeline.make_views(spec, atoms).ideal


def test_every_setting_of_the_microscope_is_tried() -> None:
    assert set(MICROSCOPE) | {"name", "dqe"} == {field.name for field in dataclasses.fields(MicroscopeSpec)}


@pytest.mark.parametrize("name", MICROSCOPE)
def test_settings_of_the_microscope_change_the_images(name: str, smoke_spec: RunSpec, atoms: Atoms,
                                                      change: Callable[..., RunSpec]) -> None:
    before = smoke_spec
    if name.endswith("_deg"):
        coefficient = next(key for key in MICROSCOPE if key.startswith(name[:3]) and key != name)
        before = change(smoke_spec, "microscope", **{coefficient: MICROSCOPE[coefficient]})
    plain, changed = (ideal_views(spec, atoms)
                      for spec in (before, change(before, "microscope", **{name: MICROSCOPE[name]})))
    assert np.sqrt(np.mean((changed - plain) ** 2)) > 0.01 * plain.std()


@pytest.mark.parametrize("name", SIMULATE)
def test_settings_of_the_simulation_change_the_images(name: str, smoke_spec: RunSpec, atoms: Atoms,
                                                      change: Callable[..., RunSpec]) -> None:
    plain, changed = (ideal_views(spec, atoms)
                      for spec in (smoke_spec, change(smoke_spec, "simulate", **{name: SIMULATE[name]})))
    assert np.sqrt(np.mean((changed - plain) ** 2)) > 1e-3 * plain.std()


def test_the_detectors_efficiency_raises_the_noise_of_a_run(smoke_spec: RunSpec, atoms: Atoms,
                                                            change: Callable[..., RunSpec]) -> None:
    variances = []
    for dqe in (1.0, 0.25):
        views = pipeline.make_views(change(smoke_spec, "microscope", dqe=dqe), atoms)
        variances.append(float((views.recorded - views.ideal).var()))
    assert variances[1] / variances[0] == pytest.approx(4.0, rel=0.1)
    dose = change(change(smoke_spec, "microscope", dqe=0.25), "dose", total_e_A2=4 * smoke_spec.dose.total_e_A2)
    assert pipeline.electrons_per_pixel(dose) == pytest.approx(pipeline.electrons_per_pixel(smoke_spec))


def test_views_show_the_sample_at_their_tilts_and_the_greatest_defocus(smoke_spec: RunSpec, atoms: Atoms,
                                                                       change: Callable[..., RunSpec]) -> None:
    spec = change(smoke_spec, "dose", total_e_A2=float("inf"))
    views = pipeline.make_views(spec, atoms)
    assert views.defocus_nm == max(spec.defocus.planes_nm)
    np.testing.assert_array_equal(views.recorded, views.ideal)
    whole = pipeline.true_potential(spec, atoms).sum(axis=0) * spec.scale.voxel_A
    np.testing.assert_allclose(views.projected_V_A[0], whole, rtol=1e-4, atol=1e-2)
    # Turning about y leaves what lies at each height y, and moves the rest.
    heights = whole.sum(axis=0)
    np.testing.assert_allclose(views.projected_V_A[1].sum(axis=0), heights, atol=1e-3 * heights.max())
    assert np.abs(views.projected_V_A[1] - whole).max() > 0.2 * whole.max()
    assert VIEWS_DEG == (0.0, 5.0) and list(kept_tilts(60)) == [0, 30]
