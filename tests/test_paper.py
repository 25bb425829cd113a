"""The whole paper by its two commands, at a size that takes seconds a run: every row, every figure, one page."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from aetlab.store.identity import record_id
from aetlab.store.record import list_records
from tests.conftest import COARSE_DPI
from tests.words import spec_of

ROOT = Path(__file__).resolve().parents[1]
#: Processor time without the forks that draw figures; other tests at the same time do not change it.
MOST_S = 100


#: Code that every Python process runs at its start: modules that compute physics cannot be imported, and figures are
#: coarse as those of the fixture coarse_figures.
WITHOUT_PHYSICS = f"""
import importlib.util, sys
BLOCKED = ("aetlab.forward", "aetlab.samples", "aetlab.solve", "aetlab.tracing", "aetlab.flow", "numba",
           "ase", "cupy")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise ImportError(name + " is blocked in this test")
        if name != "aetlab.reporting.figures.style":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        load = spec.loader.exec_module
        def coarse(module):
            load(module)
            module.PNG_DPI = {COARSE_DPI}
            module._RC["pdf.fonttype"] = 3
            module.ConstrainedLayoutEngine.execute = lambda engine, figure: None
        spec.loader.exec_module = coarse
        return spec
sys.meta_path.insert(0, Blocker())
"""


def command(folder: Path, module: str, *words: str, blocker: Path | None = None) -> str:
    """Run a command line that must succeed; return its output."""
    path = os.pathsep.join(str(place) for place in (blocker, ROOT) if place)
    done = subprocess.run([sys.executable, "-W", "error", "-m", f"aetlab.{module}", *words], cwd=folder, text=True,
                          timeout=900, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def blocker(tmp_path: Path) -> Path:
    """Return a folder that, in PYTHONPATH, blocks the import of physics."""
    folder = tmp_path / "blocker"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_PHYSICS, encoding="utf-8")
    return folder


@pytest.mark.parametrize("module", ["aetlab.forward", "aetlab.flow", "numba"])
def test_the_blocker_prevents_the_import_of_physics(blocker: Path, module: str) -> None:
    path = os.pathsep.join([str(blocker), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", f"import {module}"], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "is blocked in this test" in done.stderr


def spent_s() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow(100)
def test_two_commands_make_the_paper_and_the_second_needs_no_physics(tmp_path: Path, blocker: Path) -> None:
    before_s = spent_s()
    swept = command(tmp_path, "run", "-m", "experiment=glob(fig*)", "scale=smoke", "engine.n_iterations=4")
    reported = command(tmp_path, "report", blocker=blocker)
    assert spent_s() - before_s < MOST_S
    assert re.findall(r"^(experiment=\S+): left out: (.*)", swept, re.MULTILINE) == [
        ("experiment=fig10_nb64", "binning.n_layers=64 cannot be used: the volume of scale=smoke has only 48 layers")]
    records, broken = list_records(tmp_path / "outputs" / "records", verify=True)
    wanted = json.loads((tmp_path / "outputs/sweeps/0001/wanted.json").read_text(encoding="utf-8"))["jobs"]
    assert broken == [] and {record.id for record in records} == {job["id"] for job in wanted if job["id"]}
    for job in wanted:  # composed by Hydra as they are without it
        if job["id"]:
            assert job["id"] == record_id(spec_of(job["label"], "scale=smoke", "engine.n_iterations=4"))
    assert len(re.findall(r"simulate \d+/\d+", swept)) == len(list((tmp_path / "outputs/cache/tilt_series").iterdir()))
    figures = tmp_path / "outputs" / "report" / "figures"
    for number in range(1, 12):
        assert (figures / f"figure_{number:02d}.png").exists() and (figures / f"figure_{number:02d}.pdf").exists()
    assert "not drawn" not in reported and "not used" not in reported
    table = pd.read_csv(tmp_path / "outputs" / "report" / "table_one.csv")
    assert len(table) == 12 and table["found_percent_ours"].notna().all()
    assert "Figure 10: no record of fig10_nb64" in (tmp_path / "outputs/report/report.html").read_text(encoding="utf-8")
