"""The check of a measured series: spectra, verdicts, reach and page, against values that are known."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft

from aetlab.cli.measured_series import main, page_of
from aetlab.core.errors import SeriesError
from aetlab.core.nouns import TiltSeries
from aetlab.core.physics import wavelength_A
from aetlab.core.poses import Poses
from aetlab.reporting.check_page import make_check_page
from aetlab.series.check.flow import check_series
from aetlab.series.check.nouns import Reach
from aetlab.series.check.reach import stand_in
from aetlab.series.check.spectra import measure_spectra
from aetlab.series.check.verdicts import judge
from aetlab.series.collect import PIXEL_DOUBT
from aetlab.series.facts import ImageFacts, Measures
from aetlab.series.imported import ImportedSeries, read_imported, write_imported
from aetlab.series.prepare import PrepareSpec
from aetlab.spec import MicroscopeSpec

SHAPE, PIXEL_A, N = (160, 150), 0.4, 400.0
TILT_DEG = np.linspace(-66, 66, 12)
MICROSCOPE = MicroscopeSpec(energy_keV=300.0, Cs_mm=0.5, aperture_per_A=0.9)


def transfer(defocus_nm: float) -> np.ndarray:
    """Return sin χ - 0.1 cos χ (X, Y), χ = -(2π/λ)(C1 θ²/2 + C3 θ⁴/4), θ = λ q."""
    wave = wavelength_A(300.0)
    theta = wave * np.hypot(scipy.fft.fftfreq(SHAPE[0], PIXEL_A)[:, None], scipy.fft.fftfreq(SHAPE[1], PIXEL_A))
    chi = -2 * np.pi / wave * (10 * defocus_nm * theta**2 / 2 + 0.5e7 * theta**4 / 4)
    return np.sin(chi) - 0.1 * np.cos(chi)


@pytest.fixture(scope="module")
def series() -> TiltSeries:
    """A weak amorphous disc at nominal defoci of -30 and -60 nm that are 4 nm off, up to 0.7 1/Å."""
    rng = np.random.default_rng(0)
    x, y = ((np.arange(n) - (n - 1) / 2) * PIXEL_A for n in SHAPE)
    disc = np.hypot(x[:, None], y) < 16
    q = np.hypot(scipy.fft.fftfreq(SHAPE[0], PIXEL_A)[:, None], scipy.fft.fftfreq(SHAPE[1], PIXEL_A))
    images = np.ones((12, 2, *SHAPE))
    for i in range(12):
        phase = scipy.fft.fft2(disc * rng.normal(0, 0.25, SHAPE)) * (q < 0.7)
        for j, defocus in enumerate((-34.0, -64.0)):
            images[i, j] += 2 * scipy.fft.ifft2(phase * transfer(defocus)).real
    images = rng.poisson(N * np.clip(images, 0, None)) / N
    weight = np.ones((12, 2))
    weight[3, 1] = 0
    images[3, 1] = 1
    return TiltSeries(images.astype(np.float32), TILT_DEG, np.array([-300.0, -600.0]), PIXEL_A, N, weight)


@pytest.fixture(scope="module")
def imported(series: TiltSeries) -> ImportedSeries:
    rng = np.random.default_rng(1)
    grid = (12, 2)
    level = rng.normal(1000, 5, grid)
    level[3, 1] = np.nan
    measures = Measures(np.full(grid, 990.0), level, np.full(grid, 0.001), np.full(grid, 0.01), np.full(grid, 0.4),
                        np.full(grid, 0.1))
    names = tuple(tuple(f"<b>pt.mrc image {2 * t + f}" for f in range(2)) for t in range(12))
    facts = ImageFacts(names, np.arange(24).reshape(grid), np.repeat(TILT_DEG[:, None], 2, axis=1),
                       series.defocus_A / 10, np.full(grid, N / PIXEL_A**2), measures, rng.normal(0, 1, (*grid, 2)),
                       rng.normal(1, 0.05, (*grid, 24, 22)), np.array([[-90.0, 0, 90], [0.2, 0.8, 0.2]]),
                       {f"{name}/{when}": rng.normal(1, 0.1, (20, 18)).astype(np.float32)
                        for name in ("bad pixels", "shifts") for when in ("before", "after")})
    steps = [{"name": name, "setting": "find", "line": f"line of {name}", "verdict": verdict, "numbers": {}}
             for name, verdict in (("bad pixels", "ok"), ("tilt axis", "cannot be used"), ("shifts", "ok"))]
    return ImportedSeries(series, Poses.nominal(TILT_DEG, 2), MICROSCOPE, None, ("Pt",), 0.5, 16.0, {
        "files": {"pt.mrc": "ab"}, "steps": steps, "excluded": {names[3][1]: "dark: 0 counts"},
        "notes": ["microscope: no MTF given; the detector counts as ideal"]}, facts)


def test_rings_show_the_defocus_and_the_information_limit(series: TiltSeries) -> None:
    spectra = measure_spectra(series, 16.0, MICROSCOPE)
    found = spectra.defocus_nm[series.weight > 0]
    true = np.broadcast_to([-34.0, -64.0], (12, 2))[series.weight > 0]
    assert np.isfinite(found).mean() > 0.9
    # At the high frequencies of 64 nm the rings are hardly wider than the disc resolves.
    assert np.nanmax(np.abs(found - true) / np.abs(true)) < 0.04
    assert np.isnan(spectra.defocus_nm[3, 1])
    assert spectra.limit_A == pytest.approx(1 / 0.7, rel=0.05)
    assert spectra.spottiness == pytest.approx(1, abs=0.15)
    # Beyond the limit there is nothing but counting noise.
    beyond = spectra.q_per_A > 0.8
    assert np.abs(spectra.signal_over_noise[:, beyond]).mean() < 0.05


def test_rings_wider_than_the_band_support_no_defocus(series: TiltSeries) -> None:
    """Coarse rings of a nearly focused image are wider than all that the aperture lets through."""
    narrow = replace(MICROSCOPE, aperture_per_A=0.3)
    spectra = measure_spectra(replace(series, defocus_A=np.zeros((12, 2))), 16.0, narrow)
    assert spectra.defocus_nm.shape == (12, 2) and np.isnan(spectra.defocus_nm).all()


def test_noise_supports_no_defocus_and_a_lattice_none_by_chance(series: TiltSeries) -> None:
    rng = np.random.default_rng(2)
    empty = rng.poisson(N, series.images.shape) / N
    spectra = measure_spectra(replace(series, images=empty.astype(np.float32)), 16.0, MICROSCOPE)
    assert np.isnan(spectra.defocus_nm).all() and np.isnan(spectra.limit_A).all()


def test_verdicts_give_reason_and_advice(imported: ImportedSeries) -> None:
    check = check_series(imported, bound=False)
    items = {item.name: item for item in check.items}
    assert check.verdict == "cannot be used" and check.no_reach == "not asked for"
    assert items["tilts"].verdict == "ok" and "12 tilts over 132°" in items["tilts"].reason
    assert items["tilt axis"].verdict == "cannot be used" and items["tilt axis"].advice
    assert items["defocus"].verdict == "ok" and "found - nominal -3.7 nm" in items["defocus"].reason
    assert items["microscope"].verdict == "look" and "no MTF" in items["microscope"].reason
    # 23 images of 400 electrons a pixel of 0.16 Å².
    assert f"{23 * 400 / 0.16:.3g} e/Å²" in items["dose"].reason
    # λ Δf q = 0.0197 Å · 600 Å · 0.9 1/Å = 10.6 Å beyond a radius of 16 Å: inside 30 Å.
    assert items["field of view"].verdict == "ok" and "fringes reach 11 Å" in items["field of view"].reason


def test_bad_series_get_bad_verdicts(imported: ImportedSeries) -> None:
    spectra, facts = check_series(imported, bound=False).spectra, imported.facts
    assert facts is not None

    def verdict(name: str, other: ImportedSeries, spectra_=spectra, reach: Reach | None = None) -> str:
        return next(item.verdict for item in judge(other, other.facts, spectra_, reach) if item.name == name)

    weight = np.where(np.arange(12)[:, None] < 6, imported.series.weight, 0)
    few = replace(imported, series=replace(imported.series, weight=weight))
    coarse = replace(imported, series=replace(imported.series, pixel_A=1.5))
    assert verdict("sampling", coarse) == "cannot be used"
    unsure = replace(imported, provenance=imported.provenance | {"notes": [f"{PIXEL_DOUBT}is it right?"]})
    assert verdict("sampling", imported) == "ok" and verdict("sampling", unsure) == "look"
    assert verdict("field of view", replace(imported, radius_A=31.0)) == "look"
    assert verdict("tilts", few) == "cannot be used"
    assert verdict("tilts", replace(imported, series=replace(imported.series, tilt_deg=TILT_DEG / 2))) == "look"
    level = facts.measures.level_counts.copy()
    level[5, 0] = 2000
    bright = replace(imported, facts=replace(facts, measures=replace(facts.measures, level_counts=level)))
    assert verdict("vacuum level per image", bright) == "look"
    sharpness = facts.measures.sharpness_per_A.copy()
    sharpness[7, 1] = 0.2
    blurred = replace(imported, facts=replace(facts, measures=replace(facts.measures, sharpness_per_A=sharpness)))
    assert verdict("sharpness and drift", blurred) == "look"
    none = replace(facts.measures, sharpness_per_A=np.full_like(sharpness, np.nan))
    items = judge(imported, replace(facts, measures=none), spectra, None)
    assert "bad_frames=keep" in next(item.reason for item in items if item.name == "sharpness and drift")
    assert verdict("information limit", imported, replace(spectra, limit_A=np.array([3.0, np.nan]))) == "cannot be used"
    assert verdict("defocus", imported, replace(spectra, defocus_nm=spectra.defocus_nm + 15)) == "look"
    assert verdict("what the series can reach", imported, reach=Reach(9, 9.0, {"Pt": 30.0}, np.nan)) == "look"


def test_a_stand_in_has_the_density_of_the_metal() -> None:
    atoms = stand_in(16.0, ("Pt",))
    # 3.92 Å³ · 3.92 · 3.92 / 4 an atom.
    assert len(atoms) == pytest.approx(4 / 3 * np.pi * 16**3 / (3.92**3 / 4), rel=0.03)
    near = np.sort(np.linalg.norm(atoms.positions_A[:, None] - atoms.positions_A[None], axis=2), axis=1)[:, 1]
    assert near.min() == pytest.approx(3.92 / np.sqrt(2), rel=1e-6)
    assert {29, 79} == set(stand_in(10.0, ("Cu", "Au")).numbers)


@pytest.mark.slow
def test_the_page_is_self_contained_and_escapes_what_files_say(imported: ImportedSeries) -> None:
    check = replace(check_series(imported, bound=False), reach=Reach(900, 15.0, {"Pt": 2.5}, float("nan")))
    page = make_check_page(check, "pt.series.h5")
    assert "{{" not in page and "<b>pt.mrc" not in page and "&lt;b&gt;pt.mrc image 7" in page
    assert not re.findall(r"""(?:src|href)\\s*=\\s*["'](?!data:|#)""", page) and "<script" not in page
    assert page.count('class="thumb') == 24 and page.count('class="thumb out"') == 1
    assert page.index("cannot be used</span>") < page.index(">look</span>") < page.index(">ok</span>")
    for text in ("2.50 pm", "dark: 0 counts", "Power spectra", "line of tilt axis", "pt.mrc"):
        assert text in page
    assert len(page) < 4e6


def test_facts_survive_the_file_and_a_series_without_them_is_refused(imported: ImportedSeries, tmp_path: Path) -> None:
    write_imported(tmp_path / "a.series.h5", imported)
    back = read_imported(tmp_path / "a.series.h5").facts
    assert back is not None and imported.facts is not None and back.names == imported.facts.names
    np.testing.assert_array_equal(back.order, imported.facts.order)
    np.testing.assert_array_equal(back.measures.level_counts, imported.facts.measures.level_counts)
    np.testing.assert_array_equal(back.pictures["shifts/after"], imported.facts.pictures["shifts/after"])
    with pytest.raises(SeriesError, match="import it again"):
        check_series(replace(imported, facts=None))


def test_the_command_writes_the_page_and_its_verdicts(imported: ImportedSeries, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.reporting.check_page.make_check_page", lambda check, name: f"<!DOCTYPE html>{name}")
    path = tmp_path / "a.series.h5"
    write_imported(path, imported)
    assert main(["check", str(path), "--no-bound"]) == 1
    said = capsys.readouterr().out
    assert page_of(path) == tmp_path / "a.check.html" and page_of(path).read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "cannot be used: tilt axis: line of tilt axis" in said and said.endswith("a.check.html: cannot be used\n")
    assert main(["check", str(tmp_path / "none.h5")]) == 2
    # An import ends as its check does; the series is written all the same.
    monkeypatch.setattr("aetlab.cli.measured_series.import_files", lambda files, **settings: imported)
    assert main(["import", "pt.mrc", "--no-bound", "--to", str(tmp_path / "b.series.h5")]) == 1
    assert read_imported(tmp_path / "b.series.h5").provenance["steps"] == imported.provenance["steps"]
    assert capsys.readouterr().out.endswith("b.check.html: cannot be used\n")


def test_no_command_writes_over_images_or_tables(imported: ImportedSeries, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    images, series = tmp_path / "pt.mrc", tmp_path / "a.series.h5"
    images.write_bytes(b"counts")
    write_imported(series, imported)
    assert main(["import", str(images), "--to", str(images)]) == 2
    assert "no series of an earlier import" in capsys.readouterr().err
    assert main(["import", str(images), "--to", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err
    assert main(["check", str(series), "--to", str(images)]) == 2
    assert "name it PAGE.html" in capsys.readouterr().err
    assert images.read_bytes() == b"counts"
    # An earlier series may be replaced: the command goes on to the images, which are none.
    assert main(["import", str(images), "--to", str(series)]) == 2
    assert "pt.mrc is no MRC file" in capsys.readouterr().err


def test_help_of_import_lists_every_setting_of_the_preparation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {field.name}" in said for field in fields(PrepareSpec))
    assert "bad_pixels=find" in said and "one of find, keep" in said
