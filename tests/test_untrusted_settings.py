"""Settings of unknown origin: a folder of choices, typed words and YAML files are data that can run no code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from aetlab.cli.compose import compose_all, compose_jobs, compose_spec
from aetlab.core.errors import SeriesError
from aetlab.core.files import StorageError
from aetlab.core.yaml_file import MAX_BYTES, parse_mapping, read_text
from aetlab.series.microscope import read_microscope
from aetlab.spec import SpecError
from aetlab.store.environment import commit_of


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write ``files`` (content by relative path) into ``folder`` and return it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


DOSE = "total_e_A2: 20000\n"
#: A file of a folder of choices, its content, and the refusal.
ATTACKS = {
    "environment of the job by package": (
        "dose/evil.yaml", f"# @package _global_\nhydra: {{job: {{env_set: {{PATH: .}}}}}}\ndose: {{{DOSE.strip()}}}\n",
        "@package _global_ cannot be used"),
    "package below the global one": ("dose/evil.yaml", "# @package _global_.hydra.job\nenv_set: {A: b}\n", "@package"),
    "package behind comments": ("dose/evil.yaml", f"# a\n\n#  @package   hydra.job\n{DOSE}", "@package hydra.job"),
    "package of another group": ("dose/evil.yaml", "# @package scale\nvoxel_A: 9\n", "@package scale"),
    "package of a default": ("dose/evil.yaml", f"defaults: ['50k@hydra.job']\n{DOSE}", "entry '50k@hydra.job' of def"),
    "default of Hydra": ("dose/evil.yaml", f"defaults: [{{override /hydra/job_logging: x}}]\n{DOSE}", "of defaults"),
    "default outside the group": ("dose/evil.yaml", f"defaults: ['../sample/file']\n{DOSE}", "of defaults"),
    "default from the environment": ("dose/evil.yaml", f"defaults: ['${{oc.env:HOME}}']\n{DOSE}", "of defaults"),
    "code to make a value": ("dose/evil.yaml", f"_target_: os.system\n{DOSE}", "_target_='os.system' cannot be used"),
    "tag of Python": ("dose/evil.yaml", "total_e_A2: !!python/object/apply:os.system [true]\n", "could not determine"),
    "many aliases": ("dose/evil.yaml", "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "an alias (*name)"),
    "a key twice": ("dose/evil.yaml", "total_e_A2: 7000\ntotal_e_A2: 50000\n", "the key 'total_e_A2' stands there"),
    "deep nesting": ("dose/evil.yaml", "[" * 50_000, "line 1: more than 30 levels"),
    "a large file": ("dose/evil.yaml", "#" * (MAX_BYTES + 1), "longer than 1048576 bytes"),
    "a secret": ("scale/evil.yaml", "name: ${oc.env:HOME}\n", "name='${oc.env:HOME}' cannot be used"),
    "a decoded secret": ("scale/evil.yaml", "name: ${oc.decode:${oc.env:HOME}}\n", "only other settings can be"),
    "a resolver by a reference": ("scale/evil.yaml", "name: ${${microscope.name}:HOME}\n", "only other settings"),
    "settings of Hydra": ("scale/evil.yaml", "name: ${hydra.runtime.cwd}\n", "only other settings"),
    "its resolver": ("scale/evil.yaml", "name: ${hydra:runtime.cwd}\n", "only other settings"),
    "the time": ("scale/evil.yaml", "name: ${now:%H}\n", "only other settings"),
    "a callback of an experiment": (
        "experiment/evil.yaml", "hydra: {callbacks: {x: {_target_: os.system}}}\n", "it can only be typed"),
    "a callback by a resolver": (
        "experiment/evil.yaml", "hydra: {callbacks: '${oc.create:{x: {_target_: os.system}}}'}\n", "only be typed"),
    "the place of the results": ("experiment/evil.yaml", "outputs: /etc\n", "outputs='/etc' cannot be used"),
    "records of other code": ("experiment/evil.yaml", "other_code: use\n", "other_code='use' cannot be used"),
    "logging of an experiment": (
        "experiment/evil.yaml", "defaults: [{override /hydra/job_logging: evil}]\n", "of defaults cannot be used"),
    "a search path": ("config.yaml", "hydra: {searchpath: ['file:///elsewhere']}\n", "config.yaml cannot be used"),
    "a logging handler": (
        "hydra/job_logging/none.yaml", "handlers: {x: {class: logging.FileHandler, filename: lost}}\n",
        "only hydra/launcher takes choices of a folder"),
    "the environment of all jobs": ("hydra/env/default.yaml", "job: {env_set: {A: b}}\n", "only hydra/launcher takes"),
    "a sweeper": ("hydra/sweeper/evil.yaml", "_target_: os.system\n", "only hydra/launcher takes"),
    "another class of launcher": ("hydra/launcher/evil.yaml", "_target_: os.system\n", "_target_='os.system' cannot"),
    "a shell line": ("hydra/launcher/evil.yaml", "defaults: [slurm]\nsetup: ['curl x | sh']\n", "such as module load"),
    "a shell line behind a module": (
        "hydra/launcher/evil.yaml", "defaults: [slurm]\nsetup: ['module load x; id']\n", "such as module load"),
    "a line end": ("hydra/launcher/evil.yaml", 'defaults: [slurm]\npartition: "a\\nid"\n', "plain text without"),
    "a program of Slurm": (
        "hydra/launcher/evil.yaml", "defaults: [slurm]\nadditional_parameters: {task-prolog: ./x}\n", "can set n_jobs"),
    "pickles elsewhere": (
        "hydra/launcher/evil.yaml", "defaults: [slurm]\nsubmitit_folder: /elsewhere\n", "submitit_folder='/elsewhere'"),
    "a cluster elsewhere": (
        "hydra/launcher/evil.yaml", "defaults: [ray]\nray: {init: {address: 'x:1'}}\n", "ray.init.address='x:1'"),
    "an expression of joblib": (
        "hydra/launcher/evil.yaml", "defaults: [cores]\npre_dispatch: exit()\n", "plain text without quotes"),
    "a temporary folder": (
        "hydra/launcher/evil.yaml", "defaults: [cores]\ntemp_folder: /elsewhere\n", "temp_folder='/elsewhere'"),
    "another choice of a name": ("dose/50k.yaml", "total_e_A2: 1\n", "dose=50k is a choice of aetlab; use another"),
    "another launcher of a name": ("hydra/launcher/joblib.yaml", "n_jobs: 1\n", "is a choice of aetlab"),
    "a list": ("dose/evil.yaml", "- 1\n", "holds no settings"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_folder_of_choices_can_run_no_code(tmp_path: Path, attack: str) -> None:
    name, content, told = ATTACKS[attack]
    write(tmp_path, {name: content})
    with pytest.raises(SpecError) as refusal:
        compose_jobs([f"{Path(name).parent}=evil"] if "evil" in name else [], multirun=True, config_dir=tmp_path)
    assert told in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path)) and "\n" not in str(refusal.value)
    assert "evil.yaml" not in ConfigStore.instance().repo.get(str(Path(name).parent), {})


#: Typed words and their refusals.
WORDS = [
    (["hydra.job.env_set.GIT_DIR=x"], "of Hydra's own settings, hydra/launcher"),
    (["+hydra.job.env_set.GIT-DIR=x"], "of Hydra's own settings"),
    (["+hydra.callbacks.x._target_=os.system"], "of Hydra's own settings"),
    (["hydra.callbacks='${oc.create:{x:1}}'"], "only settings can be referred to"),
    (["hydra={job:{chdir:true}}"], "of Hydra's own settings"),
    (["hydra/job_logging=default", "hydra.job_logging.handlers.file.class=subprocess.Popen"], "of Hydra's own"),
    (["hydra.searchpath=[file:///elsewhere]"], "of Hydra's own settings"),
    (["hydra.run.dir=/elsewhere"], "of Hydra's own settings"),
    (["hydra.launcher._target_=hydra_plugins.hydra_joblib_launcher._core.Path"], "may not name code to run"),
    (["+hydra.launcher.x._target_=logging.os.system"], "may not name code to run"),
    (["hydra/sweeper=optuna", "hydra.sweeper.sampler._target_=optuna.samplers._base.warnings.sys.exit"], "name code"),
    (["+hydra.launcher._args_=[1]"], "may not name code to run"),
    (["hydra.sweeper.params={hydra.job.env_set.A: b}"], "of Hydra's own settings"),
    (["hydra.launcher={_target_:os.system}"], "of Hydra's own settings"),
    (["dose@hydra.job=50k"], "the settings of a choice go to its own group"),
    (["+dose@_global_=50k"], "the settings of a choice go to its own group"),
    (["scale.name=${oc.env:HOME}"], "only settings can be referred to"),
    (["scale.name='a${oc.decode:1}'"], "only settings can be referred to"),
    (["outputs=${hydra:runtime.cwd}"], "only settings can be referred to"),
    (["scale.name=${scale.name"], "cannot be read as key=value"),
    (["hydra.launcher._target_=logging.os.system,subprocess.run"], "may not name code to run"),
    (["scale=small,smoke", "scale.name='${oc.env:HOME}'"], "only settings can be referred to"),
]


@pytest.mark.parametrize(("words", "told"), WORDS)
def test_typed_words_can_name_no_code_and_read_no_environment(words: list[str], told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        compose_jobs(words, multirun=True)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_users_folder_holds_choices_experiments_and_launchers(tmp_path: Path) -> None:
    """References to other settings, numbers such as 2e4, and bases of the same group keep their meaning."""
    write(tmp_path, {
        "dose/20k.yaml": "# @package dose\ntotal_e_A2: 2e4\n",
        "scale/wide.yaml": "defaults: [smoke]\nname: ${dose.total_e_A2} e\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /dose: 20k\n  - override /align: true\n",
        "hydra/launcher/mycluster.yaml": ("defaults: [slurm]\npartition: standard\naccount: em-lab\nmem_gb: 32\n"
                                          "setup: ['module load python/3.11']\n"),
        "notes/readme.yaml": "x: 1\n",
    })
    spec = compose_spec(["dose=20k", "scale=wide"], config_dir=tmp_path)
    assert spec.dose.total_e_A2 == 20_000 and spec.scale.name == "20000.0 e" and spec.scale.shape_zxy[0] == 48
    plan = compose_all(["experiment=mine", "hydra/launcher=mycluster"], multirun=True, config_dir=tmp_path)
    (job,) = plan.jobs
    assert job.spec.dose.total_e_A2 == 20_000 and job.spec.align.enabled
    assert plan.launcher.name == "mycluster" and not plan.launcher.is_here
    with pytest.raises(SpecError, match="hydra/launcher/mycluster"):
        compose_jobs(["hydra/launcher=mycluster"], multirun=True)


@pytest.mark.parametrize("target", ["os.system", "logging.os.system", "posix.system", "yaml.unsafe_load"])
def test_the_oldest_hydra_that_is_accepted_refuses_targets_that_lead_to_programs(target: str) -> None:
    with pytest.raises(InstantiationException, match="block"):
        instantiate({"_target_": target, "_args_": ["true"]})


@pytest.mark.parametrize(("content", "told"), [
    ("energy_keV: 300\nCs_mm: ${oc.env:HOME}\n", "microscope.Cs_mm='${oc.env:HOME}' cannot be used"),
    ("elements: ['${oc.env:HOME}']\nenergy_keV: 300\n", "'${oc.env:HOME}' is no chemical symbol"),
    ("a: &a [1]\nmtf: {mtf: *a, cycles_per_pixel: *a}\n", "an alias"),
    ("[" * 50_000, "more than 30 levels"),
    ("energy_keV: 300\nenergy_keV: 80\n", "the key 'energy_keV' stands there twice"),
])
def test_the_file_of_a_microscope_is_data(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "m.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(SeriesError) as refusal:
        read_microscope(tmp_path / "m.yaml", {})
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_yaml_numbers_are_numbers_and_dates_are_text(tmp_path: Path) -> None:
    assert parse_mapping("a: 1e-4\nb: 2018-01-02\nc: -2.5E+3\nd: 1e\n", tmp_path) == {
        "a": 1e-4, "b": "2018-01-02", "c": -2500.0, "d": "1e"}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="it is not a file"):
        read_text(tmp_path / "pipe")


def test_git_starts_no_program_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the checkout's settings, its hook and the variables of the environment would leave a file."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *words], cwd=tmp_path, check=True,
                       capture_output=True)

    write(tmp_path, {"a.txt": "x", ".gitattributes": "*.txt filter=evil diff=evil\n"})
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    head = commit_of(tmp_path)
    assert len(head) == 12 and commit_of(tmp_path / "elsewhere") == ""
    evil = f"touch {tmp_path / 'ran'}"
    for name in ("core.fsmonitor", "core.pager", "diff.external", "diff.evil.textconv", "core.sshCommand"):
        git("config", name, evil)
    write(tmp_path, {".git/hooks/post-index-change": f"#!/bin/sh\n{evil}\n", "a.txt": "other"})
    (tmp_path / ".git/hooks/post-index-change").chmod(0o755)
    for name, value in (("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "filter.evil.clean"),
                        ("GIT_CONFIG_VALUE_0", evil), ("GIT_DIR", "/nowhere")):
        monkeypatch.setenv(name, value)
    assert commit_of(tmp_path) == f"{head}+changes"
    monkeypatch.delenv("GIT_DIR")
    git("config", "filter.evil.clean", evil)
    assert commit_of(tmp_path) == f"{head}+unchecked"
    assert not (tmp_path / "ran").exists()
