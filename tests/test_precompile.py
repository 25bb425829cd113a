"""Compiling all kernels before the first run: once, by one process, and never in the way of a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aetlab.cli import precompile as module
from aetlab.cli.precompile import precompile
from tests.words import spec_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "kernel_folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


@pytest.fixture
def compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the lists of parts that were compiled, which takes no time here."""
    calls: list[list[str]] = []
    monkeypatch.setattr(module, "_compile_parts", lambda names: calls.append(list(names)) or list(names))
    return calls


def test_of_several_processes_one_compiles(folder: Path, compiled: list[list[str]]) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: precompile(said.append), range(4)))
    assert sorted(map(len, compiled)) == [0] * (len(compiled) - 1) + [len(module._PARTS)]
    assert len(list(folder.glob("compiled-*"))) == len(module._PARTS)
    said.clear()
    n_calls = len(compiled)
    precompile(said.append)
    assert len(compiled) == n_calls and said == []


def test_a_run_compiles_what_it_needs_and_a_later_one_the_rest(compiled: list[list[str]]) -> None:
    said: list[str] = []
    precompile(said.append, spec_of("scale=smoke", "reg=tv"))
    assert set(compiled.pop()) == {"reconstruct", "simulate", "trace", "tv"}
    assert said == ["compiling kernels, once for this version of the code: about 22 s"]
    precompile(said.append, spec_of("scale=smoke", "reg=lasso", "refine=atoms"))
    assert set(compiled.pop()) == {"refine", "lasso"}
    precompile(said.append, spec_of("scale=smoke", "reg=tv", "dose=7k"))
    assert compiled == [] and len(said) == 2


def test_two_processes_share_the_parts_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.backend, "n_cores", lambda: 8)
    names = ["reconstruct", "simulate", "trace", "tv"]
    assert module._shares(names) == [["reconstruct"], ["trace", "tv", "simulate"]]
    monkeypatch.setattr(module.backend, "n_cores", lambda: 1)
    assert module._shares(names) == [["reconstruct", "trace", "tv", "simulate"]]
    assert module._shares([]) == []


def test_a_part_that_fails_is_tried_again_by_the_next_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARTS", {"no such part": (1, lambda: None)})
    for _ in range(2):
        said: list[str] = []
        precompile(said.append)
        assert [line[:18] for line in said] == ["compiling kernels,"] and list(folder.glob("compiled-*")) == []


def test_nothing_is_compiled_where_nothing_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernel_folder", lambda: None)
    monkeypatch.setattr(module, "_compile_parts", lambda names: pytest.fail("it compiled"))
    precompile(pytest.fail)
