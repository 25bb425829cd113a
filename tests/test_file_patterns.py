"""Patterns of file names on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aetlab import run
from aetlab.cli.compose import compose_jobs
from aetlab.cli.overrides import expand_file_patterns
from aetlab.spec import SpecError
from aetlab.spec.folders import group_choices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, symbol in (("b.xyz", "Au"), ("a 1.xyz", "Si"), ("it's.xyz", "Cu"), ("c.cif", "Pt")):
        (tmp_path / name).write_text(f"1\n\n{symbol} 0 0 0\n")
    return tmp_path


def test_a_pattern_of_files_is_one_job_for_each(folder):
    words = expand_file_patterns(["sample=file", f"sample.path=glob({folder}/*.xyz)"], group_choices())
    jobs = compose_jobs(["scale=smoke", *words], multirun=True)
    assert [job.spec.sample.path for job in jobs] == [str(folder / name) for name in ("a 1.xyz", "b.xyz", "it's.xyz")]


def test_patterns_of_choices_and_other_words_are_left_to_hydra():
    words = ["experiment=glob(fig*)", "dose=7k,50k", "-m", "hydra.job.x=glob(a)", "sample.path=a.xyz"]
    assert expand_file_patterns(words, group_choices()) == words


def test_a_pattern_that_matches_nothing_or_names_no_file_is_refused(folder):
    with pytest.raises(SpecError, match=r"sample\.path=glob\(.*pdb\) matches no file"):
        expand_file_patterns([f"sample.path=glob({folder}/*.pdb)"], group_choices())
    with pytest.raises(SpecError, match=r"seed=glob\(\*\) cannot be used: .* files for sample\.path and data\.path"):
        expand_file_patterns(["seed=glob(*)"], group_choices())


def test_the_command_expands_patterns_before_it_composes(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run._main(["scale=smoke", "sample=file", "sample.path=glob(*.xyz)"]) == 2
    assert "'b.xyz'" in (said := capsys.readouterr().err) and "names several values: add -m" in said
    assert run._main(["-m", "scale=smoke", "sample=file", "sample.path=glob(*.pdb)"]) == 2
    assert capsys.readouterr().err == "aetlab: sample.path=glob(*.pdb) matches no file\n"
