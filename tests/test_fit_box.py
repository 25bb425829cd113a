"""``scale=fit``: voxels and shape for a structure, refusals that propose a box, and warnings of what is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aetlab
from aetlab.cli.compose import compose_jobs, compose_spec
from aetlab.cli.preflight import check_jobs
from aetlab.samples.fit_box import choose_shape, choose_voxel_A, delocalisation_A, extent_of_file_A
from aetlab.spec import MicroscopeSpec, SpecError
from aetlab.store.identity import record_id


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Four gold atoms: 10 Å from the tilt axis, and 30 Å along it."""
    file = tmp_path / "cross.xyz"
    file.write_text("4\n\nAu 10 0 0\nAu -10 0 0\nAu 0 15 0\nAu 0 -15 0\n", encoding="utf-8")
    return str(file)


def test_delocalisation_is_the_gradient_of_the_aberration_function() -> None:
    """λ = 1.9687 pm at 300 keV: 100 nm · λ · 1/Å is 19.69 Å; 1.2 mm · (2.5079 pm · 0.6/Å)³ at 200 keV 40.9 Å."""
    assert delocalisation_A(MicroscopeSpec(), (20, -100, 45), 0.5) == pytest.approx(19.69, abs=0.01)
    assert delocalisation_A(MicroscopeSpec(), (100,), 1.0) == pytest.approx(9.84, abs=0.01)  # up to Nyquist
    uncorrected = MicroscopeSpec(energy_keV=200, aperture_per_A=0.6, Cs_mm=1.2)
    assert delocalisation_A(uncorrected, (0,), 0.5) == pytest.approx(40.9, abs=0.1)
    assert delocalisation_A(uncorrected, (-60,), 0.5) < 40.9 < delocalisation_A(uncorrected, (60,), 0.5)


def test_the_box_has_room_for_the_tilt_and_the_delocalisation(path: str) -> None:
    """Across 2 · (10 + 3) Å for the tilt; 2 · (10 + 19.69) Å and 30 + 2 · 19.69 Å for the images; voxels of 0.5 Å."""
    words = ["sample=file", f"sample.path={path}"]
    fitted = compose_spec([*words, "scale=fit"])
    assert fitted.scale.voxel_A == 0.5 and fitted.scale.shape_zxy == (64, 120, 144)
    given = compose_spec([*words, "scale.shape_zxy=[64,120,144]"])
    assert record_id(fitted) == record_id(given)
    assert compose_spec([*words, "scale=fit", "scale.voxel_A=0.25"]).scale.shape_zxy == (120, 240, 288)
    unfitted = aetlab.settings(sample="file", scale="fit", overrides={"sample.path": path})
    assert aetlab.fit_scale(unfitted) == fitted
    with pytest.raises(SpecError, match="scale=fit is not joined with its structure yet"):
        aetlab.sample(unfitted)
    check_jobs(compose_jobs([*words, "scale=fit"], multirun=False))


@pytest.mark.parametrize(("aperture_per_A", "voxel_A"), [(0.6, 0.5), (1.0, 0.5), (1.25, 0.4), (1.4, 0.35)])
def test_the_voxel_shows_all_of_the_aperture(aperture_per_A: float, voxel_A: float) -> None:
    assert choose_voxel_A(MicroscopeSpec(aperture_per_A=aperture_per_A)) == voxel_A


def test_numbers_of_voxels_are_the_next_that_transform_fast() -> None:
    random = np.random.default_rng(0)
    good = np.array([n for n in range(8, 4000, 8)
                     if 2**12 * 3**8 * 5**6 % n == 0])  # n < 4000 divides it if it has no other factors
    for radius_A, height_A in random.uniform(1, 200, (50, 2)):
        n_z, _, n_y = choose_shape(radius_A, height_A, 0.5, 0.0)
        assert n_z == good[np.searchsorted(good, 2 * (radius_A + 3) / 0.5)]
        assert n_y == good[np.searchsorted(good, (height_A + 6) / 0.5)]


def test_refusals_propose_a_box_that_fits(path: str) -> None:
    words = ["sample=file", f"sample.path={path}", "scale=smoke"]
    with pytest.raises(SpecError, match=r"choose scale=fit, or set sample.crop or scale.shape_zxy=\[48,48,72\]$"):
        check_jobs(compose_jobs(words, multirun=False))
    check_jobs(compose_jobs([*words, "scale.shape_zxy=[48,48,72]"], multirun=False))
    with pytest.raises(SpecError, match=r"take a thinner needle or scale.shape_zxy=\[184,184,48\]"):
        check_jobs(compose_jobs(["scale=smoke", "scale.core_radius_A=40", "scale.length_A=200"], multirun=False))
    with pytest.raises(SpecError, match="it fits the volume to a structure; add sample=file"):
        compose_spec(["scale=fit"])
    with pytest.raises(SpecError, match="give three counts of at least 8 voxels, or scale=fit"):
        compose_spec(["scale.shape_zxy=[0,8,8]"])


def test_the_box_is_that_of_the_chosen_structure_of_a_file_with_several(tmp_path: Path) -> None:
    """10 and 30 Å along y."""
    path = tmp_path / "two.xyz"
    path.write_text("".join(f"2\n\nAu 0 0 0\nAu 0 {length} 0\n" for length in (10, 30)))
    specs = [aetlab.settings(sample="file", scale="fit", overrides={"sample.path": str(path), "sample.frame": frame})
             for frame in (1, 2)]
    assert [extent_of_file_A(spec.sample)[1] for spec in specs] == pytest.approx([10, 30])
    one, two = (aetlab.fit_scale(spec).scale for spec in specs)
    assert one.shape_zxy[2] < two.shape_zxy[2]


def test_a_factor_of_an_element_that_no_sample_has_is_refused() -> None:
    words = ["scale=smoke", "+sample.debye_waller_A2.Au=0.3"]
    with pytest.raises(SpecError, match="sample.debye_waller_A2.Au cannot be set, for nothing reads it: no sample has"):
        check_jobs(compose_jobs(words, multirun=False))
    check_jobs(compose_jobs([*words, "sample.elements=[Si,O,Au]"], multirun=False))


def test_what_box_and_voxels_cut_off_is_said_once(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample=file", f"sample.path={path}", "scale.shape_zxy=[64,64,96]", "microscope.aperture_per_A=1.25"]
    check_jobs(compose_jobs([*words, "dose=inf,50k"], multirun=True))
    aperture, box = capsys.readouterr().err.splitlines()
    assert aperture == ("dose=inf: microscope.aperture_per_A=1.25 is beyond 1 1/Å, the Nyquist frequency of "
                        "scale.voxel_A=0.5: the images end there; scale.voxel_A=0.4 shows all of the aperture")
    assert box == ("dose=inf: images are delocalised by up to 19.7 Å, and the box leaves 6.0 Å beside the structure: "
                   "the rest enters on the other side; scale=fit or scale.shape_zxy=[64,120,144] has room")
    check_jobs(compose_jobs(["scale=smoke"], multirun=False))
    assert capsys.readouterr().err == ""
