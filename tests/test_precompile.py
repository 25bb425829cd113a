"""Compiling all kernels before the first run: once, by one process, and never in the way of a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aetlab.cli import precompile as module
from aetlab.cli.precompile import precompile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "kernel_folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


def test_of_several_processes_one_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    said: list[str] = []
    monkeypatch.setattr(module, "_compile_parts", lambda n_processes: calls.append(n_processes) or True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: precompile(said.append), range(4)))
    assert len(calls) == 1 and [path.name[:9] for path in folder.glob("complete*")] == ["complete-"]
    said.clear()
    precompile(said.append)
    assert len(calls) == 1 and said == []


def test_a_part_that_fails_is_tried_again_by_the_next_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARTS", {"no such part": lambda: None})
    for _ in range(2):
        said: list[str] = []
        precompile(said.append)
        assert [line[:18] for line in said] == ["compiling kernels,"] and list(folder.glob("complete*")) == []


def test_nothing_is_compiled_where_nothing_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernel_folder", lambda: None)
    monkeypatch.setattr(module, "_compile_parts", lambda n_processes: pytest.fail("it compiled"))
    precompile(pytest.fail)
