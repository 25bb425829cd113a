"""A series that is given through the Python API: it decides its record, and refuses settings of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aetlab
from aetlab.core.nouns import Reconstruction, TiltSeries
from aetlab.reconstruction.given import check_series, settings_of_given
from aetlab.spec import RunSpec


@pytest.fixture(scope="module")
def settings() -> RunSpec:
    return aetlab.settings(scale="smoke", dose="50k", tilts=6, defocus=3,
                           overrides={"engine.n_iterations": 1, "simulate.n_layers": 8})


@pytest.fixture(scope="module")
def series(settings: RunSpec) -> TiltSeries:
    return aetlab.simulate(settings, aetlab.sample(settings))


def made(shape_zxy: tuple[int, int, int], voxel_A: float) -> Reconstruction:
    volume = aetlab.Volume(np.zeros(shape_zxy, np.float32), voxel_A)
    return Reconstruction(volume, np.ones(1), np.ones(1), (), (), "", 0.0, float("nan"))


def hear(settings: RunSpec, series: TiltSeries) -> list[str]:
    lines: list[str] = []
    check_series(settings, series, lines.append)
    return lines


def test_a_series_of_its_settings_changes_none_of_them(settings: RunSpec, series: TiltSeries) -> None:
    spec = settings_of_given(settings, series, made((48, 48, 48), 0.5), None)
    assert spec == replace(settings, data=spec.data) and spec.data.digest == series.digest()
    assert hear(settings, series) == []


def test_a_record_holds_tilts_defoci_and_dose_of_the_series(settings: RunSpec, series: TiltSeries,
                                                            tmp_path: Path) -> None:
    """The four tilts and two planes of the series, with 4·2 of 6·3 images; the settings say 20, 9 and 7 000 e/Å²."""
    some = replace(series, images=series.images[:4, :2], tilt_deg=series.tilt_deg[:4],
                   defocus_A=series.defocus_A[:4, :2], electrons_per_pixel=series.electrons_per_pixel[:4, :2],
                   weight=series.weight[:4, :2])
    other = aetlab.settings(scale="smoke", dose="7k", tilts=20, defocus=9)
    assert hear(other, some) == ["the tilts and defoci of the series are not those of the settings; those of the "
                                 "series count"]
    spec = settings_of_given(other, some, made((48, 48, 48), 0.5), None)
    assert spec.tilts.angles_deg == (0, 30, 60, 90) and spec.wedge.missing_deg == 0
    assert spec.defocus.planes_nm == settings.defocus.planes_nm[:2]
    assert spec.dose.total_e_A2 == pytest.approx(50_000 * 8 / 18)
    traced = aetlab.trace(other, made((48, 48, 48), 0.5))
    aetlab.save_record(tmp_path, other, some, made((48, 48, 48), 0.5), traced)
    table = aetlab.load_records(tmp_path)
    assert table["n_tilts"][0] == 4 and table["n_defoci"][0] == 2


def test_images_without_noise_have_an_infinite_dose(settings: RunSpec, series: TiltSeries) -> None:
    spec = settings_of_given(settings, replace(series, electrons_per_pixel=np.inf), made((48, 48, 48), 0.5), None)
    assert spec.dose.total_e_A2 == np.inf and spec.tilts == settings.tilts


@pytest.mark.parametrize(("change", "complaint"), [
    ({"scale": "small"}, r"scale.shape_zxy=\(96, 96, 96\) cannot be used: its \(x, y\)"),
    ({"overrides": {"scale.shape_zxy": [64, 48, 48]}}, r"the reconstructed volume has \(48, 48, 48\) voxels"),
    ({"refine": "atoms"}, "refine.kind='atoms' cannot be used without refined atoms: give refined="),
])
def test_results_of_other_settings_are_refused(change: dict[str, Any], complaint: str, series: TiltSeries,
                                               tmp_path: Path) -> None:
    other = aetlab.settings(**{"scale": "smoke", "dose": "50k", "tilts": 6, "defocus": 3} | change)
    reconstruction = made((48, 48, 48), 0.5)
    with pytest.raises(aetlab.AetlabError, match=complaint):
        aetlab.save_record(tmp_path, other, series, reconstruction, aetlab.trace(other, reconstruction))
    assert list(tmp_path.iterdir()) == []


def test_voxels_and_refined_atoms_of_other_settings_are_refused(settings: RunSpec, series: TiltSeries) -> None:
    with pytest.raises(aetlab.AetlabError, match="scale.voxel_A=0.5 cannot be used: the reconstructed volume has vox"):
        settings_of_given(settings, series, made((48, 48, 48), 0.4), None)
    refined: Any = object()
    with pytest.raises(aetlab.AetlabError, match="refine.kind='none' cannot be used with refined atoms"):
        settings_of_given(settings, series, made((48, 48, 48), 0.5), refined)


@pytest.mark.parametrize("factor", [-1.0, 0.001, 400.0])
def test_images_whose_vacuum_cannot_be_1_are_refused(settings: RunSpec, series: TiltSeries, factor: float) -> None:
    with pytest.raises(aetlab.AetlabError, match=r"^images: the median of the images' means is .* divide each image"):
        aetlab.reconstruct(settings, replace(series, images=series.images * np.float32(factor)))


@pytest.mark.parametrize(("factor", "doubted"), [(0.1, True), (0.5, False), (1.0, False), (1.2, False), (3.0, True)])
def test_a_doubtful_vacuum_is_said(settings: RunSpec, series: TiltSeries, factor: float, doubted: bool) -> None:
    lines = hear(settings, replace(series, images=series.images * np.float32(factor)))
    assert [line.endswith("divide each image by its mean in vacuum if it is not") for line in lines] == [True] * doubted


def test_sparse_counts_and_bad_pixels_are_no_reason_to_doubt(settings: RunSpec, series: TiltSeries) -> None:
    """Most pixels have no count: the median of an image is 0, its mean 1."""
    electrons = np.full(series.weight.shape, 0.05)
    sparse = replace(series, electrons_per_pixel=electrons, images=(
        np.random.default_rng(3).poisson(0.05, series.images.shape) / 0.05).astype(np.float32))
    assert np.median(sparse.images) == 0 and hear(settings, sparse) == []
    images, good = series.images.copy(), np.ones(series.images.shape, np.float32)
    images[..., :4], good[..., :4] = 1e6, 0
    assert hear(settings, replace(series, images=images, pixel_weight=good)) == []
