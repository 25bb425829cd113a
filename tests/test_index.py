"""The index of records: complete, rebuilt when missing or foreign, and never trusted beyond a proposal."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from aetlab.spec import RunSpec
from aetlab.store import sharing
from aetlab.store.identity import record_id
from aetlab.store.record import Places
from tests.test_record import write


@pytest.fixture
def specs(smoke_spec: RunSpec) -> list[RunSpec]:
    """Settings of six runs: three reconstructions, each traced with two smoothings."""
    return [dataclasses.replace(smoke_spec, seed=seed, trace=dataclasses.replace(smoke_spec.trace, smoothing=smoothing))
            for seed in range(3) for smoothing in (0.3, 0.6)]


@pytest.fixture
def places(tmp_path: Path, specs: list[RunSpec]) -> Places:
    places = Places(tmp_path)
    for spec in specs:
        write(places.records, spec)
    return places


def found(places: Places, spec: RunSpec) -> set[str]:
    return {folder.name for folder in sharing.records_with_reconstruction(places, spec)}


def test_records_that_differ_only_in_tracing_are_found(places: Places, specs: list[RunSpec]) -> None:
    for seed in range(3):
        assert found(places, specs[2 * seed]) == {record_id(spec) for spec in specs[2 * seed:2 * seed + 2]}
    assert found(places, dataclasses.replace(specs[0], seed=9)) == set()
    assert found(Places(places.outputs / "nothing"), specs[0]) == set()


def test_settings_are_read_once_and_new_records_added(places: Places, specs: list[RunSpec],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = sharing.read_settings
    monkeypatch.setattr(sharing, "read_settings", lambda folder: reads.append(folder.name) or read(folder))
    for _ in range(3):
        found(places, specs[0])
    assert len(reads) == 6
    new = dataclasses.replace(specs[0], trace=dataclasses.replace(specs[0].trace, smoothing=0.5))
    write(places.records, new)
    assert record_id(new) in found(places, specs[0]) and reads[6:] == [record_id(new)]
    shutil.rmtree(places.records / record_id(new))
    assert found(places, specs[0]) == {record_id(spec) for spec in specs[:2]} and len(reads) == 7


@pytest.mark.parametrize("harm", [
    lambda path: path.unlink(), lambda path: path.write_text("aetlab index 0\n", encoding="utf-8"),
    lambda path: path.write_bytes(path.read_bytes()[:-5]), lambda path: path.write_bytes(b"\xff" * 5000),
    lambda path: (path.unlink(), path.mkdir()), lambda path: (path.unlink(), os.mkfifo(path)),
])
def test_a_missing_or_damaged_index_changes_nothing(places: Places, specs: list[RunSpec], harm: object) -> None:
    wanted = found(places, specs[2])
    harm(places.index)  # type: ignore[operator]
    assert found(places, specs[2]) == wanted == found(places, specs[2])


def test_settings_filed_under_another_id_are_not_found(places: Places, specs: list[RunSpec]) -> None:
    one, other = (places.records / record_id(spec) / "spec.json" for spec in (specs[0], specs[2]))
    text = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(text)
    for broken in ("[" * 200_000, "{}", '{"data": 3, "sample": []}'):
        (places.records / record_id(specs[4]) / "spec.json").write_text(broken, encoding="utf-8")
        assert [found(places, spec) for spec in specs[::2]] == [{record_id(spec)} for spec in specs[1::2]]
