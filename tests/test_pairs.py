"""Local structure of many elements: few arrays in a record, up to all elements, and readers that find each pair."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from aetlab.core.files import StorageError
from aetlab.core.hdf5 import dataset_names, write_datasets
from aetlab.core.nouns import Atoms
from aetlab.core.physics import SYMBOLS
from aetlab.reporting.stored_run import load_record
from aetlab.scoring import compare_structure, match_atoms
from aetlab.store.contents import pack_pairs
from aetlab.store.record import Dataset, History, RecordError, write_record
from tests.fake_records import fake_spec
from tests.trace_volumes import make_traced


@pytest.mark.parametrize("n_elements", [1, 2, 12, 98])
def test_a_record_of_many_elements_is_read_as_it_was_written(tmp_path: Path, n_elements: int) -> None:
    pairs = [f"{SYMBOLS[i]}-{SYMBOLS[j]}" for i, j in itertools.product(range(1, n_elements + 1), repeat=2)]
    structure = {f"{pair}/{name}_{kind}": np.arange(size) + 1000 * i for i, pair in enumerate(pairs)
                 for name, size, kind in (("length", 60, "true"), ("coordination", 13, "traced"))}
    structure["angle_edges_deg"] = np.arange(71.0)
    arrays = {name: Dataset(values, "1") for name, values in pack_pairs(structure).items()}
    assert len(arrays) == 4
    folder = write_record(tmp_path, fake_spec(), metrics={}, history=History(np.ones(1), np.ones(1)), arrays=arrays,
                          environment={}, log="")
    run = load_record(folder)
    assert set(run.array_names) == {f"structure/{name}" for name in structure}
    for pair in (pairs[0], pairs[-1], pairs[len(pairs) // 2]):
        for name in ("length_true", "coordination_traced"):
            np.testing.assert_array_equal(run.array(f"structure/{pair}/{name}"), structure[f"{pair}/{name}"])
    with pytest.raises(RecordError, match="has no array structure/X-Cf/length_true"):
        run.array("structure/X-Cf/length_true")


def test_writer_and_reader_agree_on_the_number_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aetlab.core.hdf5._MAX_DATASETS", 20)
    datasets = {f"a{i}": (np.zeros(1), {}) for i in range(20)}
    write_datasets(tmp_path / "most.h5", datasets)
    assert len(dataset_names(tmp_path / "most.h5")) == 20
    with pytest.raises(StorageError, match="cannot hold 21 datasets"):
        write_datasets(tmp_path / "more.h5", {**datasets, "b": (np.zeros(1), {})})
    assert not (tmp_path / "more.h5").exists()


def test_of_many_elements_the_pairs_that_are_near_are_measured() -> None:
    """98 atoms of 98 elements on a line, 30 Å apart, but the first three, which touch."""
    positions_A = np.zeros((98, 3))
    positions_A[:, 0] = 30.0 * np.arange(98)
    positions_A[:3, 0] = 0.0, 0.7, 1.9
    atoms = Atoms(np.arange(1, 99), positions_A, np.zeros(98, int))
    traced, inside = make_traced(positions_A, atoms.numbers), np.ones(98, bool)
    match = match_atoms(traced, atoms, traced_inside=inside, true_inside=inside, max_distance_A=1.0, n_resamples=10)
    arrays, metrics = compare_structure(match, traced, atoms, traced_inside=inside, true_inside=inside)
    assert {name.split("/")[0] for name in arrays if "/length_true" in name} == {
        f"{one}-{other}" for one, other in itertools.permutations(["H", "He", "Li"], 2)}
    assert metrics["bond_H_He_true_A"] == pytest.approx(0.7) and metrics["coordination_He_H_traced"] == 1
