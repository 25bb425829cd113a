"""The notebooks of docs/notebooks: their code runs, and what is committed is the output of that code, and small."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import aetlab
from tests import commands

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: Replacements that make the code run in a third of the time, for each notebook.
FASTER = {"compare": {"for seed in (0, 1)": "for seed in (0,)",
                      '"engine.n_iterations": 10': '"engine.n_iterations": 4'},
          "own_images": {'"engine.n_iterations": 12': '"engine.n_iterations": 6'},
          "plan": {"doses = [500, 5000, 50000]": "doses = [5000, 50000]"}}
#: Absolute paths of the usual systems, in any text.
ABSOLUTE_PATH = re.compile(r"(?<![\w./:])/(?:home|Users|root|tmp|work|var|opt|mnt|private|usr)/|\b[A-Z]:\\")
MOST_BYTES = 200_000


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_of(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook_for_each_use() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare", "own_images", "plan"]


@pytest.mark.slow(20)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_runs_without_an_error_or_a_warning(path: Path, tmp_path: Path) -> None:
    """With fewer runs and iterations than those of the committed output."""
    code = "\n".join(code_of(read(path)))
    for usual, faster in FASTER[path.stem].items():
        assert usual in code
        code = code.replace(usual, faster)
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = commands.perform(str(script), [], tmp_path, {**os.environ, "MPLBACKEND": "agg"}, 600)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    assert [left.name for left in tmp_path.iterdir()] == ["notebook.py"], "files are left in the folder"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_output_is_that_of_the_committed_code(path: Path) -> None:
    notebook = read(path)
    digest = hashlib.sha256("\n".join(code_of(notebook)).encode()).hexdigest()
    assert notebook["metadata"]["aetlab"]["code_sha256"] == digest, (
        f"the code has changed since it was executed: python scripts/run_notebooks.py {path.stem}")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] is None and cell["metadata"] == {} for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds and "application/vnd.jupyter.widget-view+json" not in kinds
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_small_and_names_no_folder_of_a_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    notebook = read(path)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                assert base64.b64decode(data.pop("image/png")).startswith(b"\x89PNG")
    assert not ABSOLUTE_PATH.search(json.dumps(notebook, ensure_ascii=False).replace("\\n", "\n").replace("\\\"", '"'))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_the_public_interface_alone_and_ends_with_what_to_read(path: Path) -> None:
    notebook = read(path)
    tree = ast.parse("\n".join(code_of(notebook)))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.startswith("aetlab")} == {"aetlab"}
    used = {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aetlab"}
    assert "view" in used and used <= set(aetlab.__all__)
    last = "".join(notebook["cells"][-1]["source"])
    assert "## What to read next" in last
    for link in re.findall(r"\]\(([^)#]+)", last):
        target = path.parent / link
        assert target.exists() or target.name == "settings.md", link  # a page that the site makes
