"""Foreign and unreadable content of an outputs folder: named in one line, and the others go on."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aetlab import keeper, report, runs
from aetlab.cli.jobs import FAILED, JobResult
from aetlab.cli.ledger import RequestedJob, open_ledger, print_table, read_result, read_results, write_result
from aetlab.core.files import StorageError
from aetlab.reporting.stored_run import read_runs
from aetlab.spec import RunSpec
from aetlab.store.listing import list_entries, remove_entry
from aetlab.store.record import Places, RecordError, list_records, read_record, record_id
from tests.commands import perform
from tests.conftest import TINY
from tests.test_record import write
from tests.test_sweep import ENVIRONMENT


@pytest.fixture
def places(tmp_path: Path, smoke_spec: RunSpec) -> Places:
    """Three records, Thumbs.db among them, and the log of a run that was cut off."""
    places = Places(tmp_path / "outputs")
    for seed in range(3):
        write(places.records, dataclasses.replace(smoke_spec, seed=seed))
    (places.records / "Thumbs.db").write_bytes(b"\0" * 100)
    (places.records / "919857d939f2cbe8 (copy)").mkdir()
    places.logs.mkdir()
    places.log("0" * 16).write_text("begun\n", encoding="utf-8")
    return places


def run(places: Places, *words: str) -> int:
    """Run ``python -m aetlab.runs``; return its exit status."""
    try:
        runs.main([*words, "--outputs", str(places.outputs)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def statuses(places: Places) -> dict[str, str]:
    return {entry.id: entry.status for entry in list_entries(places)}


def test_what_is_no_record_is_listed_and_left_alone(places: Places, smoke_spec: RunSpec,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    damaged = places.records / record_id(smoke_spec)
    (damaged / "metrics.json").unlink()
    found = statuses(places)
    assert found["Thumbs.db"] == found["919857d939f2cbe8 (copy)"] == "foreign" and found["0" * 16] == "cut off"
    assert run(places, "remove", 'status == "damaged"', "--yes") == 0
    assert not damaged.exists() and (places.records / "Thumbs.db").exists()
    capsys.readouterr()
    assert run(places, "remove", "status != 'complete'", "--yes") == 1
    told = capsys.readouterr()
    assert "removed 1 of 3 runs" in told.out and told.err.count("is not a record and is left alone\n") == 2
    assert list(statuses(places).values()).count("complete") == 2 and not places.log("0" * 16).exists()


def test_a_report_names_what_is_no_record_and_calls_none_of_it_damaged(places: Places,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    _, problems = read_runs(places.outputs)
    assert [problem for problem in problems if "cut off" not in problem] == []
    for record in [path for path in places.records.iterdir() if len(path.name) == 16]:
        shutil.rmtree(record)
    places.log("0" * 16).unlink()
    with pytest.raises(SystemExit) as ended:
        report.main(["--outputs", str(places.outputs)])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and "holds no records: run python -m aetlab.run first" in printed.err
    assert printed.out.endswith("2 entries are not records and are left alone: 919857d939f2cbe8 (copy), Thumbs.db\n")


def test_a_linked_record_is_removed_as_a_link(places: Places, smoke_spec: RunSpec, tmp_path: Path) -> None:
    record = places.records / record_id(smoke_spec)
    shutil.move(record, tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    assert statuses(places)[record.name] == "damaged"
    assert run(places, "remove", record.name[:8], "--yes") == 0
    assert not record.is_symlink() and (tmp_path / "elsewhere" / "spec.json").exists()


def fill_with_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["spec.json", "environment.json", "MANIFEST.json", "arrays.h5"])
@pytest.mark.parametrize("harm", [fill_with_a_pipe, replace_by_a_folder])
def test_a_record_with_a_pipe_or_a_folder_is_named_and_the_others_are_listed(
        places: Places, smoke_spec: RunSpec, harm: Callable[[Path], None], name: str) -> None:
    record = places.records / record_id(smoke_spec)
    harm(record / name)
    entries = {entry.id: entry for entry in list_entries(places)}
    assert entries[record.name].status == "damaged" and name in entries[record.name].note
    assert [entry.status for entry in entries.values()].count("complete") == 2


def rewrite(record: Path, name: str, text: str) -> None:
    """Replace a file of a record, with a manifest that agrees."""
    (record / name).write_text(text, encoding="utf-8")
    manifest = json.loads((record / "MANIFEST.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
    (record / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(("entry", "value", "told"), [
    ("species", 3, "species is not a mapping"), ("species", {"threshold": {}}, "species.threshold is not a list"),
    ("rounds", [3], "an entry of rounds is not a mapping"), ("restarts", "12", "restarts is not a list"),
    ("seconds_by_stage", {"trace": "long"}, "an entry of seconds_by_stage is not a number"),
    ("finished", ["now"], "finished is not text"), ("candidates", True, "candidates is not a number"),
])
def test_wrong_types_in_the_environment_are_named(places: Places, smoke_spec: RunSpec, entry: str, value: object,
                                                  told: str) -> None:
    record = places.records / record_id(smoke_spec)
    content = json.loads((record / "environment.json").read_text(encoding="utf-8"))
    rewrite(record, "environment.json", json.dumps({**content, entry: value}))
    with pytest.raises(RecordError, match=f"environment.json: {told}"):
        read_record(record)
    assert statuses(places)[record.name] == "damaged" and list(statuses(places).values()).count("complete") == 2


@pytest.mark.parametrize("text", ["[" * 200_000, '{"data": []}', "{}"])
def test_settings_that_are_those_of_no_run_are_refused(places: Places, smoke_spec: RunSpec, text: str) -> None:
    record = places.records / record_id(smoke_spec)
    rewrite(record, "spec.json", text)
    with pytest.raises(RecordError, match="is not JSON|does not hold the settings of its id"):
        read_record(record)


def test_a_record_under_the_name_of_another_is_refused(places: Places, smoke_spec: RunSpec) -> None:
    """Its manifest names the other run, and all its checksums agree."""
    one, other = (places.records / record_id(dataclasses.replace(smoke_spec, seed=seed)) for seed in (0, 1))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    path = one / "MANIFEST.json"
    path.write_text(path.read_text(encoding="utf-8").replace(other.name, one.name), encoding="utf-8")
    with pytest.raises(RecordError, match="spec.json does not hold the settings of its id"):
        read_record(one)
    assert read_record(other).id == other.name


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_record_that_the_system_refuses_is_named_and_the_others_are_read(
        places: Places, smoke_spec: RunSpec, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refused = record_id(smoke_spec)
    opened = os.open

    def refuse(path: Any, *words: Any, **options: Any) -> int:
        if refused in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *words, **options)

    monkeypatch.setattr(os, "open", refuse)
    sound, broken = list_records(places.records)
    assert len(sound) == 2 and sum(os.strerror(number) in str(error) for error in broken) == 1
    assert statuses(places)[refused] == "damaged"
    assert all("\n" not in str(error) for error in broken)


def test_a_removal_that_is_cut_off_leaves_no_damaged_record(places: Places, smoke_spec: RunSpec,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    run_id = record_id(smoke_spec)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", die)
        remove_entry(places, next(entry for entry in list_entries(places) if entry.id == run_id))
    assert statuses(places)[run_id] == "cut off" and "damaged" not in statuses(places).values()
    assert run(places, "remove", run_id, "--yes") == 0
    assert run_id not in statuses(places) and not list(places.records.glob(".partial*"))


def test_logs_that_cannot_be_read_are_named(places: Places) -> None:
    fill_with_a_pipe(places.log("0" * 16))
    places.log("1" * 16).mkdir()
    notes = {entry.id: entry.note for entry in list_entries(places)}
    assert notes["0" * 16] == "its log cannot be read: it is not a regular file"
    assert notes["1" * 16] == "its log cannot be read: Is a directory"


def test_a_ledger_survives_results_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = open_ledger(tmp_path, [RequestedJob(f"seed={n}", "", ()) for n in range(4)], [None] * 4)
    done = JobResult("a", "seed=0", "done", 1.5, metrics={"found_percent": 99.5, "position_error_pm": float("nan")})
    write_result(ledger, 0, done)
    assert read_result(ledger, 0) == dataclasses.replace(done, metrics={"found_percent": 99.5})
    jobs = ledger / "jobs"
    (jobs / "00001.json").write_text("[" * 200_000, encoding="utf-8")
    (jobs / "00002.json").write_text(json.dumps({"id": 3}), encoding="utf-8")
    os.mkfifo(jobs / "00003.json")
    (jobs / "0 (copy).json").write_text("{}", encoding="utf-8")
    results = read_results(ledger)
    assert [results[n].status for n in sorted(results)] == ["done", FAILED, FAILED, FAILED]
    assert print_table(ledger) == 3
    assert capsys.readouterr().out.count("cannot be read: ") == 3
    (tmp_path / "²").mkdir()
    assert open_ledger(tmp_path, [], []).name == "0002"
    shutil.move(ledger, tmp_path / "moved")
    for use in (print_table, lambda folder: write_result(folder, 1, done)):
        with pytest.raises(StorageError, match="was the outputs folder moved or removed during the sweep"):
            use(ledger)
    assert not ledger.exists()


def move_outputs_during_the_first_run() -> None:
    """Move the outputs folder away while the first run of a sweep reconstructs."""
    reconstruct = keeper.flow.reconstruct

    def moving(*words: Any, **rest: Any) -> Any:
        os.rename("outputs", "moved")
        return reconstruct(*words, **rest)

    keeper.flow.reconstruct = moving


def test_a_sweep_whose_outputs_are_moved_away_ends_in_one_line(tmp_path: Path) -> None:
    result = perform("run", ["-m", "seed=0,1", *TINY], tmp_path, ENVIRONMENT, 240, move_outputs_during_the_first_run)
    assert result.returncode == 1 and "Traceback" not in result.stdout + result.stderr
    assert "seed=0: FAILED" in result.stdout and "seed=1" not in result.stdout
    assert result.stderr.count("\n") == 2 and "was the outputs folder moved or removed during" in result.stderr
    assert not (tmp_path / "outputs" / "records").exists() or not list((tmp_path / "outputs" / "records").iterdir())
