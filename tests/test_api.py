"""The public Python API: the same numbers as on the command line, without Hydra, a store or a file on the disk."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aetlab
from aetlab import keeper
from aetlab.cli.compose import compose_spec
from aetlab.cli.jobs import run_job
from aetlab.core.backend import n_threads
from aetlab.core.nouns import TiltSeries
from aetlab.spec import RunSpec
from aetlab.spec.choices import default_choices
from aetlab.spec.folders import group_choices
from aetlab.store.checkpoint import CheckpointFile
from aetlab.store.record import Places, Record, array_names, list_records, read_array

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = {"tilts.n_tilts": 6, "engine.n_iterations": 4, "simulate.n_layers": 8, "engine.n_threads": 1}
#: Choices that need a further setting or choice.
NEEDS_MORE = {"sample": "file", "scale": "fit", "engine": "gpu", "data": "measured"}
NOTEBOOK = """
import aetlab
settings = aetlab.settings(scale="smoke", dose="50k", reg="tv", overrides={overrides})
atoms = aetlab.sample(settings)
series = aetlab.simulate(settings, atoms)
reconstruction = aetlab.reconstruct(settings, series)
traced = aetlab.trace(settings, reconstruction)
print(aetlab.score(settings, traced, atoms).metrics["position_error_pm"])
import os, sys
print([name for name in ("hydra", "omegaconf", "aetlab.store") if name in sys.modules], os.listdir("."))
"""


@pytest.fixture(scope="module")
def settings() -> RunSpec:
    return aetlab.settings(scale="smoke", dose="50k", reg="tv", overrides=OVERRIDES)


@pytest.fixture(scope="module")
def made(settings: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return keeper.run(settings, places=Places(tmp_path_factory.mktemp("outputs"))).record


@pytest.fixture(scope="module")
def steps(settings: RunSpec) -> tuple[Any, ...]:
    atoms = aetlab.sample(settings)
    series = aetlab.simulate(settings, atoms)
    reconstruction = aetlab.reconstruct(settings, series)
    return atoms, series, reconstruction, aetlab.trace(settings, reconstruction)


def test_a_notebook_and_the_command_line_give_the_same_number(made: Record, tmp_path: Path) -> None:
    words = [f"{key}={value}" for key, value in OVERRIDES.items()]
    assert compose_spec(["scale=smoke", "dose=50k", "reg=tv", *words]) == made.spec
    result = subprocess.run([sys.executable, "-W", "error", "-c", NOTEBOOK.format(overrides=OVERRIDES)], cwd=tmp_path,
                            env={"PYTHONPATH": str(ROOT), "PATH": ""}, text=True, capture_output=True, check=False)
    assert result.stderr == ""
    number, left = result.stdout.splitlines()
    assert float(number) == made.metrics["position_error_pm"] and left == "[] []"


def test_the_flow_and_the_record_have_the_same_arrays(made: Record, steps: tuple[Any, ...]) -> None:
    _, series, reconstruction, traced = steps
    np.testing.assert_array_equal(reconstruction.volume.potential_V, read_array(made, "volume/potential_V").values)
    np.testing.assert_array_equal(traced.positions_A, read_array(made, "traced/positions_A").values)
    kept = read_array(made, "tilt_series/kept_tilts").values
    np.testing.assert_array_equal(series.images[kept], read_array(made, "tilt_series/images_of_kept_tilts").values)


def test_every_choice_is_composed_as_by_hydra() -> None:
    """The i-th composition takes the i-th choice of every group, so that each is taken at least once."""
    groups = {name: choices for name, choices in group_choices().items() if name != "experiment"}
    assert set(groups) == set(default_choices())
    compared = set()
    for i in range(max(len(choices) for choices in groups.values())):
        chosen = {name: choices[i % len(choices)] for name, choices in groups.items()}
        chosen |= {name: default_choices()[name] for name, choice in NEEDS_MORE.items() if chosen[name] == choice}
        words = [f"{name}={choice}" for name, choice in chosen.items()]
        rest: dict[str, Any] = {"wedge.missing_deg": 0, "scale.shape_zxy": [96, 96, 96]}
        rest |= {"refine.poses": True} if chosen["refine"] == "atoms" else {}
        composed = compose_spec([*words, *(f"{key}={value}" for key, value in rest.items())])
        assert aetlab.settings(**chosen, overrides=rest) == composed, chosen  # type: ignore[arg-type]
        compared |= chosen.items()
    assert compared == {(name, choice) for name, choices in groups.items() for choice in choices
                        if choice != NEEDS_MORE.get(name)}


def test_every_experiment_is_composed_as_by_hydra() -> None:
    """Those of the figures by test_paper.py, except for the one that has no run at its scale."""
    others = [name for name in group_choices()["experiment"] if not name.startswith("fig")]
    assert len(others) > 7
    for name in ("fig10_nb64", *others):
        assert aetlab.settings(experiment=name) == compose_spec([f"experiment={name}"]), name


@pytest.mark.parametrize(("given", "complaint"), [
    ({"reg": "tvv"}, "reg=tvv is not a choice: did you mean tv? choose from atoms, "),
    ({"dose": "8x"}, "dose=8x is not a choice: choose from 7k, 50k, inf; or give electrons per Å²"),
    ({"experiment": "fig99"}, "experiment=fig99 is not a choice: did you mean"),
    ({"overrides": {"engine.n_iteration": 3}}, "engine.n_iteration=3 is not a setting: did you mean"),
    ({"overrides": {"reg.weight": -1.0}}, "reg.weight=-1.0 cannot be used"),
    ({"dose": 1e30}, "dose.total_e_A2=1e+30 cannot be used: it gives"),
    ({"tilts": 60, "overrides": {"trace.smoothing": {"by": "reg.kin", "tv": 1}}}, "trace.smoothing="),
])
def test_bad_settings_are_refused_in_one_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(aetlab.AetlabError) as refused:
        aetlab.settings(**given)
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


def test_choices_may_be_numbers_and_truth_values() -> None:
    by_name = aetlab.settings(tilts="20", wedge="30", align="true", dose="inf")
    assert aetlab.settings(tilts=20, wedge=30.0, align=True, dose=float("inf")) == by_name
    assert aetlab.settings(dose=3e4).dose.total_e_A2 == 30_000
    assert aetlab.settings(defocus=[-50, 0, 50]).defocus.planes_nm == (-50, 0, 50)


def unnamed() -> aetlab.Atoms:
    return aetlab.Atoms(np.array([0, 14]), np.zeros((2, 3)), np.zeros(2, int))


@pytest.mark.parametrize(("call", "complaint"), [
    (lambda s, v: aetlab.settings(tilts=None), "aetlab.settings: tilts is None; wanted the name of a choice, a number"),
    (lambda s, v: aetlab.settings(seed="3"), "aetlab.settings: seed is '3' (str); wanted int"),
    (lambda s, v: aetlab.settings(tilts=np.ones((2, 2))), "tilts is an array of float64 with shape (2, 2); wanted"),
    (lambda s, v: aetlab.settings(overrides=[1]), "overrides is [1] (list); wanted Mapping[str, Any] or None"),
    (lambda s, v: aetlab.sample({"scale": "smoke"}), "aetlab.sample: settings is {'scale': 'smoke'} (dict); wanted"),
    (lambda s, v: aetlab.trace(v, s), "aetlab.trace: settings is a Volume; wanted RunSpec (of aetlab.settings)"),
    (lambda s, v: aetlab.trace(s, v, elements=["Si"]), "elements is ['Si'] (list); wanted Sequence[int] or None"),
    (lambda s, v: aetlab.reconstruct(s, v), "aetlab.reconstruct: series is a Volume; wanted TiltSeries"),
    (lambda s, v: aetlab.simulate(s, aetlab.Atoms), "aetlab.simulate: atoms is a class, Atoms; wanted Atoms"),
    (lambda s, v: aetlab.trace(s, v, progress=True), "aetlab.trace: progress is True (bool); wanted Reporter"),
    (lambda s, v: aetlab.write_volume("x.mrc", v.potential_V), "volume is an array of float32 with shape (8, 8, 8)"),
    (lambda s, v: aetlab.from_ase([1]), "aetlab.from_ase: atoms is [1] (list); wanted ase.Atoms"),
    (lambda s, v: aetlab.import_files("a.mrc"), "files is 'a.mrc' (str); wanted Sequence[Path or str]"),
    (lambda s, v: aetlab.to_ase(v), "aetlab.to_ase: atoms is a Volume; wanted Atoms or TracedAtoms or RefinedAtoms"),
    (lambda s, v: aetlab.Volume(np.zeros(3), 0.5), "Volume.potential_V: float64 of shape (3,), wanted real numbers"),
    (lambda s, v: aetlab.Volume(v.potential_V, 0), "Volume.voxel_A: 0, wanted a finite number greater than 0"),
    (lambda s, v: aetlab.Volume(v.potential_V, "0.5"), "Volume.voxel_A: '0.5', wanted a finite number greater than 0"),
    (lambda s, v: aetlab.TiltSeries([[1.0]], [0.0], [0.0], 0.5), "images: float64 of shape (1, 1), wanted numbers (ti"),
    (lambda s, v: aetlab.TiltSeries(np.ones((1, 1, 2, 2)), [0.0], [0.0], None), "pixel_A: None, wanted a number"),
    (lambda s, v: aetlab.Atoms(["Si"], [[0, 0, 0]], [0]), "Atoms.numbers: <U2 of shape (1,), wanted whole numbers"),
    (lambda s, v: aetlab.Atoms([14], [0, 0, 0], [0]), "Atoms.positions_A: int64 of shape (3,), wanted numbers"),
    (lambda s, v: aetlab.Atoms([14, 200], np.zeros((2, 3)), [0, 0]), "Atoms.numbers: 200, wanted numbers from 0 to 98"),
    (lambda s, v: aetlab.Atoms([-1], np.zeros((1, 3)), [0]), "Atoms.numbers: -1, wanted numbers from 0 to 98"),
    (lambda s, v: aetlab.Atoms([14], np.zeros((1, 3)), [1]), "Atoms.part: 1, wanted numbers from 0 to 0"),
    (lambda s, v: aetlab.Atoms([14], [[0, np.nan, 0]], [0]), "Atoms.positions_A: NaN or infinity for 1 of 1 atoms"),
    (lambda s, v: aetlab.simulate(s, unnamed()), "Atoms.numbers: 1 of 2 atoms have the number 0; name their elements"),
    (lambda s, v: aetlab.compute_bound(s, unnamed()), "Atoms.numbers: 1 of 2 atoms have the number 0"),
    (lambda s, v: aetlab.score(s, None, unnamed()), "aetlab.score: traced is None; wanted TracedAtoms"),
    (lambda s, v: aetlab.compute_bound(s, unnamed(), n_passes=0), "n_passes=0 cannot be used: it must be at least 1"),
    (lambda s, v: aetlab.trace(s, v, elements=[]), "elements=[] cannot be used: give atomic numbers from 1 to 98"),
    (lambda s, v: aetlab.trace(s, v, elements=[0, 14]), "elements=[0, 14] cannot be used: give atomic numbers"),
    (lambda s, v: aetlab.trace(s, v, elements=[14, 14]), "elements=[14, 14] cannot be used: give atomic numbers"),
    (lambda s, v: aetlab.trace(s, v, elements=[200]), "elements=[200] cannot be used: give atomic numbers"),
    (lambda s, v: aetlab.settings(doze=3), "aetlab.settings: doze is not an argument: did you mean dose? choose from"),
    (lambda s, v: aetlab.trace(s, v, element=[14]), "aetlab.trace: element is not an argument: did you mean elements?"),
])
def test_an_argument_of_a_wrong_type_is_refused_in_one_line(settings: RunSpec, call: Callable[..., Any],
                                                            complaint: str) -> None:
    with pytest.raises(aetlab.AetlabError) as refused:
        call(settings, aetlab.Volume(np.zeros((8, 8, 8), np.float32), 0.5))
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


def test_numbers_of_numpy_and_volumes_of_others_are_taken(settings: RunSpec, steps: tuple[Any, ...]) -> None:
    tilts_deg = [-60.0, 0.0, 60.0]
    by_list = aetlab.settings(tilts=tilts_deg, dose=7000, seed=3, overrides={"reg.weight": 0.5})
    by_array = aetlab.settings(tilts=np.array(tilts_deg), dose=np.float32(7000), seed=np.int64(3),
                               overrides={"reg.weight": np.float64(0.5)})
    assert by_array == by_list and aetlab.settings(overrides={"tilts.angles_deg": np.array(tilts_deg),
                                                              "tilts.n_tilts": None}).tilts == by_list.tilts
    of_volume = aetlab.trace(settings, steps[2].volume, elements=np.array([14, 8]))
    np.testing.assert_array_equal(of_volume.positions_A, steps[3].positions_A)
    assert pickle.loads(pickle.dumps(aetlab.trace)) is aetlab.trace  # workers get it by its name


def test_a_box_that_is_still_to_be_fitted_is_named(tmp_path: Path, steps: tuple[Any, ...]) -> None:
    aetlab.write_atoms(tmp_path / "a.xyz", steps[0])
    unfitted = aetlab.settings(sample="file", scale="fit", overrides={"sample.path": str(tmp_path / "a.xyz")})
    for make in (aetlab.simulate, aetlab.compute_bound):
        with pytest.raises(aetlab.AetlabError, match="scale=fit is not joined with its structure yet"):
            make(unfitted, steps[0])


def test_a_truth_without_elements_is_refused(settings: RunSpec, steps: tuple[Any, ...]) -> None:
    with pytest.raises(aetlab.AetlabError, match=r"Atoms.numbers: 1 of 2 atoms have the number 0"):
        aetlab.score(settings, steps[3], unnamed())


def test_images_that_do_not_fit_the_volume_are_refused(settings: RunSpec, steps: tuple[Any, ...]) -> None:
    series = steps[1]
    smaller = dataclasses.replace(series, images=series.images[:, :, :40])
    with pytest.raises(aetlab.AetlabError, match=r"scale.shape_zxy=.* cannot be used: its \(x, y\) of \(48, 48\)"):
        aetlab.reconstruct(settings, smaller)
    with pytest.raises(aetlab.AetlabError, match=r"scale.voxel_A=0.5 cannot be used: the images have pixels of 0.4 Å"):
        aetlab.reconstruct(settings, dataclasses.replace(series, pixel_A=0.4))


def test_a_run_without_a_truth_makes_a_complete_record(settings: RunSpec, steps: tuple[Any, ...],
                                                       tmp_path: Path) -> None:
    _, series, reconstruction, traced = steps
    record = aetlab.save_record(tmp_path, settings, series, reconstruction, traced)
    sound, broken = list_records(tmp_path / "records", verify=True)
    assert [one.id for one in sound] == [record.id] and broken == []
    assert record.spec.data.kind == "given" and record.spec.data.digest == series.digest()
    assert not [name for name in array_names(record)
                if name.split("/")[0] in ("truth", "match", "refined_match", "profiles", "structure", "views")]
    assert "tilt_series/ideal_of_kept_tilts" not in array_names(record)
    np.testing.assert_array_equal(read_array(record, "traced/positions_A").values, traced.positions_A)
    assert set(record.metrics) == {"final_cost", "held_out_cost", "weight_per_V", "n_atoms_traced"}


def test_a_truth_is_scored_when_a_record_is_saved(settings: RunSpec, steps: tuple[Any, ...], made: Record,
                                                  tmp_path: Path) -> None:
    atoms, series, reconstruction, traced = steps
    record = aetlab.save_record(tmp_path, settings, series, reconstruction, traced, truth=aetlab.Truth(atoms))
    np.testing.assert_equal(record.metrics, made.metrics)
    assert set(array_names(made)) - set(array_names(record)) == {"tilt_series/ideal_of_kept_tilts"}
    assert record.id != made.id


def test_a_record_is_loaded_as_it_was_saved(settings: RunSpec, steps: tuple[Any, ...], made: Record,
                                            tmp_path: Path) -> None:
    atoms, series, reconstruction, traced = steps
    kept = aetlab.save_record(tmp_path, settings, series, reconstruction, traced)
    run = aetlab.load_record(kept.folder)
    np.testing.assert_array_equal(run.reconstruction.volume.potential_V, reconstruction.volume.potential_V)
    np.testing.assert_array_equal(run.reconstruction.cost, reconstruction.cost)
    np.testing.assert_array_equal(run.traced.positions_A, traced.positions_A)
    assert run.refined is None and run.spec == kept.spec and not run.has_truth
    with pytest.raises(aetlab.AetlabError, match="has no truth"):
        _ = run.atoms
    of_command_line = aetlab.load_record(made.folder)
    np.testing.assert_array_equal(of_command_line.atoms.positions_A, atoms.positions_A)
    assert of_command_line.atoms.part_names == atoms.part_names
    (kept.folder / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(aetlab.AetlabError, match="metrics.json has"):
        aetlab.load_record(kept.folder)


def test_records_are_loaded_as_a_table(made: Record) -> None:
    frame = aetlab.load_records(made.folder.parents[1])
    assert list(frame["record"]) == [made.id]
    assert frame["position_error_pm"][0] == made.metrics["position_error_pm"]
    assert "mean 3D distance" in frame.attrs["columns"]["position_error_pm"] and frame.attrs["problems"] == []
    assert aetlab.load_records(made.folder.parent).empty


def test_a_series_is_written_and_read_in_one_call(steps: tuple[Any, ...], tmp_path: Path) -> None:
    series: TiltSeries = steps[1]
    weight = np.ones(series.weight.shape)
    weight[2, 1] = 0
    bad = np.ones(series.images.shape, np.float32)
    bad[..., 3, 5] = 0
    for one in (series, dataclasses.replace(series, weight=weight, pixel_weight=bad)):
        aetlab.write_series(tmp_path / "a.series.h5", one)
        back = aetlab.read_series(tmp_path / "a.series.h5")
        assert back.digest() == one.digest() and back.pixel_A == one.pixel_A
    for damage, complaint in ((b"", "is no tilt series.*aetlab.import_files"), (None, "is not there")):
        path = tmp_path / "b.h5"
        path.unlink(missing_ok=True)
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(aetlab.AetlabError, match=complaint):
            aetlab.read_series(path)


def test_settings_of_a_kept_series_cannot_be_run(settings: RunSpec, steps: tuple[Any, ...], tmp_path: Path) -> None:
    record = aetlab.save_record(tmp_path / "kept", settings, *steps[1:])
    with pytest.raises(aetlab.AetlabError, match="data.kind='given' cannot be run"):
        keeper.run(record.spec, places=Places(tmp_path / "run"))


def test_a_checkpoint_of_other_images_is_not_continued(settings: RunSpec, steps: tuple[Any, ...], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """The second series has the same settings and other images."""
    series: TiltSeries = steps[1]
    other = dataclasses.replace(series, images=series.images[:, :, ::-1].copy())
    assert series.digest() != other.digest()
    monkeypatch.setattr(CheckpointFile, "due", lambda self: True)
    path = tmp_path / "checkpoint.h5"
    refused: list[str] = []

    def checkpoints(of: TiltSeries) -> CheckpointFile:
        return CheckpointFile(path, run="0123456789abcdef", data=of.digest(), say=refused.append)

    aetlab.reconstruct(settings, series, checkpoints=checkpoints(series))
    assert path.exists() and refused == []
    of_first, of_other = checkpoints(series), checkpoints(other)
    resumed = aetlab.reconstruct(settings, other, checkpoints=of_other)
    assert not of_other.resumed
    np.testing.assert_array_equal(resumed.volume.potential_V, aetlab.reconstruct(settings, other).volume.potential_V)
    aetlab.reconstruct(settings, series, checkpoints=of_first)
    assert not of_first.resumed  # the file holds the other series' state by now
    assert len(refused) == 2 and all("the reconstruction starts from the beginning" in line for line in refused)


@pytest.mark.parametrize("change", [
    lambda s: dataclasses.replace(s, tilt_deg=s.tilt_deg + 1e-3),
    lambda s: dataclasses.replace(s, defocus_A=s.defocus_A + 1.0),
    lambda s: dataclasses.replace(s, pixel_A=s.pixel_A * 1.001),
    lambda s: dataclasses.replace(s, electrons_per_pixel=s.electrons_per_pixel * 2),
    lambda s: dataclasses.replace(s, weight=s.weight * 2),
    lambda s: dataclasses.replace(s, pixel_weight=np.full(s.images.shape, 0.5, np.float32)),
    lambda s: dataclasses.replace(s, images=s.images.transpose(0, 1, 3, 2).copy()),
])
def test_the_digest_of_a_series_covers_all_of_it(steps: tuple[Any, ...],
                                                 change: Callable[[TiltSeries], TiltSeries]) -> None:
    assert change(steps[1]).digest() != steps[1].digest()


def test_a_job_leaves_the_threads_of_its_process_to_the_next(settings: RunSpec, tmp_path: Path) -> None:
    """Otherwise all jobs of a sweep in one process would run on the threads of the first."""
    before = n_threads()
    result = run_job(settings, "job", outputs=tmp_path, use_other_code=False)
    assert settings.engine.n_threads == 1 and result.status == "done" and n_threads() == before


def test_all_public_names_exist_and_are_documented() -> None:
    for name in aetlab.__all__:
        assert getattr(aetlab, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        aetlab.reconstuct  # noqa: B018
