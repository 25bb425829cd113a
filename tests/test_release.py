"""Parts of a release: one version, a licence, archives that work without the source folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import aetlab

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_place_that_names_a_version_or_a_licence_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == aetlab.__version__
    assert citation["license"] == PROJECT["license"] == "BSD-3-Clause"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("BSD 3-Clause License")
    assert f"license: {PROJECT['license']}" in (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_workflow_runs_the_test_command_of_the_readme_on_three_systems() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["newest"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=") and len(matrix["python"]) == 4
    for job in jobs.values():
        assert any(step.get("run", "").startswith("make test") for step in job["steps"])


@pytest.mark.slow
def test_wheel_and_sdist_work_in_an_environment_of_their_own(tmp_path: Path) -> None:
    """The dependencies are lent by the environment of the tests; aetlab comes from the wheel, made from the sdist."""
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT], check=True,
                   capture_output=True, timeout=120)
    wheel, = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == f"aetlab-{PROJECT['version']}-py3-none-any.whl"
    held = zipfile.ZipFile(wheel).namelist()
    assert {"aetlab/py.typed", "aetlab/_conf/config.yaml", "aetlab/_experiments/fig4b.yaml",
            "hydra_plugins/aetlab_sweeper/sweeper.py"} <= set(held)
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not [name for name in held if name.startswith("tests/")]
    venv.create(tmp_path / "env", with_pip=False)
    site, = (tmp_path / "env").glob("[Ll]ib/**/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # After the environment's own folder: the wheel's package wins over the one that is being tested.
    (site / "lent.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = next((tmp_path / "env").glob("[bS]*/python*"))
    lines = "import aetlab; print(aetlab.__file__, aetlab.settings(dose='7k').dose.total_e_A2)"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run([python, "-c", lines], cwd=tmp_path, env=alone, check=True, capture_output=True, text=True,
                           timeout=60).stdout.split()
    assert Path(found[0]).is_relative_to(site) and float(found[1]) == 7000
