"""Runs that differ only after the reconstruction share it; their records are those of separate runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aetlab import keeper
from aetlab.spec import RunSpec
from aetlab.store import sharing
from aetlab.store.record import Places, Record, array_names, read_array, read_history
from tests.conftest import TINY
from tests.words import spec_of

OTHER_TRACING = ("trace.smoothing=0.3", "score.max_distance_A=0.8")


def make(folder: Path, *words: str) -> Record:
    spec = spec_of(*TINY, *words)
    return keeper.run(spec, places=Places(folder)).record


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return make(tmp_path_factory.mktemp("first"), "reg.held_out=0.2")


def outputs_of(record: Record) -> Path:
    return record.folder.parents[1]


def test_a_shared_reconstruction_makes_the_same_record(first: Record, tmp_path: Path) -> None:
    shared = make(outputs_of(first), "reg.held_out=0.2", *OTHER_TRACING)
    alone = make(tmp_path, "reg.held_out=0.2", *OTHER_TRACING)
    assert shared.environment["reconstruction_of"] == first.id and alone.environment["reconstruction_of"] is None
    assert "reconstruction: shared" in (shared.folder / "log.txt").read_text(encoding="utf-8")
    assert array_names(shared) == array_names(alone)
    for name in array_names(alone):
        np.testing.assert_array_equal(read_array(shared, name).values, read_array(alone, name).values, err_msg=name)
    np.testing.assert_equal(shared.metrics, alone.metrics)
    np.testing.assert_array_equal(read_history(shared).cost, read_history(alone).cost)
    for told in ("restarts", "halvings", "stopped", "device"):
        assert shared.environment[told] == alone.environment[told]


@pytest.mark.parametrize("word", ["seed=1", "dose=7k", "reg.weight=1e-4", "engine.step=1.2", "reg=lasso"])
def test_settings_of_the_reconstruction_prevent_sharing(first: Record, word: str) -> None:
    assert sharing.find_reconstruction(Places(outputs_of(first)), spec_of(*TINY, "reg.held_out=0.2", word)
                                             ) is None


def damage_volume(folder: Path) -> None:
    content = bytearray((folder / "arrays.h5").read_bytes())
    content[len(content) // 2] ^= 255
    (folder / "arrays.h5").write_bytes(content)


def hide_settings(folder: Path) -> None:
    (folder / "spec.json").write_text("[]", encoding="utf-8")


@pytest.mark.parametrize("spoil", [damage_volume, hide_settings])
def test_a_damaged_record_is_not_shared(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    record = make(tmp_path)
    spec: RunSpec = dataclasses.replace(record.spec, trace=dataclasses.replace(record.spec.trace, smoothing=0.3))
    assert sharing.find_reconstruction(Places(tmp_path), spec) is not None
    spoil(record.folder)
    assert sharing.find_reconstruction(Places(tmp_path), spec) is None


def test_a_record_of_other_code_is_shared_only_on_request(first: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "made_by_other_code", True)
    places = Places(outputs_of(first))
    assert sharing.find_reconstruction(places, first.spec) is None
    assert sharing.find_reconstruction(places, first.spec, use_other_code=True) is not None
