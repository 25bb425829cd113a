"""The command lines as a user starts them, each in a new process."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import select
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from aetlab.store.record import read_history, read_record
from tests.conftest import TINY, Once

ROOT = Path(__file__).resolve().parents[1]
Aetlab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def one_run(once: Once) -> tuple[Path, str]:
    """Return a folder with one run, and its output."""

    def fill(folder: Path) -> str:
        result = subprocess.run([sys.executable, "-m", "aetlab.run", *TINY, "dose=inf"], cwd=folder, text=True,
                                timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                                check=False)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    return once("one_run", fill)


def test_one_run_leaves_a_record_in_the_current_folder(one_run: tuple[Path, str]) -> None:
    folder, printed = one_run
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    (place,) = (folder / "outputs" / "records").iterdir()
    record = read_record(place)
    assert record.spec.engine.n_iterations == 2 and len(read_history(record).cost) == 2
    assert f"record: outputs/records/{record.id}" in printed
    assert re.search(r"reconstruct 2/2, cost \S+", printed) and "\x1b" not in printed and "\r" not in printed


def test_the_same_run_again_is_skipped(one_run: tuple[Path, str]) -> None:
    folder, _ = one_run
    again = subprocess.run([sys.executable, "-m", "aetlab.run", "dose='inf'", *reversed(TINY)], cwd=folder, text=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=False)
    assert again.returncode == 0 and "skipped, the record is complete" in again.stdout
    assert len(list((folder / "outputs" / "records").iterdir())) == 1


def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "aetlab.run", *TINY, "engine.n_iterations=60"], cwd=tmp_path,
                               stdout=follower, stderr=follower, stdin=follower,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "140"})
    os.close(follower)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([leader], [], [], 0.2)
        try:
            chunk = os.read(leader, 65536) if ready else b""
        except OSError:  # the last writer has closed the terminal
            break
        seen += chunk
        if not chunk and process.poll() is not None:
            break
    os.close(leader)
    assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
    assert "\x1b[" in seen.decode(errors="replace") and "━" in text
    assert re.search(r"reconstruct\s+━+.*\d+/60\s+cost \S+.* about \d+ s left", text)
    assert re.match(r"trace\s+━+ (\d+)/\1 \d+ atoms", text[text.rindex("trace  "):])  # at the end, not "9/17"


def test_help_configuration_and_completion_work(aetlab: Aetlab, tmp_path: Path) -> None:
    shown = aetlab("run", "--help")
    assert shown.returncode == 0 and "dose: 7k, 50k, inf; or electrons" in shown.stdout
    assert "dose.total_e_A2=50000  (e/Å²; greater than 0)\n" in shown.stdout
    config = aetlab("run", "--cfg", "job", "dose=inf", "tilts=20")
    assert config.returncode == 0 and "total_e_A2: .inf" in config.stdout and "value: 20" in config.stdout
    assert "  data: measured, simulated" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 120
    script = aetlab("run", "-sc", "install=bash")
    assert script.returncode == 0 and "complete -o nospace" in script.stdout
    (tmp_path / "completion.sh").write_text(script.stdout, encoding="utf-8")
    typed = (f'source completion.sh; COMP_WORDS=("{sys.executable}" -m aetlab.run dose=); COMP_CWORD=3; '
             'COMP_LINE="python -m aetlab.run dose="; _aetlab_python; echo "${COMPREPLY[@]}"')
    completed = subprocess.run(["bash", "-c", typed], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                               text=True, capture_output=True, timeout=60, check=False)
    assert completed.stdout.split() == ["dose=50k", "dose=7k", "dose=inf"]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("words", "message"), [
    (["dose=8x"], "dose=8x is not a choice: choose from 7k, 50k, inf"),
    (["-m", "dose=inf,50k", "reg=tv,lassso"], "reg=lassso is not a choice: did you mean lasso?"),
    (["-m", "binning=4,64", "scale=smoke"], "binning.n_layers=64"),
    (["scale=smoke", "scale.core_radius_A=40", "scale.length_A=200"], "scale.core_radius_A=40.0 cannot be used"),
    (["sample=file", "sample.path=nowhere.xyz"], "sample.path='nowhere.xyz' cannot be read: No such file"),
    (["sample=file", "sample.path=garbage.xyz"], "sample.path='garbage.xyz' cannot be read"),
    (["-m", "--cfg", "job"], "--multirun and --cfg cannot be used together"),
    (["--config-dir", "nowhere"], "--config-dir=nowhere cannot be used"),
    (["--experimental-rerun", "evil.pickle"], "--experimental-rerun cannot be used: choose from --run, --multirun"),
    (["hydra/launcher=cores"], "hydra/launcher=cores cannot be used: a single run has no launcher and no sweeper;"),
    (["outputs=garbage.xyz"], "cannot write garbage.xyz"),
    (["engine=gpu"], "engine.device='gpu' cannot be used"),
])
def test_invalid_input_is_refused_in_one_line_before_any_work(aetlab: Aetlab, tmp_path: Path, words: list[str],
                                                               message: str) -> None:
    (tmp_path / "garbage.xyz").write_bytes(bytes(range(256)))
    with open(tmp_path / "evil.pickle", "wb") as file:
        pickle.dump(_Evil(str(tmp_path / "ran")), file)
    before = sorted(tmp_path.iterdir())
    result = aetlab("run", *words)
    assert result.returncode == 2
    assert result.stdout == "" and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("aetlab: ") and message in result.stderr
    assert sorted(tmp_path.iterdir()) == before


class _Evil:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_runs_are_listed_shown_and_removed(one_run: tuple[Path, str], aetlab: Aetlab, tmp_path: Path) -> None:
    shutil.copytree(one_run[0] / "outputs", tmp_path / "outputs")
    (record,) = (tmp_path / "outputs" / "records").iterdir()
    shutil.copytree(record, record.with_name("0" * 16))
    listed = aetlab("runs")
    assert listed.returncode == 0 and record.name in listed.stdout and "damaged" in listed.stdout
    entries = json.loads(aetlab("runs", "list", "--json").stdout)
    assert {entry["status"] for entry in entries} == {"complete", "damaged"}
    chosen = json.loads(aetlab("runs", "list", "dose.total_e_A2 == inf", "n_true > 1 and reg == 'tv'", "--json").stdout)
    assert [entry["id"] for entry in chosen] == [record.name]
    assert json.loads(aetlab("runs", "list", "found_percent > 100.5", "--json").stdout) == []
    shown = json.loads(aetlab("runs", "show", record.name[:6], "--json").stdout)
    assert shown["settings"]["dose"]["total_e_A2"] == "inf" and "volume/potential_V" in shown["arrays"]
    wrong = aetlab("runs", "list", "dosis == 3")
    assert wrong.returncode == 2 and wrong.stderr.startswith("aetlab: no column 'dosis'; the columns are record, ")
    kept = aetlab("runs", "remove", 'status == "damaged"')
    assert kept.returncode == 1 and "nothing was removed" in kept.stdout and len(list(record.parent.iterdir())) == 2
    gone = aetlab("runs", "remove", 'status == "damaged"', "--yes")
    assert gone.returncode == 0 and [path.name for path in record.parent.iterdir()] == [record.name]
    cache = aetlab("runs", "remove", "--cache", "--yes")
    assert cache.returncode == 0 and "removed 1 cached stages" in cache.stdout
    assert not list((tmp_path / "outputs" / "cache").glob("*/*.h5"))


def test_the_doctor_finds_no_problem_on_this_machine(aetlab: Aetlab) -> None:
    findings = {finding["item"]: finding for finding in json.loads(aetlab("doctor", "--json").stdout)}
    assert findings["packages"]["status"] == "ok" and findings["configuration"]["status"] == "ok"
    outputs = findings["outputs"]
    assert outputs["status"] == "ok" or "GB free; a sweep at scale=paper needs" in outputs["detail"]


def test_an_installed_package_finds_its_configuration_inside(tmp_path: Path) -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    site = tmp_path / "site"
    for package in included["wheel"]["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, goal in included["wheel"]["force-include"].items():
        shutil.copytree(ROOT / source, site / goal)
    (tmp_path / "elsewhere").mkdir()
    result = subprocess.run([sys.executable, "-m", "aetlab.run", "--cfg", "job", "experiment=fig4c"], text=True,
                            cwd=tmp_path / "elsewhere", env={**os.environ, "PYTHONPATH": str(site)}, timeout=120,
                            capture_output=True, check=False)
    assert result.returncode == 0 and "total_e_A2: 7000" in result.stdout, result.stderr
