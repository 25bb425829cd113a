"""The shape of the code: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "aetlab").rglob("*.py"))
COMMAND_LINES = {"run.py", "report.py", "runs.py", "doctor.py", "bound.py", "trace.py"}
NUMERICS = ("samples", "forward", "solve", "tracing", "scoring", "exchange")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def within(names: set[str], module: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_what_its_layer_may(path: Path) -> None:
    place, names = path.relative_to(ROOT / "aetlab"), imported(path)
    top = place.parts[0]
    if top not in COMMAND_LINES and top != "cli":
        assert not within(names, "hydra") and not within(names, "omegaconf")
        assert not any(within(names, f"aetlab.{name}") for name in ("run", "report", "runs", "doctor", "bound", "cli"))
    if top in NUMERICS:
        above_or_beside = {*NUMERICS, "store", "flow", "keeper"} - {top}
        assert not any(within(names, f"aetlab.{name}") for name in above_or_beside)
    if top != "backend.py":
        assert place.parts[-1].endswith("cuda.py") or not within(names, "cupy")
    assert not any(within(names, name) for name in ("pickle", "dill", "shelve", "marshal"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert path.name not in ("utils.py", "helpers.py")
    module = ast.parse(text)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    functions = [node for place in (module, *classes) for node in place.body if isinstance(node, ast.FunctionDef)]
    assert not [function.name for function in functions if function.args.kwarg]


def test_the_entry_point_loads_no_numerics_before_it_needs_them() -> None:
    code = ("import sys, aetlab.run, aetlab.cli.compose, aetlab.cli.help\n"
            "late = ('numba', 'scipy', 'h5py', 'matplotlib', 'pandas', 'ase')\n"
            "print([name for name in late if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert result.stdout.strip() == "[]"
