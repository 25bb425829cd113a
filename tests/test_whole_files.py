"""Files and reports that users get: whole or absent, and what is damaged is named and left out."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aetlab import runs
from aetlab.core import files
from aetlab.core.files import StorageError, put_in_place, restore
from aetlab.core.nouns import Volume
from aetlab.exchange.atom_files import write_atoms
from aetlab.exchange.volume_files import write_volume
from aetlab.reporting.drawn import choose_drawn, describe_choice
from aetlab.reporting.figures.kinds import FigureTask
from aetlab.reporting.figures.make import MadeFigure
from aetlab.reporting.folder import ReportFolder, open_folder
from aetlab.reporting.stored_run import StoredRun, check_arrays, read_runs
from aetlab.reporting.studies import Study
from aetlab.store.record import FILES, RecordError, array_names, read_array, read_history, read_record
from aetlab.store.record_files import Checksums, recall, remember
from tests.fake_records import fake_spec, write_fake_record
from tests.trace_volumes import make_traced

VOLUME = Volume(np.ones((4, 5, 6), np.float32), 0.5)
ATOMS = make_traced(np.zeros((3, 3)), np.full(3, 14))


@pytest.mark.parametrize("name", ["a.xyz", "a.csv", "v.mrc", "v.h5", "v.npy"])
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_export_keeps_the_good_file(tmp_path: Path, name: str, failing: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    write: Callable[[], None] = (lambda: write_volume(path, VOLUME)) if name[0] == "v" else (
        lambda: write_atoms(path, ATOMS))
    path.write_text("good", encoding="utf-8")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StorageError, match="No space left"):
        write()
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "good" and [entry.name for entry in tmp_path.iterdir()] == [name]
    write()
    assert path.stat().st_size > 4


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_put_in_place_as_a_whole(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Linux's exchange of names, a kill between the two renames leaves the earlier folder to be restored."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    made, folder = tmp_path / ".partial-report", tmp_path / "report"
    for i in range(3):
        made.mkdir()
        (made / "n").write_text(str(i), encoding="utf-8")
        put_in_place(made, folder)
        assert (folder / "n").read_text(encoding="utf-8") == str(i)
        assert [path.name for path in tmp_path.iterdir()] == ["report"]
    os.rename(folder, tmp_path / ".earlier-report")
    restore(folder)
    assert (folder / "n").read_text(encoding="utf-8") == "2"


def test_a_report_that_was_cut_off_leaves_the_last_one_and_the_files_of_others(tmp_path: Path) -> None:
    final = tmp_path / "report"

    def write(names: list[str]) -> ReportFolder:
        folder = open_folder(final)
        for name in names:
            (folder.partial / name).write_text(name, encoding="utf-8")
        return folder

    write(["report.html", "old.csv"]).finish({})
    (final / "notes").mkdir()
    (final / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    write(["report.html"])  # killed before it was finished
    assert sorted(path.name for path in final.iterdir()) == ["contents.json", "figures", "notes", "old.csv",
                                                             "report.html"]
    for _ in range(2):
        write(["report.html", "new.csv"]).finish({})
        assert sorted(path.name for path in final.iterdir()) == ["contents.json", "figures", "new.csv", "notes",
                                                                 "report.html"]
    assert (final / "notes" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_figure_is_drawn_again_only_if_what_it_shows_or_its_files_changed(outputs: Path, tmp_path: Path) -> None:
    runs_ = read_runs(outputs)[0]
    task = FigureTask(name="c", kind="convergence", title="t", runs=tuple(runs_), labels=("a", "b"))
    folder = open_folder(tmp_path / "report")
    files_ = [folder.partial / "figures" / f"c.{suffix}" for suffix in ("png", "pdf", "webp")]
    for path in files_:
        path.write_bytes(path.name.encode())
    folder.finish({"c": MadeFigure(task, files_[0], files_[1], b"c.webp", (3, 4))})
    again = open_folder(tmp_path / "report")
    kept = again.unchanged(task)
    assert kept is not None and kept.web == b"c.webp" and kept.size_px == (3, 4)
    assert kept.png is not None and kept.png.read_bytes() == b"c.png"
    for other in (dataclasses.replace(task, labels=("a", "c")), dataclasses.replace(task, runs=tuple(runs_[:1])),
                  dataclasses.replace(task, runs=tuple(runs_[::-1])), dataclasses.replace(task, notes=("n",))):
        assert again.unchanged(other) is None
    (tmp_path / "report" / "figures" / "c.pdf").write_bytes(b"edited")
    assert open_folder(tmp_path / "report").unchanged(task) is None


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two records."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in range(2):
        write_fake_record(folder, dataclasses.replace(fake_spec(n_voxels=24), seed=seed))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found_wherever_a_number_is_read(outputs: Path, name: str,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """The changed file has its old size and time of change of its content."""
    memory = outputs / "cache" / "verified.json"
    good, bad = sorted((outputs / "records").iterdir())
    assert check_arrays(read_runs(outputs)[0], memory) == {}
    path = bad / name
    content, state = path.read_bytes(), path.stat()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    try:
        with pytest.raises(RecordError, match=f"{bad.name} is damaged: {name} has changed"):
            read_record(bad)
        found, problems = read_runs(outputs)
        damaged = problems + list(check_arrays(found, memory).values())
        for run in found:
            if name == "history.csv" and run.identity == bad.name:
                with pytest.raises(RecordError, match="history.csv has changed"):
                    read_history(run.record)
        assert name in ("history.csv", "log.txt") or [bad.name in line for line in damaged] == [True]
        runs.main(["list", "--outputs", str(outputs), "--json"])
        listed = {entry["id"]: entry["status"] for entry in json.loads(capsys.readouterr().out)}
        shown = name in ("spec.json", "metrics.json", "environment.json")
        assert listed == {good.name: "complete", bad.name: "damaged" if shown else "complete"}
        for command in ("show", "export"):
            with pytest.raises(SystemExit):
                runs.main([command, bad.name, "--outputs", str(outputs), *(["--to", str(outputs / "to")] * (
                    command == "export"))])
                assert shown and command == "show", "a damaged record is shown without its numbers"
                raise SystemExit
        assert not list((outputs / "to").glob("*")) if (outputs / "to").exists() else True
    finally:
        path.write_bytes(content)


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_record(write_fake_record(tmp_path, fake_spec(n_voxels=24)), verify=False)
    monkeypatch.setattr("aetlab.store.record_files._SETTLED_S", 0.0)
    hashed = []
    real = files.sha256
    monkeypatch.setattr("aetlab.store.record_files.sha256", lambda path: hashed.append(path) or real(path))
    for name in array_names(record)[:5]:
        read_array(record, name)
    assert [path.name for path in hashed] == ["arrays.h5"]
    remember(tmp_path / "memory", {record.id: record.checksums})
    again = read_record(record.folder, verify=False)
    recall(tmp_path / "memory", {record.id: again.checksums})
    read_array(again, "truth/numbers")
    assert len(hashed) == 1
    other = Checksums({**again.checksums.expected, "arrays.h5": "0" * 64})
    recall(tmp_path / "memory", {record.id: other})
    assert other.agreed == {}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"x": {"arrays.h5": ["a"]}}', "[" * 100_000])
def test_a_damaged_memory_is_ignored(tmp_path: Path, content: str) -> None:
    memory, sums = tmp_path / "memory", Checksums({"arrays.h5": "a"})
    memory.write_text(content, encoding="utf-8")
    recall(memory, {"x": sums})
    assert sums.agreed == {}
    remember(memory, {"x": sums})
    assert json.loads(memory.read_text(encoding="utf-8")) == {"x": {}}


def test_of_many_records_some_of_each_sample_are_drawn(outputs: Path) -> None:
    """Three samples of 40, 30 and 1 records, each record later than the one before."""
    record = read_runs(outputs)[0][0].record

    def run(sample: str, i: int) -> StoredRun:
        spec = dataclasses.replace(record.spec, sample=dataclasses.replace(record.spec.sample, path=sample))
        return StoredRun(dataclasses.replace(record, id=f"{sample}{i:02d}", spec=spec,
                                             environment={"finished": f"2026-01-01T00:00:{i:02d}"}))

    runs_ = [run(sample, i) for sample, n in (("a", 40), ("b", 30), ("c", 1)) for i in range(n)]
    answers = {"fig4a": (runs_[0],), "fig4b": (runs_[1], runs_[2])}
    drawn = [run.identity for run in choose_drawn(runs_, [Study("s", tuple(runs_), answers)], None)]
    assert drawn == ["a00", "a01", "a37", "a38", "a39", "b28", "b29", "c00"]
    assert "8 of 71 records" in describe_choice(len(drawn), len(runs_))
    assert choose_drawn(runs_[:60], [], None) == runs_[:60] and describe_choice(60, 60) == ""
    assert [run.identity for run in choose_drawn(runs_, [], 2)] == ["a39", "b29"] and choose_drawn(runs_, [], 0) == []
