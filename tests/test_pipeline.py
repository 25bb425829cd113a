"""The flow of a run: settings of microscope and simulation change the images; views, records and exports."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
import mrcfile
import numpy as np
import pytest

from aetlab import flow, keeper, runs
from aetlab.core.nouns import Atoms
from aetlab.core.seeds import generator
from aetlab.flow import VIEWS_DEG
from aetlab.samples import build_sample
from aetlab.spec import MicroscopeSpec, RunSpec
from aetlab.store.contents import kept_tilts, unit_of
from aetlab.store.record import History, Places, Record, array_names, read_array, write_record
from tests.conftest import TINY
from tests.words import spec_of

#: For each setting a value other than the default; an azimuth acts on the coefficient of the same name.
MICROSCOPE = {"energy_keV": 80.0, "aperture_per_A": 0.7, "aperture_edge_per_A": 0.4, "Cs_mm": 0.5, "C5_mm": 20.0,
              "A1_nm": 5.0, "A1_deg": 30.0, "B2_nm": 200.0, "B2_deg": 30.0, "A2_nm": 200.0, "A2_deg": 30.0,
              "S3_um": 10.0, "S3_deg": 30.0, "A3_um": 20.0, "A3_deg": 30.0, "D4_um": 400.0, "D4_deg": 30.0,
              "B4_um": 400.0, "B4_deg": 30.0, "A4_um": 400.0, "A4_deg": 20.0, "S5_mm": 30.0, "S5_deg": 30.0,
              "R5_mm": 30.0, "R5_deg": 30.0, "A5_mm": 30.0, "A5_deg": 20.0, "focal_spread_sigma_nm": 4.0,
              "convergence_sigma_mrad": 0.3, "blur_sigma_A": 0.3, "mtf_half": 0.4, "mtf_values": (1.0, 0.7, 0.4)}
SIMULATE = {"kind": "voxels", "parametrization": "kirkland", "n_layers": 8, "oversample": 2, "n_frozen_phonons": 2,
            "band_limit": 2 / 3}

#: Endings of the files of an exported record.
EXPORTED = ("atoms.xyz", "atoms.csv", "atoms.cif", "volume.mrc", "methods.txt")


@pytest.fixture(scope="module")
def atoms(smoke_spec: RunSpec) -> Atoms:
    return build_sample(smoke_spec.sample, smoke_spec.scale, generator(0, "sample"))


def ideal_views(spec: RunSpec, atoms: Atoms) -> np.ndarray:
    return flow.make_views(spec, atoms).ideal


def test_every_setting_of_the_microscope_has_a_test_value() -> None:
    settings = {field.name for field in dataclasses.fields(MicroscopeSpec)}
    assert set(MICROSCOPE) | {"name", "dqe", "mtf_cycles_per_pixel"} == settings


@pytest.mark.parametrize("name", MICROSCOPE)
def test_settings_of_the_microscope_change_the_images(name: str, smoke_spec: RunSpec, atoms: Atoms,
                                                      change: Callable[..., RunSpec]) -> None:
    before = smoke_spec
    if name.endswith("_deg"):
        coefficient = next(key for key in MICROSCOPE if key.startswith(name[:3]) and key != name)
        before = change(smoke_spec, "microscope", **{coefficient: MICROSCOPE[coefficient]})
    values = {name: MICROSCOPE[name]} | ({"mtf_cycles_per_pixel": (0.0, 0.25, 0.5)} if name == "mtf_values" else {})
    plain, changed = (ideal_views(spec, atoms) for spec in (before, change(before, "microscope", **values)))
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
        views = flow.make_views(change(smoke_spec, "microscope", dqe=dqe), atoms)
        variances.append(float((views.recorded - views.ideal).var()))
    assert variances[1] / variances[0] == pytest.approx(4.0, rel=0.1)
    dose = change(change(smoke_spec, "microscope", dqe=0.25), "dose", total_e_A2=4 * smoke_spec.dose.total_e_A2)
    assert flow.electrons_per_pixel(dose) == pytest.approx(flow.electrons_per_pixel(smoke_spec))


def test_views_show_the_sample_at_their_tilts_and_the_greatest_defocus(smoke_spec: RunSpec, atoms: Atoms,
                                                                       change: Callable[..., RunSpec]) -> None:
    spec = change(smoke_spec, "dose", total_e_A2=float("inf"))
    views = flow.make_views(spec, atoms)
    assert views.defocus_nm == max(spec.defocus.planes_nm)
    np.testing.assert_array_equal(views.recorded, views.ideal)
    whole = flow.true_potential(spec, atoms).sum(axis=0) * spec.scale.voxel_A
    np.testing.assert_allclose(views.projected_V_A[0], whole, rtol=1e-4, atol=1e-2)
    # Rotation about y keeps the sum over x at each y, and changes the projection.
    heights = whole.sum(axis=0)
    np.testing.assert_allclose(views.projected_V_A[1].sum(axis=0), heights, atol=1e-3 * heights.max())
    assert np.abs(views.projected_V_A[1] - whole).max() > 0.2 * whole.max()
    assert VIEWS_DEG == (0.0, 5.0) and list(kept_tilts(60)) == [0, 30]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, Record]:
    places, spec = Places(tmp_path_factory.mktemp("pipeline")), spec_of(*TINY, "engine.n_iterations=6")
    return places, keeper.run(spec, places=places).record


def test_the_log_of_a_run_states_the_numbers_of_atoms(made: tuple[Places, Record]) -> None:
    record = made[1]
    counts = {name: int(record.metrics[f"{name}_atoms"]) for name in ("n_all", "n_in_volume", "n_vacancies")}
    assert (f"{counts['n_all']} atoms, {counts['n_in_volume']} of them in (48, 48, 48) voxels of 0.5 Å, less "
            f"{counts['n_vacancies']} vacancies; {int(record.metrics['n_true'])} are scored"
            ) in (record.folder / "log.txt").read_text(encoding="utf-8")


def test_a_record_holds_profiles_and_structure_with_units(made: tuple[Places, Record]) -> None:
    record = made[1]
    names = set(array_names(record))
    for place in ("axis", "surface"):
        for score in ("found_percent", "position_error_pm", "false_positive_percent", "correct_species_percent"):
            assert {f"profiles/{place}/{score}{bound}" for bound in ("", "_low", "_high")} <= names
        assert read_array(record, f"profiles/{place}/n_true").values.sum() == record.metrics["n_true"]
    assert read_array(record, "profiles/axis/position_error_pm_low").unit == "pm"
    pairs = read_array(record, "structure/pairs/elements").values.tolist()
    lengths = read_array(record, "structure/pairs/length_true").values[pairs.index([14, 8])]
    assert lengths.sum() > 50 and read_array(record, "structure/pairs/length_edges_A").unit == "Å"
    assert 1.5 < record.metrics["bond_Si_O_true_A"] < 1.7 and 2.3 < record.metrics["bond_Si_Si_true_A"] < 2.4
    assert record.metrics["tetrahedra_n_true"] > 0
    assert {"n_all_atoms", "n_in_volume_atoms", "n_vacancies_atoms"} <= set(record.metrics)
    assert [unit_of(name) for name in ("Si-O/length_edges_A", "found_percent_high", "n_true")] == ["Å", "%", "1"]


def test_a_record_is_exported_for_other_programs(made: tuple[Places, Record], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    places, record = made
    runs.main(["export", record.id[:6], "--outputs", str(places.outputs), "--to", str(tmp_path / "files")])
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [f"{record.id}.{end}" for end in EXPORTED]
    atoms = ase.io.read(paths[0])
    np.testing.assert_allclose(atoms.positions, read_array(record, "traced/positions_A").values, atol=1e-5)
    np.testing.assert_array_equal(atoms.numbers, read_array(record, "traced/numbers").values)
    assert {"x_error_A", "probability_Si", "probability_O", "flag"} <= set(atoms.arrays)
    assert len(paths[1].read_text(encoding="ascii").splitlines()) == len(atoms) + 1
    assert len(ase.io.read(paths[2])) == np.count_nonzero(atoms.numbers)
    methods = paths[4].read_text(encoding="utf-8")
    assert record.id in methods and f"{len(read_array(record, 'tilt_series/tilt_deg').values)} tilts" in methods
    with mrcfile.open(paths[3]) as file:
        volume_V = read_array(record, "volume/potential_V").values
        np.testing.assert_array_equal(file.data, volume_V.transpose(0, 2, 1))
        assert file.voxel_size.x == 0.5 and file.header.origin.x == pytest.approx(-0.5 * (volume_V.shape[1] - 1) / 2)


def test_an_export_names_records_that_cannot_be_used_and_writes_the_others(
        made: tuple[Places, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One record stands under another's name, one has no volume, one is whole."""
    places, record = made
    outputs = tmp_path / "outputs"
    for name in (record.id, "0" * 16):
        shutil.copytree(record.folder, outputs / "records" / name)
    without = write_record(outputs / "records", dataclasses.replace(record.spec, seed=7), metrics={}, arrays={},
                           history=History(np.ones(1), np.ones(1)), environment={}, log="")
    with pytest.raises(SystemExit) as ended:
        runs.main(["export", "--outputs", str(outputs), "--to", str(tmp_path / "to")])
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert ended.value.code == 1 and len(lines) == 2 and all(line.startswith("not exported: ") for line in lines)
    assert all(any(name in line for line in lines) for name in ("0" * 16, without.name))
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        f"{record.id}.{end}" for end in EXPORTED}
    assert printed.out.count("\n") == len(EXPORTED)


def test_an_export_without_matching_records_is_refused(made: tuple[Places, Record], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runs.main(["export", "n_true>1e9", "--outputs", str(made[0].outputs), "--to", str(tmp_path)])
    assert ended.value.code == 2 and "nothing to export" in capsys.readouterr().err
