"""Config groups, experiments and overrides: every choice composes and binds."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from aetlab.cli.compose import SEARCH, compose_all, compose_jobs, compose_spec
from aetlab.cli.overrides import quote_choices
from aetlab.spec import RunSpec, SpecError, tilt_angles_deg
from aetlab.spec.choices import settings
from aetlab.spec.folders import config_folder, experiments_folder, group_choices
from aetlab.store.identity import record_id
from tests.words import spec_of

GROUPS = group_choices()
#: All but the experiments, which have a test of their own, and measured data, which need a series file.
OPTIONS = [(group, choice) for group, choices in GROUPS.items() for choice in choices
           if group != "experiment" and (group, choice) != ("data", "measured")]
#: The groups and choices that users are promised.
PROMISED = {
    "sample": {"si_sio2", "si_sio2_vacancies", "file"}, "scale": {"smoke", "small", "medium", "paper"},
    "dose": {"inf", "50k", "7k"}, "tilts": {"20", "30", "60", "180"}, "defocus": {"1", "3", "9"},
    "wedge": {"0", "30", "60"}, "reg": {"tv", "lasso", "pos", "none", "atoms"},
    "binning": {"1", "2", "4", "8", "10", "16", "32", "64"}, "simulate": {"atoms", "voxels"},
    "microscope": {"aberration_corrected_300kV"}, "engine": {"auto", "cpu", "gpu"},
}


def test_every_promised_choice_exists() -> None:
    for group, choices in PROMISED.items():
        assert choices <= set(GROUPS[group])


@pytest.mark.parametrize(("group", "choice"), OPTIONS)
def test_every_choice_composes_and_binds(group: str, choice: str, tmp_path: Path) -> None:
    """Hydra composes those that tests/test_api.py does not compare with its compositions."""
    words = [f"{group}={choice}"]
    if (group, choice) == ("engine", "gpu"):
        assert compose_spec(words).engine.device == "gpu"
    if (group, choice) in {("sample", "file"), ("scale", "fit")}:
        words.append("sample=file")
        (tmp_path / "particle.xyz").write_text("1\n\nSi 0 0 0\n", encoding="utf-8")
        words.append(f"sample.path={tmp_path / 'particle.xyz'}")
        assert isinstance(compose_spec(words), RunSpec)
    else:
        assert isinstance(spec_of(*words), RunSpec)


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "experiment"])
def test_every_file_of_a_group_has_the_keys_of_its_dataclass(group: str) -> None:
    """A file has all keys, except that each kind of regulariser has its own; together the files have all."""
    names = {field.name for field in dataclasses.fields(get_type_hints(RunSpec)[group])}
    found = set()
    for path in (config_folder() / group).glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = set(content) - {"defaults"}
        found |= keys
        assert keys <= names if "defaults" in content or group == "reg" else keys == names, path
    assert found == names


def test_the_defaults_are_the_papers_at_scale_small() -> None:
    spec = compose_spec()
    assert spec.scale.name == "small" and spec.scale.shape_zxy == (96, 96, 96)
    assert spec.dose.total_e_A2 == 50_000 and spec.tilts.n_tilts == 60 and spec.reg.kind == "tv"
    assert spec.defocus.planes_nm == (20, 45, 100) and spec.binning.n_layers == 10
    assert spec.simulate.kind == "atoms" and spec.engine.n_iterations == 40 and spec.engine.step == 1.5


@pytest.mark.parametrize(("given", "quoted"), [
    ("dose=inf", "dose='inf'"),
    ("dose=inf,50k,7k", "dose='inf',50k,7k"),
    ("dose=50k,inf", "dose=50k,'inf'"),
    ("tilts=20,60,180", "tilts='20','60','180'"),
    ("wedge=0,30", "wedge='0','30'"),
    ("binning=1", "binning='1'"),
    ("wedge=choice(0,30)", "wedge='0','30'"),
    ("tilts=range(20,61,20)", "tilts='20','40','60'"),
    ("dose='inf'", "dose='inf'"),
    ('dose="inf",7k', 'dose="inf",7k'),
    ("dose=3e4,20k", "dose='3e4','20k'"),
    ("tilts=-70:70:2", "tilts='-70:70:2'"),
    ("defocus=[-50,0,50],3", "defocus='[-50,0,50]','3'"),
    ("dose.total_e_A2=inf", "dose.total_e_A2=inf"),
    ("seed=1,2", "seed=1,2"),
    ("experiment=glob(fig4*)", "experiment=glob(fig4*)"),
    ("--cfg", "--cfg"),
    ("-m", "-m"),
])
def test_choices_that_hydra_would_not_read_as_text_are_quoted(given: str, quoted: str) -> None:
    assert quote_choices([given], GROUPS) == [quoted]


@pytest.mark.parametrize(("name", "launcher", "settings"), [
    ("cores", "JoblibLauncher", {"n_jobs": -1, "batch_size": "1"}),
    ("gpus", "JoblibLauncher", {"n_jobs": -1, "batch_size": "1"}),
    ("slurm", "SlurmLauncher", {"timeout_min": 240, "cpus_per_task": 8, "max_num_timeout": 100}),
    ("submitit_local", "LocalLauncher", {}),
    ("ray", "RayLauncher", {}),
])
def test_each_launcher_composes_or_names_the_package_that_it_needs(name: str, launcher: str,
                                                                   settings: dict[str, object]) -> None:
    words = [f"hydra/launcher={name}"]
    if name == "ray" and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        with pytest.raises(SpecError, match=r"pip install 'aetlab\[ray\]'"):
            compose_jobs(words, multirun=True)
        preset = yaml.safe_load((config_folder() / "hydra/launcher/ray.yaml").read_text(encoding="utf-8"))
        assert preset["_target_"].endswith(f".{launcher}") and preset["ray"]["remote"] == {"num_cpus": 4}
        assert "defaults" not in preset  # the plugin's preset has the same name, and this one would be its own default
        return
    plan = compose_all(words, multirun=True)
    assert plan.launcher.name == name
    composed = plan.hydra.hydra.launcher
    assert composed._target_.endswith(f".{launcher}")
    assert {key: composed[key] for key in settings} == settings
    if name == "ray":
        assert composed.ray.remote.num_cpus == 4


def test_a_launcher_of_ones_own_is_treated_as_its_class(tmp_path: Path) -> None:
    """A pool of workers on this machine shares cores and is checked for memory, whatever its choice is called."""
    for name, content in {"two": "defaults: [joblib]\nn_jobs: 2\n", "cards": "defaults: [gpus]\n",
                          "all_cards": "defaults: [cards, _self_]\npre_dispatch: '4'\n", "far": "defaults: [slurm]\n"
                          }.items():
        (tmp_path / "hydra/launcher").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"hydra/launcher/{name}.yaml").write_text(content, encoding="utf-8")
    found = {name: compose_all([f"hydra/launcher={name}"], multirun=True, config_dir=tmp_path).launcher
             for name in ("two", "cards", "all_cards", "far", "basic")}
    assert [(name, each.is_here, each.on_gpus, each.n_jobs) for name, each in found.items()] == [
        ("two", True, False, 2), ("cards", True, True, -1), ("all_cards", True, True, -1), ("far", False, False, None),
        ("basic", True, False, None)]


@pytest.mark.parametrize(("words", "told"), [
    (["hydra/launcher=cores,basic"], "the runs of a sweep have one launcher"),
    (["reg.weight=interval(0,1)"], "only a search takes an interval"),
    (["hydra/sweeper=optuna", "reg.held_out=0.1"], "hydra/sweeper=optuna cannot be used: no setting varies"),
])
def test_what_no_sweep_can_use_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        compose_jobs(words, multirun=True)


def test_a_search_needs_held_out_images() -> None:
    words = ["hydra/sweeper=optuna", "reg.weight=interval(1e-6,1e-3)", "scale=smoke"]
    with pytest.raises(SpecError, match="held_out=0 cannot be used in a search"):
        compose_jobs(words, multirun=True)
    (job,) = compose_jobs([*words, "reg.held_out=0.1"], multirun=True)
    assert job.label == SEARCH
    for harmful in ("hydra.sweeper.custom_search_space=os.system", "hydra.sweeper.storage='redis://elsewhere'"):
        with pytest.raises(SpecError, match="may not name code to run"):
            compose_jobs([*words, "reg.held_out=0.1", harmful], multirun=True)


def test_a_sweep_is_the_product_of_its_choices_in_order() -> None:
    jobs = compose_jobs(["dose=inf,50k,7k", "reg=tv,lasso,pos", "scale=smoke"], multirun=True)
    assert [job.label for job in jobs] == [f"dose={dose} reg={reg}" for dose in ("inf", "50k", "7k")
                                           for reg in ("tv", "lasso", "pos")]
    assert [job.spec.dose.total_e_A2 for job in jobs] == [math.inf] * 3 + [50_000] * 3 + [7_000] * 3
    assert [job.spec.reg.kind for job in jobs] == ["tv", "lasso", "pos"] * 3
    assert len({record_id(job.spec) for job in jobs}) == 9


@pytest.mark.parametrize(("words", "smoothing"), [
    (["reg=tv"], 0.5), (["reg=atoms"], 0.5), (["reg=lasso"], 0.6), (["reg=lasso", "trace.smoothing=0.2"], 0.2),
    (["trace=paper"], 0.0)])
def test_the_smoothing_follows_the_regulariser(words: list[str], smoothing: float) -> None:
    assert spec_of(*words).trace.smoothing == smoothing


def test_numeric_choices_sweep_too() -> None:
    jobs = compose_jobs(["tilts=20,60,180", "wedge=0,30", "binning=1,4,16"], multirun=True)
    assert len(jobs) == 18
    assert jobs[-1].spec.tilts.n_tilts == 180 and jobs[-1].spec.wedge.missing_deg == 30
    assert jobs[-1].spec.binning.n_layers == 16


def test_experiments_take_overrides_and_globs() -> None:
    jobs = compose_jobs(["experiment=glob(*4*)", "scale=smoke", "engine.n_iterations=3", "binning=4"], multirun=True)
    assert len(jobs) == len([name for name in GROUPS["experiment"] if "4" in name]) > 6
    assert all(job.spec.scale.name == "smoke" and job.spec.engine.n_iterations == 3 for job in jobs)
    assert all(job.spec.binning.n_layers == 4 for job in jobs)


def test_each_row_of_the_papers_table_has_its_experiment(experiments: dict[str, RunSpec]) -> None:
    rows = tomllib.loads((experiments_folder() / "paper_values.toml").read_text(encoding="utf-8"))["rows"]
    assert rows
    for name, row in rows.items():
        spec = experiments[name]
        assert spec.dose.total_e_A2 == row["dose_e_A2"]
        assert len(tilt_angles_deg(spec.tilts, spec.wedge)) == row["n_tilts"]
        assert len(spec.defocus.planes_nm) == row["n_defoci"]
        assert spec.tilts.span_deg - spec.wedge.missing_deg == row["tilt_span_deg"]
        assert {"tv": "TV", "lasso": "Lasso", "pos": "positive"}[spec.reg.kind] == row["reg"]
    for name in (name for name in experiments if name.startswith("atoms")):
        ours, papers = experiments[name], experiments[name.replace("atoms", "fig")]
        assert ours.reg.kind == "atoms"
        assert ours.engine.n_iterations == 25
        assert dataclasses.replace(ours, reg=papers.reg, engine=papers.engine, trace=papers.trace) == papers
    same = {record_id(experiments[name]) for name in ("fig4b", "fig6b", "fig7a", "fig8c", "fig9b")}
    assert len(same) == 1


@pytest.mark.parametrize(("words", "told"), [
    (["dose=8x"], "dose=8x is not a choice: choose from 7k, 50k, inf"),
    (["dosee=50k"], "dosee=50k is not a group or setting: did you mean dose?"),
    (["engine=gpus"], "engine=gpus is not a choice: did you mean gpu?"),
    (["engine.stepp=1"], "engine.stepp=1 is not a setting: did you mean engine.step?"),
    (["+engine.extra=1"], "engine.extra=1 is not a setting"),
    (["+more.extra=1"], "more=1 is not a group or setting"),
    (["engine.step=fast"], "engine.step='fast' cannot be used: it takes a number"),
    (["engine.step=[1"], "engine.step=[1 cannot be read as key=value"),
    (["dose.total_e_A2=-1"], "dose.total_e_A2=-1.0 cannot be used: it must be greater than 0"),
    (["binning=64", "scale=smoke"], "binning.n_layers=64 cannot be used: the volume of scale=smoke has only 48 layers"),
    (["wedge.missing_deg=175", "tilts=20"], "wedge.missing_deg=175.0 cannot be used: it leaves 1 of 20 tilts"),
    (["dose=inf,50k"], "dose=inf,50k names several choices: add -m to sweep over them"),
    (["seed=1,2"], "seed=1,2 names several values: add -m"),
    (["seed=1.5"], "seed=1.5 cannot be used: it takes a whole number"),
    (["experiment=fig99"], "experiment=fig99 is not a choice"),
    (["experiment=glob(nothing*)"], "matches nothing: choose from"),
    (["data=measured"], "data.path='' cannot be used: data=measured needs the series file"),
    (["sample=file"], "sample.path='' cannot be used: give the structure file"),
    (["other_code=maybe"], "other_code='maybe' cannot be used: choose one of remake, use"),
    (["outputs=''"], "outputs='' cannot be used: give a folder"),
    (["fast"], "'fast' is not a setting: write key=value"),
    (["reg=tv", "reg.edge_V=2"], "for nothing reads it then: it needs reg=huber"),
    (["reg=tv", "reg.kind=lasso"], "reg.kind='lasso' cannot be used: reg=tv is the regulariser of that name"),
    (["tilts=[0,1,foo]"], "tilts=[0,1,foo] is not a choice: choose from"),
    (["defocus=[]"], "defocus=[] is not a choice: choose from"),
    (["~reg=tv"], "~reg=tv cannot be used: a run needs every setting"),
    (["~dose"], "~dose cannot be used: a run needs every setting"),
    (["hydra/launcher=nowhere"], "hydra/launcher/nowhere"),
    (["hydra.launcher._target_=os.system"], "a configuration may not name code to run"),
])
def test_invalid_overrides_are_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        compose_jobs(words, multirun=False)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_setting_of_one_regulariser_is_given_in_a_sweep_over_several_as_the_refusal_says() -> None:
    with pytest.raises(SpecError, match=r"it needs reg=huber; in a sweep over several, \+\+reg.edge_V=VALUE sets it"):
        compose_jobs(["reg=tv,huber", "reg.edge_V=2"], multirun=True)
    tv, huber = compose_jobs(["reg=tv,huber", "++reg.edge_V=2"], multirun=True)
    assert record_id(tv.spec) == record_id(spec_of("reg=tv")) and "it needs reg=huber" in tv.notes[0]
    assert record_id(huber.spec) == record_id(spec_of("reg=huber", "reg.edge_V=2")) and not huber.notes


def test_one_bad_job_refuses_the_whole_sweep() -> None:
    with pytest.raises(SpecError, match="binning.n_layers=64"):
        compose_jobs(["binning=4,64", "scale=smoke"], multirun=True)


def test_only_a_pattern_leaves_out_experiments_that_cannot_be_made() -> None:
    plan = compose_all(["experiment=glob(fig10_nb?)", "scale=smoke", "binning=1,64"], multirun=True)
    jobs, left_out = plan.jobs, plan.left_out
    assert [job.number for job in jobs] == [0, 2, 4, 6]
    assert [each.number for each in left_out] == [1, 3, 5, 7]
    assert left_out[0].label == "experiment=fig10_nb1 binning=64"
    assert "the volume of scale=smoke has only 48 layers" in left_out[0].reason
    for words in (["experiment=glob(fig10_nb64)", "scale=smoke"], ["experiment=fig10_nb4,fig10_nb64", "scale=smoke"]):
        with pytest.raises(SpecError, match="binning.n_layers=64"):
            compose_jobs(words, multirun=True)


@pytest.mark.parametrize(("word", "same"), [
    ("dose=50000", ["dose=50k"]),
    ("dose=7.0e3", ["dose=7k"]),
    ("dose=20k", ["dose.total_e_A2=20000"]),
    ("tilts=71", ["tilts.n_tilts=71"]),
    ("tilts=-70:70:2", ["tilts=pm70_by_2"]),
    ("tilts=-70,0,70.5", ["tilts.angles_deg=[-70,0,70.5]"]),
    ("tilts=[0,3]", ["tilts.angles_deg=[0,3]"]),
    ("defocus=-50,0,50", ["defocus.planes_nm=[-50,0,50]"]),
    ("defocus=[20,45,100]", ["defocus=3"]),
    ("wedge=45", ["wedge.missing_deg=45"]),
    ("binning=5", ["binning.n_layers=5"]),
    ("scale.shape_zxy=80,64,96", ["scale.shape_zxy=[80,64,96]"]),
])
def test_plain_numbers_bind_to_the_same_run_as_choices_and_keys(word: str, same: list[str]) -> None:
    plain = compose_spec([word])
    assert record_id(plain) == record_id(spec_of(*same))
    key, value = word.split("=")
    numbers: list[float] | str = [float(v) for v in value.strip("[]").split(",")] if "," in value else value
    if "." not in key:  # the same in Python, as text, and as a list of numbers
        assert settings(**{key: value if "," not in value else numbers}) == plain  # type: ignore[arg-type]


def test_the_number_of_a_choice_is_that_choice_and_a_comma_sweeps() -> None:
    assert compose_spec(["defocus=3"]).defocus.planes_nm == (20, 45, 100)
    jobs = compose_jobs(["dose=3e4,inf", "defocus=[-50,0,50],1"], multirun=True)
    assert [(job.label, job.spec.dose.total_e_A2) for job in jobs[::2]] == [
        ("dose=3e4 defocus=[-50,0,50]", 30_000), ("dose=inf defocus=[-50,0,50]", math.inf)]
    assert [job.spec.defocus.planes_nm for job in jobs[:2]] == [(-50, 0, 50), (100,)]


@pytest.mark.parametrize(("words", "multirun", "told"), [
    (["dose=[50k,7k]"], True, "dose=[50k,7k] cannot be used: a run has one dose; without the brackets, -m dose=50k,7k"),
    (["dose=[50k,7k]"], False, "dose=[50k,7k] cannot be used: a run has one dose"),
    (["reg=[tv,pos]"], True, "reg=[tv,pos] cannot be used: a run has one reg"),
    (["dose={total_e_A2:3}"], False, "dose={total_e_A2:3} is not a choice"),
    (["dose=50k,7k", "dose=inf"], True, "dose is given twice, as dose=50k,7k and dose=inf: give it once"),
    (["engine.step=1,2", "engine.step=3"], True, "engine.step is given twice"),
    (["defocus=5"], False, "defocus=5 is not a choice: choose from 1, 3, 9; or give a list of planes in nm such as"),
    (["defocus=-50,0,50"], True, "defocus=-50 is not a choice: choose from 1, 3, 9; or give a list of planes"),
    (["defocus=1,3"], False, "defocus=1,3 names several choices: add -m"),
    (["tilts=60,71"], False, "tilts=60,71 names several choices: add -m"),
    (["tilts=-70:70"], False, "tilts=-70:70 is not a choice"),
    (["dose=-3"], False, "dose.total_e_A2=-3.0 cannot be used: it must be greater than 0 e/Å² (electrons summed over"),
    (["scale.shape_zxy=80,64,96"], True, "write scale.shape_zxy=[80,64,96] for one list"),
])
def test_what_could_mean_two_things_is_refused(words: list[str], multirun: bool, told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        compose_jobs(words, multirun=multirun)
    assert told in str(refusal.value)


def test_a_users_folder_adds_choices_to_the_groups(tmp_path: Path) -> None:
    (tmp_path / "dose").mkdir()
    (tmp_path / "dose" / "low.yaml").write_text("total_e_A2: 20000\n", encoding="utf-8")
    assert compose_spec(["dose=low"], config_dir=tmp_path).dose.total_e_A2 == 20_000
    with pytest.raises(SpecError, match="dose=low is not a choice"):
        compose_spec(["dose=low"])
