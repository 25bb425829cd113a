"""The tables of methods: how rows are found, and which settings, texts and checks follow from them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from aetlab.core.setting import about, setting
from aetlab.methods.regulariser import Regulariser
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.table import find_rows
from aetlab.reconstruction.memory import memory_by_stage
from aetlab.reporting.figures.labels import reg_label
from aetlab.spec import RegSpec
from aetlab.spec.choices import settings
from aetlab.spec.folders import config_folder, group_choices
from aetlab.spec.own_settings import with_own_settings
from aetlab.spec.reg import OWNERS

ROW = """from aetlab.methods.regulariser import NoSettings, Regulariser
ROW = Regulariser(meaning="m", label="l", settings=NoSettings, make=None)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of rows, which can be imported as ``rows_of_a_test``."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "rows_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    yield package
    for name in [name for name in sys.modules if name.startswith("rows_of_a_test")]:
        del sys.modules[name]


def test_a_file_is_a_row_named_by_the_file(folder: Path) -> None:
    for name in ("second", "first"):
        (folder / f"{name}.py").write_text(ROW)
    assert list(find_rows("rows_of_a_test", [str(folder)], Regulariser)) == ["first", "second"]
    (folder / "third.py").write_text("row = 1\n")
    with pytest.raises(TypeError, match="rows_of_a_test.third needs ROW, a Regulariser"):
        find_rows("rows_of_a_test", [str(folder)], Regulariser)


def test_every_regulariser_is_a_choice_with_its_own_settings() -> None:
    """Its YAML file has the common settings, and those of its own that its row describes, with a value in range."""
    common = {"kind", "weight", "rule_factor", "held_out", "iterations_factor"}
    assert set(group_choices()["reg"]) == set(REGULARISERS)
    for kind, row in REGULARISERS.items():
        content = yaml.safe_load((config_folder() / "reg" / f"{kind}.yaml").read_text(encoding="utf-8"))
        own = {name for name, kinds in OWNERS.items() if kind in kinds}
        assert content["kind"] == kind and common | own <= set(content), kind
        assert row.own(RegSpec(kind=kind)) == row.settings()
        assert kind in about(RegSpec, "kind").meaning and row.meaning in about(RegSpec, "kind").meaning


def test_rows_decide_label_and_memory() -> None:
    volume = 4 * 96**3
    needed = {kind: memory_by_stage(settings(reg=kind, dose="inf"))["reconstruct"] for kind in REGULARISERS}
    for kind, row in REGULARISERS.items():
        assert needed[kind] - needed["none"] == pytest.approx(row.volumes * volume)
        assert reg_label(settings(reg=kind)) == row.label
    assert needed["tv"] - needed["none"] == pytest.approx(6 * volume)


def test_methods_that_describe_a_setting_differently_are_refused() -> None:
    @dataclass(frozen=True)
    class One:
        edge_V: float = setting("an edge", unit="V", within="(0, inf)", default=1.0)

    @dataclass(frozen=True)
    class Other:
        edge_V: float = setting("an edge", unit="V", within="[0, inf)", default=1.0)

    class Group:
        kind: str

    with pytest.raises(TypeError, match="made.edge_V of made=b has another description elsewhere"):
        with_own_settings("made", {"a": One, "b": Other})(Group)
    shared = dataclass(with_own_settings("made", {"a": One, "b": One})(Group))
    assert about(shared, "edge_V").reads == ("made=a|b",) and shared("a").edge_V == 1.0


def test_rows_load_no_numerics() -> None:
    code = ("import sys, aetlab.methods.regularisers\n"
            "print([name for name in ('numba', 'scipy', 'h5py', 'pandas') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], text=True,
                            capture_output=True, check=True)
    assert result.stdout.strip() == "[]"
