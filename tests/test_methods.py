"""The tables of methods: how rows are found, and which settings, texts and checks follow from them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from aetlab.cli.compose import compose_jobs
from aetlab.core.nouns import TiltSeries
from aetlab.core.setting import about, setting, with_own_settings
from aetlab.methods import find_rows
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regulariser import Regulariser
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS, rotate_and_bin
from aetlab.reconstruction import device as device_choice
from aetlab.reconstruction.memory import memory_by_stage
from aetlab.reporting.figures.labels import reg_label
from aetlab.spec import EngineSpec, RegSpec, SpecError
from aetlab.spec.choices import check_regulariser, settings
from aetlab.spec.folders import config_folder, group_choices
from aetlab.spec.reconstruction import OWNERS

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


def test_a_choice_named_as_a_regulariser_makes_it_and_sets_nothing_of_others(tmp_path: Path) -> None:
    """The file of a new regulariser, copied from that of another one, keeps the other's kind or settings."""
    with pytest.raises(SpecError, match="reg.kind='lasso' cannot be used: reg=tv is the regulariser of that name"):
        settings(reg="tv", overrides={"reg.kind": "lasso"})
    (tmp_path / "reg").mkdir()
    (tmp_path / "reg" / "soft.yaml").write_text("kind: tv\nedge_V: 2\n", encoding="utf-8")
    with pytest.raises(SpecError, match="the file of reg=soft sets it, and only reg=huber reads it"):
        compose_jobs(["reg=soft"], multirun=False, config_dir=tmp_path)
    for name in group_choices()["reg"]:
        check_regulariser(name, name)


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


def test_every_likelihood_is_described_and_compares_alike_near_vacuum() -> None:
    """All costs are (m - I)²/8 to second order at vacuum, without and with a detector, so that rules hold for all."""
    for name, row in LIKELIHOODS.items():
        assert f"{name} ({row.meaning})" in about(EngineSpec, "likelihood").meaning
        waves, images = np.full((1, 1, 1), math.sqrt(1.01), complex), np.full((1, 1, 1), 1.01)
        cost = np.zeros((2, 1, 1))
        row.compare(waves, np.ones((1, 1, 1)), None, cost[0])
        row.compare_detected(images, np.ones((1, 1, 1)), None, cost[1])
        background = 1e-3 if name == "poisson" else 0.0
        assert cost == pytest.approx((0.01 + background) ** 2 / 8, rel=0.02), name
        assert waves[0, 0, 0] == pytest.approx(images[0, 0, 0] * math.sqrt(1.01), rel=1e-9)
        assert images[0, 0, 0] == pytest.approx((0.01 + background) / 2, rel=0.02)


@pytest.mark.parametrize("likelihood", [name for name, row in LIKELIHOODS.items() if not row.refines])
def test_the_refinement_refuses_a_likelihood_by_which_it_does_not_compare(likelihood: str) -> None:
    with pytest.raises(SpecError, match=f"engine.likelihood='{likelihood}' .*refine=atoms compares by amplitude"):
        settings(refine="atoms", overrides={"engine.likelihood": likelihood})


def test_every_rotation_is_described_and_its_memory_counted() -> None:
    """No turn moves no voxel; a matrix of 60 bytes for each (z, x) and tilt is counted up to 256 MB."""
    volume = np.random.default_rng(1).standard_normal((8, 10, 12))
    free = memory_by_stage(settings(overrides={"engine.rotation": "fourier"}))["reconstruct"]
    for name, row in ROTATIONS.items():
        assert f"{name} ({row.meaning})" in about(EngineSpec, "rotation").meaning
        np.testing.assert_allclose(rotate_and_bin(volume, 0.0, kind=name), volume, atol=1e-12)
        kept = row.matrix.bytes_per_column * 96**2 * 60 if row.matrix else 0
        needed = memory_by_stage(settings(overrides={"engine.rotation": name}))["reconstruct"]
        assert needed - free == pytest.approx(kept)


def test_a_likelihood_without_fused_kernels_is_reported() -> None:
    series = TiltSeries(np.ones((1, 1, 48, 48), np.float32), np.zeros(1), np.array([200.0]), 0.5)
    for name, row in LIKELIHOODS.items():
        said: list[str] = []
        spec = settings(engine="cpu", scale="smoke", overrides={
            "engine.likelihood": name, "scale.shape_zxy": [8, 48, 48], "binning.n_layers": 4})
        device_choice.choose_model(spec, series, blur_A=0.0, say=said.append)
        line = f"engine.likelihood={name} has no fused kernels: a tilt takes up to 1.7 times as long"
        assert said == ([] if row.fused else [line])


def test_rows_load_no_numerics() -> None:
    code = ("import sys, aetlab.methods.regularisers, aetlab.methods.likelihoods, aetlab.methods.rotations\n"
            "print([name for name in ('numba', 'scipy', 'h5py', 'pandas') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], text=True,
                            capture_output=True, check=True)
    assert result.stdout.strip() == "[]"
