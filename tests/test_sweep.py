"""Sweeps: skipping, resuming, retrying, sharing stages, launchers and damage; each command in its own process."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aetlab import keeper
from aetlab.spec import RunSpec
from aetlab.store import checkpoint, identity
from aetlab.store.record import Record, array_names, list_records, read_array, read_history
from tests.commands import Command, perform
from tests.conftest import TINY, Once

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
#: Overrides of a run that, started by ``start``, writes a checkpoint long before its end.
LONG = ("scale=smoke", "tilts=20", "dose=50k", "engine.n_iterations=100", "engine.n_threads=1")


def sweep(folder: Path, *words: str, first: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a sweep in ``folder`` to its end."""
    return perform("run", ["-m", *words], folder, ENVIRONMENT, 240, first)


def start(folder: Path, *words: str) -> Command:
    """Start a run or sweep in ``folder`` and return at once."""
    return Command("run", words, folder, ENVIRONMENT, first=checkpoint_soon)


def checkpoint_soon() -> None:
    """Allow the first checkpoint after 0.05 s: after the usual second a fast machine would be done."""
    checkpoint.Schedule = functools.partial(checkpoint.Schedule, least_s=0.05)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until ``condition()`` is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not met within {seconds} s"
        time.sleep(0.02)


def whole_records(folder: Path) -> dict[str, Record]:
    """Return the records in ``folder`` by id, all files verified; assert that there are no partial files."""
    sound, broken = list_records(folder / "outputs" / "records", verify=True)
    assert broken == []
    assert not list((folder / "outputs" / "records").glob(".partial*"))
    return {record.id: record for record in sound}


def assert_equal(one: Record, other: Record) -> None:
    """Assert that two records hold the same numbers, bit for bit."""
    assert array_names(one) == array_names(other)
    for name in array_names(one):
        np.testing.assert_array_equal(read_array(one, name).values, read_array(other, name).values, err_msg=name)
    np.testing.assert_array_equal(read_history(one).cost, read_history(other).cost)
    np.testing.assert_equal(one.metrics, other.metrics)


@pytest.fixture(scope="session")
def swept(once: Once) -> tuple[Path, str]:
    """A folder with a sweep of four runs, and its output; tests must not change it."""

    def fill(folder: Path) -> str:
        result = sweep(folder, "dose=inf,50k", "reg=tv,pos", *TINY)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return once("swept", fill)


@pytest.fixture(scope="session")
def unbroken(once: Once) -> Record:
    """The record of the long run, made without interruption."""

    def fill(folder: Path) -> str:
        output, errors = (process := start(folder, *LONG)).communicate(timeout=240)
        assert process.returncode == 0, errors
        return output

    (record,) = whole_records(once("unbroken", fill)[0]).values()
    return record


def test_a_sweep_simulates_once_and_ends_with_its_table(swept: tuple[Path, str]) -> None:
    folder, output = swept
    assert len(whole_records(folder)) == 4
    assert len(re.findall(r"simulate \d+/\d+", output)) == 1
    assert len(list((folder / "outputs" / "cache" / "tilt_series").glob("*.h5"))) == 1
    table = output[output.index("sweep 0001: 4 runs  "):].splitlines()
    assert re.split(r"\s{2,}", table[1].strip()) == [
        "run", "atoms", "error (pm)", "found (%)", "false (%)", "species (%)", "time (s)", "status", "folder"]
    for row, label in zip(table[2:6], ("inf reg=tv", "inf reg=pos", "50k reg=tv", "50k reg=pos"), strict=True):
        assert row.startswith(f"dose={label}") and re.search(r"done +outputs/records/[0-9a-f]{16}", row)
    assert [path.name for path in folder.iterdir()] == ["outputs"]


def test_a_repeated_sweep_skips_complete_runs_and_remakes_damaged_ones(swept: tuple[Path, str],
                                                                       tmp_path: Path) -> None:
    folder = Path(shutil.copytree(swept[0], tmp_path / "again"))
    records = folder / "outputs" / "records"
    damaged = next(iter(whole_records(folder).values()))
    arrays = damaged.folder / "arrays.h5"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    before = {path: path.stat().st_mtime_ns for path in records.rglob("*") if path.parent != damaged.folder}
    again = sweep(folder, "reg=pos,tv", "dose=50k,inf", *TINY)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("skipped, the record is complete") == 3
    assert re.search(rf"record \S*{damaged.id} is damaged: arrays.h5 .*; set aside as", again.stdout)
    assert len(whole_records(folder)) == 4
    for path, time_ns in before.items():
        assert path == damaged.folder or path.stat().st_mtime_ns == time_ns


def forbid_workers() -> None:
    """Refuse to start a pool of workers."""
    import joblib

    def refuse(**settings: object) -> None:
        raise AssertionError("workers were started")

    joblib.Parallel = refuse


def set_the_clock_back() -> None:
    """Make the clock 400 days late."""
    import datetime

    now, back_s, today = time.time, 400 * 86400, datetime.datetime
    time.time = lambda: now() - back_s

    class Late(today):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return today.fromtimestamp(now() - back_s, tz)

    datetime.datetime = Late  # type: ignore[misc]


def test_a_clock_set_back_changes_nothing(swept: tuple[Path, str], tmp_path: Path) -> None:
    """Every record and file of the earlier sweep is dated 400 days in the future."""
    folder = Path(shutil.copytree(swept[0], tmp_path / "again"))
    words = ("dose=inf", "reg=tv,lasso", *TINY)
    first = sweep(folder, *words, first=set_the_clock_back)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("skipped, the record is complete") == 1 and "sweep 0002" in first.stdout
    assert "shared, read from" in first.stdout and len(whole_records(folder)) == 5
    listed = perform("runs", ["--json"], folder, ENVIRONMENT, 60, set_the_clock_back)
    ages_s = [entry["age_s"] for entry in json.loads(listed.stdout)]
    assert len(ages_s) == 5 and min(ages_s) == 0 and max(ages_s) < 86400
    again = sweep(folder, *words, "hydra/launcher=cores", first=forbid_workers)
    assert again.returncode == 0 and again.stdout.count("skipped, the record is complete") == 2


def change_the_code() -> None:
    """Make all records be of other code."""
    for module in (identity, *(module for name, module in list(sys.modules.items()) if name.startswith("aetlab."))):
        if "code_id" in vars(module):
            module.code_id = lambda: "changed"  # type: ignore[attr-defined]


def test_a_record_of_other_code_is_remade_or_used_and_marked_on_request(swept: tuple[Path, str],
                                                                        tmp_path: Path) -> None:
    folder = Path(shutil.copytree(swept[0], tmp_path / "again"))

    def again(*words: str) -> str:
        result = sweep(folder, "dose=inf", "reg=tv", *TINY, *words, first=change_the_code)
        assert result.returncode == 0, result.stderr
        return result.stdout

    used = again("other_code=use")
    assert "skipped, the record is complete (made by other code)" in used and "skipped (made by other code)" in used
    remade = again()
    assert re.search(r"was made by other code \([0-9a-f]{12}, now changed\); set aside as", remade)
    assert len(list((folder / "outputs" / "set_aside").iterdir())) == 1


@pytest.mark.slow(15)
@pytest.mark.parametrize("launcher", ["cores", "submitit_local"])
def test_other_launchers_make_the_same_records(swept: tuple[Path, str], tmp_path: Path, launcher: str) -> None:
    words = ["-m", "dose=inf,50k", "reg=tv", *TINY, f"hydra/launcher={launcher}"]
    result = subprocess.run([sys.executable, "-m", "aetlab.run", *words], cwd=tmp_path, env=ENVIRONMENT, text=True,
                            timeout=240, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    made, wanted = whole_records(tmp_path), whole_records(swept[0])
    assert len(made) == 2 and set(made) < set(wanted)
    for run_id, record in made.items():
        volumes = [read_array(each, "volume/potential_V").values for each in (record, wanted[run_id])]
        np.testing.assert_allclose(*volumes, atol=1e-3 * volumes[1].max())
        np.testing.assert_allclose(read_history(record).cost, read_history(wanted[run_id]).cost, rtol=1e-4)
    assert len(list((tmp_path / "outputs" / "cache" / "tilt_series").glob("*.h5"))) == 1
    assert len(re.findall(r" done +outputs/records/", result.stdout)) == 2


def darken_at_7k() -> None:
    """Make runs of 7 000 e/Å² fail."""
    run = keeper.run

    def broken(spec: RunSpec, **rest: Any) -> Any:
        if spec.dose.total_e_A2 == 7000:
            raise RuntimeError("the detector\nwas dark")
        return run(spec, **rest)

    keeper.run = broken


@pytest.mark.slow
def test_a_failing_run_stops_no_other_and_is_retried(tmp_path: Path) -> None:
    words = ("dose=inf,7k,50k", *TINY)
    result = sweep(tmp_path, *words, first=darken_at_7k)
    assert result.returncode == 1
    at_once, at_the_end = re.findall(r".*RuntimeError: the detector was dark.*", result.stdout)
    assert at_once.startswith("dose=7k: FAILED after") and at_the_end.startswith("failed: dose=7k: ")
    log = tmp_path / at_once.split("log: ")[1]
    assert log == tmp_path / at_the_end.split("log: ")[1]
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert result.stdout.index("FAILED") < result.stdout.index("dose=50k: done")
    assert len(whole_records(tmp_path)) == 2 and "Traceback" not in result.stdout + result.stderr
    again = sweep(tmp_path, *words)
    assert again.returncode == 0
    assert again.stdout.count("skipped, the record is complete") == 2
    assert "dose=7k: failed before, retrying" in again.stdout and " retried " in again.stdout
    assert not log.exists() and len(whole_records(tmp_path)) == 3


#: Code that every Python process runs at its start: a run of 7 000 e/Å² kills its process.
DEADLY = """
import importlib.util, os, sys

class Deadly:
    def find_spec(self, name, path=None, target=None):
        if name != "aetlab.keeper":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def deadly(module):
            load(module)
            run = module.run
            def run_or_die(spec, **rest):
                return os.kill(os.getpid(), 9) if spec.dose.total_e_A2 == 7000 else run(spec, **rest)
            module.run = run_or_die
        spec.loader.exec_module = deadly
        return spec

sys.meta_path.insert(0, Deadly())
"""


@pytest.mark.slow
def test_the_death_of_a_worker_fails_its_own_run_only(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY, encoding="utf-8")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = ["-m", "dose=7k,inf", *TINY, "hydra/launcher=cores"]
    result = subprocess.run([sys.executable, "-m", "aetlab.run", *words], cwd=tmp_path, env=environment, text=True,
                            timeout=240, capture_output=True, check=False)
    assert result.returncode == 1
    assert "dose=7k: FAILED: its worker died (out of memory?)" in result.stderr and "Traceback" not in result.stderr
    assert len(whole_records(tmp_path)) == 1 and re.search(r"dose=7k .* failed", result.stdout)


@pytest.mark.slow
def test_a_run_interrupted_twice_gives_the_same_volume(tmp_path: Path, unbroken: Record) -> None:
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        checkpoints = {path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("work/*/checkpoint.h5")}
        process = start(tmp_path, *LONG)
        wait_for(lambda: [path for path in (tmp_path / "outputs").glob("work/*/checkpoint.h5")
                          if path.stat().st_mtime_ns not in checkpoints])  # noqa: B023
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        told = "" if number == signal.SIGKILL else "stopped; repeat the command to continue from here\n"
        assert errors.endswith(told)
        assert whole_records(tmp_path) == {}
    listed = perform("runs", ["--json"], tmp_path, ENVIRONMENT, 60)
    assert [entry["status"] for entry in json.loads(listed.stdout)] == ["cut off"]
    again = start(tmp_path, *LONG)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "resumed from its checkpoint, done in" in output
    (record,) = whole_records(tmp_path).values()
    assert_equal(record, unbroken)
    assert not list((tmp_path / "outputs" / "work").iterdir()) and not list((tmp_path / "outputs" / "logs").iterdir())


@pytest.mark.slow
def test_a_terminated_sweep_prints_its_table_and_resumes_when_repeated(tmp_path: Path, unbroken: Record) -> None:
    words = ("-m", *LONG, "reg=tv,pos")
    process = start(tmp_path, *words)
    wait_for(lambda: list((tmp_path / "outputs").glob("work/*/checkpoint.h5")))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert re.search(r"reg=pos +not run", output)
    again = start(tmp_path, *words)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0 and " resumed " in output
    assert_equal(whole_records(tmp_path)[unbroken.id], unbroken)


def darken_the_second() -> None:
    """Make the second run fail."""
    run, calls = keeper.run, itertools.count(1)

    def broken(spec: RunSpec, **rest: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("the detector was dark")
        return run(spec, **rest)

    keeper.run = broken


@pytest.mark.slow
def test_a_search_finds_the_weight_that_predicts_best(tmp_path: Path) -> None:
    """The second of its runs fails, which does not stop the search."""
    words = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "dose=inf", "wedge=30",
             "reg.weight=tag(log, interval(1e-6, 1e-3))", "reg.held_out=0.3", *TINY)
    found = sweep(tmp_path, *words, first=darken_the_second)
    assert found.returncode == 1 and found.stdout.count("the detector was dark") == 2
    assert "Traceback" not in found.stdout + found.stderr
    records = whole_records(tmp_path).values()
    assert len(records) == 3
    assert all(record.spec.dose.total_e_A2 == np.inf and record.spec.wedge.missing_deg == 30 for record in records)
    best = min(records, key=lambda record: record.metrics["held_out_cost"])
    (weight,) = re.findall(r"best settings of the search: reg.weight=(\S+); mean cost of a held-out", found.stdout)
    assert float(weight) == best.spec.reg.weight
    again = sweep(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("skipped, the record is complete") == 3 and " retried " in again.stdout


def test_two_sweeps_at_once_share_their_runs_and_stages(tmp_path: Path) -> None:
    words = ("-m", "dose=inf,50k", *TINY)
    both = [start(tmp_path, *words) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(whole_records(tmp_path)) == 2
    assert len(re.findall(r"simulate \d+/\d+", "".join(outputs))) == 1
    assert len(re.findall(r": done in", "".join(outputs))) == 2
    assert sorted(path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()) == ["0001", "0002"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True,
                             check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_and_leaves_no_partial_record(tiny_disk: Path) -> None:
    words = ("dose=inf,50k", *TINY)
    full = sweep(tiny_disk, *words)
    assert full.returncode == 1
    assert re.search(r"cannot write \S+: No space left on device", full.stdout)
    assert len(whole_records(tiny_disk)) == 1
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny_disk)], check=True)
    again = sweep(tiny_disk, *words)
    assert again.returncode == 0 and len(whole_records(tiny_disk)) == 2
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    refused = sweep(tiny_disk, "dose=7k", *TINY)
    assert refused.returncode == 2
    assert refused.stderr == "aetlab: outputs='outputs' cannot be used: the folder is not writable\n"


@pytest.mark.slow(25)
def test_a_sweep_an_export_and_a_removal_survive_a_kill_at_a_random_moment(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "kill_study.py")
    study = subprocess.run([sys.executable, script, "--kills", "1", "0", "0", "1", "1", "--iterations", "5",
                            "--folder", str(tmp_path)], env=ENVIRONMENT, text=True, capture_output=True, timeout=240,
                           check=False)
    assert study.returncode == 0, study.stdout + study.stderr
    lines = study.stdout.splitlines()
    assert [line.split(" kills")[0] for line in lines] == ["sweep basic: 1", "export: 1", "remove: 1"]
    assert all(line.endswith("all complete and equal") for line in lines)
